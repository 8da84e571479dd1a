"""Told bounds on real switches: promised ones are kept, also over a restart; growth of others is told."""

from __future__ import annotations

import json
from typing import Any

from machine.polling import wait_until
from tests.processes.rig import Controller, OpenVSwitch, needs_open_vswitch

pytestmark = needs_open_vswitch


def udp(name: str, source: str, port: int, burst_bytes: int, **extra: float) -> dict[str, Any]:
    match = {"protocol": "udp", "source_port": port, "destination_port": 7800}
    requirement = {"min_bandwidth_bps": 5_000_000, "burst_bytes": burst_bytes, **extra}
    return {"name": name, "source": source, "destination": "cloud", "match": match, "requirement": requirement}


def post(controller: Controller, *flows: dict[str, Any]) -> dict[str, Any]:
    answer = controller.client.post("/v1/reservations", json={"lease_s": 300, "flows": list(flows)})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def get(controller: Controller, identity: str) -> dict[str, Any]:
    body: dict[str, Any] = controller.client.get(f"/v1/reservations/{identity}").json()
    return {name: value for name, value in body.items() if name != "counters"}


def events(controller: Controller, kind: str, count: int) -> list[dict[str, Any]]:
    """The first `count` events of this kind since the start of the controller."""
    found: list[dict[str, Any]] = []
    with controller.client.stream("GET", "/v1/events", headers={"Last-Event-ID": "0-0"}) as stream:
        current = ""
        for line in stream.iter_lines():
            current = line.removeprefix("event: ") if line.startswith("event: ") else current
            if line.startswith("data: ") and current == kind:
                found.append(json.loads(line.removeprefix("data: ")))
                if len(found) == count:
                    break
    return found


def test_a_promise_is_kept_against_requests_and_changes_of_others_and_over_a_restart(controller: Controller) -> None:
    first = post(controller, udp("a", "edge1", 9001, 40_000, bound_slack=0.25))
    small = post(controller, udp("small", "load1", 9002, 1000))

    def refused(answer: Any) -> None:
        body = answer.json()
        assert (answer.status_code, body["code"], body["reservation"]) == (409, "latency_not_met", first["id"])
        assert "as promised" in body["detail"]

    def both_are_refused() -> None:
        big = {"flows": [udp("big", "edge2", 9003, 400_000)]}
        refused(controller.client.post("/v1/reservations", json=big))
        grown = {"flows": [udp("small", "load1", 9002, 400_000)]}
        refused(controller.client.patch(f"/v1/reservations/{small['id']}", json=grown))

    both_are_refused()
    before = [get(controller, each["id"]) for each in (first, small)]
    controller.stop()
    controller.start()
    wait_until(controller.in_sync)
    assert [get(controller, each["id"]) for each in (first, small)] == before
    both_are_refused()
    for each in (first, small):
        controller.client.delete(f"/v1/reservations/{each['id']}")


def test_a_bound_without_a_promise_grows_with_an_event_and_a_version_and_switches_are_not_touched(
    ovs: OpenVSwitch, controller: Controller
) -> None:
    first = post(controller, udp("a", "edge1", 9001, 40_000))
    entries = [line for line in ovs.flows("s1") if f"cookie=0x9ace{first['id'][2:]}" in line]
    post(controller, udp("big", "load1", 9002, 400_000))
    (change,) = [each for each in events(controller, "bounds", 1) if each["id"] == first["id"]]
    told = get(controller, first["id"])
    (flow,), (before,), (after,) = change["flows"], first["flows"], told["flows"]
    assert (change["version"], change["cause"]) == (2, "other_reservations")
    assert (told["version"], told["state"]) == (2, "active")
    for bounds, placed in ((flow["before"], before), (flow["after"], after)):
        assert bounds == {name: placed[name] for name in bounds}
    assert after["accumulated_latency_us"] > 2 * before["accumulated_latency_us"]
    assert [line for line in ovs.flows("s1") if f"cookie=0x9ace{first['id'][2:]}" in line] == entries != []
    assert controller.client.get("/v1/consistency").json()["consistent"]
