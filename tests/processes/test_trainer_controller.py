"""Training with a real controller: plans fit what it offers; when it dies, training goes on, and reserves again."""

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
        one.wait_for("said", lambda event: "continue while the lease lasts" in event["sentence"])
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


SHARED = "s1->s2"
"""The link that all uplinks of the map share."""


def take(controller: Controller, name: str, port: int, rate_bps: int) -> str:
    """Somebody else reserves a part of it; the reservation's id."""
    flow = {"name": name, "source": "load1", "destination": "cloud",
            "match": {"protocol": "udp", "source_port": port, "destination_port": port},
            "requirement": {"min_bandwidth_bps": rate_bps}}
    answer = controller.client.post("/v1/reservations", json={"lease_s": 600, "flows": [flow]})
    assert answer.status_code == 201, answer.text
    taken: str = answer.json()["id"]
    return taken


def free_bps(controller: Controller) -> int:
    links = {link["link"]: link for link in controller.client.get("/v1/network").json()["links"]}
    free: int = links[SHARED]["free_bps"]
    return free


def test_what_others_have_reserved_is_planned_around_at_the_first_try(controller: Controller, tmp_path: Path) -> None:
    """Half of the shared link is taken before the run, half of the rest in its middle, and then given back."""
    whole_bps = free_bps(controller)
    take(controller, "before", 5001, whole_bps // 2)
    url = str(controller.client.base_url).rstrip("/")
    foretold = subprocess.run(
        [sys.executable, "-m", "trainer.cli.main", "plan", "--map", "pair", "--prior", "--controller", url],
        capture_output=True, text=True, timeout=120, check=True).stdout
    assert re.search(rf"[246] quotes in [\d.]+ ms; .* ms up \({SHARED}\)", foretold), foretold
    with stage(tmp_path / "run", 2, ("--controller", url)) as one:
        one.start_cloud("--rounds", "400", "--steps", "1", "--batch", "16", "--seed", "5", "--share", "0.75",
                        "--cuts", "2,2")
        one.start_edges()
        first = one.wait_for("plan")
        assert sum(first["rates_bps"].values()) == pytest.approx(0.75 * whole_bps / 2, rel=0.01)
        one.wait_for("round_done")

        middle = take(controller, "in the middle", 5002, whole_bps // 8)
        smaller = 0.75 * 3 * whole_bps / 8
        one.wait_for("plan", lambda plan: sum(plan["rates_bps"].values()) == pytest.approx(smaller, rel=0.01))
        controller.client.delete(f"/v1/reservations/{middle}")
        one.wait_for("plan", lambda plan: plan["rates_bps"] == first["rates_bps"])
        one.wait_for("round_done")
        one.send("cloud", signal.SIGINT)
        assert one.finish() == 130
        plans = [event for event in one.events() if event["event"] == "plan"]
        assert all(plan["reserved"] and plan["adaptations"] == [] for plan in plans)
        assert not [event for event in one.events() if event["event"] == "said"]
        rows = one.summary()["rounds"]
        assert {row["offer"]["bottleneck"]["up"] for row in rows} == {SHARED}
        assert [row["offer"]["quotes"] for row in rows] == [2] * len(rows)
        assert all(row["offer"]["quote_ms"] > 0 for row in rows)
