"""The one rule of reading: nothing is replaced or left out without a note, and nothing impossible is taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.topologies.network_files import NORWAY, graphml, link, node, node_link, placed
from topologies.plants.plant import Plant
from topologies.plants.published import read_plant
from topologies.plants.survey import SurveyOptions
from topologies.plants.unplaced import Unplaced
from topologies.problems import MapError

RING = [link("Oslo", "Bergen"), link("Bergen", "Trondheim"), link("Trondheim", "Oslo"), link("Bergen", "Stavanger")]


def spans(plant: Plant) -> list[tuple[str, float]]:
    """The name and the length of every span."""
    return [("-".join(fibre.ends), fibre.length_km) for fibre in plant.fibres]


def refusal(path: str, options: SurveyOptions | None = None) -> str:
    """The sentences with which a file is refused."""
    with pytest.raises(MapError) as caught:
        read_plant(path, options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ({"lat": float("nan"), "lon": 2}, "latitude of b is NaN; it is a number from -90 to 90"),
        ({"lat": 1, "lon": float("inf")}, "longitude of b is inf; it is a number from -180 to 180"),
        ({"lat": 110.75, "lon": 59.9}, "latitude of b is 110.75; it is from -90 to 90; are longitude and latitude swa"),
        ({"lat": 10.0, "lon": -181}, "longitude of b is -181; it is from -180 to 180"),
        ({"lat": "north", "lon": 2}, "latitude of b is north; it is a number from -90 to 90"),
        ({"lat": True, "lon": 2}, "latitude of b is True; it is a number from -90 to 90"),
        ({"pos": [2, 90.01]}, "latitude of b is 90.01; it is from -90 to 90"),
        ({"Latitude": 1, "Longitude": "1e400"}, "longitude of b is 1e400; it is a number from -180 to 180"),
    ],
)
def test_an_impossible_coordinate_is_named(tmp_path: Path, place: dict[str, object], sentence: str) -> None:
    nodes = [node("a", lat=1, lon=2), node("b", **place), node("c", lat=3, lon=3)]
    file = node_link(tmp_path / "net.json", nodes, [link("a", "b"), link("b", "c")])
    assert f"net: {sentence}" in refusal(file)


def test_the_ends_of_the_globe_are_on_it(tmp_path: Path) -> None:
    nodes = [node("a", lat=90, lon=-180), node("b", lat=0, lon="180.0"), node("c", lat="-90", lon=0)]
    plant = read_plant(node_link(tmp_path / "net.json", nodes, [link("a", "b"), link("b", "c")]))
    assert [km for _, km in spans(plant)] == pytest.approx([10_007 * 1.25] * 2, abs=1)


def test_places_on_a_plane_in_km_are_recognised_by_the_stated_distances(tmp_path: Path) -> None:
    plant = read_plant("gabriel/10/0")
    assert plant.notes == ("places are km on a plane: `dist` of every span is the distance of its ends there",)
    assert max(fibre.length_km for fibre in plant.fibres) == pytest.approx(194.37 * 1.5, abs=0.1)
    nodes = [{"id": "a", "pos": [0, 0]}, {"id": "b", "pos": [30, 40]}]
    assert spans(read_plant(node_link(tmp_path / "net.json", nodes, [link("a", "b", dist=50.0)]))) == [("a-b", 75.0)]
    on_globe = read_plant(node_link(tmp_path / "net.json", nodes, [link("a", "b", dist=5360.0)]))
    assert spans(on_globe) == [("a-b", 6700.0)]


def test_a_fibre_longer_than_any_is_refused_with_its_ends(tmp_path: Path) -> None:
    poles = [node("a", lat=90, lon=0), node("b", lat=-90, lon=0)]
    file = node_link(tmp_path / "net.json", poles, [link("a", "b")])
    assert refusal(file) == "net: span a - b is 25018.9 km long by the places of its ends; a fibre has at most 20000 km"
    far = [{"id": "a", "x": 0, "y": 0}, {"id": "b", "x": 1e300, "y": 0}]
    file = node_link(tmp_path / "net.json", far, [link("a", "b")])
    assert "a fibre has at most 20000 km" in refusal(file, SurveyOptions(km_per_unit=3))


@pytest.mark.parametrize("end", ["Osl", "oslo", "OSLO", "Olso"])
def test_an_end_that_is_no_node_is_refused_with_the_nearest_name(tmp_path: Path, end: str) -> None:
    file = node_link(tmp_path / "net.json", placed(*NORWAY), [*RING, link("Stavanger", end)])
    assert refusal(file) == f"net: link 5: its end '{end}' is no node; did you mean 'Oslo'?"
    nodes = [{"id": name, "Longitude": x, "Latitude": y} for name, (x, y) in NORWAY.items()]
    file = graphml(tmp_path / "net.graphml", nodes, [*RING, link("Stavanger", end)])
    assert refusal(file).endswith(f"its end '{end}' is no node; did you mean 'Oslo'?")


def test_numbers_texts_and_names_of_nodes_are_matched(tmp_path: Path) -> None:
    nodes = [node(0, name="Oslo"), node("1", name="Ås"), node(2.0, name="Bodø")]
    links = [link("0", 1, length_km=30), link("Ås", "2", length_km=900)]
    plant = read_plant(node_link(tmp_path / "net.json", nodes, links))
    assert spans(plant) == [("Oslo-Ås", 30), ("Ås-Bodø", 900)]
    twice = node_link(tmp_path / "twice.json", [{"id": 5}, {"id": "5"}], [link(5, "5", length_km=1)])
    assert 'two nodes have the id \'5\' (5 and "5" are the same)' in refusal(twice)
    same = [{"id": 0, "name": "x"}, {"id": 1, "name": "x"}]
    two = node_link(tmp_path / "two.json", same, [link("x", 1, length_km=1)])
    assert "its end 'x' is the name of several nodes; use their ids '0', '1'" in refusal(two)


@pytest.mark.parametrize("value", [0, -5, float("nan"), float("inf"), "far", True, "-1e-9"])
@pytest.mark.parametrize("name", ["length_km", "length", "distance_km"])
def test_an_impossible_length_names_its_span(tmp_path: Path, name: str, value: object) -> None:
    file = node_link(tmp_path / "net.json", placed(*NORWAY), [*RING, link("Stavanger", "Oslo", **{name: value})])
    assert f"net: span Stavanger - Oslo: `{name}` is {value!r}; it is a number above 0" in refusal(file)


def test_all_mistakes_are_reported_at_once_and_very_many_are_counted(tmp_path: Path) -> None:
    nodes = [node(n, lat=91, lon=0) for n in range(30)]
    sentences = refusal(node_link(tmp_path / "net.json", nodes, [link(0, 1, length=-1)])).splitlines()
    assert (len(sentences), sentences[-1]) == (21, "… and 11 more mistakes")
    few = refusal(node_link(tmp_path / "few.json", nodes[:2], [link(0, 1, length=-1), link(0, 7)]))
    assert len(few.splitlines()) == 4


@pytest.mark.parametrize(
    ("attributes", "km", "note"),
    [
        ({"length_km": 100}, 100, None),
        ({"distance_km": "100"}, 100, None),
        ({"dist_km": 100}, 100, None),
        ({"Length (km)": 100}, 100, None),
        ({"length_m": 100_000}, 100, None),
        ({"length": 100}, 100, "`length` is taken as km"),
        ({"distance": 100}, 100, "`distance` is taken as km"),
        ({"length": 100_000, "length_units": "m"}, 100, None),
        ({"dist": 100}, 150, None),
        ({"weight": 100}, 686.5, "`weight` is not used"),
        ({"length": 100, "units": "miles"}, 160.934, None),
        ({"length_mi": "100"}, 160.934, None),
        ({"length": 100_000, "Units": "Metres"}, 100, None),
        ({"length_km": 100, "distance_km": 100.5}, 100, None),
        ({"length_km": 9, "distance_km": 5}, 9, "`length_km` counts, `distance_km` says otherwise: Oslo - Bergen"),
        ({"length_km": None, "length": 100}, 100, "`length` is taken as km"),
    ],
)
def test_lengths_under_the_names_that_people_use(
    tmp_path: Path, attributes: dict[str, object], km: float, note: str | None
) -> None:
    file = node_link(tmp_path / "net.json", placed("Oslo", "Bergen"), [link("Oslo", "Bergen", **attributes)])
    if "weight" in attributes:
        plain = node_link(tmp_path / "plain.json", placed("Oslo", "Bergen"), [link("Oslo", "Bergen")])
        km = spans(read_plant(plain))[0][1]
    plant = read_plant(file)
    assert spans(plant) == [("Oslo-Bergen", km)]
    assert plant.notes == (() if note is None else (note,))


def test_weight_is_a_length_only_if_asked(tmp_path: Path) -> None:
    file = node_link(tmp_path / "net.json", placed("Oslo", "Bergen"), [link("Oslo", "Bergen", weight=77)])
    assert spans(read_plant(file, SurveyOptions(length_attribute="weight"))) == [("Oslo-Bergen", 77)]
    assert refusal(file, SurveyOptions(length_attribute="km")) == "net: no span has `km`; its attributes: weight"


@pytest.mark.parametrize(
    ("attributes", "gbps"),
    [
        ({"LinkSpeedRaw": 10_000_000_000.0}, 10),
        ({"LinkSpeed": "2.5", "LinkSpeedUnits": "G"}, 2.5),
        ({"capacity_mbps": 155}, 0.155),
        ({"bandwidth_bps": 40e9}, 40),
        ({"bandwidth": 1e11}, 100),
        ({"capacity": 400}, 400),
        ({"rate_gbps": "1.6e3"}, 1600),
        ({}, None),
    ],
)
def test_speeds_under_the_names_that_people_use(tmp_path: Path, attributes: dict[str, object], gbps: float) -> None:
    file = node_link(tmp_path / "net.json", placed("Oslo", "Bergen"), [link("Oslo", "Bergen", **attributes)])
    plant = read_plant(file)
    assert plant.fibres[0].rate_gbps == (None if gbps is None else pytest.approx(gbps))
    assert [("is taken as" in note) for note in plant.notes] == [True] * bool({"bandwidth", "capacity"} & {*attributes})


def test_a_span_without_a_speed_gets_that_of_most_others_with_a_note_and_an_impossible_speed_is_named(
    tmp_path: Path,
) -> None:
    links = [link("Oslo", "Bergen", capacity_gbps=10), link("Bergen", "Trondheim", capacity_gbps=100), *RING[2:]]
    plant = read_plant(node_link(tmp_path / "net.json", placed(*NORWAY), links))
    assert [fibre.rate_gbps for fibre in plant.fibres] == [10, 100, 10, 10]
    assert plant.notes == ("2 of 4 spans state no speed: 10 Gb/s taken",)
    broken = node_link(tmp_path / "no.json", placed(*NORWAY), [*RING, link("Oslo", "Stavanger", LinkSpeedRaw=0)])
    assert "span Oslo - Stavanger: `LinkSpeedRaw` is 0; it is a number above 0" in refusal(broken)
    fast = node_link(tmp_path / "fast.json", placed(*NORWAY), [*RING, link("Oslo", "Stavanger", capacity_bps=1e15)])
    assert "`capacity_bps` is 1e+06 Gb/s; it is above 0 and at most 480000" in refusal(fast)


UPSTREAM = {"id": "Upstream", "Internal": 0}


def zoo(tmp_path: Path, extra: dict[str, object], links: list[dict[str, object]]) -> str:
    nodes = [{"id": name, "Longitude": x, "Latitude": y} for name, (x, y) in NORWAY.items()]
    return graphml(tmp_path / "net.graphml", [*nodes, extra], [*RING, *links])


def test_a_peer_outside_the_network_is_left_out_by_default_and_named(tmp_path: Path) -> None:
    plant = read_plant(zoo(tmp_path, UPSTREAM, [link("Oslo", "Upstream"), link("Bergen", "Upstream")]))
    assert (len(plant.sites), plant.notes) == (4, ("left out, without coordinates: Upstream",))


def test_a_site_that_holds_others_together_is_placed_between_its_neighbours(tmp_path: Path) -> None:
    nodes = [*placed("Oslo", "Bergen"), node("Geilo")]
    plant = read_plant(node_link(tmp_path / "net.json", nodes, [link("Oslo", "Geilo"), link("Geilo", "Bergen")]))
    (geilo,) = (site for site in plant.sites if site.name == "Geilo")
    assert [geilo.longitude_deg, geilo.latitude_deg] == pytest.approx([8.04, 60.2], abs=0.1)
    assert plant.notes == ("placed between their neighbours: Geilo",)
    (east, west) = spans(plant)
    assert east[1] == pytest.approx(west[1], abs=0.2)


def test_a_place_between_two_sites_across_the_date_line_is_there(tmp_path: Path) -> None:
    nodes = [node("Suva", lon=178, lat=-18), node("Apia", lon=-172, lat=-14), node("between")]
    plant = read_plant(node_link(tmp_path / "net.json", nodes, [link("Suva", "between"), link("between", "Apia")]))
    assert abs(plant.sites[2].longitude_deg or 0) > 176


@pytest.mark.parametrize(
    ("policy", "sites", "note"),
    [
        ("drop", 4, "left out, without coordinates: Hub"),
        ("place", 5, "placed between their neighbours: Hub"),
        (None, 5, "placed between their neighbours: Hub"),
    ],
)
def test_what_becomes_of_unplaced_sites_is_as_asked(
    tmp_path: Path, policy: Unplaced | None, sites: int, note: str
) -> None:
    file = zoo(tmp_path, {"id": "Hub", "Internal": 1}, [link("Oslo", "Hub"), link("Bergen", "Hub")])
    plant = read_plant(file, SurveyOptions(unplaced=policy))
    assert (len(plant.sites), plant.notes) == (sites, (note,))
    assert "sites without coordinates: Hub; --unplaced" in refusal(file, SurveyOptions(unplaced="refuse"))


def test_sites_whose_spans_have_lengths_need_no_place(tmp_path: Path) -> None:
    nodes = [{"id": n, "lon": None, "lat": None, "name": name} for n, name in enumerate(NORWAY)]
    links = [link(0, 1, length_km=100), link(1, 2, length_km=150), link(2, 3, length_km=200)]
    plant = read_plant(node_link(tmp_path / "net.json", nodes, links), SurveyOptions(unplaced="refuse"))
    assert (len(plant.sites), plant.notes) == (4, ())


def test_of_several_pieces_the_largest_is_taken_and_the_others_are_named(tmp_path: Path) -> None:
    nodes = [*placed(*NORWAY), {"id": "Bodø", "lon": 14.4, "lat": 67.3}, {"id": "Alta", "lon": 23.3, "lat": 70.0}]
    plant = read_plant(node_link(tmp_path / "net.json", nodes, [*RING, link("Bodø", "Alta")]))
    assert len(plant.sites) == 4
    assert plant.notes == ("in 2 pieces; the largest, of 4 sites, is taken; left out: Bodø, Alta",)
    alone = node_link(tmp_path / "alone.json", placed("Oslo", "Bergen"), [])
    assert "no two sites with a fibre between them are left" in refusal(alone)


def test_parallel_spans_stay_with_their_own_lengths_and_ducts(tmp_path: Path) -> None:
    links = [link("Oslo", "Bergen", length_km=100, duct="north"), link("Bergen", "Oslo", length_km=900)]
    for facts in ({"multigraph": True}, {"multigraph": False}, {}):
        plant = read_plant(node_link(tmp_path / "net.json", placed("Oslo", "Bergen"), links, **facts))
        assert [(fibre.length_km, fibre.duct) for fibre in plant.fibres] == [(100, "north"), (900, None)]
    file = graphml(tmp_path / "net.graphml", [{"id": "a"}, {"id": "b"}], [link("a", "b", length_km=1.5)] * 3)
    assert spans(read_plant(file)) == [("a-b", 1.5)] * 3


def test_both_directions_of_a_directed_graph_are_one_span(tmp_path: Path) -> None:
    links = [link("Oslo", "Bergen", length_km=5), link("Oslo", "Bergen", length_km=7),
             link("Bergen", "Oslo", length_km=7), link("Bergen", "Oslo", length_km=5)]  # fmt: skip
    two = placed("Oslo", "Bergen")
    plant = read_plant(node_link(tmp_path / "net.json", two, links, directed=True))
    assert (spans(plant), plant.notes) == ([("Oslo-Bergen", 5), ("Oslo-Bergen", 7)], ())
    uneven = read_plant(node_link(tmp_path / "net.json", two, links[:1] + links[2:3], directed=True))
    assert spans(uneven) == [("Oslo-Bergen", 7)]
    assert uneven.notes == ("the directions differ in length, the longer is taken: Oslo - Bergen",)
    once = read_plant(node_link(tmp_path / "net.json", two, links[:3], directed=True))
    assert once.notes == ("stated in one direction only, taken for both: Oslo - Bergen",)


def test_loops_are_left_out_and_sites_at_the_same_place_are_a_kilometre_apart_and_both_are_told(tmp_path: Path) -> None:
    nodes = [*placed("Oslo"), {"id": "Oslo 2", "lon": NORWAY["Oslo"][0], "lat": NORWAY["Oslo"][1]}]
    plant = read_plant(node_link(tmp_path / "net.json", nodes, [link("Oslo", "Oslo 2"), link("Oslo", "Oslo")]))
    assert spans(plant) == [("Oslo-Oslo 2", 1)]
    assert plant.notes == (
        "left out, a span from a site to itself: Oslo",
        "sites at the same place, 1 km taken: Oslo - Oslo 2",
    )


def test_a_file_without_any_place_or_length_is_refused_unless_a_length_is_given(tmp_path: Path) -> None:
    file = node_link(tmp_path / "net.json", [{"id": "a"}, {"id": "b"}], [link("a", "b")])
    assert "no length and no coordinates of both ends for a - b" in refusal(file)
    assert "--span-km KM" in refusal(file)
    plant = read_plant(file, SurveyOptions(span_km=80))
    assert (spans(plant), plant.notes) == ([("a-b", 80)], ("no length known, 80 km taken as asked: every span",))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (SurveyOptions(route_factor=1.2), "states the length of every span, so --route-factor does not apply"),
        (SurveyOptions(km_per_unit=1.2), "states the length of every span, so --km-per-unit does not apply"),
        (SurveyOptions(unplaced="drop"), "every site has a place, so --unplaced does not apply"),
        (SurveyOptions(span_km=5), "every span has a length, or places at both ends, so --span-km does not apply"),
    ],
)
def test_an_option_that_changes_nothing_is_refused(tmp_path: Path, options: SurveyOptions, sentence: str) -> None:
    file = node_link(tmp_path / "net.json", placed("Oslo", "Bergen"), [link("Oslo", "Bergen", length_km=9)])
    assert sentence in refusal(file, options)


def test_degrees_are_no_drawing(tmp_path: Path) -> None:
    file = node_link(tmp_path / "net.json", placed("Oslo", "Bergen"), [link("Oslo", "Bergen")])
    assert "its places are degrees, no drawing" in refusal(file, SurveyOptions(km_per_unit=2))


def test_x_and_y_are_degrees_with_a_note_or_a_drawing(tmp_path: Path) -> None:
    def file(scale: float) -> str:
        nodes = [{"id": "a", "x": 0, "y": 0}, {"id": "b", "x": 3 * scale, "y": 4 * scale}]
        return node_link(tmp_path / "net.json", nodes, [link("a", "b")])

    (note,) = read_plant(file(1)).notes
    assert note == "`x` and `y` are taken as longitude and latitude; --km-per-unit says otherwise"
    for scale in (1, 100):
        plant = read_plant(file(scale), SurveyOptions(km_per_unit=20))
        assert spans(plant) == [("a-b", 5 * scale * 20 * 1.5 if scale == 1 else 12_500)]
    assert "its places are on a drawing (x from 0 to 300), not degrees" in refusal(file(100))


@pytest.mark.parametrize("name", ["norway", "india35", "atlanta", "ta2"])
def test_sndlibs_drawings_are_recognised(name: str) -> None:
    assert f"{name}: its places are on a drawing" in refusal(f"sndlib/{name}")
    plant = read_plant(f"sndlib/{name}", SurveyOptions(km_per_unit=0.5))
    assert max(fibre.length_km for fibre in plant.fibres) < 2000
    assert plant.notes == ("places are those of a drawing of 0.5 km per unit, as asked",)


def test_the_other_networks_of_sndlib_are_on_the_globe() -> None:
    for name in ("nobel-us", "germany50", "abilene", "cost266", "polska"):
        assert max(fibre.length_km for fibre in read_plant(f"sndlib/{name}").fibres) < 7000


def test_names_in_any_script_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    names = ["Örebro", "Åre", "Москва", "東京", "İzmir"]
    nodes = [{"id": n, "name": name} for n, name in enumerate(names)]
    links = [link(n, n + 1, length_km=10) for n in range(len(names) - 1)]
    text = json.dumps({"nodes": nodes, "links": links}, ensure_ascii=False)
    (tmp_path / "net.json").write_text(text, encoding="utf-8-sig")
    assert [site.name for site in read_plant(str(tmp_path / "net.json")).sites] == names
    (tmp_path / "latin.json").write_bytes(text.replace("東京", "Malmö").encode("utf-16"))
    assert "it is not UTF-8" in refusal(str(tmp_path / "latin.json"))
