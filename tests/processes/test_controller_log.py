"""The log of a controller names reservations by id: what else tenants and their requests hold is not in it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from control_plane.raw_switch import RawSwitch, port_status
from controller.security.access import Quota, Scope
from controller.security.tokens import TokenStore
from machine.polling import wait_until
from tests.processes.rig import MAP, Controller, flow

NAMES = ("plantedflow", "plantedtenant", "plantedname", "plantedowner", "plantedkey")
PLANTED = (*NAMES, "21987", "21988", "7654321", "6543.25")


@pytest.fixture
def tenants(tmp_path: Path) -> Iterator[tuple[Controller, dict[str, str]]]:
    """A controller that logs all it can, with two raw switches; the tokens of two tenants."""
    with closing(TokenStore(f"sqlite:///{tmp_path}/ledger.db")) as tokens:
        scopes = frozenset({Scope.OPERATE})
        secrets = {name: tokens.add(f"{name}name", f"{name}tenant", scopes, Quota()) for name in ("planted", "rival")}
    controller = Controller(tmp_path, "--log-level", "debug")
    try:
        yield controller, secrets
    finally:
        controller.client.close()
        controller.stop()


def test_the_log_has_no_planted_secret(tenants: tuple[Controller, dict[str, str]]) -> None:
    controller, secrets = tenants
    controller.client.headers["Authorization"] = f"Bearer {secrets['planted']}"
    with contextlib.ExitStack() as stack:
        switches = [
            stack.enter_context(closing(RawSwitch(("127.0.0.1", controller.openflow_port), number, [1, 2, 3, 4])))
            for number in (MAP.datapath_id("s1"), MAP.datapath_id("s2"))
        ]
        for switch in switches:
            switch.start()
        wait_until(controller.in_sync)
        made = reserve(controller.client)
        reservation_id = made.json()["id"]
        assert made.status_code == 201, made.text
        assert reserve(controller.client, "other").json()["code"] == "flow_in_use"
        too_much = reserve(controller.client, "more", source_port=21988, min_bandwidth_bps=99 * 7_654_321)
        assert too_much.json()["code"] == "no_capacity"
        assert reserve(controller.client, "wrong", min_latency="plantedflow").json()["code"] == "invalid_request"
        send_secrets_in_wrong_places(controller, secrets)

        def is_in_state(state: str) -> bool:
            return bool(controller.client.get(f"/v1/reservations/{reservation_id}").json()["state"] == state)

        switches[0].socket.sendall(port_status(1, is_up=False))
        wait_until(lambda: is_in_state("degraded"))
        assert "plantedflow" in controller.client.get(f"/v1/reservations/{reservation_id}").json()["reason"]
        switches[0].socket.sendall(port_status(1))
        wait_until(lambda: is_in_state("active"))
        changed = controller.client.patch(
            f"/v1/reservations/{reservation_id}", json={"flows": [planted_flow(min_bandwidth_bps=2 * 7_654_321)]}
        )
        assert changed.status_code == 200, changed.text
        assert controller.client.get("/v1/consistency").status_code == 200
        controller.client.delete(f"/v1/reservations/{reservation_id}").raise_for_status()
    wait_until(lambda: controller.switches_up() == 0)
    told = f"id={reservation_id}", "state=degraded", "refused code=no_capacity", "event=SwitchDisconnected"
    wait_until(lambda: all(each in controller.log.read_text() for each in told))
    log = controller.log.read_text()
    found = [line for line in log.splitlines() if any(secret in line for secret in (*PLANTED, *secrets.values()))]
    assert found == []


def planted_flow(source_port: int = 21987, **changes: object) -> dict[str, object]:
    requirement = {"min_bandwidth_bps": 7_654_321, "burst_bytes": 40_000, **changes}
    return {**flow(0, source_port=source_port), "name": "plantedflow", "requirement": requirement}


def reserve(
    client: httpx.Client, key: str = "key", source_port: int = 21987, **changes: object
) -> httpx.Response:
    body = {"flows": [planted_flow(source_port, **changes)], "owner": "plantedowner", "lease_s": 6543.25}
    return client.post("/v1/reservations", json=body, headers={"Idempotency-Key": f"planted{key}"})


def send_secrets_in_wrong_places(controller: Controller, secrets: dict[str, str]) -> None:
    """Tokens and names in query, path, method, other schemes and malformed requests."""
    planted, rival = secrets.values()
    with httpx.Client(base_url=controller.client.base_url, timeout=30) as stranger:
        for header in (f"Basic {planted}", f"Bearer {planted}x", planted, f"Bearer {planted} {rival}"):
            assert stranger.get("/v1/network", headers={"Authorization": header}).status_code == 401
        assert stranger.get("/v1/network", params={"token": planted}).status_code == 401
        own = {"Authorization": f"Bearer {rival}"}
        assert stranger.get(f"/v1/reservations/plantedflow-{planted}", headers=own).status_code in (404, 422)
        assert stranger.get(f"/{planted}/plantedowner", headers=own).status_code == 404
        assert stranger.post("/v1/quotes", content=b'{"plantedflow', headers=own).status_code in (415, 422)
        assert stranger.request("PLANTED", "/v1/network", headers=own).status_code in (400, 405)
    for request in (f"{planted}\r\n\r\n", f"GET /v1/network HTTP/1.1\r\nAuthorization {planted}\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", controller.rest_port), timeout=30) as connection:
            connection.sendall(request.encode())
            assert connection.recv(65536).split()[1] == b"400"
