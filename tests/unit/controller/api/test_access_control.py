"""Who may do what: scopes, tenants, quotas, tokens; first as decisions, then over REST on the real service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from controller.api.app import create_app
from controller.domain.reservation import Flow, Match, Requirement
from controller.errors import Forbidden, QuotaExceeded, StartError, Unauthorized
from controller.runtime.listen_address import check_near
from controller.runtime.stores import open_stores
from controller.runtime.token_command import command
from controller.security.access import ANYBODY, Caller, Quota, Scope, check_quota, is_near, require, wanted_by
from controller.security.audit import DAY_S, Audit, Entry
from controller.security.tenant_usage import asked_bps
from controller.security.tokens import Tokens
from controller.service.reservation_service import Service
from controller.storage.database import engine_of
from controller.storage.ledger import IN_MEMORY, Ledger
from tests.unit.controller.api.test_rest_api import flow as flow_body
from tests.unit.controller.api.test_rest_api import problem
from tests.unit.controller.instant_switches import PAIR, running_service, serving
from tests.waiting import wait_until
from topologies.maps import MANAGEMENT_NETWORK


def flow(**requirement: float) -> Flow:
    return Flow("f", "edge1", "cloud", Match("tcp", 1, 2), Requirement(**requirement))  # type: ignore[arg-type]


def caller(*scopes: str, **quota: int) -> Caller:
    return Caller("lab", frozenset(map(Scope, scopes)), Quota(**quota), "lab-1")


@pytest.mark.parametrize(
    ("held", "may"),
    [((), ""), (("read",), "read"), (("reserve",), "read reserve"), (("operate",), "read reserve operate")],
)
def test_a_scope_includes_the_lesser_ones(held: tuple[str, ...], may: str) -> None:
    assert [str(scope) for scope in Scope if caller(*held).may(scope)] == may.split()


def test_a_lacking_scope_is_named_with_those_that_are_held() -> None:
    with pytest.raises(Forbidden, match="Token lab-1 has scope read; this needs operate"):
        require(caller("read"), Scope.OPERATE)


def test_a_quota_of_bandwidth_counts_what_is_asked_for() -> None:
    assert asked_bps(Requirement(min_bandwidth_bps=5000)) == 5000
    assert asked_bps(Requirement(transfer_bytes=1_000_000, deadline_ms=200)) == 40_000_000
    held = wanted_by([flow(min_bandwidth_bps=60_000_000)])
    check_quota(caller(bandwidth_bps=100_000_000), held, wanted_by([flow(min_bandwidth_bps=40_000_000)]))
    with pytest.raises(QuotaExceeded, match="holds 60 Mb/s and asks for 41 Mb/s; its quota is 100 Mb/s"):
        check_quota(caller(bandwidth_bps=100_000_000), held, wanted_by([flow(min_bandwidth_bps=41_000_000)]))


def test_a_quota_of_reservations_counts_the_one_asked_for() -> None:
    one = wanted_by([flow(min_bandwidth_bps=1000)])
    check_quota(caller(reservations=2), one, one)
    with pytest.raises(QuotaExceeded, match="holds 2 reservations; its quota is 2"):
        check_quota(caller(reservations=2), one + one, one)


@pytest.mark.parametrize(
    ("address", "near"),
    [
        *(("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.254.3.9", True)),
        *(("10.0.0.1", False), ("0.0.0.0", False), ("::", False), ("192.0.2.1", False), ("fe80::1%eth0", False)),
    ],
)
def test_near_is_this_machine_and_the_management_network(address: str, near: bool) -> None:
    assert is_near(address, MANAGEMENT_NETWORK) is near
    if not near and "%" not in address:
        with pytest.raises(StartError, match=f"may not listen on {address} as long as there are no tokens"):
            check_near([("127.0.0.1", 1), (address, 1)])


class Clock:
    """Time that passes when told to."""

    now_s = 1_767_225_600.0

    def __call__(self) -> float:
        return self.now_s


def test_a_token_is_known_until_it_is_revoked_and_then_nobody_is_let_in_without(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    tokens = Tokens(url, Clock())
    tokens.refresh()
    assert tokens.caller_of(None) == ANYBODY
    secret = tokens.add("lab-1", "lab", frozenset({Scope.RESERVE}), Quota(3, None))
    tokens = Tokens(url, Clock())
    tokens.refresh()
    assert tokens.caller_of(f"bearer {secret}") == caller("reserve", reservations=3)
    for wrong in (None, "", "Bearer", f"Basic {secret}", f"Bearer {secret}x", "Bearer \xff"):
        with pytest.raises(Unauthorized):
            tokens.caller_of(wrong)
    tokens.revoke("lab-1")
    with pytest.raises(StartError, match="no token lab-1 that could be revoked"):
        tokens.revoke("lab-1")
    tokens = Tokens(url, Clock())
    tokens.refresh()
    for shown in (None, f"Bearer {secret}"):
        with pytest.raises(Unauthorized):
            tokens.caller_of(shown)


def test_only_a_tokens_digest_is_stored(tmp_path: Path) -> None:
    secret = Tokens(f"sqlite:///{tmp_path}/ledger.db").add("lab-1", "lab", frozenset({Scope.READ}), Quota())
    assert len(secret) >= 43 + len("paceline_")
    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes()
        assert secret.removeprefix("paceline_").encode() not in file.read_bytes()


def test_the_command_gives_lists_and_revokes(tmp_path: Path) -> None:
    where = ["--ledger", f"sqlite:///{tmp_path}/ledger.db"]
    run = CliRunner().invoke
    assert "No tokens" in run(command, ["list", *where]).output
    given = run(command, ["add", "lab-1", "--tenant", "lab", "--max-bps", "100000000", *where])
    assert given.stdout.startswith("paceline_")
    assert given.stdout.count("\n") == 1
    taken = run(command, ["add", "lab-1", *where])
    assert (taken.exit_code, "There is a token lab-1 already" in taken.output) == (2, True)
    listed = run(command, ["list", *where]).output
    assert listed.split() == ["lab-1", "tenant", "lab", "reserve", "100", "Mb/s", "valid"]
    assert run(command, ["revoke", "lab-1", *where]).output == "lab-1 is revoked.\n"
    assert "revoked 20" in run(command, ["list", *where]).output
    assert run(command, ["revoke", "nobody", *where]).exit_code == 2
    assert "either --map MAP or --ledger URL" in run(command, ["list"]).output
    unknown = run(command, ["list", "--map", "nosuch"])
    assert (unknown.exit_code, "nosuch" in unknown.output) == (2, True)


def entry(at_s: float, status: int = 201) -> Entry:
    facts = ("lab", "lab-1", "127.0.0.1", "POST", "/v1/reservations", status, None, None)
    return Entry(at_s, *facts, request="x" * 10_000)


def test_the_audit_log_of_the_last_day_only_grows(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    audit = Audit(url, "pair")
    for status in (201, 409):
        audit.write(entry(time.time(), status))
    (first, _), (second, last) = audit.read(0, 10)
    assert (second > first, last.status, len(last.request)) == (True, 409, 4096)
    assert [number for number, _ in audit.read(first, 10)] == [second]
    for statement in ("DELETE FROM audit", "UPDATE audit SET status = 200"):
        with pytest.raises(IntegrityError, match="only grows"), engine_of(url).begin() as connection:
            connection.execute(text(statement))


def test_what_is_older_than_it_is_to_be_kept_leaves_the_audit_log_of_this_map(tmp_path: Path) -> None:
    url, now_s = f"sqlite:///{tmp_path}/ledger.db", time.time()
    books, other = open_stores(url, "pair", audit_days=30), Audit(url, "metro")
    for days in (31, 29, 0):
        books.audit.write(entry(now_s - days * DAY_S))
        other.write(entry(now_s - days * DAY_S))
    books.forget(now_s)
    assert [round((now_s - kept.at_s) / DAY_S) for _, kept in books.audit.read(0, 10)] == [29, 0]
    assert len(other.read(0, 10)) == 3
    books.close()
    books.ledger.close()


def test_the_old_end_of_a_long_audit_log_goes_bit_by_bit(tmp_path: Path) -> None:
    audit = Audit(f"sqlite:///{tmp_path}/ledger.db", "pair")
    for number in range(7):
        audit.write(entry(float(number)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("controller.security.audit.CUT_AT_ONCE", 2)
        assert audit.forget(before_s=5.0) == 5
    assert [kept.at_s for _, kept in audit.read(0, 10)] == [5.0, 6.0]


def test_the_caretaker_drops_what_is_old_and_goes_on_if_that_fails(tmp_path: Path) -> None:
    books = open_stores(f"sqlite:///{tmp_path}/ledger.db", "pair")
    books.audit.write(entry(time.time() - 91 * DAY_S))

    def fail(_: float) -> None:
        raise OSError("the disk is full")

    with running_service(books.ledger, forgets=(fail, books.forget)) as service:
        wait_until(lambda: not books.audit.read(0, 10))
        assert service.switches_up() == len(PAIR.switches)
    books.close()


def test_an_audit_log_that_cannot_be_written_is_seen_from_outside(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    audit, engine = Audit(url, "pair"), engine_of(url)

    def has_changed(status: str, state: str, failures: float) -> None:
        assert client.post("/v1/reservations/r-00000000/commit").status_code == 404
        assert client.post("/v1/reservations", json={}).status_code == 422
        health = client.get("/v1/healthz").json()
        assert (health["status"], health["audit"]) == (status, state)
        assert f"paceline_audit_write_failures_total {failures}" in client.get("/metrics").text

    with running_service(Ledger(IN_MEMORY, "pair")) as service, serving(create_app(service, audit=audit)) as client:
        has_changed("ok", "ok", 0.0)
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE audit RENAME TO elsewhere"))
        has_changed("degraded", "failing", 1.0)
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO audit"))
        has_changed("ok", "ok", 1.0)
    audit.close()
    engine.dispose()


# Over REST ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return Tokens(IN_MEMORY)


@pytest.fixture(scope="module")
def secrets(tokens: Tokens) -> dict[str, str]:
    wanted = {
        "reader": ("alice", Scope.READ, Quota()),
        "alice": ("alice", Scope.RESERVE, Quota(2, 50_000_000)),
        "bob": ("bob", Scope.RESERVE, Quota()),
        "operator": ("operators", Scope.OPERATE, Quota()),
    }
    return {
        name: tokens.add(name, tenant, frozenset({scope}), quota) for name, (tenant, scope, quota) in wanted.items()
    }


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service(Ledger(IN_MEMORY, "pair")) as running:
        yield running


@pytest.fixture(scope="module")
def url(service: Service, tokens: Tokens) -> Iterator[str]:
    with serving(create_app(service, tokens=tokens)) as client:
        yield str(client.base_url)


@pytest.fixture
def clients(url: str, secrets: dict[str, str], service: Service) -> Iterator[dict[str, httpx.Client]]:
    made = {
        name: httpx.Client(base_url=url, headers={"Authorization": f"Bearer {secret}"})
        for name, secret in secrets.items()
    }
    yield made
    for client in made.values():
        client.close()
    for reservation in service.reservations():
        service.release(reservation.id)


def asked(port: int = 7801, rate_bps: int = 10_000_000) -> dict[str, object]:
    match = {"protocol": "tcp", "source_port": port, "destination_port": 7800}
    return {"flows": [flow_body(match=match, requirement={"min_bandwidth_bps": rate_bps})]}


def test_without_a_token_only_health_and_the_manual_are_shown(url: str, clients: dict[str, httpx.Client]) -> None:
    for path in ("/v1/healthz", "/docs", "/docs/swagger-ui.css", "/openapi.json"):
        assert httpx.get(url + path).status_code == 200
    for path in ("/v1/network", "/metrics", "/v1/events", "/v1/audit", "/nowhere"):
        answer = httpx.get(url + path)
        problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == 'Bearer realm="paceline"'
    answer = httpx.post(url + "/v1/reservations", content=b"{", headers={"Authorization": "Bearer nonsense"})
    problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == 'Bearer realm="paceline", error="invalid_token"'
    assert clients["reader"].get("/v1/network").status_code == 200


def test_a_scope_that_lacks_is_said_in_the_header_too(clients: dict[str, httpx.Client]) -> None:
    answer = clients["reader"].post("/v1/reservations", json=asked())
    assert problem(answer, 403, "forbidden")["scope"] == "reserve"
    assert 'error="insufficient_scope", scope="reserve"' in answer.headers["www-authenticate"]
    assert clients["reader"].post("/v1/quotes", json=asked()).json()["admitted"] is True
    for path in ("/v1/consistency", "/v1/audit"):
        problem(clients["alice"].get(path), 403, "forbidden")
        assert clients["operator"].get(path).status_code == 200


def test_a_tenant_sees_and_changes_only_its_own(clients: dict[str, httpx.Client]) -> None:
    body = clients["alice"].post("/v1/reservations", json=asked()).json()
    assert body["tenant"] == "alice"
    path = f"/v1/reservations/{body['id']}"
    for method in ("GET", "PATCH", "DELETE"):
        answer = clients["bob"].request(method, path, json={} if method == "PATCH" else None)
        problem(answer, 404, "not_found")
    problem(clients["bob"].post(f"{path}/commit"), 404, "not_found")
    assert clients["bob"].get("/v1/reservations?state=active").json() == {"reservations": []}
    assert clients["reader"].get(path).json()["id"] == body["id"]
    assert clients["operator"].patch(path, json={"lease_s": 5}).json()["tenant"] == "alice"
    assert clients["operator"].delete(path).json()["state"] == "released"


def test_a_refusal_does_not_tell_of_another_tenants_reservation(clients: dict[str, httpx.Client]) -> None:
    taken = clients["alice"].post("/v1/reservations", json=asked()).json()["id"]
    refused = problem(clients["bob"].post("/v1/reservations", json=asked()), 409, "flow_in_use")
    assert taken not in str(refused)
    assert problem(clients["alice"].post("/v1/reservations", json=asked()), 409, "flow_in_use")["reservation"] == taken


def test_a_quota_holds_for_new_reservations_and_for_changes(clients: dict[str, httpx.Client]) -> None:
    alice = clients["alice"]
    first = alice.post("/v1/reservations", json=asked(1, 30_000_000)).json()["id"]
    over = problem(alice.post("/v1/reservations", json=asked(2, 21_000_000)), 403, "quota_exceeded")
    assert (over["quota"], over["held"], over["asked"], over["allowed"]) == (
        *("bandwidth_bps", 30_000_000, 21_000_000, 50_000_000),
    )
    assert alice.patch(f"/v1/reservations/{first}", json=asked(1, 40_000_000)).status_code == 200
    problem(alice.patch(f"/v1/reservations/{first}", json=asked(1, 51_000_000)), 403, "quota_exceeded")
    assert alice.post("/v1/reservations", json=asked(2, 10_000_000)).status_code == 201
    third = problem(alice.post("/v1/reservations", json=asked(3, 1000)), 403, "quota_exceeded")
    assert third["quota"] == "reservations"
    assert alice.patch(f"/v1/reservations/{first}", json={}).status_code == 200


def test_a_repeated_request_gets_its_answer_though_the_quota_is_used_up(clients: dict[str, httpx.Client]) -> None:
    key = {"Idempotency-Key": "whole-quota"}
    first = clients["alice"].post("/v1/reservations", json=asked(1, 50_000_000), headers=key)
    again = clients["alice"].post("/v1/reservations", json=asked(1, 50_000_000), headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"


def test_the_audit_log_says_who_asked_for_what_and_was_answered_what(clients: dict[str, httpx.Client]) -> None:
    operator = clients["operator"]
    last = operator.get("/v1/audit?limit=1000").json()["last"]
    made = clients["alice"].post("/v1/reservations", json=asked()).json()["id"]
    clients["bob"].post("/v1/reservations", json=asked())
    clients["reader"].delete(f"/v1/reservations/{made}")
    clients["alice"].get(f"/v1/reservations/{made}")
    entries = operator.get(f"/v1/audit?after={last}").json()["entries"]
    told = [(e["tenant"], e["token"], e["method"], e["status"], e["code"], e["reservation"]) for e in entries]
    assert told == [
        ("alice", "alice", "POST", 201, None, made),
        ("bob", "bob", "POST", 409, "flow_in_use", None),
        ("alice", "reader", "DELETE", 403, "forbidden", made),
    ]
    assert '"source_port":7801' in entries[0]["request"].replace(" ", "")
    assert entries[0]["client"] == "127.0.0.1"


def test_a_token_that_is_revoked_stops_working_soon(url: str, tokens: Tokens) -> None:
    secret = tokens.add("brief", "brief", frozenset({Scope.READ}), Quota())
    header = {"Authorization": f"Bearer {secret}"}
    wait_until(lambda: httpx.get(f"{url}/v1/network", headers=header).status_code == 200)
    tokens.revoke("brief")
    wait_until(lambda: httpx.get(f"{url}/v1/network", headers=header).status_code == 401)
