"""A controller that dies in the middle of a run: training goes on, says what is broken, and reserves again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes.rig import Controller, OpenVSwitch, needs_open_vswitch, wait_until
from tests.processes.training import Stage, stage

pytestmark = needs_open_vswitch

RUN = ("--rounds", "400", "--steps", "2", "--batch", "16", "--average-every", "5", "--seed", "5", "--lease", "3",
       "--controller-retries", "0")


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    running = Controller(tmp_path)
    ovs = OpenVSwitch(tmp_path)
    try:
        ovs.build(running.openflow_port)
        wait_until(running.in_step)
        yield running
    finally:
        ovs.stop()
        if running.process.poll() is None:
            running.stop()
        running.client.close()


def reservations(controller: Controller) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = controller.client.get("/v1/reservations?state=active").json()["reservations"]
    return found


def flows(controller: Controller) -> set[str]:
    return {flow["name"] for one in reservations(controller) for flow in one["flows"]}


def round_with(one: Stage, reserved: bool) -> None:
    one.wait_for("plan", lambda event: event["reserved"] is reserved)
    one.wait_for("round_done")


def test_a_run_outlives_its_controller_and_its_edges_bandwidth_goes_with_them(
    controller: Controller, tmp_path: Path
) -> None:
    url = str(controller.client.base_url).rstrip("/")
    with stage(tmp_path / "run", 2, ("--controller", url)) as one:
        one.start_cloud(*RUN)
        one.start_edges()
        round_with(one, reserved=True)
        assert flows(controller) == {"edge1-up", "edge1-down", "edge2-up", "edge2-down"}

        one.send("edge2", signal.SIGKILL)
        one.wait_for("lost")
        wait_until(lambda: flows(controller) == {"edge1-up", "edge1-down"})
        one.start_edge(2)
        one.wait_for("joined")
        round_with(one, reserved=True)
        assert len(flows(controller)) == 4

        controller.stop(signal.SIGKILL)
        one.wait_for("said", lambda event: "go on while the lease lasts" in event["sentence"])
        round_with(one, reserved=False)
        broken = one.events()[one.seen - 1]["promises"]
        assert broken["made"] > 0
        assert broken["kept"] == 0

        controller.start()
        wait_until(controller.in_step)
        one.wait_for("said", lambda event: "reserved again" in event["sentence"])
        round_with(one, reserved=True)
        one.send("cloud", signal.SIGINT)
        assert one.finish() == 130
        assert reservations(controller) == []
        assert one.summary()["controller"]["broken_rounds"] > 0
