"""New reservations are decided and written down together, and each is answered, or undone, for itself.

The switches are stand-ins that confirm when they are told to.
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
from sqlalchemy.exc import SQLAlchemyError

from controller.api.app import create_app
from controller.dataplane.southbound import ChangesByDatapath, Pause
from controller.domain.reservation import Flow, Match, Requirement
from controller.errors import NoCapacity, SwitchTimeout
from controller.security.audit import AuditLog
from controller.service.requests import ReservationSpec
from controller.service.reservation_service import Service
from controller.storage.database import engine_of
from controller.storage.ledger import Ledger
from machine.polling import wait_until
from tests.unit.controller.instant_switches import PAIR, ObedientSwitches, serving

RATE_BPS = 1_000_000


class PatientSwitches(ObedientSwitches):
    """They confirm what they were told when `confirm` is called, while `is_patient`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_patient = False
        self.told: list[tuple[Iterable[ChangesByDatapath | Pause], Future[None]]] = []

    def apply(self, phases: Iterable[ChangesByDatapath | Pause], timeout_s: float) -> Future[None]:
        if not self.is_patient:
            return super().apply(phases, timeout_s)
        done: Future[None] = Future()
        self.told.append((phases, done))
        return done

    def confirm(self, *failing: int) -> None:
        """All but these, by their place, which time out at last."""
        self.is_patient = False
        for place in sorted(range(len(self.told)), key=failing.__contains__):
            phases, done = self.told[place]
            list(phases)
            if place in failing:
                done.set_exception(SwitchTimeout("No confirmation.", datapath_ids=[1]))
            else:
                done.set_result(None)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture
def switches() -> PatientSwitches:
    return PatientSwitches()


@pytest.fixture
def service(url: str, switches: PatientSwitches) -> Iterator[Service]:
    running = Service(PAIR, switches, Ledger(url, "pair"))
    running.start()
    wait_until(lambda: running.queries.switches_up() == len(PAIR.switches))
    yield running
    running.stop()


def asked(number: int, rate_bps: int = RATE_BPS) -> ReservationSpec:
    flow = Flow(f"f{number}", "edge1", "cloud", Match("udp", 10_000 + number, 7800), Requirement(rate_bps, 9014))
    return ReservationSpec("test", "public", 60.0, (flow,))


def on_their_way(service: Service, switches: PatientSwitches, count: int) -> list[Future[Any]]:
    """So many reservations that wait for their switches."""
    switches.is_patient = True
    answers = [service.reserve(asked(number)) for number in range(count)]
    wait_until(lambda: len(switches.told) == count)
    return answers


def reserved_bps(service: Service) -> int:
    snapshot = service.queries.snapshot()
    return snapshot.calendar.reserved_bps("s1->s2", snapshot.now_s)


def test_those_that_are_confirmed_together_are_all_answered_and_written_down(
    service: Service, switches: PatientSwitches
) -> None:
    answers = on_their_way(service, switches, 5)
    assert reserved_bps(service) == 5 * RATE_BPS
    assert service.ledger.live() == []
    switches.confirm()
    made = [answer.result(30)[0] for answer in answers]
    assert {each.state for each in made} == {"active"}
    assert {each.id for each in service.ledger.live()} == {each.id for each in made}
    assert len({each.id for each in made}) == 5


def test_a_switch_that_does_not_confirm_costs_only_the_reservation_that_waits_for_it(
    service: Service, switches: PatientSwitches
) -> None:
    answers = on_their_way(service, switches, 3)
    switches.confirm(1)
    with pytest.raises(SwitchTimeout):
        answers[1].result(30)
    kept = [answers[place].result(30)[0] for place in (0, 2)]
    wait_until(lambda: reserved_bps(service) == 2 * RATE_BPS)
    assert {each.id for each in service.ledger.live()} == {each.id for each in kept}


class OneSilent(ObedientSwitches):
    """One of them stops to confirm; notes what the others are told."""

    def __init__(self) -> None:
        super().__init__()
        self.silent: int | None = None
        self.told: list[tuple[int, str]] = []

    def apply(self, phases: Iterable[ChangesByDatapath | Pause], timeout_s: float) -> Future[None]:
        done: Future[None] = Future()
        for phase in phases:
            assert not isinstance(phase, Pause)
            self.told += [(number, change.kind) for number, changes in phase.items() for change in changes]
            if self.silent in phase:
                done.set_exception(SwitchTimeout("No confirmation.", datapath_ids=[self.silent]))
                return done
        done.set_result(None)
        return done


def test_a_release_over_a_silent_switch_is_told_to_the_others(url: str) -> None:
    switches = OneSilent()
    service = Service(PAIR, switches, Ledger(url, "pair"))
    service.start()
    wait_until(lambda: service.queries.switches_up() == len(PAIR.switches))
    reservation, _ = service.reserve(asked(1)).result()
    first, last = (PAIR.nodes[name].datapath_id or 0 for name in ("s1", "s2"))
    switches.told.clear()
    switches.silent = last
    service.release(reservation.id)
    told = [kind for number, kind in switches.told if number == first]
    service.stop()
    assert told.count("delete_flow") == 2
    assert "delete_meter" in told


def test_if_the_ledger_cannot_be_written_nothing_is_promised(
    url: str, service: Service, switches: PatientSwitches
) -> None:
    answers, engine = on_their_way(service, switches, 3), engine_of(url)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE reservations RENAME TO elsewhere"))
    switches.confirm()
    for answer in answers:
        with pytest.raises(SQLAlchemyError):
            answer.result(30)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO reservations"))
    engine.dispose()
    wait_until(lambda: reserved_bps(service) == 0)
    assert service.ledger.live() == service.queries.reservations() == []


def test_a_refusal_beside_others_has_its_advice_and_takes_nothing(service: Service) -> None:
    answers = [service.reserve(asked(number, 30_000_000)) for number in range(4)]
    refused = [answer.exception(30) for answer in answers]
    assert [type(error) for error in refused] == [type(None), type(None), NoCapacity, NoCapacity]
    assert isinstance(refused[2], NoCapacity)
    assert refused[2].facts["offer"] is not None
    assert reserved_bps(service) == 60_000_000


# The road over REST -----------------------------------------------------------------------------------------------


def body(number: int) -> dict[str, Any]:
    match = {"protocol": "udp", "source_port": 10_000 + number, "destination_port": 7800}
    requirement = {"min_bandwidth_bps": RATE_BPS, "burst_bytes": 9014}
    return {"flows": [{"name": "f", "source": "edge1", "destination": "cloud", "match": match} | {
        "requirement": requirement
    }]}  # fmt: skip


def test_the_short_road_answers_as_the_long_one_does_and_leaves_the_same_trace(url: str, service: Service) -> None:
    audit = AuditLog(url, "pair")
    with serving(create_app(service, audit=audit)) as client:
        short = client.post("/v1/reservations", json=body(1))
        long = client.post("/v1/reservations", json=body(2), headers={"Idempotency-Key": "so it goes to FastAPI"})
        roads: list[dict[str, str]] = [{}, {"Idempotency-Key": "2"}]
        refused = [client.post("/v1/reservations", json=body(1), headers=more) for more in roads]
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


def test_an_audit_log_that_cannot_be_written_keeps_nobody_from_reserving(url: str, service: Service) -> None:
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
        assert client.get("/v1/healthz").json()["audit"] == "ok"
    assert [entry.status for _, entry in audit.read(0, 10)] == [201]
    engine.dispose()
    audit.close()


def _without(facts: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: fact for name, fact in facts.items() if name not in names}


def test_a_refusal_leaves_nothing_to_the_garbage_collector(service: Service) -> None:
    """A circle through its traceback would keep the whole calendar as it was, for each refusal."""

    def refuse() -> None:
        try:
            service.reserve(asked(1, 1_000_000_000)).result()
        except NoCapacity:
            return
        pytest.fail("it is not refused")

    refuse()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            refuse()
        assert gc.collect() < 20
    finally:
        gc.enable()
