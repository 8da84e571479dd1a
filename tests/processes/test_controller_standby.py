"""Two controllers on one PostgreSQL ledger and the same switches: one active, one standby that takes over."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

import controller
from controller.storage.advisory_lock import AdvisoryLock
from controller.storage.database import engine_of
from emulation.open_vswitch import set_controller_command
from machine.polling import wait_until
from machine.postgresql_server import PostgreSQL
from tests.processes.rig import MAP, Controller, OpenVSwitch, flow, needs_open_vswitch
from tests.processes.test_controller_commands import run

pytestmark = needs_open_vswitch


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    running = PostgreSQL()
    try:
        yield running
    finally:
        running.remove()


@dataclass
class Pair:
    """The active controller and its standby."""

    active: Controller
    standby: Controller

    def exchange(self) -> None:
        self.active, self.standby = self.standby, self.active


@pytest.fixture
def pair(server: PostgreSQL, ovs: OpenVSwitch, tmp_path: Path) -> Iterator[Pair]:
    url = server.create(f"test_{time.monotonic_ns()}")
    controllers: list[Controller] = []
    try:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            controllers.append(Controller(tmp_path / name, "--standby", ledger=url))
        if not ovs.vsctl("list-br"):
            ovs.build(controllers[0].openflow_port)
        targets = [f"tcp:127.0.0.1:{controller.openflow_port}" for controller in controllers]
        for node in MAP.switches:
            ovs.vsctl(*set_controller_command(node.name, targets[0]))
            ovs.vsctl("set-controller", node.name, *targets)
        wait_until(controllers[0].in_sync)
        yield Pair(*controllers)
    finally:
        for controller in controllers:
            controller.client.close()
            if controller.process.poll() is None:
                controller.process.send_signal(signal.SIGCONT)
                controller.stop(signal.SIGKILL)


def is_active(controller: Controller) -> bool:
    try:
        return bool(controller.client.get("/v1/healthz").json()["status"] != "standby")
    except httpx.TransportError:
        return False


def roles(ovs: OpenVSwitch) -> set[str]:
    listed = ovs.vsctl("--columns=role", "list", "controller").splitlines()
    return {word for line in listed for word in line.split()[2:]}


def test_a_standby_answers_reads_and_sends_changes_to_the_active_controller(ovs: OpenVSwitch, pair: Pair) -> None:
    made = pair.active.reserve()
    assert made.status_code == 201, made.text
    wait_until(lambda: roles(ovs) == {"master", "slave"})
    standby = pair.standby.client
    health = standby.get("/v1/healthz").json()
    assert (health["status"], health["active"]) == ("standby", str(pair.active.client.base_url).rstrip("/"))
    listed = standby.get("/v1/reservations").json()["reservations"]
    assert [each["id"] for each in listed] == [made.json()["id"]]
    assert standby.get(f"/v1/reservations/{made.json()['id']}").json()["flows"] == made.json()["flows"]
    assert standby.get("/v1/reservations/r-00000000").json()["code"] == "not_found"
    assert standby.get("/v1/reservations?state=lost").json()["code"] == "invalid_request"
    assert pair.active.client.get("/v1/reservations?state=lost").json()["code"] == "invalid_request"
    assert standby.get("/v1/reservations?state=released").json() == {"reservations": []}
    body = {"flows": [flow(15_000_000, "edge2")]}
    sent = standby.post("/v1/reservations", json=body)
    assert (sent.status_code, sent.headers["Location"]) == (307, f"{health['active']}/v1/reservations")
    assert standby.post("/v1/reservations", json=body, follow_redirects=True).status_code == 201
    assert run(pair.standby, "health") == f"standby of {health['active']}\n"
    assert "is a standby of" in run(pair.standby, "network", code=3)
    assert made.json()["id"] in run(pair.standby, "reservations", "show", made.json()["id"])


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_standby_takes_over_from_one_that_dies_or_freezes_which_cannot_change_anything_any_more(
    ovs: OpenVSwitch, pair: Pair, end: signal.Signals
) -> None:
    made = pair.active.reserve()
    expiring = {"flows": [flow(1_000_000, "edge2", source_port=7900)], "hold": True, "lease_s": 3}
    assert pair.active.client.post("/v1/reservations", json=expiring).status_code == 201
    wait_until(lambda: roles(ovs) == {"master", "slave"})
    entries = {node.name: (ovs.flows(node.name), ovs.meters(node.name)) for node in MAP.switches}
    pair.active.process.send_signal(end)
    wait_until(lambda: is_active(pair.standby))
    pair.exchange()
    wait_until(pair.active.in_sync)
    assert pair.active.client.get(f"/v1/reservations/{made.json()['id']}").json()["state"] == "active"
    assert entries == {node.name: (ovs.flows(node.name), ovs.meters(node.name)) for node in MAP.switches}
    other = pair.active.reserve(edge="edge2", rate_bps=5_000_000)
    assert other.status_code == 201, other.text
    if end is signal.SIGKILL:
        pair.standby.process.wait(60)
    else:
        time.sleep(3)  # its held reservation expires, and its switches have a newer master
        pair.standby.process.send_signal(signal.SIGCONT)
        assert pair.standby.process.wait(60) == 3
        assert "written by another controller now" in pair.standby.log.read_text()
    assert pair.active.client.get("/v1/consistency").json()["consistent"]
    pair.standby.start()  # as the standby of its successor
    wait_until(lambda: pair.standby.client.get("/v1/healthz").json()["status"] == "standby")
    assert pair.active.client.delete(f"/v1/reservations/{other.json()['id']}").json()["state"] == "released"


VERSIONS = Path(controller.__file__).parent / "storage/migrations/versions"


class NextController(Controller):
    """The controller of a next version: a copy of this one with one more revision of the schema."""

    def __init__(self, directory: Path, ledger: str) -> None:
        self.source = directory / "source"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(controller.__file__).parent, self.source / "controller", ignore=ignored)
        (self.source / "controller/storage/migrations/versions" / f"r{NEXT_REVISION}_next.py").write_text(NEXT)
        super().__init__(directory, "--standby", ledger=ledger)

    def spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log, self.output.open("ab") as output:
            command = [sys.executable, "-m", "controller.runtime.main", *self.arguments]
            return subprocess.Popen(command, stdout=output, stderr=log, cwd=self.source)


REVISION = max(path.name[1:5] for path in VERSIONS.glob("r*.py"))
NEXT_REVISION = f"{int(REVISION) + 1:04}"
NEXT = f"""
import sqlalchemy as sa
from alembic import op

revision = "{NEXT_REVISION}"
down_revision = "{REVISION}"


def upgrade() -> None:
    op.create_table("added", sa.Column("name", sa.String(64), primary_key=True))
    op.add_column("reservations", sa.Column("note", sa.String(64)))
    for table in ("answers", "writers", "audit", "tokens", "streams"):
        op.add_column(table, sa.Column("added", sa.BigInteger, nullable=False, server_default="0"))
"""


def test_a_standby_of_the_next_version_migrates_the_tables_while_this_one_is_active_and_takes_over(
    server: PostgreSQL, ovs: OpenVSwitch, tmp_path: Path
) -> None:
    name = f"test_{time.monotonic_ns()}"
    url = server.create(name)
    for directory in ("this", "next"):
        (tmp_path / directory).mkdir()
    controllers = [Controller(tmp_path / "this", "--standby", ledger=url)]
    active, body = controllers[0], {"flows": [flow(1_000_000, "edge2", source_port=7901)], "lease_s": 60}
    try:
        if not ovs.vsctl("list-br"):
            ovs.build(active.openflow_port)
        ovs.connect(active.openflow_port)
        wait_until(active.in_sync)
        made = active.reserve().json()
        for number in range(8):  # psycopg prepares statements on the server after some uses
            key = {"Idempotency-Key": f"{number}"}
            other = active.client.post("/v1/reservations", json=body, headers=key).json()
            active.client.delete(f"/v1/reservations/{other['id']}")
        standby = NextController(tmp_path / "next", url)
        controllers.append(standby)
        assert server.sql(name, "SELECT version_num FROM alembic_version") == [NEXT_REVISION]
        for node in MAP.switches:
            targets = [f"tcp:127.0.0.1:{each.openflow_port}" for each in controllers]
            ovs.vsctl("set-controller", node.name, *targets)
        second = active.client.post("/v1/reservations", json=body, headers={"Idempotency-Key": "second"})
        assert second.status_code == 201, second.text
        assert active.client.patch(f"/v1/reservations/{made['id']}", json={"lease_s": 90}).status_code == 200
        wait_until(lambda: roles(ovs) == {"master", "slave"})
        wait_until(lambda: len(standby.client.get("/v1/reservations?state=active").json()["reservations"]) == 2)
        assert active.client.get("/v1/healthz").json()["status"] == "ok"
        active.stop()
        wait_until(lambda: is_active(standby))
        wait_until(standby.in_sync)
        live = standby.client.get("/v1/reservations?state=active").json()["reservations"]
        assert {each["id"] for each in live} == {made["id"], second.json()["id"]}
        assert standby.client.get("/v1/consistency").json()["consistent"]
        again = standby.client.post("/v1/reservations", json=body, headers={"Idempotency-Key": "second"})
        assert (again.status_code, again.json()["id"]) == (201, second.json()["id"])
        with pytest.raises(AssertionError, match=f"its schema {NEXT_REVISION} is of a newer version of Paceline"):
            active.start()
    finally:
        for each in controllers:
            each.client.close()
            if each.process.poll() is None:
                each.stop(signal.SIGKILL)


def wait_for_beat(lock: AdvisoryLock) -> None:
    before = lock.writer()
    assert before is not None
    wait_until(lambda: (seen := lock.writer()) is not None and seen.beat > before.beat)


def test_a_beat_that_waits_for_a_slow_transaction_costs_no_lock(server: PostgreSQL) -> None:
    name = f"test_{time.monotonic_ns()}"
    url = server.create(name)
    holder = "SELECT pid FROM pg_locks WHERE locktype = 'advisory'"
    waiting = f"SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid IN ({holder})"
    lock, other = AdvisoryLock(url, "pair"), AdvisoryLock(url, "pair")
    engine = engine_of(url)
    try:
        lock.acquire()
        before = server.sql(name, holder)
        for _ in range(2):
            with engine.begin() as slow:
                slow.execute(text("SELECT fence FROM writers FOR SHARE"))
                wait_until(lambda: server.sql(name, waiting) == ["1"])
                wait_until(lambda: server.sql(name, waiting) == ["0"])  # after its lock_timeout
            wait_for_beat(lock)
        assert not other.try_acquire()
        assert (server.sql(name, holder), lock.is_lost) == (before, False)
    finally:
        engine.dispose()
        other.release()
        lock.release()


def test_a_standby_needs_a_ledger_on_postgresql(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="A standby needs a ledger on PostgreSQL"):
        Controller(tmp_path, "--standby")
