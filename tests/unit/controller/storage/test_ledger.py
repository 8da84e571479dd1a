"""The ledger: reservations, stored responses, and databases of earlier and later versions."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from controller import failpoints
from controller.domain.ports import PortRange, Ports
from controller.domain.reservation import Flow, Match, Placement, Requirement, Reservation, State
from controller.errors import StartError
from controller.failpoints import FailPoint, on_failpoint
from controller.storage.ledger import DELETE_BATCH, IdempotencyKey, Ledger

OLD_RECORD = """{"id":"r-0000002a","number":42,"version":3,"owner":"cloud","state":"active","lease_s":60.0,
"created_at_s":1.0,"expires_at_s":61.0,"placements":[{"flow":{"name":"edge1-up","source":"edge1","destination":"cloud",
"match":{"protocol":"tcp","source_port":7801,"destination_port":7800},"requirement":{"min_bandwidth_bps":15000000,
"burst_bytes":40000,"max_latency_us":null,"max_latency_variation_us":null}},"path":["edge1","s1","s2","cloud"],
"reserved_bps":15000000,"burst_bytes":40000,"meter_id":110000,"version":1,"accumulated_latency_us":9000.0,
"latency_variation_us":8800.0}],"reason":null}"""


def reservation(**changes: object) -> Reservation:
    flow = Flow("up", "edge1", "cloud", Match("tcp", 7801, 7800), Requirement(1_000_000))
    placement = Placement(flow, ("edge1", "s1", "s2", "cloud"), 1_000_000, 9000, 110_000, 1, 9000.0, 8800.0)
    unchanged = Reservation("r-00000001", 1, 1, "test", State.ACTIVE, 60.0, 1.0, 61.0, (placement,))
    return replace(unchanged, **changes)  # type: ignore[arg-type]


def test_a_database_without_revisions_is_migrated(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as old:
        old.execute(
            "CREATE TABLE reservations (id VARCHAR(16) NOT NULL PRIMARY KEY, map VARCHAR(64) NOT NULL, "
            "state VARCHAR(16) NOT NULL, record TEXT NOT NULL)"
        )
        old.execute("INSERT INTO reservations VALUES (?, ?, ?, ?)", ("r-0000002a", "pair", "active", OLD_RECORD))
    old.close()
    key = IdempotencyKey("public", "key", "digest")
    for _ in range(2):  # the second time without a migration
        ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", "pair")
        (found,) = ledger.live()
        assert (found.id, found.version, found.tenant, found.end_at_s) == ("r-0000002a", 3, "public", None)
        assert found.placements[0].reserved_bps == 15_000_000
        if ledger.response(key) is None:
            ledger.write(replace(found, version=4), idempotency_keys={found.id: key}, now_s=5.0)
        assert ledger.response(key) is not None
        ledger.write(replace(found, version=3))
        ledger.close()


@pytest.mark.parametrize("ports", [None, PortRange(49152, 65535), 7801])
def test_ports_of_a_flow_are_stored(tmp_path: Path, ports: Ports) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", "pair")
    stored = reservation()
    flow = replace(stored.placements[0].flow, match=Match("tcp", ports, None))
    stored = replace(stored, placements=(replace(stored.placements[0], flow=flow),))
    ledger.write(stored)
    assert ledger.live() == [stored]
    assert type(ledger.live()[0].placements[0].flow.match.source_port) is type(ports)
    ledger.close()


def test_a_database_of_a_later_version_is_refused(tmp_path: Path) -> None:
    Ledger(f"sqlite:///{tmp_path}/ledger.db", "pair").close()
    with sqlite3.connect(tmp_path / "ledger.db") as later:
        later.execute("UPDATE alembic_version SET version_num = '9999'")
    later.close()
    with pytest.raises(StartError, match="9999"):
        Ledger(f"sqlite:///{tmp_path}/ledger.db", "pair")


def test_a_reservation_and_its_response_are_written_in_one_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(point: FailPoint) -> None:
        if point is FailPoint.RECORDING:
            raise OSError("the disk is full")

    monkeypatch.setattr(failpoints, "_watchers", [])
    on_failpoint(fail)
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", "pair")
    key = IdempotencyKey("public", "key", "digest")
    with pytest.raises(OSError, match="disk is full"):
        ledger.write(reservation(), idempotency_keys={reservation().id: key})
    assert (ledger.live(), ledger.response(key)) == ([], None)
    ledger.close()


def test_reservations_that_ended_long_ago_are_deleted_and_live_ones_never(tmp_path: Path) -> None:
    now_s = [1000.0]
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", "pair", clock=lambda: now_s[0])
    other = Ledger(f"sqlite:///{tmp_path}/ledger.db", "metro", clock=lambda: now_s[0])
    ended = [reservation(id=f"r-{number:08x}", state=State.ENDED) for number in range(2, 2 * DELETE_BATCH)]
    ledger.write(reservation(), *ended, are_new=True)
    other.write(reservation(id="r-ffffffff", state=State.EXPIRED))
    now_s[0] = 2000.0
    ledger.write(ended[0])  # written again
    ledger.write(last := reservation(id="r-fffffffe", state=State.RELEASED))
    assert ledger.delete_ended(1500.0) == len(ended) - 1
    assert [ledger.find(each.id) for each in (reservation(), ended[0], last, ended[1])] == [
        reservation(), ended[0], last, None,
    ]  # fmt: skip
    assert other.find("r-ffffffff") is not None
    ledger.close()
    other.close()


def test_responses_are_kept_as_first_given_until_they_are_deleted(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", "pair")
    key = IdempotencyKey("public", "key", "digest")
    ledger.write(reservation(), idempotency_keys={reservation().id: key}, now_s=100.0)
    ledger.write(reservation(state=State.RELEASED))
    assert ledger.response(key) == ("digest", reservation())
    assert ledger.response(IdempotencyKey("other", "key", "digest")) is None
    assert ledger.find("r-00000001") == reservation(state=State.RELEASED)
    assert ledger.live() == []
    ledger.delete_responses(101.0)
    assert ledger.response(key) is None
    ledger.close()
