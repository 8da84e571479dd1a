"""kill -9 at every fail point of a request: ledger, calendar and switches then agree, and the request can be repeated.

Real controller processes on real Open vSwitch; each kills itself at a fail point (controller.failpoints).
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller.failpoints import FailPoint
from machine.polling import wait_until
from tests.forked_processes import CONTROLLER_FORK_SERVER
from tests.processes.rig import MAP, Controller, OpenVSwitch, flow, needs_open_vswitch
from trainer.processes.fork import ForkedProcess

pytestmark = needs_open_vswitch

RATE_BPS, NEW_RATE_BPS = 15_000_000, 20_000_000


class CrashingController(Controller):
    """A controller that kills itself at the fail point named in a file."""

    def __init__(self, directory: Path, ledger: str | None = None) -> None:
        self.fail_point_file = directory / "die-at"
        self.fail_point_file.write_text("")
        super().__init__(directory, ledger=ledger)

    def spawn(self) -> ForkedProcess:
        return CONTROLLER_FORK_SERVER.start(
            self.output, (str(self.fail_point_file), *self.arguments), "dying controller", errors=self.log
        )

    def request(self, method: str, path: str, **more: Any) -> httpx.Response | None:
        """The response, or None if the controller died before it."""
        try:
            return self.client.request(method, path, **more)
        except httpx.TransportError:
            return None

    def kill_at(self, point: FailPoint, method: str, path: str, **more: Any) -> None:
        """Send a request that kills the controller at a fail point, and restart the controller."""
        self.fail_point_file.write_text(point)
        assert self.request(method, path, **more) is None, f"fail point {point} was not reached"
        assert self.process.wait(60) == -9
        self.start()
        wait_until(self.in_sync)

    def post(self, key: str, **more: Any) -> httpx.Response:
        response = self.request("POST", "/v1/reservations", **idempotent_request(key, **more))
        assert response is not None
        return response

    def live(self) -> list[dict[str, Any]]:
        found = self.client.get("/v1/reservations").json()["reservations"]
        return [
            reservation for reservation in found if reservation["state"] in ("held", "scheduled", "active", "degraded")
        ]


def idempotent_request(key: str, **more: Any) -> dict[str, Any]:
    return {"json": {"flows": [flow(RATE_BPS)], **more}, "headers": {"Idempotency-Key": key}}


@pytest.fixture(scope="module")
def kind() -> type[Controller]:
    return CrashingController


def assert_consistent(ovs: OpenVSwitch, controller: CrashingController) -> None:
    """Switches and calendar hold the live reservations and no others."""
    assert controller.client.get("/v1/consistency").json()["consistent"]
    live = controller.live()
    installed = [reservation for reservation in live if reservation["state"] == "active"]
    for node in MAP.switches:
        numbers = {line.split("cookie=0x9ace")[1][:8] for line in ovs.flows(node.name) if "cookie=0x9ace" in line}
        assert numbers - {"00000000"} == {reservation["id"][2:] for reservation in installed}
    links = controller.client.get("/v1/network").json()["links"]
    reserved_bps = next(link["reserved_bps"] for link in links if link["link"] == "s1->s2")
    assert reserved_bps == sum(placed["reserved_bps"] for reservation in live for placed in reservation["flows"])
    rates = [rate for meter, (rate, _) in ovs.meters("s1").items() if meter >= 110_000]
    assert rates == [placed["reserved_bps"] // 1000 for reservation in installed for placed in reservation["flows"]]


RESERVING = [FailPoint.DECIDED, FailPoint.LAID, FailPoint.OPENED, FailPoint.RECORDING, FailPoint.RECORDED]


@pytest.mark.parametrize("point", RESERVING)
def test_a_reservation_is_made_once_wherever_the_controller_crashes(
    ovs: OpenVSwitch, controller: CrashingController, point: FailPoint
) -> None:
    controller.kill_at(point, "POST", "/v1/reservations", **idempotent_request(f"reserve at {point}"))
    assert_consistent(ovs, controller)
    reservations = controller.live()
    assert len(reservations) == (1 if point is FailPoint.RECORDED else 0)
    again = controller.post(f"reserve at {point}")
    assert again.status_code == 201, again.text
    assert again.headers.get("Idempotency-Replayed") == ("true" if reservations else None)
    assert [reservation["id"] for reservation in controller.live()] == [again.json()["id"]]
    assert_consistent(ovs, controller)


@pytest.mark.parametrize("point", [FailPoint.LAID, FailPoint.RECORDING, FailPoint.RECORDED])
def test_a_held_reservation_is_held_or_active_wherever_the_controller_crashes_during_its_commit(
    ovs: OpenVSwitch, controller: CrashingController, point: FailPoint
) -> None:
    identity = controller.post(f"hold at {point}", hold=True).json()["id"]
    controller.kill_at(point, "POST", f"/v1/reservations/{identity}/commit")
    assert_consistent(ovs, controller)
    (found,) = controller.live()
    assert (found["id"], found["state"]) == (identity, "active" if point is FailPoint.RECORDED else "held")
    if found["state"] == "held":
        assert controller.client.post(f"/v1/reservations/{identity}/commit").json()["state"] == "active"
    assert_consistent(ovs, controller)


@pytest.mark.parametrize(
    "point",
    [FailPoint.DECIDED, FailPoint.LAID, FailPoint.OPENED, FailPoint.CLEARED, FailPoint.RECORDING, FailPoint.RECORDED],
)
def test_a_change_is_atomic_wherever_the_controller_crashes(
    ovs: OpenVSwitch, controller: CrashingController, point: FailPoint
) -> None:
    identity = controller.post(f"change at {point}").json()["id"]
    # A change of the rate alone changes meters; entries that can be cleared are those of a former port.
    change = {"json": {"flows": [flow(NEW_RATE_BPS, source_port=7802 if point is FailPoint.CLEARED else 7801)]}}
    controller.kill_at(point, "PATCH", f"/v1/reservations/{identity}", **change)
    assert_consistent(ovs, controller)
    (found,) = controller.live()
    rate_bps = found["flows"][0]["reserved_bps"]
    assert (found["id"], rate_bps) == (identity, NEW_RATE_BPS if point is FailPoint.RECORDED else RATE_BPS)
    again = controller.request("PATCH", f"/v1/reservations/{identity}", **change)
    assert again is not None and again.json()["flows"][0]["reserved_bps"] == NEW_RATE_BPS
    assert_consistent(ovs, controller)


@pytest.mark.parametrize("point", [FailPoint.RECORDING, FailPoint.RECORDED, FailPoint.CLOSED, FailPoint.CLEARED])
def test_a_release_is_atomic_wherever_the_controller_crashes(
    ovs: OpenVSwitch, controller: CrashingController, point: FailPoint
) -> None:
    identity = controller.post(f"release at {point}").json()["id"]
    controller.kill_at(point, "DELETE", f"/v1/reservations/{identity}")
    assert_consistent(ovs, controller)
    assert len(controller.live()) == (1 if point is FailPoint.RECORDING else 0)
    assert controller.client.delete(f"/v1/reservations/{identity}").json()["state"] == "released"
    assert_consistent(ovs, controller)


def test_a_restart_leaves_the_meters_of_switches_and_the_bounds_told_as_they_are(
    ovs: OpenVSwitch, controller: CrashingController
) -> None:
    """Meters have room that depends on what was live before: without it they would be smaller, or larger."""
    names = []
    for source_port in (7801, 7802, 7803):
        requested: dict[str, Any] = {"flows": [flow(5_000_000, source_port=source_port)], "lease_s": 600}
        requested["flows"][0]["requirement"]["bound_slack"] = 2.0
        answer = controller.client.post("/v1/reservations", json=requested)
        assert answer.status_code == 201, answer.text
        names.append(answer.json()["id"])
    controller.client.delete(f"/v1/reservations/{names.pop(1)}")
    meters = ovs.meters("s1")
    before = [controller.client.get(f"/v1/reservations/{name}").json() for name in names]
    controller.stop(signal.SIGKILL)
    controller.start()
    wait_until(controller.in_sync)
    assert ovs.meters("s1") == meters
    after = [controller.client.get(f"/v1/reservations/{name}").json() for name in names]
    for name in names:
        controller.client.delete(f"/v1/reservations/{name}")
    assert [each["flows"] for each in after] == [each["flows"] for each in before]
