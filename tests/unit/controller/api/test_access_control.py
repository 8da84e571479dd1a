"""Scopes, tenants, quotas, tokens and the audit log: first the decisions, then over REST on the real service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from controller.api.app import create_app
from controller.domain.reservation import Flow, Match, Requirement
from controller.errors import Forbidden, QuotaExceeded, StartError, Unauthorized
from controller.runtime.listen_address import require_management_addresses
from controller.runtime.stores import open_stores
from controller.runtime.token_command import command
from controller.security.access import (
    ANONYMOUS,
    Caller,
    Quota,
    Scope,
    check_quota,
    is_management_address,
    require,
    usage_of_flows,
)
from controller.security.audit import DAY_S, AuditLog, AuditRecord
from controller.security.tenant_usage import requested_bps
from controller.security.tokens import TokenStore
from controller.service.reservation_service import Service
from controller.storage.database import engine_of
from controller.storage.ledger import IN_MEMORY, Ledger
from machine.polling import wait_until
from tests.unit.controller.api.test_rest_api import flow as flow_body
from tests.unit.controller.api.test_rest_api import problem
from tests.unit.controller.simulated_switches import PAIR, running_service, serving
from topologies.maps import MANAGEMENT_NETWORK


def flow(**requirement: float) -> Flow:
    return Flow("f", "edge1", "cloud", Match("tcp", 1, 2), Requirement(**requirement))  # type: ignore[arg-type]


def caller(*scopes: str, **quota: int) -> Caller:
    return Caller("lab", frozenset(map(Scope, scopes)), Quota(**quota), "lab-1")


@pytest.mark.parametrize(
    ("held", "may"),
    [((), ""), (("read",), "read"), (("reserve",), "read reserve"), (("operate",), "read reserve operate")],
)
def test_a_scope_includes_the_lower_scopes(held: tuple[str, ...], may: str) -> None:
    assert [str(scope) for scope in Scope if caller(*held).has_scope(scope)] == may.split()


def test_a_missing_scope_is_named_with_the_scopes_of_the_token() -> None:
    with pytest.raises(Forbidden, match="Token lab-1 has scope read; this needs operate"):
        require(caller("read"), Scope.OPERATE)


def test_a_bandwidth_quota_counts_the_requested_bandwidth() -> None:
    assert requested_bps(Requirement(min_bandwidth_bps=5000)) == 5000
    assert requested_bps(Requirement(transfer_bytes=1_000_000, deadline_ms=200)) == 40_000_000
    held = usage_of_flows([flow(min_bandwidth_bps=60_000_000)])
    check_quota(caller(bandwidth_bps=100_000_000), held, usage_of_flows([flow(min_bandwidth_bps=40_000_000)]))
    with pytest.raises(QuotaExceeded, match="holds 60 Mb/s and asks for 41 Mb/s; its quota is 100 Mb/s"):
        check_quota(caller(bandwidth_bps=100_000_000), held, usage_of_flows([flow(min_bandwidth_bps=41_000_000)]))


def test_a_reservation_quota_counts_the_requested_reservation() -> None:
    requested = usage_of_flows([flow(min_bandwidth_bps=1000)])
    check_quota(caller(reservations=2), requested, requested)
    with pytest.raises(QuotaExceeded, match="holds 2 reservations; its quota is 2"):
        check_quota(caller(reservations=2), requested + requested, requested)


@pytest.mark.parametrize(
    ("address", "is_management"),
    [
        *(("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.254.3.9", True)),
        *(("10.0.0.1", False), ("0.0.0.0", False), ("::", False), ("192.0.2.1", False), ("fe80::1%eth0", False)),
    ],
)
def test_management_addresses_are_loopback_and_the_management_network(address: str, is_management: bool) -> None:
    assert is_management_address(address, MANAGEMENT_NETWORK) is is_management
    if not is_management and "%" not in address:
        with pytest.raises(StartError, match=f"may not listen on {address} as long as there are no tokens"):
            require_management_addresses([("127.0.0.1", 1), (address, 1)])


class Clock:
    """A clock that is set by the test."""

    now_s = 1_767_225_600.0

    def __call__(self) -> float:
        return self.now_s


def test_a_token_authenticates_until_it_is_revoked_and_authentication_stays_on(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    with closing(TokenStore(url, Clock())) as tokens:
        tokens.refresh()
        assert tokens.authenticate(None) == ANONYMOUS
        secret = tokens.add("lab-1", "lab", frozenset({Scope.RESERVE}), Quota(3, None))
    with closing(TokenStore(url, Clock())) as tokens:
        tokens.refresh()
        assert tokens.authenticate(f"bearer {secret}") == caller("reserve", reservations=3)
        for wrong in (None, "", "Bearer", f"Basic {secret}", f"Bearer {secret}x", "Bearer \xff"):
            with pytest.raises(Unauthorized):
                tokens.authenticate(wrong)
        tokens.revoke("lab-1")
        with pytest.raises(StartError, match="no valid token lab-1"):
            tokens.revoke("lab-1")
    with closing(TokenStore(url, Clock())) as tokens:
        tokens.refresh()
        for authorization in (None, f"Bearer {secret}"):
            with pytest.raises(Unauthorized):
                tokens.authenticate(authorization)


def test_only_the_digest_of_a_token_is_stored(tmp_path: Path) -> None:
    with closing(TokenStore(f"sqlite:///{tmp_path}/ledger.db")) as tokens:
        secret = tokens.add("lab-1", "lab", frozenset({Scope.READ}), Quota())
    assert len(secret) >= 43 + len("paceline_")
    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes()
        assert secret.removeprefix("paceline_").encode() not in file.read_bytes()


@pytest.mark.parametrize(("arguments", "words"), [
    ([""], "must have 1 to 64 characters"),
    ([65 * "a"], "must have 1 to 64 characters"),
    (["a\nb"], "is not possible: a name has letters"),
    (["\x1b[31m"], "is not possible: a name has letters"),
    (["lab", "--tenant", "../x"], "'../x' is not possible"),
    (["lab", "--max-bps", str(10**20)], "is not in the range"),
    (["lab", "--max-reservations", str(10**20)], "is not in the range"),
])  # fmt: skip
def test_what_cannot_be_a_token_is_refused(tmp_path: Path, arguments: list[str], words: str) -> None:
    ran = CliRunner().invoke(command, ["add", *arguments, "--ledger", f"sqlite:///{tmp_path}/ledger.db"])
    assert ran.exit_code == 2
    assert words in ran.output
    assert not list(tmp_path.iterdir())


def test_the_largest_quotas_are_stored(tmp_path: Path) -> None:
    ledger = ["--ledger", f"sqlite:///{tmp_path}/ledger.db"]
    assert CliRunner().invoke(command, ["add", "lab", "--max-bps", str(10**15), "--max-reservations", str(10**9),
                                        *ledger]).exit_code == 0
    assert "1000000000 reservations, 1e+09 Mb/s" in CliRunner().invoke(command, ["list", *ledger]).output


def test_the_token_command_adds_lists_and_revokes(tmp_path: Path) -> None:
    where = ["--ledger", f"sqlite:///{tmp_path}/ledger.db"]
    run = CliRunner().invoke
    assert "No tokens" in run(command, ["list", *where]).output
    given = run(command, ["add", "lab-1", "--tenant", "lab", "--max-bps", "100000000", *where])
    assert given.stdout.startswith("paceline_")
    assert given.stdout.count("\n") == 1
    taken = run(command, ["add", "lab-1", *where])
    assert (taken.exit_code, "There is or was a token lab-1" in taken.output) == (2, True)
    listed = run(command, ["list", *where]).output
    assert listed.split() == ["lab-1", "tenant", "lab", "reserve", "100", "Mb/s", "valid"]
    assert run(command, ["revoke", "lab-1", *where]).output == "Revoked token lab-1.\n"
    assert "revoked 20" in run(command, ["list", *where]).output
    assert run(command, ["revoke", "nobody", *where]).exit_code == 2
    assert "either --map MAP or --ledger URL" in run(command, ["list"]).output
    unknown = run(command, ["list", "--map", "nosuch"])
    assert (unknown.exit_code, "nosuch" in unknown.output) == (2, True)


def record(at_s: float, status: int = 201) -> AuditRecord:
    facts = ("lab", "lab-1", "127.0.0.1", "POST", "/v1/reservations", status, None, None)
    return AuditRecord(at_s, *facts, request="x" * 10_000)


def test_the_database_rejects_changes_of_recent_audit_records(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    with closing(AuditLog(url, "pair")) as audit:
        for status in (201, 409):
            audit.write(record(time.time(), status))
        (first, _), (second, last) = audit.read(0, 10)
        assert (second > first, last.status, len(last.request)) == (True, 409, 4096)
        assert [number for number, _ in audit.read(first, 10)] == [second]
    engine = engine_of(url)
    for statement in ("DELETE FROM audit", "UPDATE audit SET status = 200"):
        with pytest.raises(IntegrityError, match="only grows"), engine.begin() as connection:
            connection.execute(text(statement))
    engine.dispose()


def test_records_older_than_the_retention_are_deleted_for_this_map_only(tmp_path: Path) -> None:
    url, now_s = f"sqlite:///{tmp_path}/ledger.db", time.time()
    stores, other = open_stores(url, "pair", audit_days=30), AuditLog(url, "metro")
    for days in (31, 29, 0):
        stores.audit.write(record(now_s - days * DAY_S))
        other.write(record(now_s - days * DAY_S))
    stores.forget(now_s)
    assert [round((now_s - kept.at_s) / DAY_S) for _, kept in stores.audit.read(0, 10)] == [29, 0]
    assert len(other.read(0, 10)) == 3
    for store in (stores, stores.ledger, other):
        store.close()


def test_old_audit_records_are_deleted_in_batches(tmp_path: Path) -> None:
    with closing(AuditLog(f"sqlite:///{tmp_path}/ledger.db", "pair")) as audit:
        for number in range(7):
            audit.write(record(float(number)))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("controller.security.audit.DELETE_BATCH", 2)
            assert audit.delete_before(before_s=5.0) == 5
        assert [kept.at_s for _, kept in audit.read(0, 10)] == [5.0, 6.0]


def test_the_lifecycle_thread_deletes_old_records_and_survives_a_failure(tmp_path: Path) -> None:
    stores = open_stores(f"sqlite:///{tmp_path}/ledger.db", "pair")
    stores.audit.write(record(time.time() - 91 * DAY_S))

    def fail(_: float) -> None:
        raise OSError("the disk is full")

    with running_service(stores.ledger, retention_tasks=(fail, stores.forget)) as service:
        wait_until(lambda: not stores.audit.read(0, 10))
        assert service.queries.switches_up() == len(PAIR.switches)
    stores.close()


def test_a_failing_audit_log_shows_in_health_and_metrics(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    audit, engine = AuditLog(url, "pair"), engine_of(url)

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
def tokens() -> Iterator[TokenStore]:
    with closing(TokenStore(IN_MEMORY)) as opened:
        yield opened


@pytest.fixture(scope="module")
def secrets(tokens: TokenStore) -> dict[str, str]:
    tenants = {
        "reader": ("alice", Scope.READ, Quota()),
        "alice": ("alice", Scope.RESERVE, Quota(2, 50_000_000)),
        "bob": ("bob", Scope.RESERVE, Quota()),
        "operator": ("operators", Scope.OPERATE, Quota()),
    }
    return {
        name: tokens.add(name, tenant, frozenset({scope}), quota) for name, (tenant, scope, quota) in tenants.items()
    }


@pytest.fixture(scope="module")
def url(service: Service, tokens: TokenStore) -> Iterator[str]:
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
    for reservation in service.queries.reservations():
        service.release(reservation.id)


def body_of(port: int = 7801, rate_bps: int = 10_000_000) -> dict[str, object]:
    match = {"protocol": "tcp", "source_port": port, "destination_port": 7800}
    return {"flows": [flow_body(match=match, requirement={"min_bandwidth_bps": rate_bps})]}


def test_without_a_token_only_health_and_documentation_are_public(url: str, clients: dict[str, httpx.Client]) -> None:
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


def test_a_missing_scope_is_named_in_the_header(clients: dict[str, httpx.Client]) -> None:
    answer = clients["reader"].post("/v1/reservations", json=body_of())
    assert problem(answer, 403, "forbidden")["scope"] == "reserve"
    assert 'error="insufficient_scope", scope="reserve"' in answer.headers["www-authenticate"]
    assert clients["reader"].post("/v1/quotes", json=body_of()).json()["admitted"] is True
    for path in ("/v1/consistency", "/v1/audit"):
        problem(clients["alice"].get(path), 403, "forbidden")
        assert clients["operator"].get(path).status_code == 200


def test_a_tenant_sees_and_changes_only_its_own(clients: dict[str, httpx.Client]) -> None:
    body = clients["alice"].post("/v1/reservations", json=body_of()).json()
    assert body["tenant"] == "alice"
    path = f"/v1/reservations/{body['id']}"
    for method in ("GET", "PATCH", "DELETE"):
        answer = clients["bob"].request(method, path, json={} if method == "PATCH" else None)
        # the very sentence of an id that nobody has: another one would tell that it exists
        assert problem(answer, 404, "not_found")["detail"] == f"There is no reservation {body['id']}."
    problem(clients["bob"].post(f"{path}/commit"), 404, "not_found")
    answer = clients["bob"].post("/v1/reservations", json={**body_of(), "lease_s": body["id"]})
    assert body["id"] in problem(answer, 422, "invalid_request")["detail"]
    assert clients["bob"].get("/v1/reservations?state=active").json() == {"reservations": []}
    assert clients["reader"].get(path).json()["id"] == body["id"]
    assert clients["operator"].patch(path, json={"lease_s": 5}).json()["tenant"] == "alice"
    assert clients["operator"].delete(path).json()["state"] == "released"


def test_a_refusal_does_not_reveal_another_tenants_reservation(clients: dict[str, httpx.Client]) -> None:
    taken = clients["alice"].post("/v1/reservations", json=body_of()).json()["id"]
    refused = problem(clients["bob"].post("/v1/reservations", json=body_of()), 409, "flow_in_use")
    assert taken not in str(refused)
    assert (
        problem(clients["alice"].post("/v1/reservations", json=body_of()), 409, "flow_in_use")["reservation"] == taken
    )


def test_a_quota_holds_for_new_reservations_and_for_changes(clients: dict[str, httpx.Client]) -> None:
    alice = clients["alice"]
    first = alice.post("/v1/reservations", json=body_of(1, 30_000_000)).json()["id"]
    over = problem(alice.post("/v1/reservations", json=body_of(2, 21_000_000)), 403, "quota_exceeded")
    assert (over["quota"], over["held"], over["asked"], over["allowed"]) == (
        *("bandwidth_bps", 30_000_000, 21_000_000, 50_000_000),
    )
    assert alice.patch(f"/v1/reservations/{first}", json=body_of(1, 40_000_000)).status_code == 200
    problem(alice.patch(f"/v1/reservations/{first}", json=body_of(1, 51_000_000)), 403, "quota_exceeded")
    assert alice.post("/v1/reservations", json=body_of(2, 10_000_000)).status_code == 201
    third = problem(alice.post("/v1/reservations", json=body_of(3, 1000)), 403, "quota_exceeded")
    assert third["quota"] == "reservations"
    assert alice.patch(f"/v1/reservations/{first}", json={}).status_code == 200


def test_a_replayed_request_is_answered_although_the_quota_is_used_up(clients: dict[str, httpx.Client]) -> None:
    key = {"Idempotency-Key": "whole-quota"}
    first = clients["alice"].post("/v1/reservations", json=body_of(1, 50_000_000), headers=key)
    again = clients["alice"].post("/v1/reservations", json=body_of(1, 50_000_000), headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"


def test_the_audit_log_has_caller_request_and_outcome(clients: dict[str, httpx.Client]) -> None:
    operator = clients["operator"]
    last = operator.get("/v1/audit?limit=1000").json()["last"]
    made = clients["alice"].post("/v1/reservations", json=body_of()).json()["id"]
    clients["bob"].post("/v1/reservations", json=body_of())
    clients["reader"].delete(f"/v1/reservations/{made}")
    clients["alice"].get(f"/v1/reservations/{made}")
    entries = operator.get(f"/v1/audit?after={last}").json()["entries"]
    logged = [(e["tenant"], e["token"], e["method"], e["status"], e["code"], e["reservation"]) for e in entries]
    assert logged == [
        ("alice", "alice", "POST", 201, None, made),
        ("bob", "bob", "POST", 409, "flow_in_use", None),
        ("alice", "reader", "DELETE", 403, "forbidden", made),
    ]
    assert '"source_port":7801' in entries[0]["request"].replace(" ", "")
    assert entries[0]["client"] == "127.0.0.1"


def test_a_revoked_token_is_rejected_within_the_cache_time(url: str, tokens: TokenStore) -> None:
    secret = tokens.add("brief", "brief", frozenset({Scope.READ}), Quota())
    header = {"Authorization": f"Bearer {secret}"}
    wait_until(lambda: httpx.get(f"{url}/v1/network", headers=header).status_code == 200)
    tokens.revoke("brief")
    wait_until(lambda: httpx.get(f"{url}/v1/network", headers=header).status_code == 401)
