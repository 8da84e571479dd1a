"""Published fibre plants become maps: sites and lengths as published, edges and cloud by name or by default rule."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import networkx as nx
import pytest
from click.testing import CliRunner

from topologies.catalogue import MapOptions, adapt_map, resolve_map
from topologies.commands import maps
from topologies.drawing.labels import Box, LabelLayout, candidates_along, candidates_beside, line_obstacles
from topologies.map_file.loader import load_map, map_path
from topologies.maps import Map
from topologies.placement.map_document import PlacementOptions, map_document, short_names
from topologies.plants.plant import Fibre, Plant, Site, fibre_km, great_circle_km
from topologies.plants.published import is_plant, plant_names, read_plant
from topologies.problems import MapError

TRIANGLE = Plant(
    "triangle",
    "nowhere",
    (Site("North Town", 10.0, 51.0), Site("South Town", 10.0, 50.0), Site("East", 11.0, 50.5)),
    (Fibre(("North Town", "South Town"), 200), Fibre(("South Town", "East"), 150), Fibre(("East", "North Town"), 130)),
)


def load_placed(tmp_path: Path, name: str, options: PlacementOptions | None = None) -> Map:
    placement = options or PlacementOptions(edges=2)
    return load_map(str(resolve_map(name, MapOptions(placement=placement), tmp_path)))


def test_topohub_network_becomes_a_map_with_sites_lengths_and_source(tmp_path: Path) -> None:
    topology = load_placed(
        tmp_path, "sndlib/nobel-us", PlacementOptions(edges=["Seattle", "houston"], cloud="Pittsburgh")
    )
    assert (len(topology.switches), topology.source) == (14, "topohub sndlib/nobel-us")
    lengths = {frozenset(link.ends): link.length_km for link in topology.links}
    assert lengths[frozenset(("paloalto", "sandiego"))] == pytest.approx(704.13 * 1.5, abs=0.1)
    attached = {link.ends[0]: link.ends[1] for link in topology.links if link.ends[0] in ("edge1", "edge2", "cloud")}
    assert attached == {"edge1": "seattle", "edge2": "houston", "cloud": "pittsburg"}
    assert topology.node("pittsburg").label == "Pittsburgh"


def test_graphml_lengths_are_derived_from_coordinates(tmp_path: Path) -> None:
    graph: nx.Graph[str] = nx.Graph()
    graph.add_node("0", label="Hamburg", Longitude=10.0, Latitude=53.55)
    graph.add_node("1", label="Munich", Longitude=11.58, Latitude=48.14)
    graph.add_edge("0", "1")
    nx.write_graphml(graph, tmp_path / "two.graphml")
    plant = read_plant(str(tmp_path / "two.graphml"))
    assert plant.fibres == (Fibre(("Hamburg", "Munich"), pytest.approx(612 * 1.5, abs=2)),)  # type: ignore[arg-type]


def test_node_link_file_may_contain_lengths_and_ducts(tmp_path: Path) -> None:
    facts = {
        "nodes": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 3}],
        "edges": [
            {"source": 1, "target": 2, "length_km": 80, "duct": "valley"},
            {"source": 2, "target": 3, "length_km": 9},
        ],
    }
    (tmp_path / "net.json").write_text(json.dumps(facts))
    assert read_plant(str(tmp_path / "net.json")).fibres == (
        Fibre(("a", "b"), 80.0, "valley"),
        Fibre(("b", "3"), 9.0),
    )
    topology = load_placed(tmp_path, str(tmp_path / "net.json"))
    assert topology.links[0].duct == "valley"


def test_gnpy_roadms_become_sites_and_fibre_lengths_are_summed(tmp_path: Path) -> None:
    def fibre(uid: str, length: float, units: str) -> dict[str, object]:
        return {"uid": uid, "type": "Fiber", "params": {"length": length, "length_units": units, "loss_coef": 0.2}}

    elements = [
        {"uid": "roadm A", "type": "Roadm", "metadata": {"location": {"latitude": 50.0, "longitude": 8.0}}},
        {"uid": "roadm B", "type": "Roadm"},
        {"uid": "amp", "type": "Edfa"},
        fibre("f1", 80.0, "km"), fibre("f2", 40_000.0, "m"), fibre("back", 120.0, "km"),
    ]  # fmt: skip
    way = ["roadm A", "f1", "amp", "f2", "roadm B", "back", "roadm A"]
    connections = [{"from_node": a, "to_node": b} for a, b in pairwise(way)]
    (tmp_path / "line.json").write_text(json.dumps({"elements": elements, "connections": connections}))
    plant = read_plant(str(tmp_path / "line.json"))
    assert plant.fibres == (Fibre(("A", "B"), 120.0),)
    assert plant.sites == (Site("A", 8.0, 50.0), Site("B", None, None))


def test_default_placement_cloud_central_edges_far_apart() -> None:
    facts = map_document(TRIANGLE, PlacementOptions(edges=2))
    assert facts["description"] == "3 sites; cloud at East, edges at South Town, North Town."
    assert facts["cross_traffic"]["bottleneck"] == ["southtown", "east"]


@pytest.mark.parametrize(
    ("great_circle", "factor", "fibre"),
    [(100, None, 150), (999, None, 1498.5), (1100, None, 1500), (2000, None, 2500), (100, 1.2, 120)],
)
def test_fibre_is_longer_than_the_great_circle(great_circle: float, factor: float | None, fibre: float) -> None:
    assert fibre_km(great_circle, factor) == pytest.approx(fibre)


def test_a_degree_of_latitude_is_111_km() -> None:
    assert great_circle_km(TRIANGLE.sites[0], TRIANGLE.sites[1]) == pytest.approx(111.2, abs=0.1)


def test_short_names_fit_interfaces_and_differ() -> None:
    long = ["Salt Lake City", "Salt Lake Citadel", "Örebro", "9th", "cloud", "edge1", "---"]
    short = short_names(long)
    assert len(set(short.values())) == len(long)
    assert all(0 < len(name) <= 9 and name.isascii() and name[0].isalpha() for name in short.values())
    assert not {"cloud", "edge1"} & set(short.values())


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("sndlib/nobel", PlacementOptions(), "did you mean sndlib/nobel-eu or sndlib/nobel-germany or sndlib/nobel-us"),
        (
            "sndlib/nobel-us",
            PlacementOptions(cloud="Chicago"),
            "nobel-us has no site 'Chicago'; some of its 14 sites: Palo-Alto",
        ),
        ("sndlib/nobel-us", PlacementOptions(edges=[]), "nobel-us: no edges; give their number"),
        ("sndlib/nobel-us", PlacementOptions(edges=14), "14 edges; 1 to 13 are possible beside the cloud at"),
        ("sndlib/nobel-us", PlacementOptions(scale_mbps_per_gbps=20), "lower scale_mbps_per_gbps to"),
    ],
)
def test_impossible_placement_is_reported_with_alternatives(
    tmp_path: Path, name: str, options: PlacementOptions, sentence: str
) -> None:
    with pytest.raises(MapError) as caught:
        resolve_map(name, MapOptions(placement=options), tmp_path)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"elements": []}', '{"elements": [1]}', '{"elements": [{"type": "Roadm"}]}',
        '{"nodes": [{"id": 1}, {"id": 2}]}',
    ],
)  # fmt: skip
def test_file_that_is_not_a_network_is_rejected(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(MapError):
        map_document(read_plant(str(tmp_path / "x.json")), PlacementOptions(edges=1))


def test_spans_without_length_or_coordinates_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"nodes": [{"id": 1}, {"id": 2}], "links": [{"source": 1, "target": 2}]}')
    with pytest.raises(MapError, match="no length and no coordinates of both ends for 1 - 2"):
        read_plant(str(tmp_path / "x.json"))


def test_maps_and_yaml_files_are_not_plants() -> None:
    assert [is_plant(name) for name in ("metro", "here/map.yaml", "sndlib/nobel-us", "x.graphml")] == [
        False, False, True, True,
    ]  # fmt: skip
    assert "sndlib/germany50" in plant_names()


def test_paceline_maps_lists_shows_writes_and_draws(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert "metro" in run(maps, []).output
    assert "sndlib/germany50" in run(maps, ["sndlib"]).output
    picture, file = tmp_path / "n.svg", tmp_path / "n.yaml"
    shown = run(maps, ["sndlib/nobel-us", "--edges", "Seattle", "--draw", str(picture), "--write", str(file)])
    assert (shown.exit_code, "source: topohub sndlib/nobel-us" in shown.output) == (0, True)
    assert picture.read_text().startswith("<?xml")
    assert len(load_map(str(file)).edges) == 1
    assert run(maps, ["nix"]).exit_code == 1


def test_ducts_and_scale_can_be_added_to_any_map(tmp_path: Path) -> None:
    path = adapt_map(map_path("metro"), tmp_path, 0.4, ["east=r1-r2,r4-r1", "r3-r4"])
    topology = load_map(str(path))
    ducts = {"-".join(link.ends): link.duct for link in topology.links if link.duct}
    assert (topology.scale_mbps_per_gbps, ducts) == (0.4, {"r1-r2": "east", "r1-r4": "east", "r3-r4": "d2"})
    assert adapt_map(map_path("metro"), tmp_path) == map_path("metro")
    for wrong, sentence in (
        ("r1-r9", "duct 'r1-r9': metro has no span 'r1-r9'; its spans: r1-r2, "),
        ("r2-r1", "duct 'r2-r1': span r2-r1 is already in duct east"),
    ):
        with pytest.raises(MapError, match=sentence):
            adapt_map(path, tmp_path, None, [wrong])


def test_labels_do_not_overlap() -> None:
    layout = LabelLayout([Box(0, 0, 4, 4)])
    first = layout.place(candidates_beside((0, 0), "Here", 8, 5))
    second = layout.place(candidates_beside((0, 0), "There", 8, 5))
    assert (first.x > 0, second.x < 0) == (True, True)
    assert first.overlap(second) == 0
    layout.add_obstacles(line_obstacles((0, 100), (100, 100)))
    length = layout.place(candidates_along((0, 0), (0, 100), "123", 8))
    assert all(length.overlap(other) == 0 for other in (first, second))
