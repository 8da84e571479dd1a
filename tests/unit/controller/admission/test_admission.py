"""Admission: placements, and refusals with their reasons."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import pytest

from controller.admission.admission import Admitted, Rejected, Request, decide
from controller.booking.calendar import Booking, Calendar
from controller.domain.network import Network, network_from_map
from controller.domain.reservation import LIVE, TRANSITIONS, Flow, Match, Requirement, Reservation, State
from controller.errors import FlowInUse, LatencyNotMet, NoCapacity, NoPath, UnknownHost
from controller.routing.candidates import candidate_paths, next_hops
from topologies.map_file.loader import load_map
from topologies.maps import Map, MapLink, MapNode

METRO = network_from_map(load_map("metro"))
PAIR = network_from_map(load_map("pair"))
MBPS = 1_000_000


def flow(name: str, source: str = "edge1", rate_mbps: float = 15, port: int = 7801, **limits: float | str) -> Flow:
    requirement = Requirement(round(rate_mbps * MBPS), 40_000, **limits)  # type: ignore[arg-type]
    return Flow(name, source, "cloud", Match("tcp", port, 7800), requirement)


def reservation(identity: str, admitted: Admitted) -> Reservation:
    return Reservation(identity, int(identity[2:], 16), 1, "test", State.ACTIVE, 60, 0, 60, admitted.placements)


def admit(
    network: Network, flows: Iterable[Flow], calendar: Calendar | None = None, live: Iterable[Reservation] = ()
) -> Admitted:
    decision = decide(network, calendar or Calendar(), tuple(live), Request("r-1", 1, tuple(flows)), 0.0)
    assert isinstance(decision, Admitted), decision
    return decision


def refuse(
    network: Network,
    flows: Iterable[Flow],
    calendar: Calendar | None = None,
    live: Iterable[Reservation] = (),
    down: frozenset[str] = frozenset(),
) -> Rejected:
    decision = decide(network, calendar or Calendar(), tuple(live), Request("r-2", 1, tuple(flows)), 0.0, down)
    assert isinstance(decision, Rejected), decision
    return decision


def test_candidate_paths_are_shortest_first_and_cross_no_host() -> None:
    paths = candidate_paths(METRO, "edge1", "cloud")
    assert paths[0] == ("edge1", "r6", "r1", "r2", "cloud")
    lengths = [sum(link.length_km for link in METRO.links_along(path)) for path in paths]
    assert lengths == sorted(lengths)
    assert all(METRO.nodes[node].is_switch for path in paths for node in path[1:-1])
    assert len(set(paths)) == len(paths) >= 3


def test_a_link_that_is_down_is_on_no_path() -> None:
    down = frozenset({"r6->r1"})
    assert all(("r6", "r1") not in pairwise(path) for path in candidate_paths(METRO, "edge1", "cloud", down))
    assert next_hops(METRO, "cloud", down)["r6"].destination == "r5"


def test_next_hops_lead_every_switch_to_the_host_without_a_loop() -> None:
    hops = next_hops(METRO, "cloud")
    for switch in METRO.switches:
        node, steps = switch.name, 0
        while node != "cloud":
            node, steps = hops[node].destination, steps + 1
            assert steps <= len(METRO.switches)


def test_a_flow_gets_the_shortest_path_with_room() -> None:
    first = admit(METRO, [flow("a", rate_mbps=70)])
    assert first.placements[0].path == ("edge1", "r6", "r1", "r2", "cloud")
    second = admit(METRO, [flow("b", "edge2", 70)], first.calendar, [reservation("r-9", first)])
    assert second.placements[0].path == ("edge2", "r6", "r5", "r4", "r3", "r2", "cloud")


def test_a_group_is_placed_even_when_the_greedy_choice_fails() -> None:
    """The largest flow takes the short path; the others must fit around it."""
    flows = [flow("a", "edge1", 60), flow("b", "edge2", 50, 7802), flow("c", "edge3", 16, 7803)]
    placed = {placement.flow.name: placement.path for placement in admit(METRO, flows).placements}
    assert len({path[1:3] for path in placed.values()}) >= 2


def test_placements_are_in_the_order_of_the_request() -> None:
    flows = [flow("small", "edge1", 5), flow("big", "edge2", 30), flow("middle", "edge3", 10)]
    assert [placement.flow.name for placement in admit(METRO, flows).placements] == ["small", "big", "middle"]


def test_a_refusal_names_the_bottleneck_and_the_rate_that_the_whole_request_needs_there() -> None:
    flows = [flow(f"f{i}", f"edge{i}", 45, 7800 + i) for i in (1, 2, 3, 4)]
    error = refuse(METRO, flows).error
    assert isinstance(error, NoCapacity)
    assert error.facts["bottleneck"] == {
        "link": "r2->cloud",
        "capacity_bps": 160 * MBPS,
        "reserved_bps": 0,
        "free_bps": 152 * MBPS,
        "asked_bps": 180 * MBPS,
    }


def test_the_refusal_of_a_single_flow_that_is_too_large_has_a_readable_detail() -> None:
    error = refuse(PAIR, [flow("edge1-up", rate_mbps=90)]).error
    assert error.detail == "edge1-up needs 90 Mb/s; edge1->s1 has 76 Mb/s free on its only path."
    assert (error.code, error.status) == ("no_capacity", 409)


def test_free_capacity_excludes_the_reservations_of_others() -> None:
    held = admit(PAIR, [flow("a", rate_mbps=50)])
    error = refuse(PAIR, [flow("b", "edge2", 30)], held.calendar, [reservation("r-9", held)]).error
    bottleneck = error.facts["bottleneck"]
    assert bottleneck == {
        "link": "s1->s2",
        "capacity_bps": 80 * MBPS,
        "reserved_bps": 50 * MBPS,
        "free_bps": 26 * MBPS,
        "asked_bps": 30 * MBPS,
    }


def test_a_group_beyond_the_search_limit_is_refused() -> None:
    flows = [flow(f"f{i}", f"edge{1 + i % 4}", 7.3, 7000 + i) for i in range(40)]
    assert isinstance(refuse(METRO, flows).error, NoCapacity)


def test_one_five_tuple_belongs_to_one_reservation() -> None:
    held = admit(PAIR, [flow("a")])
    error = refuse(PAIR, [flow("b")], held.calendar, [reservation("r-9", held)]).error
    assert isinstance(error, FlowInUse)
    assert error.facts == {"flow": "b", "reservation": "r-9"}


def test_an_end_must_be_a_host_of_the_map() -> None:
    error = refuse(PAIR, [replace(flow("a"), source="s1")]).error
    assert isinstance(error, UnknownHost)
    assert error.detail == "a: there is no host 's1' on map pair; its hosts are edge1, edge2, cloud, load1, load2."


def test_without_a_path_that_is_up_the_request_is_refused() -> None:
    assert isinstance(refuse(PAIR, [flow("a")], down=frozenset({"s1->s2"})).error, NoPath)


def test_a_latency_limit_below_the_bound_is_refused() -> None:
    error = refuse(PAIR, [flow("a", max_latency_us=100)]).error
    assert isinstance(error, LatencyNotMet)
    assert (error.facts["flow"], error.facts["limit_us"], error.facts["promise"]) == ("a", 100, "latency")


def test_a_new_flow_must_keep_the_limits_of_earlier_flows() -> None:
    alone = admit(PAIR, [flow("a")]).placements[0].accumulated_latency_us
    held = admit(PAIR, [flow("a", max_latency_us=alone + 1)])
    error = refuse(PAIR, [flow("b", "edge2")], held.calendar, [reservation("r-9", held)]).error
    assert isinstance(error, LatencyNotMet)
    assert (error.facts["flow"], error.facts["reservation"]) == ("a", "r-9")


def test_the_bounds_of_live_flows_are_updated() -> None:
    held = reservation("r-9", admit(PAIR, [flow("a")]))
    after = admit(PAIR, [flow("b", "edge2")], live=[held]).others
    assert (
        after.with_current_bounds(held).placements[0].accumulated_latency_us > held.placements[0].accumulated_latency_us
    )


def test_a_modification_sees_its_own_capacity_as_free_and_keeps_path_and_meter() -> None:
    held = admit(METRO, [flow("a", rate_mbps=60)])
    before = replace(reservation("r-1", held), id="r-1")
    after = decide(METRO, held.calendar, [before], Request("r-1", 2, (flow("a", rate_mbps=76),)), 5.0)
    assert isinstance(after, Admitted)
    assert after.placements[0].path == held.placements[0].path
    assert after.placements[0].meter_id == held.placements[0].meter_id
    assert after.calendar.reserved_bps("r6->r1", 5.0) == 76 * MBPS


def test_a_flow_keeps_its_entries_and_their_version_while_its_route_stays() -> None:
    flows = (flow("a"), flow("b", "edge2", 15, 7802), flow("c", "edge2", 15, 7803))
    held = admit(METRO, flows)
    faster = flow("b", "edge2", 20, 7802)
    protected = flow("c", "edge2", 15, 7803, protection="link_disjoint")
    request = Request("r-1", 2, (flows[0], faster, protected))
    after = decide(METRO, held.calendar, [reservation("r-1", held)], request, 5.0)
    assert isinstance(after, Admitted)
    assert [placement.version for placement in after.placements] == [1, 1, 2]


def test_two_routes_of_a_flow_never_have_the_same_label() -> None:
    """A label holds 16 bits of the version: entries that stayed for half of all versions are renewed."""
    held = admit(METRO, [flow("a")])
    for version, expected in ((1 << 15, 1), ((1 << 15) + 1, (1 << 15) + 1)):
        after = decide(METRO, held.calendar, [reservation("r-1", held)], Request("r-1", version, (flow("a"),)), 5.0)
        assert isinstance(after, Admitted)
        assert after.placements[0].version == expected


def test_meters_on_one_switch_never_share_an_id() -> None:
    flows = [flow(f"f{i}", f"edge{1 + i % 2}", 2, 7000 + i) for i in range(10)]
    placements = admit(METRO, flows).placements
    assert len({(placement.switches[0], placement.meter_id) for placement in placements}) == 10


@pytest.mark.parametrize(
    ("requested_bps", "granted"),
    [(1_000_500, (9260, 1_001_000)), (50 * MBPS, (18_750, 50 * MBPS)), (75 * MBPS, (18_750, 75 * MBPS))],
)
def test_a_short_burst_is_raised_to_what_the_full_rate_needs(requested_bps: int, granted: tuple[int, int]) -> None:
    small = replace(flow("a"), requirement=Requirement(requested_bps, 9014))
    placement = admit(PAIR, [small]).placements[0]
    assert (placement.burst_bytes, placement.reserved_bps) == granted
    asked_in_full = admit(PAIR, [replace(small, requirement=Requirement(granted[1], granted[0]))]).placements[0]
    assert placement.accumulated_latency_us == asked_in_full.accumulated_latency_us


def test_the_calendar_gives_the_peak_of_an_interval() -> None:
    first, second = Booking("r-1", "a", "x->y", 10, 0, 10), Booking("r-2", "b", "x->y", 20, 5, 15)
    calendar = Calendar().with_bookings([first, second, Booking("r-3", "c", "x->y", 5, 20)])
    assert calendar.reserved_bps("x->y", 0, 5) == 10
    assert calendar.reserved_bps("x->y", 0) == 30
    assert calendar.reserved_bps("x->y", 10, 20) == 20
    assert calendar.reserved_bps("x->y", 15, 20) == 0
    assert calendar.reserved_bps("x->y", 15) == 5
    assert calendar.reserved_bps("y->x", 0) == 0


def test_every_live_state_can_end_and_final_states_have_no_transitions() -> None:
    assert {State.HELD, State.SCHEDULED, State.ACTIVE, State.DEGRADED} == LIVE
    for state in LIVE:
        assert {State.RELEASED, State.EXPIRED, State.FAILED} <= TRANSITIONS[state]
    for state in set(State) - LIVE:
        assert TRANSITIONS[state] == frozenset()


def test_a_transition_that_is_not_in_the_table_is_a_bug() -> None:
    held = reservation("r-1", admit(PAIR, [flow("a")]))
    with pytest.raises(ValueError, match="cannot go from active to held"):
        held.with_state(State.HELD)


def test_a_small_link_still_leaves_room_for_best_effort() -> None:
    nodes = (MapNode("s1", "switch", (0, 0)), MapNode("h1", "host", (0, 0)), MapNode("h2", "host", (0, 0)))
    links = (MapLink(("h1", "s1"), 1, 1, 1), MapLink(("h2", "s1"), 1, 1, 1))
    network = network_from_map(Map("tiny", "", 1, 1500, nodes, links))
    for link in network.links.values():
        assert link.capacity_bps == MBPS
        assert link.reservable_bps + link.margin_bps < link.capacity_bps
