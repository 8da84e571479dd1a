"""What other tenants and strangers learn: nothing of what a reservation of another tenant holds."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from controller.api.app import create_app
from controller.domain.events import BoundChange, BoundsChanged, ReservationChanged
from controller.domain.reservation import State
from controller.errors import FlowInUse, LatencyNotMet, StartError
from controller.runtime.token_command import command as token_command
from controller.security.access import Caller, Quota, Scope
from controller.security.audit import RefusalLimit, printable
from controller.security.redaction import WITHHELD, Redaction
from controller.security.tokens import TokenStore
from controller.service.reservation_service import Service
from controller.storage.database import engine_of, open_database, without_passwords
from controller.storage.ledger import IN_MEMORY, Ledger
from controller.telemetry.event_stream import EventStream
from machine.polling import wait_until
from tests.unit.controller.simulated_switches import running_service, serving

SECRETS = ("plantedflow", "plantedtenant", "plantedowner", "plantedtoken", "plantedkey", "43210", "43211")
RATE_BPS = 7_654_321
"""Of the foreign reservation; links tell the sum, which is of the network."""


@pytest.fixture(scope="module")
def clients(service: Service) -> Iterator[dict[str, httpx.Client]]:
    stream = EventStream()
    with closing(TokenStore(IN_MEMORY)) as tokens, serving(create_app(service, tokens=tokens, stream=stream)) as open_:
        made = {"nobody": open_}
        for name, tenant, scope in (
            ("plantedtoken", "plantedtenant", Scope.RESERVE),
            ("reader", "other", Scope.READ),
            ("rival", "rival", Scope.RESERVE),
            ("operator", "operators", Scope.OPERATE),
        ):
            secret = tokens.add(name, tenant, frozenset({scope}), Quota())
            header = {"Authorization": f"Bearer {secret}"}
            made[name] = httpx.Client(base_url=open_.base_url, headers=header, timeout=30)
        yield made
        stream.close()
        for name in made.keys() - {"nobody"}:
            made[name].close()


def flow(name: str, port: int, **requirement: Any) -> dict[str, Any]:
    match = {"protocol": "udp", "source_port": port, "destination_port": port + 1}
    return {"name": name, "source": "edge1", "destination": "cloud", "match": match, "requirement": requirement}


@pytest.fixture(scope="module")
def planted(clients: dict[str, httpx.Client]) -> dict[str, Any]:
    """A foreign reservation that lets its bound grow by nothing."""
    body = {
        "owner": "plantedowner",
        "lease_s": 6543.25,
        "flows": [flow("plantedflow", 43210, min_bandwidth_bps=RATE_BPS, burst_bytes=9876, bound_slack=0.0001)],
    }
    answer = clients["plantedtoken"].post("/v1/reservations", json=body, headers={"Idempotency-Key": "plantedkey"})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def secrets_of(planted: dict[str, Any]) -> list[str]:
    told = planted["flows"][0]
    bounds = (told["latency_limit_us"], told["accumulated_latency_us"], told["latency_variation_us"])
    return [*SECRETS, planted["id"], *(f"{value:.0f}" for value in bounds), "6543.25", "9876", str(RATE_BPS)]


def found_in(text: str, secrets: list[str]) -> list[str]:
    """The secrets in a text; numbers as such, not as digits of longer ones."""
    return [secret for secret in secrets if re.search(rf"(?<![\w.]){re.escape(secret)}(?!\w)", text)]


def test_no_answer_to_another_tenant_has_a_planted_secret(
    clients: dict[str, httpx.Client], planted: dict[str, Any]
) -> None:
    secrets, answers = secrets_of(planted), []
    ports = {"min_bandwidth_bps": 20_000_000, "burst_bytes": 60_000}
    rival_flow, same_ports = flow("own", 1000, **ports), flow("own", 43210, **ports)
    same_ports["match"]["destination_port"] = 43211
    documented = clients["operator"].get("/openapi.json").json()["paths"]
    for name in ("nobody", "reader", "rival"):
        client = clients[name]
        for path, methods in documented.items():
            if path == "/v1/events":
                continue
            filled = path.replace("{reservation_id}", planted["id"]).replace("{lightpath_id}", "lp-1")
            filled = filled.replace("{link}", "s1-s2").replace("{duct}", "d").replace("{action}", "down")
            parameters = {"source": "edge1", "destination": "cloud"} if path == "/v1/paths" else {}
            for method in methods:
                body = {"flows": [rival_flow]} if method in ("post", "patch") else None
                answers.append((path, client.request(method, filled, params=parameters, json=body)))
        answers.append(("in use", client.post("/v1/reservations", json={"flows": [same_ports]})))
        answers.append(("quote", client.post("/v1/quotes", json={"flows": [same_ports]})))
    refused = [answer.json() for path, answer in answers if path == "/v1/quotes" and answer.status_code == 200]
    assert {body["problem"]["code"] for body in refused} == {"latency_not_met"}
    assert {body["problem"]["detail"] for body in refused} == {WITHHELD}
    in_use = [answer.json()["code"] for path, answer in answers if path == "in use"]
    assert in_use == ["unauthorized", "forbidden", "flow_in_use"]
    for path, answer in answers:
        if path in ("in use", "quote"):  # they have the ports from the request itself
            continue
        text = f"{answer.text} {answer.headers}".replace(str(answer.request.url), "").replace(planted["id"], "ID", 1)
        found = [secret for secret in found_in(text, secrets) if secret != planted["id"]]
        assert not found, (path, answer.request.method, found, answer.text)
    for path, answer in answers:
        if path in ("in use", "quote", "/v1/reservations", "/v1/quotes", "/metrics", "/v1/network"):
            assert planted["id"] not in answer.text
            assert "plantedflow" not in answer.text
            assert "plantedtenant" not in answer.text
    mine = clients["operator"].post("/v1/quotes", json={"flows": [rival_flow]}).json()
    assert planted["id"] in mine["problem"]["detail"], "operators see what it is about"


def test_events_and_reasons_are_those_of_the_tenant_without_secrets_of_others(
    service: Service, clients: dict[str, httpx.Client], planted: dict[str, Any]
) -> None:
    body = {**flow("own", 2000, min_bandwidth_bps=1000), "source": "cloud", "destination": "edge2"}
    own = clients["rival"].post("/v1/reservations", json={"flows": [body]})
    assert own.status_code == 201, own.text
    stored = service.queries.stored(own.json()["id"])
    foreign = service.queries.stored(planted["id"])
    secret = f"plantedflow of live reservation {planted['id']}: the proven latency would be 9 us; its limit is 5 us."
    received: list[str] = []
    started = threading.Event()

    def read() -> None:
        with clients["rival"].stream("GET", "/v1/events") as stream:
            for line in stream.iter_lines():
                started.set()
                received.append(line)
                if '"released"' in line and stored.id in line:
                    return

    reader = threading.Thread(target=read)
    reader.start()
    assert started.wait(30)
    change = BoundChange(foreign.placements[0], foreign.placements[0])
    for event in (
        ReservationChanged(replace(stored, state=State.DEGRADED, reason=secret)),
        ReservationChanged(replace(foreign, state=State.DEGRADED, reason=secret)),
        BoundsChanged(foreign, "rerouted", (change,)),
    ):
        for listener in service.queries._state.listeners:
            listener(event)
    clients["rival"].delete(f"/v1/reservations/{stored.id}").raise_for_status()
    reader.join(30)
    text = "\n".join(received)
    assert WITHHELD in text
    assert not found_in(text, secrets_of(planted))


def test_the_redaction_decides_by_tenant() -> None:
    redaction = Redaction({"r-00000001": "alice", "r-00000002": "bob"}.get)
    alice, operator = Caller("alice", frozenset({Scope.READ})), Caller("ops", frozenset({Scope.OPERATE}))
    facts = {"flow": "x", "reservation": "r-00000002", "bound_us": 9.0, "limit_us": 5.0, "fits_at": 1.0}
    foreign = LatencyNotMet("x of live reservation r-00000002: the proven latency would be 9 us.", **facts)
    seen = redaction.error(alice, foreign)
    assert (seen.detail, dict(seen.facts), seen.code) == (WITHHELD, {"fits_at": 1.0}, "latency_not_met")
    assert redaction.error(operator, foreign) is foreign
    own = LatencyNotMet("own: 9 us.", flow="own", reservation="r-0000000f", bound_us=9.0)
    assert dict(redaction.error(alice, own).facts) == {"flow": "own", "bound_us": 9.0}
    in_use = FlowInUse("a: udp is reserved by r-00000002.", flow="a", reservation="r-00000002")
    assert redaction.error(alice, in_use).detail == "a: udp is reserved by another tenant."
    assert redaction.reason("bob", "r-00000002 is down.") == "r-00000002 is down."
    assert redaction.reason("alice", "r-00000002 is down.") == WITHHELD


# Strangers -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_client() -> Iterator[httpx.Client]:
    with running_service(Ledger(IN_MEMORY, "pair")) as running, serving(create_app(running)) as client:
        yield client


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8080"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://10.0.0.9:80", "Host": "10.0.0.9:80"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:8080"}, 403),
    ],
)
def test_without_tokens_web_pages_of_others_have_no_access(
    open_client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    answer = open_client.get("/v1/network", headers=headers)
    assert answer.status_code == status, answer.text
    taken_down = open_client.post("/v1/links/s1-s2/up", headers=headers)
    assert taken_down.status_code == status
    if status == 403:
        assert answer.json()["code"] == "cross_origin"
    assert open_client.get("/v1/healthz", headers=headers).status_code == 200


def test_refusals_fill_no_audit_log() -> None:
    now_s = 0.0
    limit = RefusalLimit(lambda: now_s)
    assert sum(limit.passes(None) is not None for _ in range(1000)) == RefusalLimit.UNAUTHENTICATED_BURST
    assert sum(limit.passes("reader") is not None for _ in range(1000)) == RefusalLimit.BURST
    now_s = 1.0
    assert limit.passes(None) == 1000 - RefusalLimit.UNAUTHENTICATED_BURST
    assert limit.passes(None) is None
    assert printable("GÉT\n\x1b[31m" + "x" * 300, 8) == "G?T??[31"


def test_quotes_and_strangers_leave_few_audit_records(clients: dict[str, httpx.Client]) -> None:
    last = clients["operator"].get("/v1/audit?limit=1000").json()["last"]
    for _ in range(30):
        clients["nobody"].post("/v1/reservations", json={})
        clients["reader"].post("/v1/quotes", json={"flows": [flow("q", 1, min_bandwidth_bps=1)]})
    entries = clients["operator"].get(f"/v1/audit?after={last}&limit=1000").json()["entries"]
    assert len(entries) <= RefusalLimit.UNAUTHENTICATED_BURST + 2
    assert {entry["tenant"] for entry in entries} <= {None}


def test_the_ledger_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.touch(0o644)
    path.chmod(0o644)
    database = open_database(f"sqlite:///{path}")
    with database.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        modes = {found.name: found.stat().st_mode & 0o777 for found in tmp_path.iterdir()}
    database.dispose()
    assert set(modes.values()) == {0o600}, modes


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_is_not_a_database_keeps_its_rights(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "found"
    if kind == "file":
        path.write_text("root:x:0:0::/root:/bin/bash\n")
        path.chmod(0o644)
    else:
        path.mkdir(0o755)
    before = path.stat().st_mode
    with pytest.raises(StartError, match=r"^The ledger sqlite:///\S+ cannot be opened: "):
        open_database(f"sqlite:///{path}")
    assert path.stat().st_mode == before


@pytest.mark.parametrize(
    ("url", "exit_code"),
    [
        ("postgresql://lab:PLANTED@nohost/x", 3), ("postgresql+nosuch://lab:PLAN@TED@nohost/x", 2),
        ("nonsense//lab:PLANTED@x", 2), ("mysql://lab@h/x?password=PLANTED&a=1", 2), ("lab://u:PLANTED@", 2),
    ],
)  # fmt: skip
def test_passwords_of_database_urls_are_never_printed(url: str, exit_code: int) -> None:
    """A server that is not found may come; a wrong URL stays wrong."""
    result = CliRunner().invoke(token_command, ["list", "--ledger", url])
    assert result.exit_code == exit_code, result.output
    assert "PLAN" not in result.output
    assert "PLAN" not in without_passwords(url)
    assert "TED" not in without_passwords(url)


def test_adding_a_token_to_a_locked_ledger_is_one_sentence(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    open_database(url).dispose()
    engine = engine_of(url)
    with engine.connect() as holder:
        holder.exec_driver_sql("BEGIN EXCLUSIVE")
        result = CliRunner().invoke(token_command, ["add", "lab", "--ledger", url])
    engine.dispose()
    assert result.exit_code in (2, 3), result.output
    assert result.output.startswith("Error: The ledger")
    assert "locked" in result.output
    assert not isinstance(result.exception, Exception)
    wait_until(lambda: CliRunner().invoke(token_command, ["add", "lab", "--ledger", url]).exit_code == 0)
