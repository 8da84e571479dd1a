"""The cloud on a Ray cluster whose three nodes are three hosts of an emulation: Ray's own traffic is on the management
network, segments go over reserved flows to the node that computes them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from machine.polling import wait_until
from tests.forked_processes import FORK_SERVER
from tests.network.conftest import EmulationCache, Network
from tests.network.test_training import paceline, summary_of, train
from trainer.processes.fork import ForkedProcess
from trainer.reservation.controller_client import ControllerClient
from trainer.reservation.partition_check import PartitionCheck

CLOUDS = "cloud", "cloud2", "cloud3"
PORT = 6379
STORE_BYTES = 80 * 2**20
"""The least that Ray accepts."""
NO_TOKENS = {"RAY_AUTH_MODE": "disabled"}
"""A head asks for a token where an earlier `ray.init()` has left one, and nodes do not send it by themselves."""

MAP = """\
name: clouds
description: Three sites with an edge and a node of the cloud each; between the sites is little room.
scale_mbps_per_gbps: 0.8
mtu_bytes: 9000
nodes:
  - {name: s1, kind: switch, position_km: [0, 0]}
  - {name: s2, kind: switch, position_km: [20, 0]}
  - {name: s3, kind: switch, position_km: [10, 20]}
  - {name: cloud, kind: cloud, position_km: [0, 2]}
  - {name: cloud2, kind: cloud, position_km: [20, 2]}
  - {name: cloud3, kind: cloud, position_km: [10, 22]}
  - {name: edge1, kind: edge, position_km: [-2, 0], cpu_share: 0.4}
  - {name: edge2, kind: edge, position_km: [22, 0], cpu_share: 0.4}
  - {name: edge3, kind: edge, position_km: [12, 20], cpu_share: 0.4}
links:
  - {ends: [s1, s2], length_km: 20, channel_rate_gbps: 20}
  - {ends: [s2, s3], length_km: 22, channel_rate_gbps: 20}
  - {ends: [s3, s1], length_km: 22, channel_rate_gbps: 20}
  - {ends: [cloud, s1], length_km: 2, channel_rate_gbps: 100}
  - {ends: [cloud2, s2], length_km: 2, channel_rate_gbps: 100}
  - {ends: [cloud3, s3], length_km: 2, channel_rate_gbps: 100}
  - {ends: [edge1, s1], length_km: 2, channel_rate_gbps: 100}
  - {ends: [edge2, s2], length_km: 2, channel_rate_gbps: 100}
  - {ends: [edge3, s3], length_km: 2, channel_rate_gbps: 100}
"""


@pytest.fixture
def clouds(emulation_cache: EmulationCache, tmp_path: Path) -> Iterator[Network]:
    """A running emulation of MAP."""
    path = tmp_path / "clouds.yaml"
    path.write_text(MAP)
    yield emulation_cache.bring_up(tmp_path / "start.log", str(path))
    emulation_cache.end()


@contextlib.contextmanager
def ray_nodes(network: Network, logs: Path) -> Iterator[str]:
    """Have every host of the cloud be a node of a Ray cluster within the block; its address, where the loop runs."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:
        Path(directory, "ray").mkdir()
        head = f"{network.note.host(CLOUDS[0]).management_ip}:{PORT}"
        with contextlib.ExitStack() as running:
            for name in CLOUDS:
                where = [f"--address={head}"]
                if name == CLOUDS[0]:
                    where = ["--head", f"--port={PORT}", "--include-dashboard=false"]
                command = network.command_in(name, [
                    sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *where,
                    f"--node-ip-address={network.note.host(name).management_ip}", "--num-cpus=1",
                    f"--object-store-memory={STORE_BYTES}"])
                start_node(command, logs / f"ray-{name}.log", directory, running)
            yield head
        wait_until(lambda: not processes_of(directory), 30)


def start_node(command: list[str], log: Path, directory: str, running: contextlib.ExitStack) -> None:
    """Start a node; again where the machine is so loaded that Ray's own limit of 30 s for its start passes."""
    for _ in range(3):
        with log.open("wb") as output:
            node = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                    env=os.environ | NO_TOKENS | {"RAY_TMPDIR": directory}, start_new_session=True)
        running.callback(end_node, node)
        wait_until(partial(_has_started_or_ended, node, log))
        if node.poll() is None or "timed out during startup" not in log.read_text():
            break
    assert node.poll() is None, log.read_text()


def _has_started_or_ended(node: subprocess.Popen[bytes], log: Path) -> bool:
    return node.poll() is not None or "Ray runtime started" in log.read_text()


def end_node(node: subprocess.Popen[bytes]) -> None:
    """End a node with all its processes."""
    node.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        node.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    node.wait()


def processes_of(directory: str) -> list[str]:
    """Return the command lines of all processes that were started with this directory of Ray."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"RAY_TMPDIR={directory}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def flows_of(api: httpx.Client, reservation: str) -> dict[str, list[Any]]:
    """Return the paths of a reservation's flows."""
    return {flow["name"]: flow["path"] for flow in api.get(f"/v1/reservations/{reservation}").json()["flows"]}


def test_the_bandwidth_of_a_lost_worker_follows_its_edge_to_another_node(clouds: Network, tmp_path: Path) -> None:
    """The worker on cloud3 is killed with -9: its edge goes on with a node that is left, to which its flows move."""
    with ray_nodes(clouds, tmp_path) as address:
        runs = tmp_path / "runs"
        command = ("train", "--runs-dir", str(runs), "--rounds", "6", "--steps", "2", "--average-every", "1", "--ray",
                   address, "--ray-workers", "3", "--cuts", "2,2,2", "--quorum", "2")
        running = FORK_SERVER.start(tmp_path / "out", command, errors=tmp_path / "errors")
        lost = ""
        for event in events_of(runs, running):
            said = re.search(r"process (\d+) on .* \(cloud3\)\.", event.get("sentence", ""))
            if said is not None:
                lost = said[1]
            if event["event"] == "round_done" and event["round"] == 2:
                os.kill(int(lost), signal.SIGKILL)
        assert running.wait(240) == 0, (tmp_path / "errors").read_text()
    summary = summary_of(runs)
    first, last = summary["rounds"][0], summary["rounds"][-1]
    served = {edge["edge"]: edge["node"] for edge in first["edges"]}
    assert served == dict(zip(("edge1", "edge2", "edge3"), CLOUDS, strict=True))
    moved = {edge["edge"]: edge["node"] for edge in last["edges"]}
    assert moved.keys() == served.keys() and moved["edge3"] in CLOUDS[:2]
    assert {edge: moved[edge] for edge in ("edge1", "edge2")} == {edge: served[edge] for edge in ("edge1", "edge2")}
    paths = flows_of(clouds.api, last["reservation"]["id"])
    assert {name.removesuffix("-up"): path[-1] for name, path in paths.items() if name.endswith("-up")} == moved
    assert {name.removesuffix("-down"): path[0] for name, path in paths.items() if name.endswith("-down")} == moved
    assert not any("cloud3" in path for path in paths.values())
    assert sum(link["reserved_bps"] for link in clouds.api.get("/v1/network").json()["links"]) == 0


def test_an_edge_is_cut_off_from_the_node_that_serves_it_only(clouds: Network) -> None:
    """s3 with edge3 and cloud3 is cut off from the rest: edge3 reaches cloud3, but cannot join at cloud."""
    said: list[str] = []
    with contextlib.closing(ControllerClient(str(clouds.api.base_url), 0, said.append)) as client:
        check = PartitionCheck(client, "cloud", said.append)
        assert check({"edge1": ["cloud"], "edge2": ["cloud2", "cloud3"]}) == {}
        cut = "s2-s3", "s3-s1"
        try:
            for span in cut:
                clouds.api.post(f"/v1/links/{span}/down").raise_for_status()
            assert check({"edge1": ["cloud3", "cloud2"], "edge2": ["cloud3"], "edge3": ["cloud3"]}) == {
                "edge2": "No path from edge2 to cloud3: s1-s3, s2-s3 are down.",
                "edge3": "No path from edge3 to cloud: s1-s3, s2-s3 are down."}
        finally:
            for span in cut:
                clouds.api.post(f"/v1/links/{span}/up").raise_for_status()


def test_a_plan_with_quotes_says_to_which_node_each_edge_goes(clouds: Network, tmp_path: Path) -> None:
    """Each to the near one: there is little room between the sites. Nothing is reserved."""
    command = ("plan", "--map", str(tmp_path / "clouds.yaml"), "--controller", str(clouds.api.base_url), "--prior",
               "--cuts", "2,2,2")
    done = paceline(*command)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"(edge\d)  to (\w+)  CPU 0.4  cut  2 ", done.stdout) == [
        ("edge1", "cloud"), ("edge2", "cloud2"), ("edge3", "cloud3")]
    assert "quotes in" in done.stdout
    assert clouds.api.get("/v1/reservations?state=active").json()["reservations"] == []


def events_of(runs: Path, process: ForkedProcess) -> Iterator[dict[str, Any]]:
    """Yield the events of the one run as they come, until its process has ended."""
    read, has_ended = 0, False
    while not has_ended:
        has_ended = process.poll() is not None
        for path in runs.glob("*/events.jsonl"):
            lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
            yield from map(json.loads, lines[read:])
            read = len(lines)
        time.sleep(0.05)


def test_three_nodes_train_over_flows_that_are_reserved_to_each(clouds: Network, tmp_path: Path) -> None:
    with ray_nodes(clouds, tmp_path) as address:
        done = train(tmp_path, "--ray", address, "--ray-workers", "3", "--cuts", "2,2,2")
    assert done.returncode == 0, done.stderr + "".join(log.read_text() for log in tmp_path.glob("ray-*.log"))
    (directory,) = (tmp_path / "runs").iterdir()
    events = [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]
    sentences = [event["sentence"] for event in events if event["event"] == "said"]
    found = [re.search(r"listens on ([\d.]+):\d+ \((\w+)\)\.", sentence) for sentence in sentences]
    listening = {match[2]: match[1] for match in found if match is not None}
    assert listening == {name: clouds.topology.ip(name) for name in CLOUDS}
    summary = summary_of(tmp_path / "runs")
    assert summary["promises"]["made"] == 2 * 2 * 3 * 2
    for row in summary["rounds"]:
        assert {edge["edge"]: edge["node"] for edge in row["edges"]} == dict(zip(
            ("edge1", "edge2", "edge3"), CLOUDS, strict=True))
        assert len({edge["worker"] for edge in row["edges"]}) == 3
        paths = flows_of(clouds.api, row["reservation"]["id"])
        for number, name in enumerate(CLOUDS, 1):
            assert paths[f"edge{number}-up"] == [f"edge{number}", f"s{number}", name]
            assert paths[f"edge{number}-down"] == [name, f"s{number}", f"edge{number}"]
    assert sum(link["reserved_bps"] for link in clouds.api.get("/v1/network").json()["links"]) == 0
