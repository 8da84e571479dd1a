"""One test for each file format: the same small network, and what is wrong in a file of that format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook  # type: ignore[import-untyped]

from tests.unit.topologies.network_files import gnpy, graphml, link, node
from topologies.plants.plant import Plant
from topologies.plants.published import read_plant
from topologies.problems import MapError


def spans(plant: Plant) -> list[tuple[str, float]]:
    """The name and the length of every span."""
    return [("-".join(fibre.ends), fibre.length_km) for fibre in plant.fibres]


def written(path: Path, content: str | dict[str, Any]) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def refusal(path: str) -> str:
    with pytest.raises(MapError) as caught:
        read_plant(path)
    return str(caught.value)


GML = """\
Creator "x"
graph [
  node [ id 0 label "Örebro" Longitude 15.2 Latitude 59.3 ]
  node [ id 1 label "Åre" Longitude 13.1 Latitude 63.4 ]
  node [ id 2 label "Åre" Longitude 14.1 Latitude 63.4 ]
  edge [ source 0 target 1 length_km 400.5 ]
  edge [ source 0 target 1 length_km 410 ]
  edge [ source 1 target 2 LinkSpeedRaw 1.0E10 ]
]
"""


@pytest.mark.parametrize("text", [GML, GML.replace("graph [", "graph [\n  multigraph 1"), "\ufeff" + GML])
def test_gml_is_read_with_parallel_edges_equal_labels_and_names_in_any_script(tmp_path: Path, text: str) -> None:
    plant = read_plant(written(tmp_path / "net.gml", text))
    assert spans(plant)[:2] == [("Örebro-Åre", 400.5), ("Örebro-Åre", 410)]
    assert (plant.fibres[2].ends, plant.fibres[2].rate_gbps) == (("Åre", "Åre 2"), 10)


@pytest.mark.parametrize(
    "text", ["", "graph [", "graph [ node [ id 0 ] node [ id 0 ] ]", GML.replace("target 2", "target 9")]
)
def test_a_broken_gml_file_is_refused(tmp_path: Path, text: str) -> None:
    assert refusal(written(tmp_path / "net.gml", text)).startswith("net.gml: cannot be read as a network: ")


def test_graphml_without_a_graph_and_other_xml_are_refused(tmp_path: Path) -> None:
    empty = '<graphml xmlns="http://graphml.graphdrawing.org/xmlns"/>'
    assert "net.graphml: cannot be read as a network" in refusal(written(tmp_path / "net.graphml", empty))
    html = refusal(written(tmp_path / "net.xml", "<html/>"))
    assert html.endswith("its XML is <html>; GraphML (<graphml>) and SNDlib (<network>) are read")
    assert "cannot be read" in refusal(written(tmp_path / "cut.graphml", "<graphml"))


@pytest.mark.parametrize("identifier", ["", ' id="e"'])
def test_edges_of_graphml_with_one_id_or_none_stay_parallel(tmp_path: Path, identifier: str) -> None:
    nodes = [node("a", lon=1.0, lat=50.0), node("b", lon=2.0, lat=51.0)]
    links = [link("a", "b", length_km=80.0), link("b", "a", length_km=61.0)]
    file = Path(graphml(tmp_path / "net.graphml", nodes, links))
    text = file.read_text(encoding="utf-8").replace(' id="e0"', identifier).replace(' id="e1"', identifier)
    assert spans(read_plant(written(file, text))) == [("a-b", 80.0), ("a-b", 61.0)]


def test_empty_fields_of_graphml_are_no_values(tmp_path: Path) -> None:
    nodes = [node("a", label="", Longitude=1.0, Latitude=2.0), node("b", label="B")]
    plant = read_plant(graphml(tmp_path / "net.graphml", nodes, [link("a", "b", length_km=7.5, LinkLabel="")]))
    assert spans(plant) == [("a-B", 7.5)]


NATIVE = """\
?SNDlib native format; type: network; version: 1.0
# network net

META (
  granularity = year
)

NODES (
  Berlin ( 13.48 52.52 )
  Bremen ( 8.80 53.08 )
)

LINKS (
  L1 ( Berlin Bremen ) 0.00 0.00 0.00 0.00 ( 40.00 4130.00 160.00 13240.00 )
  L2 ( Bremen Berlin ) 0.00 0.00 0.00 0.00 ( )
)

DEMANDS (
  D1 ( Berlin Bremen ) 1 163.00 UNLIMITED
)
"""
XML = """\
<?xml version="1.0" encoding="ISO-8859-1"?>
<network xmlns="http://sndlib.zib.de/network" version="1.0"><networkStructure>
<nodes coordinatesType="geographical">
<node id="Berlin"><coordinates><x>13.48</x><y>52.52</y></coordinates></node>
<node id="Bremen"><coordinates><x>8.80</x><y>53.08</y></coordinates></node></nodes>
<links><link id="L1"><source>Berlin</source><target>Bremen</target></link>
<link id="L2"><source>Bremen</source><target>Berlin</target></link></links></networkStructure></network>
"""


def test_sndlib_native_and_xml_are_the_same_network(tmp_path: Path) -> None:
    native = read_plant(written(tmp_path / "net.txt", NATIVE))
    xml = read_plant(written(tmp_path / "net.xml", XML))
    assert (native.sites, native.fibres) == (xml.sites, xml.fibres)
    assert len(native.fibres) == 2, "parallel links"
    assert native.fibres[0].length_km == pytest.approx(320 * 1.5, abs=8)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("net.xml", XML.replace("geographical", "pixel"), "net: its places are on a drawing (x from 8.8 to 13.48)"),
        ("net.txt", NATIVE.replace("13.48", "348.5"), "net: its places are on a drawing (x from 8.8 to 348.5)"),
        ("india35.txt", NATIVE, "india35: its places are on a drawing"),
        ("net.txt", NATIVE.replace("Bremen Berlin )", "Bremen Berlín )"), "'Berlín' is no node; did you mean 'Berlin'"),
        ("net.txt", NATIVE.replace("NODES", "KNOTS"), "net.txt: this SNDlib file has no section NODES"),
        ("net.txt", NATIVE.replace("13.48 52.52", "13.48"), "a node is written `NAME ( LONGITUDE LATITUDE )`, not"),
        ("net.txt", "hello", "a text file is read in SNDlib's form, which starts '?SNDlib native format'"),
        ("net.xml", XML.replace("links>", "cables>"), "net.xml: this SNDlib file has no networkStructure with"),
        ("net.xml", XML.replace("52.52", "NaN"), "latitude of Berlin is NaN"),
    ],
)
def test_what_is_wrong_in_an_sndlib_file_is_told(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    assert sentence in refusal(written(tmp_path / name, text))


def rfc8345(*links: tuple[str, str]) -> dict[str, Any]:
    nodes = [
        {"node-id": name, "x:place": {"at": {"longitude": f"{n}.5", "latitude": "50"}}, "x:name": name.title()}
        for n, name in enumerate(("ams", "fra", "par"))
    ]
    stated = [
        {"link-id": f"l{n}", "source": {"source-node": a, "source-tp": "1"}, "destination": {"dest-node": b},
         "x:te": {"length-km": "250.5"}}
        for n, (a, b) in enumerate(links)
    ]  # fmt: skip
    network = {"network-id": "otn", "node": nodes, "ietf-network-topology:link": stated}
    return {"ietf-network:networks": {"network": [{"network-id": "empty"}, network]}}


def test_rfc_8345_links_are_joined_to_spans(tmp_path: Path) -> None:
    facts = rfc8345(("ams", "fra"), ("fra", "ams"), ("fra", "par"), ("par", "fra"), ("fra", "par"), ("par", "fra"))
    plant = read_plant(written(tmp_path / "net.json", facts))
    assert spans(plant) == [("Ams-Fra", 250.5), ("Fra-Par", 250.5), ("Fra-Par", 250.5)]
    assert (plant.sites[1].longitude_deg, plant.source) == (1.5, "net.json (RFC 8345)")
    assert "link 1: its end 'amsx' is no node; did you mean 'ams'?" in refusal(
        written(tmp_path / "bad.json", rfc8345(("amsx", "fra")))
    )
    del facts["ietf-network:networks"]["network"][1]
    assert "no network in ietf-network:networks has nodes" in refusal(written(tmp_path / "no.json", facts))


MESH = [("A", "B", 500.0), ("A", "B", 80.0), ("B", "Örebro", 120.0)]


def as_yang(facts: dict[str, Any]) -> dict[str, Any]:
    """GNPy's YANG form: numbers are texts."""

    def text(value: object) -> object:
        if isinstance(value, dict):
            return {word: text(each) for word, each in value.items()}
        if isinstance(value, list):
            return [text(each) for each in value]
        return str(value) if isinstance(value, float) else value

    return {"gnpy-network-topology:topology": text(facts)}


def test_gnpy_networks_keep_parallel_spans_and_the_yang_form_has_the_same(tmp_path: Path) -> None:
    legacy = read_plant(written(tmp_path / "net.json", gnpy(MESH)))
    assert sorted(spans(legacy)) == [("A-B", 80), ("A-B", 500), ("B-Örebro", 120)]
    assert legacy.notes == ()
    yang = read_plant(written(tmp_path / "net.json", as_yang(gnpy(MESH))))
    assert (yang.sites, yang.fibres) == (legacy.sites, legacy.fibres)


def test_a_gnpy_line_of_amplified_fibres_between_transceivers_is_a_span(tmp_path: Path) -> None:
    facts = gnpy([("A", "B", 80)], "Transceiver")
    facts["elements"] += [{"uid": "amp", "type": "Edfa"}, {"uid": "f2", "type": "Fiber", "params": {
        "length": 40_000, "length_units": "m", "loss_coef": 0.2}}]  # fmt: skip
    first = facts["connections"][1]
    assert first["to_node"] == "trx B"
    first["to_node"] = "amp"
    facts["connections"] += [{"from_node": "amp", "to_node": "f2"}, {"from_node": "f2", "to_node": "trx B"}]
    facts["connections"] = facts["connections"][:2] + facts["connections"][4:]
    assert spans(read_plant(written(tmp_path / "net.json", facts))) == [("A-B", 120)]


def test_fused_nodes_lead_on_and_not_back(tmp_path: Path) -> None:
    facts = gnpy([("A", "mid", 30), ("mid", "B", 50)])
    next(each for each in facts["elements"] if each["uid"] == "roadm mid")["type"] = "Fused"
    plant = read_plant(written(tmp_path / "net.json", facts))
    assert spans(plant) == [("A-B", 80)]
    assert plant.fibres[0].loss_db_per_km == pytest.approx(0.2 + 1 / 80), "a fused node loses 1 dB"


@pytest.mark.parametrize(
    ("fibre", "loss_db_per_km"),
    [
        ({"loss_coef": 0.25}, 0.25),
        ({"loss_coef": "0.25"}, 0.25),
        ({"loss_coef": {"value": [0.21, 0.24], "frequency": [191e12, 196e12]}}, 0.24),
        ({"con_in": 1.0, "con_out": 0.75}, 0.2 + 0.75 / 100),
        ({"con_in": 0, "con_out": 0}, 0.2 - 1 / 100),
        ({"att_in": 2}, 0.22),
        ({"lumped_losses": [{"position": 10, "loss": 1.5}, {"position": 20, "loss": "0.5"}]}, 0.22),
        ({"con_in": 0.5, "att_in": 0}, None),
    ],
)
def test_losses_of_a_gnpy_file_are_spread_over_the_span_and_told(
    tmp_path: Path, fibre: dict[str, Any], loss_db_per_km: float | None
) -> None:
    plant = read_plant(written(tmp_path / "net.json", gnpy([("A", "B", 100.0)], **fibre)))
    assert plant.fibres[0].loss_db_per_km == (None if loss_db_per_km is None else pytest.approx(loss_db_per_km))
    assert bool(plant.notes) == (loss_db_per_km is not None)


def test_types_of_gnpy_fibres_are_kept_where_known_and_told_where_not(tmp_path: Path) -> None:
    facts = gnpy([("A", "B", 100.0), ("B", "C", 100.0)])
    for element in facts["elements"]:
        if element["type"] == "Fiber":
            element["type_variety"] = "NZDF" if element["uid"].endswith("-0") else "ULL"
    plant = read_plant(written(tmp_path / "net.json", facts))
    assert [fibre.fibre_type for fibre in plant.fibres] == ["NZDF", None]
    assert plant.notes == ("fibres of type ULL are computed as SSMF",)


def test_an_impossible_loss_is_named(tmp_path: Path) -> None:
    broken = written(tmp_path / "net.json", gnpy([("A", "B", 100.0)], con_in=-3))
    assert "fiber (A -> B)-0: con_in is -3; it is a number of dB, 0 or above" in refusal(broken)


def test_a_gnpy_place_that_is_null_or_zero_is_none(tmp_path: Path) -> None:
    facts = gnpy(MESH)
    for number, place in enumerate([None, {"location": None}, {"location": {"longitude": 0, "latitude": 0}}]):
        facts["elements"][number]["metadata"] = place
    assert all(not site.is_placed for site in read_plant(written(tmp_path / "net.json", facts)).sites)


def first_fibre(facts: dict[str, Any]) -> dict[str, Any]:
    params: dict[str, Any] = facts["elements"][3]["params"]
    return params


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda facts: facts["elements"][0].update(uid=5), "no element has the uid 'roadm A'; did you mean 'roadm B'?"),
        (lambda facts: facts["elements"][0].update(uid=None), "net: elements[0] has no `uid`"),
        (lambda facts: facts["elements"][0].pop("type"), "elements[0] 'roadm A': its `type` is missing; it is one"),
        (lambda facts: facts["elements"][0].update(type="ROADM"), "its `type` is 'ROADM'; it is one of Trans"),
        (lambda facts: facts["elements"].append(facts["elements"][0]), "another element has the uid 'roadm A'"),
        (lambda facts: first_fibre(facts).update(length=-80), "fiber (A -> B)-0: a length of -80 km; it is above 0"),
        (lambda facts: first_fibre(facts).update(length="NaN"), "a length of 'NaN' km; it is above 0"),
        (lambda facts: first_fibre(facts).update(length_units="mi"), "a length of 500.0 mi; it is above 0, in km"),
        (lambda facts: facts["connections"].append({"from_node": "roadm A"}), "no element has the uid 'None'"),
        (lambda facts: facts.update(elements=facts["elements"][:1], connections=[]), "two elements of type Roadm"),
    ],
)
def test_what_is_wrong_in_a_gnpy_file_is_told(tmp_path: Path, change: Any, sentence: str) -> None:
    facts = gnpy(MESH)
    change(facts)
    assert sentence in refusal(written(tmp_path / "net.json", facts))


def test_numbers_as_uids_are_matched_and_the_prefix_of_a_roadm_goes(tmp_path: Path) -> None:
    for prefix in ("roadm_", "ROADM ", "roadm-", ""):
        plain = written(tmp_path / "plain.json", json.dumps(gnpy(MESH)).replace("roadm ", prefix))
        assert {site.name for site in read_plant(plain).sites} == {"A", "B", "\u00d6rebro"}
    text = json.dumps(gnpy([("1", "2", 80.0)])).replace('"roadm 1"', "1").replace('"roadm 2"', "2")
    assert spans(read_plant(written(tmp_path / "net.json", text))) == [("1-2", 80)]


@pytest.mark.parametrize(
    ("kind", "distance_km", "outcome"),
    [
        ("ROADM", 81.5, ()),
        ("ROADMM", 81.5, ("GNPy: invalid node type (ILA) specified in A, replaced by ROADM",)),
        ("ROADM", None, ("1 link states no distance, GNPy takes 80 km: A - B",)),
        ("ROADM", "far", "GNPy cannot read this workbook: a cell has a text for a number, or no value"),
    ],
)
def test_a_workbook_is_read_by_gnpy(tmp_path: Path, kind: str, distance_km: object, outcome: object) -> None:
    book = Workbook()
    nodes: list[list[object]] = [
        ["City", "State", "Country", "Region", "Latitude", "Longitude", "Type"],
        ["A", "", "", "R", 50.0, 1.0, kind],
        ["B", "", "", "R", 51.0, 2.0, "ROADM"],
    ]
    links: list[list[object]] = [["Node A", "Node Z", "east"], ["", "", "Distance (km)"], ["A", "B", distance_km]]
    for title, first, rows in (("Nodes", 5, nodes), ("Links", 4, links)):
        sheet = book.create_sheet(title)
        for number, row in enumerate(rows, first):
            for column, value in enumerate(row, 1):
                sheet.cell(number, column, value)
    book.save(tmp_path / "net.xlsx")
    if isinstance(outcome, str):
        assert outcome in refusal(str(tmp_path / "net.xlsx"))
        return
    plant = read_plant(str(tmp_path / "net.xlsx"))
    assert (spans(plant), plant.notes) == ([("A-B", 81.5 if distance_km else 80.0)], outcome)
    assert "GNPy cannot read this workbook" in refusal(written(tmp_path / "text.xls", "no workbook"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[]", "net.json: cannot be read as a network: the JSON is a list; it must be an object"),
        ("{", "net.json: cannot be read as a network: Expecting property name"),
        ('{"a": 1}', "this JSON is neither networkx node-link (nodes, links) nor a GNPy network ("),
        ('{"nodes": [1], "links": []}', "net: node 1 is 1; it must be an object with `id`"),
        ('{"nodes": [{"id": [1]}], "links": []}', "net: node 1: `id` must be a number or a text"),
        ('{"nodes": [{"id": 1}], "links": [{"source": 1}]}', "net: link 1: `target` must be a number or a text"),
        ('{"nodes": [{"id": 1}], "edges": [[1, 2]]}', "net: link 1 is [1, 2]; it must be an object with `source`"),
        ('{"nodes": {"a": 1}, "edges": []}', "net: `nodes` is an object; it must be a list of objects such as"),
        ("null", "net.json: cannot be read as a network: the JSON is null; it must be an object"),
        ("[" * 20_000, "net.json: cannot be read as a network: it is nested too deeply"),
    ],
)
def test_json_in_no_known_form_is_refused_with_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in refusal(written(tmp_path / "net.json", text))


def test_the_topology_in_the_documentation_is_a_map_without_a_surprise(tmp_path: Path) -> None:
    page = (Path(__file__).parents[4] / "docs" / "map-format.md").read_text(encoding="utf-8")
    text = page.partition("```json\n")[2].partition("```")[0]
    plant = read_plant(written(tmp_path / "norway.json", text))
    assert (len(plant.sites), len(plant.fibres), len(text.splitlines())) == (5, 7, 18)
    assert plant.notes == (
        "5 of 7 spans state no length, it is estimated from the places of their ends: Oslo - Trondheim, "
        "Oslo - Stavanger, Bergen - Stavanger, Bergen - Trondheim, Trondheim - Tromsø",
        "6 of 7 spans state no speed: 400 Gb/s taken",
    )
