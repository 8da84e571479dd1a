"""Admission on maps whose ports have credit-based shapers or asynchronous traffic shaping."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.admission.admission import Admitted, Rejected, Request, decide
from controller.admission.counter_offer import decide_with_offer
from controller.admission.limit_checks import MAY_BE_LOWER
from controller.admission.live_reservations import LiveReservations
from controller.booking.calendar import Calendar
from controller.domain.network import Network, network_from_map
from controller.domain.reservation import Flow, Match, Requirement
from controller.errors import InvalidRequest, LatencyNotMet, NoBuffer, NoCapacity, RequestError
from topologies.map_file.loader import load_map
from topologies.maps import Map

METRO = load_map("metro")
EDGES = ("edge1", "edge2", "edge3", "edge4")


def shaped(idle_slope_share: float | None = None, ats: bool = False, queue_bytes: int | None = None) -> Network:
    share = idle_slope_share
    links = [replace(link, idle_slope_gbps=share and link.rate_gbps * share) for link in METRO.links]
    topology: Map = replace(METRO, links=tuple(links), ats=ats, queue_bytes=queue_bytes)
    return network_from_map(topology)


def flows(rate_bps: int, **more: object) -> tuple[Flow, ...]:
    needs = Requirement(rate_bps, 45_000, **more)  # type: ignore[arg-type]
    return tuple(Flow(f"{edge}-up", edge, "cloud", Match("tcp", 7801 + number, 7800), needs)
                 for number, edge in enumerate(EDGES))  # fmt: skip


def decided(network: Network, asked: tuple[Flow, ...]) -> Admitted | Rejected:
    return decide(network, Calendar(), LiveReservations(network), Request("r-1", 1, asked), 0.0)


def latencies_us(network: Network) -> list[float]:
    admitted = decided(network, flows(12_000_000))
    assert isinstance(admitted, Admitted)
    return [placement.accumulated_latency_us for placement in admitted.placements]


def test_bounds_follow_the_shapers_of_the_map() -> None:
    """A credit-based shaper serves more slowly."""
    strict_us, shaped_us = latencies_us(shaped()), latencies_us(shaped(0.75))
    assert all(slower > faster for slower, faster in zip(shaped_us, strict_us, strict=True))


def test_reservations_stay_below_the_idle_slope() -> None:
    link = shaped().links["edge1->r6"]
    rate_bps = round(link.capacity_bps * 0.5)
    assert isinstance(decided(shaped(), flows(rate_bps)[:1]), Admitted)
    refused = decided(shaped(0.4), flows(rate_bps)[:1])
    assert isinstance(refused, Rejected)
    assert isinstance(refused.error, NoCapacity)


def test_what_regulators_hold_counts_as_buffer() -> None:
    """What fits into the queues of ports without regulators may not fit with them."""
    asked, small = flows(12_000_000), 200_000
    assert isinstance(decided(shaped(queue_bytes=small), asked), Admitted)
    refused = decided(shaped(ats=True, queue_bytes=small), asked)
    assert isinstance(refused, Rejected)
    assert isinstance(refused.error, NoBuffer)
    assert isinstance(decided(shaped(ats=True), asked), Admitted)


def test_linear_programmes_are_refused_where_ports_have_regulators() -> None:
    asked = flows(12_000_000, analysis="linear_programme")
    assert isinstance(decided(shaped(0.75), asked), Admitted)
    refused = decided(shaped(ats=True), asked)
    assert isinstance(refused, Rejected)
    assert isinstance(refused.error, InvalidRequest)
    assert isinstance(refused.error, RequestError)
    assert [mistake["place"] for mistake in refused.error.facts["mistakes"]] == [  # type: ignore[attr-defined]
        f"body.flows.{number}.requirement.analysis" for number in range(4)
    ]


@pytest.mark.parametrize("ats", [False, True])
def test_a_refusal_names_linear_programmes_only_where_they_apply(ats: bool) -> None:
    network = shaped(ats=ats)
    asked = flows(12_000_000, max_latency_us=10_000.0)
    refused = decide_with_offer(network, Calendar(), LiveReservations(network), Request("r-1", 1, asked), 0.0)
    assert isinstance(refused, Rejected)
    assert isinstance(refused.error, LatencyNotMet)
    assert (MAY_BE_LOWER in refused.error.detail) is not ats
