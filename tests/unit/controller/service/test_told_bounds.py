"""Changes of a reservation beside a promised bound: what was sent before a change counts while it is in the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from controller.dataplane.southbound import Reading
from controller.domain.events import BoundsChanged, ServiceEvent
from controller.domain.reservation import Flow, Match, Requirement
from controller.errors import LatencyNotMet
from controller.service.bound_updates import INTERVAL_S, START_WAIT_S
from controller.service.requests import ReservationSpec
from controller.service.reservation_service import Service
from controller.storage.ledger import IN_MEMORY, Ledger
from machine.polling import wait_until
from tests.unit.controller.simulated_switches import PAIR, ConfirmingSwitches, running_service

MBPS = 1_000_000


@pytest.fixture
def service() -> Iterator[Service]:
    with running_service(Ledger(IN_MEMORY, "pair")) as running:
        yield running


def flow(name: str, source: str, port: int, rate_bps: int, burst_bytes: int, slack: float | None = None) -> Flow:
    requirement = Requirement(rate_bps, burst_bytes, bound_slack=slack)
    return Flow(name, source, "cloud", Match("udp", port, 7800), requirement)


def pair_of_flows(first: tuple[int, int], second: tuple[int, int]) -> tuple[Flow, ...]:
    """Rate and burst of each."""
    return flow("b1", "load1", 9001, *first), flow("b2", "load1", 9002, *second)


def reserve(service: Service, *flows: Flow) -> str:
    return service.reserve(ReservationSpec("test", "public", 600.0, flows)).result(60)[0].id


def test_bursts_are_exchanged_in_two_steps(service: Service) -> None:
    small, large = (MBPS, 10_000), (MBPS, 200_000)
    changed = reserve(service, *pair_of_flows(large, small))
    promised = reserve(service, flow("a", "edge1", 9003, 5 * MBPS, 40_000, 0.1))
    before = service.queries.stored(promised)
    with pytest.raises(LatencyNotMet, match="as promised"):
        service.modify(changed, None, pair_of_flows(small, large))
    assert [p.burst_bytes for p in service.queries.stored(changed).placements] == [200_000, 10_000]
    service.modify(changed, None, pair_of_flows(small, small))
    after = service.modify(changed, None, pair_of_flows(small, large))
    assert [p.burst_bytes for p in after.placements] == [10_000, 200_000]
    assert service.queries.reservation(promised).placements == before.placements


def test_rates_are_exchanged_at_once_and_no_bound_is_told_anew(service: Service) -> None:
    told: list[BoundsChanged] = []

    def take(event: ServiceEvent) -> None:
        if isinstance(event, BoundsChanged):
            told.append(event)

    slow, fast = (MBPS, 20_000), (40 * MBPS, 20_000)
    changed = reserve(service, *pair_of_flows(fast, slow))
    promised = reserve(service, flow("a", "edge1", 9003, 5 * MBPS, 40_000, 0.2))
    service.queries.reservation(changed)
    service.queries.subscribe(take)
    for rates in ((slow, fast), (fast, slow)):
        service.modify(changed, None, pair_of_flows(*rates))
        service._bound_updates.process()
        service.queries.reservation(promised)
    assert [event.cause for event in told if event.reservation.id == promised] == []


class UnreadSwitches(ConfirmingSwitches):
    """Switches whose states are read only after `answer`."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Future[Reading]] = []

    def read_state(self, datapath_id: int, timeout_s: float, on_request: Callable[[], None]) -> Future[Reading]:
        super().read_state(datapath_id, timeout_s, on_request)
        self.waiting.append(Future())
        return self.waiting[-1]

    def answer(self) -> None:
        """Answer the readings, with no entries."""
        while self.waiting:
            self.waiting.pop().set_result(Reading({}, ()))


def test_after_a_start_bounds_are_followed_once_the_switches_are_in_step(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with running_service(Ledger(url, "pair")) as first:
        identity = reserve(first, flow("a", "edge1", 9003, 5 * MBPS, 40_000))
    switches = UnreadSwitches()
    service = Service(PAIR, switches, Ledger(url, "pair"))
    service.start()
    try:
        wait_until(lambda: len(switches.waiting) == len(PAIR.switches))
        time.sleep(5 * INTERVAL_S)
        assert service._bound_updates.followed() == frozenset()
        switches.answer()
        wait_until(lambda: service._bound_updates.followed() == {identity}, START_WAIT_S / 2)
    finally:
        switches.answer()
        service.stop()
