"""A ledger on a real PostgreSQL: crashes of either process, a connection that is lost, conflicts, and copies."""

from __future__ import annotations

import configparser
import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url

from controller.domain.reservation import State
from controller.failpoints import FailPoint
from controller.runtime.ledger_command import command as ledger_command
from controller.security.access import Quota, Scope
from controller.security.tokens import TokenStore
from controller.storage.access import DatabaseAccess
from controller.storage.advisory_lock import AdvisoryLock
from controller.storage.ledger import Ledger
from controller.storage.schema import upgrade
from controller.storage.tables import WRITERS
from machine.polling import wait_until
from machine.postgresql_server import PostgreSQL
from tests.processes.rig import Controller, flow
from tests.processes.test_controller_crash import CrashingController
from tests.schema_changes import KNOWN, RELEASED, REVISIONS, changes_beyond_adding, write_as
from trainer.cli.units import unit_files

PATIENCE_S = 5.0
"""For a loud machine; the goal is 1 s."""
CLIENTS = 4


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    running = PostgreSQL()
    try:
        yield running
    finally:
        running.remove()


@pytest.fixture
def url(server: PostgreSQL, request: pytest.FixtureRequest) -> str:
    return server.create(f"test_{crc32(request.node.name.encode())}")


@pytest.fixture
def controller(url: str, tmp_path: Path) -> Iterator[Controller]:
    """A controller without switches: held reservations are on no switch."""
    running = CrashingController(tmp_path, ledger=url)
    try:
        yield running
    finally:
        running.client.close()
        if running.process.poll() is None:
            running.stop(signal.SIGKILL)


def hold(client: httpx.Client, port: int, **headers: str) -> httpx.Response:
    body: dict[str, Any] = {"flows": [flow(100_000, source_port=port)], "hold": True, "lease_s": 600}
    return client.post("/v1/reservations", json=body, headers=headers)


def listed(controller: Controller) -> set[str]:
    return {each["id"] for each in controller.client.get("/v1/reservations").json()["reservations"]}


@pytest.mark.parametrize("point", [FailPoint.RECORDING, FailPoint.RECORDED])
def test_a_held_reservation_is_in_the_ledger_once_if_at_all_when_the_controller_is_killed(
    controller: CrashingController, point: FailPoint
) -> None:
    controller.fail_point_file.write_text(point)
    with pytest.raises(httpx.TransportError):
        hold(controller.client, 7801, **{"Idempotency-Key": "a"})
    assert controller.process.wait(60) == -9
    controller.start()
    found = listed(controller)
    assert len(found) == (1 if point is FailPoint.RECORDED else 0)
    again = hold(controller.client, 7801, **{"Idempotency-Key": "a"})
    assert again.status_code == 201, again.text
    assert again.headers.get("Idempotency-Replayed") == ("true" if found else None)
    assert listed(controller) == {again.json()["id"]}


def test_a_controller_whose_database_is_away_is_started_again_by_its_unit_until_it_is_there(
    url: str, server: PostgreSQL, controller: Controller
) -> None:
    """As after a boot: systemd starts it again after every exit code that its unit does not except, without a limit."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read_string(unit_files(Path("/opt/paceline"))["paceline-controller.service"])
    assert unit["Service"]["Restart"] == "on-failure" and unit["Unit"]["StartLimitIntervalSec"] == "0"
    final = {int(code) for code in unit["Service"]["RestartPreventExitStatus"].split()}
    made = hold(controller.client, 7801).json()["id"]
    controller.stop()
    server.kill()
    try:
        for wrong in url, f"{url.partition('?')[0]}?host=127.0.0.1&port={controller.openflow_port}":
            ended = started_with(controller, wrong)
            assert ended.returncode == 3 and 3 not in final
            sentence = r"Error: The ledger postgresql\S+ cannot be opened: .*[^.]\.\n"
            assert re.fullmatch(sentence, ended.stderr), ended.stderr
    finally:
        server.start()
    for wrong in "postgresql+nonsense://paceline@/x", url.replace("postgresql+psycopg", "postgresq"):
        assert started_with(controller, wrong).returncode == 2 and 2 in final
    controller.start()
    assert listed(controller) == {made}


def started_with(controller: Controller, ledger: str) -> subprocess.CompletedProcess[str]:
    """Start a controller as the unit does, which ends because of its ledger."""
    arguments = [ledger if argument == controller.ledger else argument for argument in controller.arguments]
    return subprocess.run([sys.executable, "-m", "controller.runtime.main", *arguments], capture_output=True, text=True,
                          check=False, timeout=300)  # fmt: skip


def test_what_was_promised_is_in_the_ledger_when_the_server_is_killed_under_requests(
    controller: Controller, server: PostgreSQL
) -> None:
    promised: list[str] = []
    refused: list[httpx.Response] = []
    stopping = threading.Event()

    def reserve(first_port: int) -> None:
        with httpx.Client(base_url=controller.client.base_url, timeout=30) as client:
            for port in range(first_port, first_port + 2000):
                answer = hold(client, port)
                if answer.status_code == 201:
                    promised.append(answer.json()["id"])
                else:
                    refused.append(answer)
                    time.sleep(0.05)
                if stopping.is_set():
                    return

    threads = [threading.Thread(target=reserve, args=(10_000 + 2000 * n,)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(promised) > 10)
    server.kill()
    wait_until(lambda: len(refused) > 2 * CLIENTS)
    server.start()
    count = len(promised)
    wait_until(lambda: len(promised) > count + 10)
    stopping.set()
    for thread in threads:
        thread.join()
    assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(503, "ledger_unavailable")}
    assert listed(controller) == set(promised)
    wait_until(lambda: controller.client.get("/v1/healthz").json().get("ledger_unrecorded") is None)
    controller.stop(signal.SIGKILL)
    controller.start()
    assert listed(controller) == set(promised)


def test_while_the_connection_is_lost_requests_are_refused_at_once_and_nothing_is_promised(
    controller: Controller, server: PostgreSQL
) -> None:
    before = {hold(controller.client, 7801).json()["id"]}
    server.send(signal.SIGSTOP)
    try:
        end_s, answers = time.monotonic() + 10, 0
        while time.monotonic() < end_s:
            began_s = time.monotonic()
            answer = hold(controller.client, 7802)
            assert time.monotonic() - began_s < PATIENCE_S
            assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable"), answer.text
            assert answer.headers["Retry-After"] == "1"
            assert controller.client.get("/v1/reservations").status_code == 200
            answers += 1
            time.sleep(0.2)
        assert answers > 1
    finally:
        server.send(signal.SIGCONT)
    wait_until(lambda: controller.client.get("/v1/healthz").json()["ledger"] == "ok")
    after = hold(controller.client, 7802)
    assert after.status_code == 201, after.text
    controller.stop(signal.SIGKILL)
    controller.start()
    assert listed(controller) == before | {after.json()["id"]}


def test_a_transaction_undone_for_another_one_is_run_again(url: str, server: PostgreSQL) -> None:
    server.sql("postgres", f"ALTER DATABASE {make_url(url).database} SET default_transaction_isolation = serializable")
    ledgers = [Ledger(url, name) for name in ("one", "two")]
    attempts: list[int] = []
    meet = threading.Barrier(2)

    def read_then_write(ledger: Ledger, mine: str, other: str) -> None:
        """Write skew: each reads what the other writes."""
        attempt = 0

        def work(connection: Connection) -> None:
            nonlocal attempt
            attempt += 1
            connection.execute(text("SELECT count(*) FROM closed_spans WHERE map = :map"), {"map": other}).scalar()
            if attempt == 1:
                meet.wait(30)
            connection.execute(text("INSERT INTO closed_spans VALUES (:map, 'a')"), {"map": mine})

        with contextlib.suppress(TimeoutError):  # the caller waits no longer; the transaction goes on
            DatabaseAccess(ledger.engine).write(work)
        wait_until(lambda: ledger.closed_spans() == frozenset("a"), poll_s=0.5)  # reading conflicts, too
        attempts.append(attempt)

    threads = [
        threading.Thread(target=read_then_write, args=(ledger, mine, other))
        for ledger, mine, other in zip(ledgers, ("one", "two"), ("two", "one"), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert min(attempts) >= 1 and max(attempts) >= 2
    for ledger in ledgers:
        ledger.close()


def copied(*arguments: str) -> str:
    ran = CliRunner().invoke(ledger_command, ["copy", *arguments])
    assert ran.exit_code == 0, ran.output
    return ran.output


@pytest.mark.parametrize("revision", ["0001", "0003", "0007", "head"])
def test_a_ledger_of_any_version_moves_from_sqlite_to_postgresql_and_back(
    url: str, server: PostgreSQL, tmp_path: Path, revision: str
) -> None:
    file = f"sqlite:///{tmp_path}/old.db"
    engine = create_engine(file)
    record = "any text: rows are copied as they are, ü€ " * 60
    with engine.begin() as connection:
        upgrade(connection, revision)
        for number in range(2500):
            columns = {"id": f"r-{number:08x}", "map": "pair", "state": "released", "record": record[:number]}
            names = ", ".join(columns)
            values = ", ".join(f":{name}" for name in columns)
            connection.execute(text(f"INSERT INTO reservations ({names}) VALUES ({values})"), columns)
        if revision != "0001":
            row = "'lab', 'd', 'lab', 'reserve', NULL, 70000000000, 1.5, NULL"
            connection.execute(text(f"INSERT INTO tokens VALUES ({row})"))
            row = "7, 'pair', 1.5, 'lab', 'lab', '::1', 'POST', '/v1/reservations', 201, NULL, NULL, '{}'"
            connection.execute(text(f"INSERT INTO audit VALUES ({row})"))
    engine.dispose()
    assert "2500 reservations" in copied(file, url)
    ledger = Ledger(url, "pair")  # of the present version
    assert ledger.existing_ids(["r-00000001", "r-000009c3", "r-000009c4"]) == {"r-00000001", "r-000009c3"}
    ledger.close()
    database = str(make_url(url).database)
    if revision != "0001":  # numbers go on after those of the copy
        server.sql(database, "INSERT INTO audit (map, at_s, client, method, path, status, request) "
                             "VALUES ('pair', 2, '::1', 'POST', '/', 200, '')")  # fmt: skip
        assert server.sql(database, "SELECT seq FROM audit ORDER BY seq") == ["7", "8"]
    copied(url, f"sqlite:///{tmp_path}/back.db")
    back = create_engine(f"sqlite:///{tmp_path}/back.db")
    with back.connect() as connection:
        rows = connection.execute(text("SELECT id, record FROM reservations ORDER BY id")).all()
        assert [tuple(row) for row in rows] == [(f"r-{number:08x}", record[:number]) for number in range(2500)]
    back.dispose()


def test_an_older_version_goes_on_beside_a_standby_that_has_migrated(
    server: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    for revision in ("empty", RELEASED, REVISIONS[-2]):
        engine = create_engine(server.create(f"schema_{revision}"))
        with engine.begin() as connection:
            if revision == "empty":
                assert changes_beyond_adding(connection, monkeypatch) - KNOWN == set()
            else:
                assert "reservations" in write_as(connection, revision)
        engine.dispose()


def test_a_ledger_in_use_is_copied_only_as_a_backup_which_can_be_restored(
    controller: Controller, url: str, server: PostgreSQL, tmp_path: Path
) -> None:
    made = {hold(controller.client, 7801 + number).json()["id"] for number in range(3)}
    refused = CliRunner().invoke(ledger_command, ["copy", url, f"sqlite:///{tmp_path}/backup.db"])
    assert refused.exit_code == 3
    assert "A controller of pair uses the ledger" in refused.output
    assert not (tmp_path / "backup.db").exists()
    copied("--in-use", url, f"sqlite:///{tmp_path}/backup.db")
    again = CliRunner().invoke(ledger_command, ["copy", "--in-use", url, f"sqlite:///{tmp_path}/backup.db"])
    assert (again.exit_code, "is not empty: reservations has 3 rows" in again.output) == (2, True)
    server.dump(str(make_url(url).database), "backup.dump")
    hold(controller.client, 7900)
    controller.stop()
    restored = server.create("restored")
    server.restore("restored", "backup.dump")
    fresh = server.create("fresh")
    copied(f"sqlite:///{tmp_path}/backup.db", fresh)
    for ledger_url in (restored, fresh):
        ledger = Ledger(ledger_url, "pair")
        assert {each.id for each in ledger.live() if each.state is State.HELD} == made
        ledger.close()


def test_the_fencing_number_of_a_ledger_from_a_backup_is_newer_than_what_switches_remember(url: str) -> None:
    started_s = int(time.time())
    numbers = []
    database = create_engine(url)
    for of_backup in (None, 7, 2**40):
        with database.begin() as connection:
            upgrade(connection)
            if of_backup is not None:
                connection.execute(WRITERS.update().values(fence=of_backup))
        lock = AdvisoryLock(url, "pair")
        lock.acquire()
        numbers.append(lock.generation or 0)
        lock.release()
    database.dispose()
    assert started_s <= numbers[0] <= numbers[1] < numbers[2] == 2**40 + 1


def test_tokens_of_a_copy_are_valid(url: str, tmp_path: Path) -> None:
    file = f"sqlite:///{tmp_path}/old.db"
    tokens = TokenStore(file)
    secret = tokens.add("lab", "lab", frozenset({Scope.OPERATE}), Quota(None, None))
    tokens.close()
    copied(file, url)
    moved = TokenStore(url)
    moved.refresh()
    assert moved.authenticate(f"Bearer {secret}").tenant == "lab"
    moved.close()
