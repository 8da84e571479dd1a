"""Training with a real controller: plans fit its offers; training survives a controller crash and reserves again."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from machine.polling import wait_until
from tests.processes.rig import Controller, OpenVSwitch, needs_open_vswitch
from tests.processes.training import TrainingProcesses, training_processes

pytestmark = needs_open_vswitch

RUN = ("--rounds", "400", "--steps", "2", "--batch", "16", "--average-every", "5", "--seed", "5", "--lease", "3",
       "--controller-retries", "0")


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    running = Controller(tmp_path)
    ovs = OpenVSwitch(tmp_path)
    try:
        ovs.build(running.openflow_port)
        wait_until(running.in_sync)
        yield running
    finally:
        ovs.stop()
        if running.process.poll() is None:
            running.stop()
        running.client.close()


def reservations(controller: Controller) -> list[dict[str, Any]]:
    active: list[dict[str, Any]] = controller.client.get("/v1/reservations?state=active").json()["reservations"]
    return active


def flows(controller: Controller) -> set[str]:
    return {flow["name"] for reservation in reservations(controller) for flow in reservation["flows"]}


def wait_for_round(training: TrainingProcesses, reserved: bool) -> None:
    training.wait_for("plan", lambda event: event["reserved"] is reserved)
    training.wait_for("round_done")


def test_a_run_survives_its_controller_and_a_lost_edges_bandwidth_is_released(
    controller: Controller, tmp_path: Path
) -> None:
    url = str(controller.client.base_url).rstrip("/")
    with training_processes(tmp_path / "run", 2, ("--controller", url)) as training:
        training.start_cloud(*RUN)
        training.start_edges()
        wait_for_round(training, reserved=True)
        assert flows(controller) == {"edge1-up", "edge1-down", "edge2-up", "edge2-down"}

        training.send("edge2", signal.SIGKILL)
        training.wait_for("lost")
        wait_until(lambda: flows(controller) == {"edge1-up", "edge1-down"})
        training.start_edge(2)
        training.wait_for("joined")
        wait_for_round(training, reserved=True)
        assert len(flows(controller)) == 4

        controller.stop(signal.SIGKILL)
        training.wait_for("said", lambda event: "continue while the lease lasts" in event["sentence"])
        wait_for_round(training, reserved=False)
        broken = training.events()[training.events_read - 1]["promises"]
        assert broken["made"] > 0
        assert broken["kept"] == 0

        controller.start()
        wait_until(controller.in_sync)
        training.wait_for("said", lambda event: "reserved again" in event["sentence"])
        wait_for_round(training, reserved=True)
        training.send("cloud", signal.SIGINT)
        assert training.finish() == 130
        assert reservations(controller) == []
        assert training.summary()["controller"]["broken_rounds"] > 0


SHARED = "s1->s2"
"""The link that all uplinks of the map share."""


def reserve_for_other(controller: Controller, name: str, port: int, rate_bps: int) -> str:
    """Reserve bandwidth on the shared link for another owner; return the reservation's id."""
    flow = {"name": name, "source": "load1", "destination": "cloud",
            "match": {"protocol": "udp", "source_port": port, "destination_port": port},
            "requirement": {"min_bandwidth_bps": rate_bps}}
    response = controller.client.post("/v1/reservations", json={"lease_s": 600, "flows": [flow]})
    assert response.status_code == 201, response.text
    reservation_id: str = response.json()["id"]
    return reservation_id


def free_bps(controller: Controller) -> int:
    links = {link["link"]: link for link in controller.client.get("/v1/network").json()["links"]}
    free: int = links[SHARED]["free_bps"]
    return free


def test_reservations_of_others_are_considered_by_the_first_plan(controller: Controller, tmp_path: Path) -> None:
    """Half of the shared link is reserved before the run; half of the rest is reserved and released during the run."""
    whole_bps = free_bps(controller)
    reserve_for_other(controller, "before", 5001, whole_bps // 2)
    url = str(controller.client.base_url).rstrip("/")
    predicted = subprocess.run(
        [sys.executable, "-m", "trainer.cli.main", "plan", "--map", "pair", "--prior", "--controller", url],
        capture_output=True, text=True, timeout=120, check=True).stdout
    assert re.search(rf"[246] quotes in [\d.]+ ms; .* ms up \({SHARED}\)", predicted), predicted
    with training_processes(tmp_path / "run", 2, ("--controller", url)) as training:
        training.start_cloud("--rounds", "400", "--steps", "1", "--batch", "16", "--seed", "5", "--share", "0.75",
                        "--cuts", "2,2")
        training.start_edges()
        first = training.wait_for("plan")
        assert sum(first["rates_bps"].values()) == pytest.approx(0.75 * whole_bps / 2, rel=0.01)
        training.wait_for("round_done")

        middle = reserve_for_other(controller, "in the middle", 5002, whole_bps // 8)
        smaller = 0.75 * 3 * whole_bps / 8
        training.wait_for("plan", lambda plan: sum(plan["rates_bps"].values()) == pytest.approx(smaller, rel=0.01))
        controller.client.delete(f"/v1/reservations/{middle}")
        training.wait_for("plan", lambda plan: plan["rates_bps"] == first["rates_bps"])
        training.wait_for("round_done")
        training.send("cloud", signal.SIGINT)
        assert training.finish() == 130
        plans = [event for event in training.events() if event["event"] == "plan"]
        assert all(plan["reserved"] and plan["adaptations"] == [] for plan in plans)
        assert not [event for event in training.events() if event["event"] == "said"]
        rows = training.summary()["rounds"]
        assert {row["offer"]["bottleneck"]["up"] for row in rows} == {SHARED}
        assert [row["offer"]["quotes"] for row in rows] == [2] * len(rows)
        assert all(row["offer"]["quote_ms"] > 0 for row in rows)


def test_a_partition_is_told_at_once_and_names_the_link_that_is_down(controller: Controller, tmp_path: Path) -> None:
    url = str(controller.client.base_url).rstrip("/")
    controller.client.post("/v1/links/s1-s2/down").raise_for_status()
    with training_processes(tmp_path / "run", 2, ("--controller", url)) as training:
        training.start_cloud("--ask-timeout", "3600")
        assert training.finish() == 3
        log = training.logs()
    assert "No path from edge1, edge2 to cloud: s1-s2 is down. 0 of 2 edges can join, 2 are required." in log
