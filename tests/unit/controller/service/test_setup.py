"""New reservations are admitted and recorded together; each is answered, or undone, on its own.

The switches are stand-ins that confirm on demand.
"""

# ruff: noqa: ARG002 - the stand-ins take what the real ones take

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from controller.api.app import create_app
from controller.dataplane.southbound import ChangesByDatapath, Pause
from controller.domain.reservation import Flow, Match, Requirement
from controller.errors import LedgerUnavailable, NoCapacity, SwitchTimeout
from controller.security.audit import AuditLog
from controller.service.requests import ReservationSpec
from controller.service.reservation_service import Service
from controller.storage.database import engine_of
from controller.storage.ledger import Ledger
from machine.polling import wait_until
from tests.unit.controller.simulated_switches import PAIR, ConfirmingSwitches, serving

RATE_BPS = 1_000_000


class DelayedSwitches(ConfirmingSwitches):
    """While `is_delayed`, they confirm updates when `confirm` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.is_delayed = False
        self.applied: list[tuple[Iterable[ChangesByDatapath | Pause], Future[None]]] = []

    def apply(self, phases: Iterable[ChangesByDatapath | Pause], timeout_s: float) -> Future[None]:
        if not self.is_delayed:
            return super().apply(phases, timeout_s)
        done: Future[None] = Future()
        self.applied.append((phases, done))
        return done

    def confirm(self, *failing: int) -> None:
        """Confirm all updates but these (indices), which time out after the others."""
        self.is_delayed = False
        for place in sorted(range(len(self.applied)), key=failing.__contains__):
            phases, done = self.applied[place]
            list(phases)
            if place in failing:
                done.set_exception(SwitchTimeout("No confirmation.", datapath_ids=[1]))
            else:
                done.set_result(None)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture
def switches() -> DelayedSwitches:
    return DelayedSwitches()


@pytest.fixture
def service(url: str, switches: DelayedSwitches) -> Iterator[Service]:
    running = Service(PAIR, switches, Ledger(url, "pair"))
    running.start()
    wait_until(lambda: running.queries.switches_up() == len(PAIR.switches))
    yield running
    running.stop()


def spec(number: int, rate_bps: int = RATE_BPS) -> ReservationSpec:
    flow = Flow(f"f{number}", "edge1", "cloud", Match("udp", 10_000 + number, 7800), Requirement(rate_bps, 9014))
    return ReservationSpec("test", "public", 60.0, (flow,))


def in_progress(service: Service, switches: DelayedSwitches, count: int) -> list[Future[Any]]:
    """Request `count` reservations that wait for their switches."""
    switches.is_delayed = True
    answers = [service.reserve(spec(number)) for number in range(count)]
    wait_until(lambda: len(switches.applied) == count)
    return answers


def reserved_bps(service: Service) -> int:
    snapshot = service.queries.snapshot()
    return snapshot.calendar.reserved_bps("s1->s2", snapshot.now_s)


def test_setups_confirmed_together_are_all_recorded_and_answered(
    service: Service, switches: DelayedSwitches
) -> None:
    answers = in_progress(service, switches, 5)
    assert reserved_bps(service) == 5 * RATE_BPS
    assert service.ledger.live() == []
    switches.confirm()
    made = [answer.result(30)[0] for answer in answers]
    assert {each.state for each in made} == {"active"}
    assert {each.id for each in service.ledger.live()} == {each.id for each in made}
    assert len({each.id for each in made}) == 5


def test_a_switch_that_does_not_confirm_fails_only_the_reservation_on_it(
    service: Service, switches: DelayedSwitches
) -> None:
    answers = in_progress(service, switches, 3)
    switches.confirm(1)
    with pytest.raises(SwitchTimeout):
        answers[1].result(30)
    kept = [answers[place].result(30)[0] for place in (0, 2)]
    wait_until(lambda: reserved_bps(service) == 2 * RATE_BPS)
    assert {each.id for each in service.ledger.live()} == {each.id for each in kept}


class OneUnresponsive(ConfirmingSwitches):
    """One switch does not confirm; records the changes applied to the others."""

    def __init__(self) -> None:
        super().__init__()
        self.silent: int | None = None
        self.applied: list[tuple[int, str]] = []

    def apply(self, phases: Iterable[ChangesByDatapath | Pause], timeout_s: float) -> Future[None]:
        done: Future[None] = Future()
        for phase in phases:
            assert not isinstance(phase, Pause)
            self.applied += [(number, change.kind) for number, changes in phase.items() for change in changes]
            if self.silent in phase:
                done.set_exception(SwitchTimeout("No confirmation.", datapath_ids=[self.silent]))
                return done
        done.set_result(None)
        return done


def test_a_release_over_an_unresponsive_switch_reaches_the_others(url: str) -> None:
    switches = OneUnresponsive()
    service = Service(PAIR, switches, Ledger(url, "pair"))
    service.start()
    wait_until(lambda: service.queries.switches_up() == len(PAIR.switches))
    reservation, _ = service.reserve(spec(1)).result()
    first, last = (PAIR.nodes[name].datapath_id or 0 for name in ("s1", "s2"))
    switches.applied.clear()
    switches.silent = last
    service.release(reservation.id)
    applied = [kind for number, kind in switches.applied if number == first]
    service.stop()
    assert applied.count("delete_flow") == 3, "classifier, forwarding, and the entry that counts fragments"
    assert "delete_meter" in applied


def test_without_a_writable_ledger_no_reservation_is_made(
    url: str, service: Service, switches: DelayedSwitches
) -> None:
    answers, engine = in_progress(service, switches, 3), engine_of(url)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE reservations RENAME TO elsewhere"))
    switches.confirm()
    for answer in answers:
        with pytest.raises(LedgerUnavailable):
            answer.result(30)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO reservations"))
    engine.dispose()
    wait_until(lambda: reserved_bps(service) == 0)
    assert service.ledger.live() == service.queries.reservations() == []


def test_a_refusal_beside_other_requests_has_a_counter_offer_and_books_nothing(service: Service) -> None:
    answers = [service.reserve(spec(number, 30_000_000)) for number in range(4)]
    refused = [answer.exception(30) for answer in answers]
    assert [type(error) for error in refused] == [type(None), type(None), NoCapacity, NoCapacity]
    assert isinstance(refused[2], NoCapacity)
    assert refused[2].facts["offer"] is not None
    assert reserved_bps(service) == 60_000_000


# Over REST ------------------------------------------------------------------------------------------------------------


def body(number: int) -> dict[str, Any]:
    match = {"protocol": "udp", "source_port": 10_000 + number, "destination_port": 7800}
    requirement = {"min_bandwidth_bps": RATE_BPS, "burst_bytes": 9014}
    return {"flows": [{"name": "f", "source": "edge1", "destination": "cloud", "match": match} | {
        "requirement": requirement
    }]}  # fmt: skip


def test_the_fast_path_answers_counts_and_audits_as_fastapi_does(url: str, service: Service) -> None:
    audit = AuditLog(url, "pair")
    with serving(create_app(service, audit=audit)) as client:
        short = client.post("/v1/reservations", json=body(1))
        long = client.post("/v1/reservations", json=body(2), headers={"Idempotency-Key": "so it goes to FastAPI"})
        headers: list[dict[str, str]] = [{}, {"Idempotency-Key": "2"}]  # fast path, FastAPI
        refused = [client.post("/v1/reservations", json=body(1), headers=extra) for extra in headers]
        counted = client.get("/metrics").text
    assert [answer.status_code for answer in (short, long, *refused)] == [201, 201, 409, 409]
    apart = ("date", "content-length")
    for ours, theirs in ((short, long), refused):
        assert _without(dict(ours.headers), *apart) == _without(dict(theirs.headers), *apart)
        changing = ("id", "created_at", "expires_at", "start_at", "flows", "fits_at")
        assert _without(ours.json(), *changing) == _without(theirs.json(), *changing)
    placed, other = short.json()["flows"][0], long.json()["flows"][0]
    assert list(placed) == list(other)
    assert list(short.json()) == list(long.json())
    entries = [entry for _, entry in audit.read(0, 10)]
    assert [(e.status, e.code, e.reservation) for e in entries] == [
        (201, None, short.json()["id"]), (201, None, long.json()["id"]),
        (409, "flow_in_use", None), (409, "flow_in_use", None),
    ]  # fmt: skip
    assert {(e.method, e.path, e.tenant, e.client) for e in entries} == {
        ("POST", "/v1/reservations", "public", "127.0.0.1")
    }
    assert '"source_port":10001' in entries[0].request.replace(" ", "")
    assert 'paceline_requests_total{method="POST",route="/v1/reservations",status="201"} 2.0' in counted
    audit.close()


def test_reservations_succeed_while_the_audit_log_cannot_be_written(url: str, service: Service) -> None:
    audit, engine = AuditLog(url, "pair"), engine_of(url)
    with serving(create_app(service, audit=audit)) as client:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE audit RENAME TO elsewhere"))
        assert client.post("/v1/reservations", json=body(1)).status_code == 201
        assert client.get("/v1/healthz").json()["audit"] == "failing"
        assert "paceline_audit_write_failures_total 1.0" in client.get("/metrics").text
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO audit"))
        assert client.post("/v1/reservations", json=body(2)).status_code == 201
        wait_until(lambda: len(audit.read(0, 10)) == 2)
        assert client.get("/v1/healthz").json()["audit"] == "ok"
    assert [entry.status for _, entry in audit.read(0, 10)] == [201, 201], "an entry was lost"
    engine.dispose()
    audit.close()


def _without(facts: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: fact for name, fact in facts.items() if name not in names}


def test_a_refusal_creates_no_reference_cycle(service: Service) -> None:
    """A cycle through the traceback would keep the calendar of each refusal in memory."""

    def refuse() -> None:
        try:
            service.reserve(spec(1, 1_000_000_000)).result()
        except NoCapacity:
            return
        pytest.fail("the request was not refused")

    refuse()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            refuse()
        assert gc.collect() < 20
    finally:
        gc.enable()
