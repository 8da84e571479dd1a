"""Buffer is a resource: requests whose bursts could overflow a port's queue are refused, without and under failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

import pytest

from controller.admission.admission import Admitted, Rejected, Request, decide
from controller.admission.counter_offer import decide_with_offer
from controller.admission.live_reservations import LiveReservations
from controller.booking.calendar import Calendar
from controller.domain.network import Network, network_from_map
from controller.domain.reservation import Flow, Match, Requirement, Reservation, State, least_burst_bytes
from controller.errors import NoBuffer
from topologies.map_file.loader import load_map
from topologies.maps import Map, MapLink, MapNode

PAIR = network_from_map(load_map("pair"))
MBPS = 1_000_000


def flow(name: str, source: str, rate_bps: int, burst_bytes: int | None, **more: object) -> Flow:
    needs = Requirement(rate_bps, burst_bytes, **more)  # type: ignore[arg-type]
    return Flow(name, source, "cloud", Match("udp", 7801, 7800), needs)


class Admissions:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.calendar, self.live = Calendar(), LiveReservations(network)

    def admit(self, *flows: Flow, start_s: float | None = None, end_s: float = inf) -> Admitted:
        number = sum(1 for _ in self.live) + 1
        request = Request(f"r-{number}", 1, flows, start_s, end_s)
        decision = decide(self.network, self.calendar, self.live, request, 0.0)
        assert isinstance(decision, Admitted), decision
        times = 60.0, 0.0, 60.0
        new = Reservation(f"r-{number}", number, 1, "test", State.ACTIVE, *times, decision.placements)
        end_at_s = None if end_s == inf else end_s
        self.calendar = decision.calendar
        self.live = decision.others.with_reservation(replace(new, start_at_s=start_s or 0.0, end_at_s=end_at_s))
        return decision

    def refusal(self, *flows: Flow, end_s: float = inf) -> NoBuffer:
        request = Request("r-99", 1, flows, None, end_s)
        decision = decide_with_offer(self.network, self.calendar, self.live, request, 0.0)
        assert isinstance(decision, Rejected)
        assert isinstance(decision.error, NoBuffer), decision.error
        decision.error.add_offer()
        return decision.error


def with_queues(network: Network, **queue_bytes: int) -> Network:
    """The network with other queues at the ports of these links: `s1_s2` is the link s1->s2."""
    links = dict(network.links)
    for name, size in queue_bytes.items():
        link = name.replace("_", "->")
        links[link] = replace(links[link], queue_bytes=size)
    return replace(network, links=links)


def offered(refusal: NoBuffer) -> Sequence[Flow]:
    offer = refusal.facts["offer"]
    assert isinstance(offer, tuple)
    return offer


def test_a_burst_larger_than_the_queue_is_refused_and_offered_one_that_fits() -> None:
    admissions = Admissions(PAIR)
    refusal = admissions.refusal(flow("a", "load1", 5 * MBPS, 8_000_000))
    assert refusal.code == "no_buffer"
    assert refusal.facts["link"] == "load1->s1"
    assert 8_000_000 < refusal.facts["backlog_bytes"] < 8_030_000  # type: ignore[operator]
    assert (refusal.facts["queue_bytes"], refusal.facts["free_bytes"]) == (3_000_000, 3_000_000)
    assert refusal.facts["fits_at"] is None
    assert refusal.detail == (
        f"a: up to {refusal.facts['backlog_bytes']} bytes could wait at load1->s1; its queue holds 3000000, "
        "of which others leave 3000000."
    )
    (offer,) = offered(refusal)
    assert 2_900_000 < (offer.requirement.burst_bytes or 0) < 3_000_000
    assert admissions.admit(offer).placements[0].burst_bytes == offer.requirement.burst_bytes


def test_bursts_of_several_reservations_fill_one_queue() -> None:
    admissions = Admissions(with_queues(PAIR, s1_s2=160_000))
    admissions.admit(flow("a", "edge1", 5 * MBPS, 100_000), end_s=100.0)
    refusal = admissions.refusal(flow("b", "load1", 5 * MBPS, 180_000), end_s=1000.0)
    assert refusal.facts["link"] == "s1->s2"
    assert 60_000 < refusal.facts["free_bytes"] < 140_000  # type: ignore[operator]
    assert refusal.facts["fits_at"] == 100.0
    (offer,) = offered(refusal)
    assert 50_000 < (offer.requirement.burst_bytes or 0) < 180_000
    admissions.admit(offer)


def test_a_request_of_several_flows_is_offered_smaller_bursts_in_proportion() -> None:
    refusal = Admissions(PAIR).refusal(
        flow("a", "load1", 5 * MBPS, 4_000_000), replace(flow("b", "edge1", 5 * MBPS, 2_000_000), name="b")
    )
    first, second = (each.requirement.burst_bytes or 0 for each in offered(refusal))
    assert first == pytest.approx(2 * second, abs=2)


def test_a_default_burst_that_does_not_fit_is_offered_smaller() -> None:
    network = with_queues(PAIR, s1_s2=100_000)
    refusal = Admissions(network).refusal(flow("a", "load1", 70 * MBPS, None))
    (offer,) = offered(refusal)
    granted = offer.requirement.burst_bytes or 0
    assert least_burst_bytes(70 * MBPS, 9014) <= granted < 175_000
    assert offer.requirement.min_bandwidth_bps == 70 * MBPS


def test_the_queue_on_the_backup_path_counts_while_the_working_path_is_down() -> None:
    nodes = [MapNode(name, "switch", (0, 0)) for name in ("s1", "s2", "s3")]
    nodes += [MapNode("load1", "host", (0, 0)), MapNode("cloud", "cloud", (0, 0))]
    spans = (("s1", "s2", 10), ("s1", "s3", 20), ("s3", "s2", 20))
    links = [MapLink((a, b), km, 1, 100) for a, b, km in spans]
    links += [MapLink(ends, 1, 2, 100) for ends in (("load1", "s1"), ("cloud", "s2"))]
    triangle = network_from_map(Map("triangle", "", 0.8, 9000, tuple(nodes), tuple(links)))
    admissions = Admissions(with_queues(triangle, s1_s3=100_000))
    unprotected = flow("a", "load1", 5 * MBPS, 400_000)
    protected = replace(unprotected, requirement=replace(unprotected.requirement, protection="link_disjoint"))
    refusal = admissions.refusal(protected)
    assert (refusal.facts["link"], refusal.facts["failure"]) == ("s1->s3", "s1-s2")
    assert " while s1-s2 is down; its queue holds 100000" in refusal.detail
    (offer,) = offered(refusal)
    assert offer.requirement.protection == "link_disjoint"
    assert 100_000 < (offer.requirement.burst_bytes or 0) < 200_000
    admissions.admit(unprotected)


def test_bursts_of_reservations_that_follow_each_other_share_the_queue() -> None:
    admissions = Admissions(with_queues(PAIR, load1_s1=500_000))
    for hour in range(1, 13):  # more than the analysis of delays distinguishes at a lightly loaded port
        match = Match("udp", 7000 + hour, 7800)
        short = replace(flow("a", "load1", MBPS, 100_000), match=match)
        admissions.admit(short, start_s=hour * 3600.0, end_s=hour * 3600.0 + 1800)
    together = replace(flow("b", "load1", MBPS, 420_000), match=Match("udp", 9000, 7800))
    refusal = admissions.refusal(together)
    assert (refusal.facts["link"], refusal.facts["queue_bytes"]) == ("load1->s1", 500_000)
    assert 380_000 < refusal.facts["free_bytes"] < 400_000  # type: ignore[operator]
    (offer,) = offered(refusal)
    assert 370_000 < (offer.requirement.burst_bytes or 0) < 400_000
    admissions.admit(offer)


def test_a_queue_that_is_too_small_for_others_already_does_not_stop_requests_elsewhere() -> None:
    admissions = Admissions(PAIR)
    admissions.admit(flow("a", "load1", 5 * MBPS, 2_000_000))
    shrunk = Admissions(with_queues(PAIR, load1_s1=100_000))
    shrunk.live = LiveReservations.of(shrunk.network, admissions.live)
    shrunk.calendar = admissions.calendar
    shrunk.admit(flow("b", "edge1", MBPS, 20_000))
    refusal = shrunk.refusal(replace(flow("c", "load1", MBPS, 20_000), match=Match("udp", 1, 2)))
    assert (refusal.facts["link"], refusal.facts["free_bytes"]) == ("load1->s1", 0)
