"""A calendar equals one built from scratch after any changes; on a tuned map the cheapest lightpaths are chosen."""

from __future__ import annotations

from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.admission.path_search import PathSearch
from controller.admission.residual_capacity import ResidualCapacity
from controller.booking.calendar import Booking, Calendar
from controller.booking.flow_bookings import FlowBooker, SizedFlow
from controller.booking.peak_load import peak_load
from controller.domain.lightpath import Lightpath, lightpath_id
from controller.domain.network import Network, network_from_map
from controller.domain.reservation import Flow, Match, Requirement, Window
from controller.optical.route_order import SELECTION_BY_FINGERPRINT, fingerprint, route_order_for
from controller.routing.candidates import candidate_paths
from topologies.maps import Map, MapLink, MapNode

LINKS = ("a->b", "b->c", "c->d")
NODES = ("a", "b", "c", "d")
MOMENTS = st.sampled_from([0.0, 1.0, 2.0, 3.0, 5.0, 8.0])


@st.composite
def lightpaths(draw: st.DrawFn) -> Lightpath:
    begin = draw(st.integers(0, 2))
    nodes, first = NODES[begin : draw(st.integers(begin + 2, 4))], draw(st.integers(0, 3))
    return Lightpath(lightpath_id(nodes, first, 1), nodes, first, 1, 100, "DP-QPSK", 20.0, 1.0)


@st.composite
def bookings_of_one(draw: st.DrawFn) -> list[Booking]:
    start_s = draw(MOMENTS)
    end_s = draw(st.just(inf) | MOMENTS.map(lambda lasts_s: start_s + 1 + lasts_s))
    window = draw(st.sampled_from([None, None, None, Window(1_000_000, 0, 300_000)]))
    failures = draw(st.sampled_from([frozenset(), frozenset(), frozenset({"a-b"})]))
    rate_bps = draw(st.integers(1, 50))
    links = draw(st.lists(st.sampled_from(LINKS), min_size=1, max_size=3))
    lines = [Booking("", "f", link, rate_bps, start_s, end_s, window, failures) for link in links]
    light = draw(st.lists(lightpaths(), max_size=2))
    return lines + [Booking("", "f", each.id, rate_bps, start_s, end_s, lightpath=each) for each in light]


@given(
    steps=st.lists(st.tuples(st.integers(0, 5), st.none() | bookings_of_one()), max_size=14),
    intervals=st.lists(st.tuples(MOMENTS, st.just(inf) | MOMENTS), min_size=1, max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_after_any_changes_the_calendar_equals_one_built_from_scratch(
    steps: list[tuple[int, list[Booking] | None]], intervals: list[tuple[float, float]]
) -> None:
    calendar, live = Calendar(), dict[str, list[Booking]]()
    for number, drawn in steps:
        name = f"r-{number}"
        calendar = calendar.without_reservation(name)
        live.pop(name, None)
        if drawn is not None:
            live[name] = [each._replace(reservation_id=name) for each in drawn]
            calendar = calendar.with_bookings(live[name])
        for start_s, end_s in intervals:  # queries cache step functions that later changes update
            calendar.reserved_bps(LINKS[0], start_s, end_s)
    all_bookings = [each for bookings in live.values() for each in bookings]
    assert calendar == Calendar().with_bookings(all_bookings)
    for start_s, lasts_s in intervals:
        end_s = start_s + 1 + lasts_s
        booked = [each for each in all_bookings if each.start_s < end_s and start_s < each.end_s]
        for name in {*LINKS, *(each.link for each in all_bookings)}:
            members = [(each.activity, each.rate_bps) for each in booked if each.link == name]
            assert calendar.reserved_bps(name, start_s, end_s) == peak_load(members, start_s, end_s)
        lit = {each.lightpath for each in booked if each.lightpath is not None}
        for link in LINKS:
            on = [each.slot_mask for each in lit if link in each.links]
            taken = sum(1 << slot for slot in range(4) if any(each >> slot & 1 for each in on))
            shared = sum(1 << slot for slot in range(4) if sum(each >> slot & 1 for each in on) > 1)
            assert calendar.slot_usage(link, start_s, end_s) == (taken, shared)
        for nodes in {each.nodes for each in lit}:
            assert set(calendar.lightpaths_during(start_s, end_s)(nodes) or ()) == {
                each for each in lit if each.nodes == nodes
            }


NSFNET_KM = {
    (1, 2): 1050, (1, 3): 1500, (1, 8): 2400, (2, 3): 600, (2, 4): 750, (3, 6): 1800, (4, 5): 600, (4, 11): 1950,
    (5, 6): 1200, (5, 7): 600, (6, 10): 1050, (6, 14): 1800, (7, 8): 750, (7, 10): 1350, (8, 9): 750, (9, 10): 750,
    (9, 12): 300, (9, 13): 300, (11, 12): 600, (11, 13): 750, (12, 14): 300, (13, 14): 150,
}  # fmt: skip
"""As in bench/blocking.py, for which an order is tuned."""


def nsfnet() -> Network:
    sites = range(1, 15)
    nodes = [MapNode(f"s{site}", "switch", (0, 0)) for site in sites]
    nodes += [MapNode(f"h{site}", "host", (0, 0)) for site in sites]
    links = [MapLink((f"s{a}", f"s{b}"), km, 4, 100) for (a, b), km in NSFNET_KM.items()]
    links += [MapLink((f"h{site}", f"s{site}"), 1, 40, 100) for site in sites]
    return network_from_map(Map("nsfnet", "", 1.0, 9000, tuple(nodes), tuple(links), grid="flexible"))


NSFNET = nsfnet()


@given(wanted=st.lists(st.tuples(st.permutations(range(1, 15)), st.integers(5, 95)), min_size=1, max_size=40))
@settings(max_examples=10, deadline=None)
def test_on_a_map_with_a_tuned_order_the_cheapest_lightpaths_are_taken(wanted: list[tuple[list[int], int]]) -> None:
    chosen = route_order_for(NSFNET)
    assert (
        chosen
        == SELECTION_BY_FINGERPRINT[fingerprint({(str(a), str(b)): float(km) for (a, b), km in NSFNET_KM.items()})]
    )
    calendar = Calendar()
    for number, (sites, gbps) in enumerate(wanted):
        ends = f"h{sites[0]}", f"h{sites[1]}"
        sized = SizedFlow(Flow("f", *ends, Match("udp", 1, 1), Requirement(gbps * 1_000_000)), gbps * 1_000_000, 9014)
        room = ResidualCapacity(NSFNET, calendar, FlowBooker({}, f"r-{number}", 0.0))
        found = next(PathSearch(room, [sized], {}, frozenset()).assignments(), None)
        room = ResidualCapacity(NSFNET, calendar, FlowBooker({}, f"r-{number}", 0.0))
        light, has_capacity, prices = room.lightpaths, room.has_capacity_for(sized), []
        for path in candidate_paths(NSFNET, *ends):
            row = light.lightpaths_along(path[1:-1], sized.rate_bps, has_capacity)
            if row is not None:
                prices.append(light.cost(row, sized.rate_bps, chosen.order))
        if found is not None:
            if prices:
                assert light.cost(found["f"].route.lightpaths, sized.rate_bps, chosen.order) == min(prices)
            calendar = calendar.with_bookings(found["f"].bookings)
        else:
            assert not prices
