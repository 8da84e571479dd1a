"""Edges and cloud stand where something can be reserved; speeds become channels and a scale."""

from __future__ import annotations

import pytest

from controller.admission.admission import Admitted, Request, decide
from controller.booking.calendar import Calendar
from controller.domain.network import network_from_map
from controller.domain.reservation import Flow, Match, Requirement
from controller.optical.lightpath_design import LightpathDesign, design_lightpath
from controller.optical.transmission_quality import SpecialFibre, quality_of
from controller.routing.candidates import CERTAIN_REACH_KM, candidate_paths
from topologies.maps import Band, Map, MapLink, MapNode
from topologies.placement.map_document import PlacementOptions, map_document, short_names
from topologies.placement.regenerators import with_regenerators
from topologies.placement.siting import MULTI_BAND_REACH_KM, REACH_KM, choose_sites, reach_km
from topologies.plants.plant import Fibre, Plant, Site
from topologies.problems import MapError


def plant(*fibres: tuple[str, str, float], rates: dict[int, float] | None = None) -> Plant:
    names = dict.fromkeys(end for a, b, _ in fibres for end in (a, b))
    spans = tuple(Fibre((a, b), km, None, (rates or {}).get(n)) for n, (a, b, km) in enumerate(fibres))
    return Plant("net", "test", tuple(Site(name, None, None) for name in names), spans)


ISLANDS = plant(("A", "B", 100), ("B", "C", 100), ("C", "A", 150), ("A", "far", 4692.7), ("far", "farther", 50))


def test_sites_that_no_light_reaches_get_no_edge_and_are_told() -> None:
    sites = choose_sites(ISLANDS, None, None)
    assert ({*sites.edges, sites.cloud}, len(sites.edges)) == ({"A", "B", "C"}, 2)
    assert sites.notes == [
        "beyond optical reach (3400 km), no lightpath crosses them: A - far (4692.7 km)",
        "edges and cloud are placed where something can be reserved, among 3 of 5 sites",
    ]


def test_spans_beyond_reach_get_regenerators_which_are_counted_and_priced() -> None:
    options = PlacementOptions(["farther"], "B", regenerate=True, regenerator_price=1200)
    document = map_document(ISLANDS, options)
    assert document["notes"] == [
        "regenerator sites on spans beyond optical reach: A - far (4692.7 km): 1; 4 regenerators, one for each "
        "channel, 4800 at 1200 each"
    ]
    lengths_km = [link["length_km"] for link in document["links"] if "regen11" in str(link["ends"])]
    assert lengths_km == [2346.35, 2346.35]


def test_a_regenerator_between_two_places_stands_between_them() -> None:
    wide = Plant("net", "test", (Site("x", 170.0, 0.0), Site("y", -150.0, 10.0)), (Fibre(("x", "y"), 9000.0),))
    regenerated = with_regenerators(wide, lambda _fibre: 4)
    places = [(site.longitude_deg, site.latitude_deg) for site in regenerated.sites[2:]]
    assert places == [pytest.approx(place) for place in ((-176.6666667, 3.3333333), (-163.3333333, 6.6666667))]
    assert [fibre.length_km for fibre in regenerated.fibres] == [3000.0] * 3
    assert with_regenerators(plant(("a", "b", 100)), lambda _fibre: 4).notes == ()


def test_an_edge_asked_for_beyond_reach_is_placed_with_a_note() -> None:
    sites = choose_sites(ISLANDS, ["farther", "C"], "B")
    assert sites.edges == ["farther", "C"]
    assert sites.notes[-1] == "edge1 at farther can reserve nothing to the cloud at B"


def test_a_plant_on_which_nothing_can_be_reserved_is_refused_with_the_spans() -> None:
    with pytest.raises(MapError, match=r"no two sites between which anything .*: beyond .* a - b \(5000 km\)"):
        choose_sites(plant(("a", "b", 5000)), None, None)


def test_the_number_of_edges_follows_the_sites_unless_stated() -> None:
    assert len(choose_sites(plant(("a", "b", 10)), None, None).edges) == 1
    with pytest.raises(MapError, match="2 edges; 1 to 1 are possible beside the cloud at b"):
        choose_sites(plant(("a", "b", 10)), 2, None)


def test_of_parallel_spans_the_shortest_counts() -> None:
    assert choose_sites(plant(("a", "b", 9000), ("a", "b", 10), ("a", "c", 20)), None, None).cloud == "a"


def map_of(fibres: Plant, **options: object) -> Map:
    import tempfile
    from pathlib import Path

    from topologies.map_file.loader import load_map
    from topologies.placement.map_document import write_map

    with tempfile.TemporaryDirectory() as directory:
        write_map(map_document(fibres, PlacementOptions(**options)), Path(directory) / "x.yaml")  # type: ignore[arg-type]
        return load_map(f"{directory}/x.yaml")


def test_speeds_become_channels_and_the_fastest_is_emulated_at_80_mbps() -> None:
    found = map_of(plant(("a", "b", 10), ("b", "c", 20), ("c", "a", 30), rates={0: 10, 1: 250, 2: 1.0}))
    links = [(link.channels, link.channel_rate_gbps) for link in found.links[:3]]
    assert links == [(1, 10), (3, pytest.approx(83.3333)), (1, 1)]
    assert found.rate_bps(found.links[1]) == pytest.approx(80e6, rel=1e-3)
    assert "too slow beside the fastest fibre to reserve on in the emulation: c - a (1 Gb/s)" in found.notes
    assert map_of(plant(("a", "b", 10))).scale_mbps_per_gbps == 0.2, "4 channels of 100 Gb/s where no speed is stated"
    assert map_of(plant(("a", "b", 10), rates={0: 0.01})).scale_mbps_per_gbps == 1000
    assert map_of(plant(("a", "b", 10), rates={0: 480_000})).links[0].rate_gbps == pytest.approx(480_000)
    modem = map_of(plant(("a", "b", 10), ("b", "c", 10), rates={0: 400, 1: 64e-6}))
    assert modem.rate_bps(modem.links[1]) == 10_000
    assert modem.notes[-1] == "emulated at 0.01 Mb/s, which is faster than to scale: b - c"


@pytest.mark.parametrize(
    "fibres",
    [
        ISLANDS,
        plant(("a", "b", 10), ("b", "c", 20), ("c", "d", 30), rates={0: 10, 1: 0.002, 2: 10}),
        plant(("a", "b", 3400)),
        plant(*((f"n{n}", f"n{n + 1}", 900.0) for n in range(12))),
    ],
)
def test_a_flow_is_admitted_from_every_default_edge(fibres: Plant) -> None:
    assert_admits(map_of(fibres))


def assert_admits(found: Map) -> None:
    network = network_from_map(found)
    flows = tuple(
        Flow(f"f{n}{a}", a, b, Match("udp", 7801 + n, 7800), Requirement(100_000))
        for n, edge in enumerate(found.edges)
        for a, b in ((edge.name, "cloud"), ("cloud", edge.name))
    )
    decision = decide(network, Calendar(), (), Request("r-1", 1, flows), 0.0)
    assert isinstance(decision, Admitted), decision


@pytest.mark.parametrize(
    "options",
    [
        {"band": "C+L", "channels": 165},
        {"regenerators": []},
        {"regenerators": ["n4", "n8"]},
        {"regenerators": [], "band": "C+L", "grid": "flexible"},
        {"regenerators": ["n3"], "band": "C+L", "regenerate": True},
    ],
)
def test_edges_stand_where_light_of_these_bands_gets_with_these_regenerators(options: dict[str, object]) -> None:
    chain = plant(*((f"n{n}", f"n{n + 1}", km) for n, km in enumerate((400, 900, 50, 700, 1000, 2500, 600, 80, 1200))))
    assert_admits(map_of(chain, **options))


def test_an_edge_asked_for_where_nothing_regenerates_for_it_is_told() -> None:
    chain = plant(*((f"n{n}", f"n{n + 1}", 900.0) for n in range(6)))
    sites = choose_sites(chain, ["n0", "n4"], "n3", regenerating=set())
    assert sites.notes[-1] == "edge1 at n0 can reserve nothing to the cloud at n3"
    assert len(sites.notes) == 1
    assert choose_sites(chain, ["n0"], "n3", regenerating={"n2"}).notes == []


def test_a_site_with_more_fibres_than_a_lightpath_label_can_tell_apart_makes_a_map_of_packet_links() -> None:
    hub = plant(*(("hub", f"n{n}", 10.0 + n) for n in range(65)))
    found = map_of(hub)
    assert found.grid is None
    assert found.notes == ("more than 64 fibres end at hub (65): the links are packet links, without lightpaths",)
    assert map_of(plant(*(("hub", f"n{n}", 10.0) for n in range(64)))).grid == "fixed"


def fibre_is_feasible(km: float, band: Band = "C") -> bool:
    nodes = (MapNode("a", "switch", (0, 0)), MapNode("b", "switch", (0, 0)))
    links = (MapLink(("a", "b"), km, 1, 100.0),)
    network = network_from_map(Map("reach", "", 0.2, 9000, nodes, links, grid="fixed", band=band))
    return design_lightpath(network, ("a", "b")).is_feasible


def test_the_reach_of_placement_is_that_of_the_transmission_quality() -> None:
    assert fibre_is_feasible(REACH_KM)
    assert not fibre_is_feasible(REACH_KM + 200)
    assert fibre_is_feasible(MULTI_BAND_REACH_KM, "C+L")
    assert not fibre_is_feasible(MULTI_BAND_REACH_KM + 200, "C+L")
    assert fibre_is_feasible(CERTAIN_REACH_KM)


@pytest.mark.parametrize("loss_db_per_km", [0.22, 0.25, 0.3])
def test_the_reach_of_lossy_fibres_is_less_and_placement_knows_it(loss_db_per_km: float) -> None:
    nodes = (MapNode("a", "switch", (0, 0)), MapNode("b", "switch", (0, 0)))

    def design(km: float, loss: float) -> LightpathDesign:
        link = MapLink(("a", "b"), km, 1, 100.0, loss_db_per_km=loss)
        return design_lightpath(network_from_map(Map("x", "", 0.2, 9000, nodes, (link,), grid="fixed")), ("a", "b"))

    assert design(reach_km(loss_db_per_km), loss_db_per_km).is_feasible
    assert design(800, loss_db_per_km).gsnr_db < design(800, 0.2).gsnr_db


def test_a_lossy_fibre_beyond_reach_is_avoided_though_it_is_the_shortest_way() -> None:
    hosts = MapNode("edge1", "edge", (0, 0)), MapNode("cloud", "cloud", (0, 0))
    links = (
        MapLink(("a", "b"), 1500, 1, 100.0, loss_db_per_km=0.3), MapLink(("a", "b"), 1900, 1, 100.0),
        MapLink(("edge1", "a"), 1, 1, 100.0), MapLink(("cloud", "b"), 1, 1, 100.0),
    )  # fmt: skip
    nodes = (MapNode("a", "switch", (0, 0)), MapNode("b", "switch", (0, 0)), *hosts)
    network = network_from_map(Map("x", "", 0.2, 9000, nodes, links, grid="fixed"))
    assert candidate_paths(network, "edge1", "cloud") == (("edge1", "a", "a-b.2", "b", "cloud"),)


def test_the_type_of_a_fibre_enters_the_transmission_quality() -> None:
    standard, shifted = (quality_of((SpecialFibre(400.0, 0.2, kind),)) for kind in ("SSMF", "NZDF"))
    assert standard == quality_of((400.0,))
    assert shifted.gsnr_db < standard.gsnr_db - 0.1, "less dispersion, more interference between channels"


def test_short_names_keep_the_letters_under_their_marks() -> None:
    names = ["Örebro", "Åre", "Łódź", "København", "São Paulo", "Straße", "Москва", "東京", "İzmir", "Reykjavík"]
    assert list(short_names(names).values()) == [
        "orebro", "are", "lodz", "kobenhavn", "saopaulo", "strasse", "s", "s2", "izmir", "reykjavik",
    ]  # fmt: skip
