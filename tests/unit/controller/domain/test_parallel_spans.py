"""Parallel spans: two fibres between the same switches stay two: ports, paths, backups, lightpaths."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.admission.admission import Admitted, Request, decide
from controller.booking.calendar import Calendar
from controller.dataplane.pipeline import intended_states
from controller.domain.network import Network, network_from_map
from controller.domain.path import (
    hop_count,
    link_names,
    nodes_of,
    reverse_link,
    span_of_edge,
    spans_along,
)
from controller.domain.reservation import Flow, Match, Protection, Requirement, Reservation, State
from controller.domain.route import Route, link_usage, path_under_failure
from controller.errors import NotFound
from controller.optical.lightpath_design import design_lightpath
from controller.routing.candidates import candidate_paths, candidate_routes, next_hops
from controller.routing.coflow import Volume, shortest_coflow_completion
from controller.switches.span_status import spans_of_link
from tests.simulated_forwarding import packet, send
from topologies.maps import Grid, Map, MapLink, MapNode


def network(*links: MapLink, grid: Grid | None = None, scale: float = 0.2) -> Network:
    """Two hosts at either end of switches a, b, ...; 100 Gb/s are 20 Mb/s."""
    switches = sorted({end for link in links for end in link.ends})
    hosts = MapNode("edge1", "edge", (0, 0)), MapNode("cloud", "cloud", (0, 0))
    access = MapLink(("edge1", switches[0]), 1, 4, 100.0), MapLink(("cloud", switches[-1]), 1, 4, 100.0)
    nodes = (*(MapNode(name, "switch", (0, 0)) for name in switches), *hosts)
    return network_from_map(Map("twofibres", "", scale, 9000, nodes, (*links, *access), grid=grid))


DOUBLE = (MapLink(("a", "b"), 100, 1, 100.0), MapLink(("a", "b"), 90, 1, 100.0, "south"))
FIRST, SECOND = ("edge1", "a", "b", "cloud"), ("edge1", "a", "a-b.2", "b", "cloud")


def flow(name: str, rate_mbps: float, port: int, protection: Protection = "none") -> Flow:
    requirement = Requirement(round(rate_mbps * 1e6), 20_000, protection=protection)
    return Flow(name, "edge1", "cloud", Match("udp", port, 7800), requirement)


def admit(net: Network, *flows: Flow) -> Reservation:
    decision = decide(net, Calendar(), (), Request("r-00000001", 1, flows), 0.0)
    assert isinstance(decision, Admitted), decision
    return Reservation("r-00000001", 1, 1, "test", State.ACTIVE, 60, 0, 60, decision.placements)


def test_a_path_names_the_span_where_it_is_not_the_first() -> None:
    path = ("h", "b", "a-b.2", "a", "c", "k")
    assert link_names(path) == ("h->b", "b->a.2", "a->c", "c->k")
    assert link_names(path[::-1]) == tuple(reverse_link(link) for link in reversed(link_names(path)))
    assert spans_along(path) == ("b-h", "a-b.2", "a-c", "c-k")
    assert (nodes_of(path), hop_count(path), hop_count(())) == (("h", "b", "a", "c", "k"), 4, 0)
    assert span_of_edge("a", "a-b.2") == span_of_edge("a-b.2", "b") == "a-b.2"


def test_every_span_has_a_name_its_ports_and_its_length() -> None:
    net = network(*DOUBLE, MapLink(("b", "a"), 80, 1, 100.0))
    between = {link.name: link for link in net.links.values() if {link.source, link.destination} == {"a", "b"}}
    assert {name: link.length_km for name, link in between.items()} == {
        "a->b": 100, "b->a": 100, "a->b.2": 90, "b->a.2": 90, "b->a.3": 80, "a->b.3": 80,
    }  # fmt: skip
    assert [between[name].source_port for name in ("a->b", "a->b.2", "a->b.3")] == [1, 2, 3]
    assert len({(link.source, link.source_port) for link in net.links.values()}) == len(net.links)
    assert {span for span, link in net.spans.items() if link.duct} == {"a-b.2"}


@pytest.mark.parametrize("name", ["a->b.2", "b->a.2", "a-b.2", "b-a.2"])
def test_the_second_span_is_named_by_any_of_its_names(name: str) -> None:
    assert spans_of_link(network(*DOUBLE), name) == {"a-b.2"}
    assert spans_of_link(network(*DOUBLE), name.replace(".2", "")) == {"a-b"}
    with pytest.raises(NotFound, match=r"the spans are a-b, a-b\.2, "):
        spans_of_link(network(*DOUBLE), "a-b.3")


def test_candidates_are_the_shorter_fibre_and_then_the_other() -> None:
    net = network(*DOUBLE)
    assert candidate_paths(net, "edge1", "cloud") == (SECOND, FIRST)
    assert candidate_paths(net, "edge1", "cloud", frozenset({"a->b.2"})) == (FIRST,)
    assert next_hops(net, "cloud")["a"].name == "a->b.2"
    assert next_hops(net, "cloud", frozenset({"a->b.2"}))["a"].name == "a->b"


@pytest.mark.parametrize("duct_disjoint", [False, True])
def test_the_other_fibre_is_the_backup_unless_they_share_a_duct(duct_disjoint: bool) -> None:
    apart, together = network(*DOUBLE), network(*(replace(link, duct="south") for link in DOUBLE))
    assert candidate_routes(apart, "edge1", "cloud", srlg_disjoint=duct_disjoint).routes[0] == Route(SECOND, FIRST)
    routes = candidate_routes(together, "edge1", "cloud", srlg_disjoint=duct_disjoint).routes
    assert bool(routes) != duct_disjoint
    detour = network(*(replace(link, duct="south") for link in DOUBLE), MapLink(("a", "ab"), 300, 1, 100.0),
                     MapLink(("ab", "b"), 300, 1, 100.0))  # fmt: skip
    best = candidate_routes(detour, "edge1", "cloud", srlg_disjoint=True).routes[0]
    assert (best.path, best.backup) == (SECOND, ("edge1", "a", "ab", "b", "cloud"))


def test_flows_fill_one_fibre_and_then_the_other() -> None:
    placements = admit(network(*DOUBLE), flow("x", 15, 1001), flow("y", 15, 1002)).placements
    assert {placement.path for placement in placements} == {FIRST, SECOND}
    assert {placement.switches for placement in placements} == {("a", "b")}


def test_volumes_are_quoted_over_both_fibres() -> None:
    volumes = [Volume(name, "edge1", "cloud", 1_000_000) for name in ("x", "y")]
    quote = shortest_coflow_completion(network(*DOUBLE), Calendar(), volumes, 0.0)
    assert {each.path for each in quote.quotes} == {FIRST, SECOND}


TRIPLE = (
    *(MapLink(("a", "b"), km, 1, 100.0) for km in (40, 50)),
    *(MapLink(("b", "c"), km, 1, 100.0) for km in (40, 50)),
)


@pytest.mark.parametrize("grid", [None, "fixed", "flexible"])
@pytest.mark.parametrize("links", [DOUBLE, TRIPLE], ids=["two switches", "three switches"])
def test_packets_take_the_fibre_they_were_placed_on_and_survive_the_cut_of_either(
    links: tuple[MapLink, ...], grid: Grid | None
) -> None:
    net = network(*links, grid=grid)
    held = admit(net, flow("x", 1, 1001, "link_disjoint"))
    (placement,) = held.placements
    assert placement.backup_path is not None
    assert not {*spans_along(placement.path)[1:-1]} & {*spans_along(placement.backup_path)[1:-1]}
    sent = packet(net, placement.flow)
    states = intended_states(net, [held])
    assert send(net, states, "edge1", sent).nodes == list(nodes_of(placement.path))
    for link in net.links.values():
        cut = frozenset({link.name, reverse_link(link.name)})
        if {net.nodes[link.source].kind, net.nodes[link.destination].kind} != {"switch"}:
            continue
        for known in (frozenset[str](), cut):
            trace = send(net, intended_states(net, [held], known), "edge1", sent, cut)
            assert (trace.nodes[-1], set(trace.marks)) == ("cloud", {46})
        if link.span in spans_along(placement.path):
            trace = send(net, states, "edge1", sent, cut)
            assert trace.nodes == list(nodes_of(path_under_failure(placement.route, link.span, {})))


def test_the_capacity_for_returned_packets_is_on_the_fibres_they_return_on() -> None:
    route = Route(("h", "a", "a-b.2", "b", "c", "k"), ("h", "a", "a-c.2", "c", "k"))
    usage = dict(link_usage(route, {}))
    assert usage["b->a.2"] == {"b-c"}
    assert usage["a->c.2"] == {"a-b.2", "b-c"}
    assert path_under_failure(route, "b-c", {}) == ("h", "a", "a-b.2", "b", "a-b.2", "a", "a-c.2", "c", "k")


@pytest.mark.parametrize("grid", ["fixed", "flexible"])
def test_a_full_fibre_does_not_fill_the_spectrum_of_the_other(grid: Grid) -> None:
    net = network(*TRIPLE, grid=grid)
    flows = [flow(f"f{number}", 18, 1000 + number) for number in range(2)]
    lightpaths = [lightpath for placement in admit(net, *flows).placements for lightpath in placement.lightpaths]
    assert len({lightpath.id for lightpath in lightpaths}) == len(lightpaths) == 2
    assert {lightpath.first_slot for lightpath in lightpaths} == {0}, "the same channel, each in its own fibre"
    km = [sum(link.length_km for link in net.links_along(each.nodes)) for each in lightpaths]
    assert sorted(km) == [80, 100]
    assert design_lightpath(net, lightpaths[0].nodes).gsnr_db == lightpaths[0].gsnr_db
    assert not isinstance(decide(net, Calendar(), (), Request("r-1", 1, (*flows, flow("z", 18, 9))), 0.0), Admitted)
