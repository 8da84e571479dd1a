"""Files that state something twice, in another encoding or of the wrong type: a sentence, or a note, never silence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.topologies.network_files import gnpy, link, node, node_link
from tests.unit.topologies.readers.test_readers import GML, NATIVE, XML, refusal, rfc8345, written
from topologies.catalogue import find_map
from topologies.plants.published import read_plant

TWO: list[dict[str, object]] = [node("a", lat=60, lon=10), node("b", lat=61, lon=5)]


def pair(tmp_path: Path, **attributes: object) -> str:
    return node_link(tmp_path / "net.json", TWO, [link("a", "b", **{"length_km": 100, **attributes})])


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"length_km": "1_00"}, "`length_km` is '1_00'; it is a number above 0"),
        ({"length_km": "\uff11"}, "`length_km` is '\uff11'; it is a number above 0"),
        ({"length_km": 1e-9}, "`length_km` is 1e-09 km; a fibre has at least 0.001 km"),
        ({"length_km": None, "length": 5, "unit": "ft"}, "`unit` is 'ft'; a length is in km, m or miles"),
        ({"Length_km": 7}, "`length_km` is 100 and `Length_km` 7; state one"),
        ({"duct": ["d"]}, "`duct` is ['d']; it is a name of at most 64 letters in one line"),
        ({"Duct": "x" * 65}, "it is a name of at most 64 letters in one line"),
        ({"duct": "a\x1b[2J"}, "`duct` is 'a\\x1b[2J'; it is a name of at most 64 letters in one line"),
        ({"fiber_type": "G.652"}, "`fiber_type` is 'G.652'; it is one of SSMF"),
        ({"loss_coef": "0,2"}, "`loss_coef` is '0,2'; it is a number above 0"),
    ],
)
def test_an_attribute_that_cannot_be_right_is_named(tmp_path: Path, attributes: dict[str, Any], sentence: str) -> None:
    found = refusal(pair(tmp_path, **attributes))
    assert found.startswith("net: span a - b: ")
    assert sentence in found


@pytest.mark.parametrize(
    ("attributes", "note"),
    [
        ({"capacity_gbps": 10, "rate_gbps": 40}, "`capacity_gbps` counts, `rate_gbps` says otherwise: a - b"),
        ({"LinkSpeedRaw": 1e10, "LinkSpeed": "40", "LinkSpeedUnits": "G"},
         "`LinkSpeedRaw` counts, `LinkSpeed` says otherwise: a - b"),
        ({"LinkSpeed": "45/155", "LinkSpeedUnits": "M"}, "`LinkSpeed` 45/155 with the unit M is not used: a - b"),
        ({"SRLG": 7}, "`SRLG` is not used"),
    ],
)  # fmt: skip
def test_what_is_stated_twice_or_not_used_is_a_note(tmp_path: Path, attributes: dict[str, Any], note: str) -> None:
    plant = read_plant(pair(tmp_path, **attributes))
    assert (plant.fibres[0].length_km, plant.notes) == (100, (note,))


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (node("a", lat=1, latitude=2, lon=3), "node 'a' has `lat` 1 and `latitude` 2; one of them is its latitude"),
        (node("a", pos="10,60"), "`pos` of node 'a' is '10,60'; it is [longitude, latitude]"),
        (node("a", coordinates=[10]), "`coordinates` of node 'a' is [10]; it is [longitude, latitude]"),
        (node("a", name={"en": "A"}), "the name of node 'a' is {'en': 'A'}; it is a text"),
        (node(" ", lat=1, lon=2), "node 1: `id` is empty"),
    ],
)
def test_a_node_that_states_no_place_or_name_is_named(tmp_path: Path, facts: dict[str, object], sentence: str) -> None:
    assert sentence in refusal(node_link(tmp_path / "net.json", [facts, TWO[1]], [link("a", "b")]))


def test_names_of_coordinates_are_mixed_as_one_likes_and_positions_are_told(tmp_path: Path) -> None:
    nodes = [node("a", LAT=60, lng=10), node("b", coordinates=[5, 61, 40])]
    plant = read_plant(node_link(tmp_path / "net.json", nodes, [link("a", "b")]))
    assert [(site.longitude_deg, site.latitude_deg) for site in plant.sites] == [(10, 60), (5, 61)]
    assert plant.notes == ("`coordinates` is taken as longitude and latitude",)


def test_names_have_no_control_characters_and_long_ones_are_cut_with_a_note(tmp_path: Path) -> None:
    nodes = [{**TWO[0], "name": "A\x1b[31m\n b"}, {**TWO[1], "name": "x" * 101}]
    found = find_map(node_link(tmp_path / "net.json", nodes, [link("a", "b", length_km=7)]))
    assert [each.label for each in found.switches] == ["A [31m b", "x" * 100]
    assert found.notes == (
        "control characters and breaks of lines in names are left out: A [31m b",
        f"names are cut after 100 letters: {'x' * 20}…",
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is empty"),
        (b"\xef\xbb\xbf \r\n", "it is empty"),
        (gzip.compress(b"{}", mtime=0), "it is compressed (gzip); decompress it"),
        ('{"nodes": []}'.encode("utf-16-le"), "it is not UTF-8, but perhaps UTF-16; save it as UTF-8"),
        ('{"nodes": []}'.encode("utf-32"), "it is not UTF-8, but perhaps UTF-16; save it as UTF-8"),
        ('{"nodes": ["Örebro"]}'.encode("latin-1"), "it is not UTF-8 (byte 12 is 0xd6); save it as UTF-8"),
        (b'{"nodes": [], "nodes": [1]}', "an object states `nodes` twice: [] and [1]"),
        (b'{"nodes": [{"id": "\\ud800"}], "links": []}', "\\ud800 is half of a character"),
        (b'{"nodes": %s}' % (b"9" * 5000), "a number in it has more than 4300 digits"),
        (b'{"nodes": null, "links": null}', "`nodes` is null; it must be a list of objects"),
        (b'{"nodes": [], "links": [1], "edges": [1]}', "it has `links` and `edges`; one of them states the spans"),
        (b'{"nodes": [], "links": [], "directed": "no"}', '`directed` is "no"; it is true or false'),
    ],
)
def test_json_that_is_no_text_or_states_something_twice_is_refused(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    (tmp_path / "net.json").write_bytes(content)
    assert sentence in refusal(str(tmp_path / "net.json"))


KEYS = '<key id="km" for="edge" attr.name="length_km" attr.type="double"/>'
NODES = '<node id="a"/><node id="b"/>'
EDGE = '<edge source="a" target="b"><data key="km">100</data></edge>'


def graphml(body: str, keys: str = KEYS) -> str:
    head = f'<graphml xmlns="http://graphml.graphdrawing.org/xmlns">{keys}<graph edgedefault="undirected">'
    return f"{head}{body}</graph></graphml>"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (graphml(NODES + EDGE.replace("100", "far")), "net: span a - b: `length_km` is 'far'; it is a number above 0"),
        (graphml(NODES + EDGE.replace("100", "9" * 5000)), "it is a number above 0"),
        (graphml(NODES + EDGE, KEYS + KEYS), "two keys have the id 'km'"),
        (graphml(NODES + EDGE.replace("</edge>", '<data key="km">7</data></edge>')),
         "edge 1 states `length_km` twice: 100 and 7"),
        (graphml(NODES + '<node id="a"/>' + EDGE), "two nodes have the id 'a'"),
        (graphml("<node/>" + NODES + EDGE), "node 1 has no id"),
        (graphml(NODES + EDGE.replace('target="b"', "")), "link 1 has no target"),
        (graphml(NODES + EDGE).replace(' xmlns="http://graphml.graphdrawing.org/xmlns"', ""),
         "it has no <graph> in the namespace http://graphml.graphdrawing.org/xmlns"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_graphml_file_is_told(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in refusal(written(tmp_path / "net.graphml", text))


def test_an_unused_attribute_of_graphml_may_be_anything_and_defaults_apply(tmp_path: Path) -> None:
    keys = KEYS.replace("/>", "><default>250</default></key>")
    keys += '<key id="x" for="edge" attr.name="lit" attr.type="boolean"/><key id="y" for="all"/>'
    edges = '<edge source="a" target="b"><data key="x">maybe</data><data key="y">1</data></edge>' + EDGE
    plant = read_plant(written(tmp_path / "net.graphml", graphml(NODES + edges, keys)))
    assert [fibre.length_km for fibre in plant.fibres] == [250, 100]


def test_text_formats_in_another_encoding_or_with_a_section_twice_are_refused(tmp_path: Path) -> None:
    (tmp_path / "net.gml").write_bytes(GML.encode("latin-1"))
    assert "it is not UTF-8 (byte" in refusal(str(tmp_path / "net.gml"))
    (tmp_path / "net.graphml").write_bytes(graphml('<node id="Örebro"/>').encode("latin-1"))
    assert "it is not UTF-8 (byte" in refusal(str(tmp_path / "net.graphml"))
    twice = written(tmp_path / "net.txt", NATIVE + NATIVE.partition("\n")[2])
    assert "this SNDlib file has two sections NODES" in refusal(twice)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("geographical", "martian"), "net.xml: coordinatesType is 'martian'; it is geographical or pixel"),
        (('<node id="Berlin">', "<node>"), "net.xml: node 1 has no id"),
        (("<target>Bremen</target>", ""), "net.xml: link L1 has no target"),
    ],
)
def test_what_is_wrong_in_sndlib_xml_is_told(tmp_path: Path, change: tuple[str, str], sentence: str) -> None:
    assert sentence in refusal(written(tmp_path / "net.xml", XML.replace(*change)))


def test_that_capacities_of_sndlib_are_not_used_is_told(tmp_path: Path) -> None:
    note = "capacities of links, installed or by module, are not used: SNDlib does not state their unit"
    assert read_plant(written(tmp_path / "net.txt", NATIVE)).notes[0] == note
    module = "</target><addModule><capacity>40.0</capacity></addModule>"
    assert read_plant(written(tmp_path / "net.xml", XML.replace("</target>", module))).notes[0] == note
    assert note not in read_plant(written(tmp_path / "net.xml", XML)).notes


def fibre_of(facts: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in facts["elements"] if each["type"] == "Fiber")
    return found


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda facts: facts.update(elements={}), "`elements` of a GNPy network is an object; it is a list"),
        (lambda facts: facts.pop("connections"), "`connections` of a GNPy network is missing; it is a list"),
        (lambda facts: fibre_of(facts).update(params=[]), "`params` is []; it is an object"),
        (lambda facts: facts["elements"][0].update(metadata="x"), "roadm A: `metadata` is 'x'; it is an object"),
        (lambda facts: fibre_of(facts)["params"].update(lumped_losses=3), "lumped_losses is 3; it is a list of obje"),
        (lambda facts: fibre_of(facts)["params"].update(lumped_losses=[{"loss": -5}]), "a lumped loss is -5; it is"),
        (lambda facts: fibre_of(facts)["params"].update(loss_coef={"value": []}), "loss_coef is {'value': []}; it is"),
        (lambda facts: facts["connections"].append({"from_node": "fiber (A -> B)-0", "to_node": "roadm C"}),
         "fiber (A -> B)-0 leads to roadm B, roadm C; a Fiber leads to one"),
    ],
)  # fmt: skip
def test_wrong_types_in_a_gnpy_file_are_told(tmp_path: Path, change: Any, sentence: str) -> None:
    facts = gnpy([("A", "B", 80.0), ("B", "C", 60.0)])
    change(facts)
    assert sentence in refusal(written(tmp_path / "net.json", facts))


def test_connections_stated_twice_count_once_and_fibres_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    facts = gnpy([("A", "B", 80.0), ("B", "C", 60.0)])
    facts["connections"].append(facts["connections"][0])
    plant = read_plant(written(tmp_path / "net.json", facts))
    assert len(plant.fibres) == 2
    assert plant.notes == ("connections that are stated twice count once: roadm A > fiber (A -> B)-0",)
    del facts["connections"][1], facts["connections"][-1]
    plant = read_plant(written(tmp_path / "net.json", facts))
    assert plant.notes[0] == "fibres that lead from no site to another are left out: fiber (A -> B)-0"


def test_directions_that_differ_in_speed_or_duct_are_told(tmp_path: Path) -> None:
    links = [
        link("a", "b", length_km=9, capacity_gbps=10, duct="x"), link("b", "a", length_km=9, capacity_gbps=4, duct="y"),
    ]  # fmt: skip
    plant = read_plant(node_link(tmp_path / "net.json", TWO, links, directed=True))
    assert [(fibre.rate_gbps, fibre.duct) for fibre in plant.fibres] == [(4, "x")]
    assert plant.notes == (
        "the directions differ in speed, the lower is taken: a - b",
        "the directions differ in duct, that of the first is taken: a - b",
    )


def test_rfc_8345_entries_of_the_wrong_type_and_values_stated_twice_are_told(tmp_path: Path) -> None:
    def refused(change: Any) -> str:
        facts = rfc8345(("ams", "fra"), ("fra", "par"))
        change(facts["ietf-network:networks"]["network"][1])
        return refusal(written(tmp_path / "net.json", json.dumps(facts)))

    assert "`node` of RFC 8345 must be a list of objects" in refused(lambda net: net["node"].append("x"))
    assert "node 4: `node-id` must be a number or a text" in refused(lambda net: net["node"].append({}))
    twice = {"x:more": {"latitude": "51"}}
    assert "node 'ams' states `latitude` twice: 50 and 51" in refused(lambda net: net["node"][0].update(twice))
    longer, links = {"y:te": {"length-km": "300"}}, "ietf-network-topology:link"
    sentence = refused(lambda net: net[links][0].update(longer))
    assert "`length-km` is '250.5' and `length-km` '300'; state one" in sentence
