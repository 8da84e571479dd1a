"""A running service whose wall clock steps: gates go on, leases keep their time, and clients are told."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future
from itertools import pairwise

import pytest

from controller.api.app import create_app
from controller.clock import Clock
from controller.dataplane.southbound import ChangesByDatapath, Pause
from controller.domain.events import ClockStepped, ServiceEvent
from controller.domain.reservation import Flow, Match, Requirement
from controller.service.lifecycle import TICK_S
from controller.service.requests import ReservationSpec
from controller.service.reservation_service import Service
from controller.storage.ledger import IN_MEMORY, Ledger
from machine.polling import wait_until
from tests.unit.controller.simulated_switches import PAIR, ConfirmingSwitches, serving

PERIOD_S = 0.3
LEASE_S = 40.0


class TimedSwitches(ConfirmingSwitches):
    """Record when they are changed."""

    def __init__(self) -> None:
        super().__init__()
        self.changes_s: list[float] = []

    def apply(self, stages: Iterable[ChangesByDatapath | Pause], timeout_s: float) -> Future[None]:
        self.changes_s.append(time.monotonic())
        return super().apply(stages, timeout_s)


@pytest.mark.parametrize("step_s", [-30.0, 3600.0])
def test_gates_and_leases_survive_a_step_and_clients_are_told(step_s: float) -> None:
    shift_s = [0.0]
    clock, switches = Clock(lambda: time.time() + shift_s[0]), TimedSwitches()
    service = Service(PAIR, switches, Ledger(IN_MEMORY, "pair"), clock=clock)
    events: list[ServiceEvent] = []
    service.queries.subscribe(events.append)
    service.start()
    try:
        wait_until(lambda: service.queries.switches_up() == len(PAIR.switches))
        requirement = Requirement(transfer_bytes=20_000, deadline_ms=100.0, period_ms=1e3 * PERIOD_S)
        flow = Flow("f", "edge1", "cloud", Match("udp", 10_000, 7800), requirement)
        made, _ = service.reserve(ReservationSpec("test", "public", LEASE_S, (flow,))).result(60)
        began_s = time.monotonic()
        shift_s[0] = step_s
        seen = len(switches.changes_s)
        wait_until(lambda: any(isinstance(event, ClockStepped) for event in events))
        wait_until(lambda: len(switches.changes_s) >= seen + 10)
        silent_s = max(after - before for before, after in pairwise([began_s, *switches.changes_s[seen:]]))
        assert silent_s < TICK_S + 2 * PERIOD_S, "besides, the machine may be loud"
        (stepped,) = (event for event in events if isinstance(event, ClockStepped))
        assert stepped.by_s == pytest.approx(step_s, abs=0.05)
        found = service.queries.stored(made.id)
        assert found.is_live
        left_s = found.expires_at_s - clock()
        assert left_s == pytest.approx(LEASE_S - (time.monotonic() - began_s), abs=1.0)
        with serving(create_app(service)) as client:
            health = client.get("/v1/healthz").json()
        assert (health["status"], health["clock_step_s"]) == ("ok", pytest.approx(step_s, abs=0.05))
    finally:
        service.stop()
