"""Training in a real emulation, started like a user starts it, and its behaviour when reservations are refused."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from emulation.fault_injection import FaultInjector
from machine.polling import wait_until
from tests.forked_processes import FORK_SERVER
from tests.network.conftest import Network
from trainer.planning.plan import EdgePlan, Offer, RoundPlan
from trainer.processes.fork import ForkedProcess
from trainer.reservation.bandwidth import EdgeEndpoint
from trainer.reservation.controller_client import ControllerClient
from trainer.reservation.held_reservation import HeldReservation
from trainer.reservation.reserved_bandwidth import ReservedBandwidth

SHORT = ["--rounds", "2", "--steps", "2", "--average-every", "2"]


def paceline(*arguments: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainer.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


@dataclass(frozen=True)
class Trained:
    """Result of a finished `paceline train`."""

    returncode: int | None
    stdout: str
    stderr: str
    summary: dict[str, Any]


def train(directory: Path, *arguments: str) -> Trained:
    """Run a short training in a forked process with all imports done."""
    runs, out, errors = directory / "runs", directory / "out", directory / "errors"
    command = ("train", "--runs-dir", str(runs), *SHORT, *arguments)
    code = FORK_SERVER.start(out, command, errors=errors).wait(240)
    return Trained(code, out.read_text(), errors.read_text(), summary_of(runs))


def summary_of(runs: Path) -> dict[str, Any]:
    (directory,) = runs.iterdir()
    summary: dict[str, Any] = json.loads((directory / "summary.json").read_text())
    return summary


def reserved_bps(network: Network) -> int:
    return sum(link["reserved_bps"] for link in network.api.get("/v1/network").json()["links"])


@contextlib.contextmanager
def other_reservation(network: Network, rate_bps: int) -> Iterator[None]:
    """Reserve a flow of another owner from edge1 to the cloud within the block."""
    flow = network.uplink("edge1", rate_bps)
    flow["match"]["source_port"] = 9999
    reservation = network.api.post("/v1/reservations", json={"owner": "other", "lease_s": 300, "flows": [flow]}).json()
    try:
        yield
    finally:
        network.api.delete(f"/v1/reservations/{reservation['id']}").raise_for_status()


def test_a_reserved_run_uses_the_free_bandwidth_has_bounds_and_releases_everything(
    pair: Network, tmp_path: Path
) -> None:
    with other_reservation(pair, 65_000_000):
        done = paceline("train", "--runs-dir", str(tmp_path), *SHORT)
    summary = summary_of(tmp_path)
    assert done.returncode == 0, done.stderr
    assert (summary["status"], summary["map"]) == ("done", "pair")
    transfers = [transfer for row in summary["rounds"] for transfer in row["transfers"]]
    assert summary["promises"]["made"] == len(transfers) == 2 * 2 * 2 * 2
    assert [row["averaged"] for row in summary["rounds"]] == [False, True]
    assert 0 < summary["accuracy"]["final"] <= 1
    for row in summary["rounds"]:
        assert 0 < sum(edge["reserved_bps"] for edge in row["edges"]) <= 11_000_000
        assert all(edge["reserved_bps"] > 0 and edge["uplink_ms"]["bound"] > 0 for edge in row["edges"])
    assert reserved_bps(pair) == 0


def test_an_averaging_has_rates_of_its_own_in_proportion_to_its_bytes(pair: Network, tmp_path: Path) -> None:
    """With 11 Mb/s left: edge1 has two layers and large segments, edge2 nearly all layers and small segments."""
    with other_reservation(pair, 65_000_000):
        done = train(tmp_path, "--cuts", "2,12", "--average-every", "1")
    assert done.returncode == 0, done.stderr
    (directory,) = (tmp_path / "runs").iterdir()
    events = [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]
    assert not [event for event in events if event["event"] == "said"]
    for event in (event for event in events if event["event"] == "averaging"):
        rates = event["rates_bps"]
        assert sum(up_bps for up_bps, _ in rates.values()) <= 11_000_000
        assert rates["edge2"][0] > 2 * rates["edge1"][0]
        assert rates["edge2"][1] == rates["edge1"][1]
    for row, version in zip(done.summary["rounds"], (1, 3), strict=True):  # the averaging between them has version 2
        edge1, edge2 = row["edges"]
        assert edge1["reserved_bps"] > 2 * edge2["reserved_bps"]
        assert row["reservation"]["version"] == version
        assert row["averaging_ms"] > 0
    assert done.summary["promises"]["kept"] == done.summary["promises"]["made"] == 2 * 2 * 2 * 2
    assert reserved_bps(pair) == 0


def test_with_protected_labels_both_crossings_of_a_micro_batch_are_reserved(pair: Network, tmp_path: Path) -> None:
    done = train(tmp_path, "--protect-labels")
    assert done.returncode == 0, done.stderr
    assert done.summary["labels"]["protected"]
    assert done.summary["promises"]["made"] == 2 * 2 * 2 * 2
    for row in done.summary["rounds"]:
        for edge in row["edges"]:
            assert edge["reserved_bps"] > 0
            assert edge["reserved_down_bps"] > 0
            for transfer in (t for t in row["transfers"] if t["edge"] == edge["edge"]):
                assert transfer["bytes"] > edge["segment_bytes"] + edge[f"tail_{transfer['direction']}_bytes"]
    assert reserved_bps(pair) == 0


@pytest.mark.usefixtures("pair")
def test_a_best_effort_run_reserves_nothing_and_has_no_bounds(tmp_path: Path) -> None:
    done = train(tmp_path, "--best-effort")
    assert done.returncode == 0, done.stderr
    assert done.summary["promises"] == {"made": 0, "kept": 0}
    assert "no reservations" in done.stdout
    assert {edge["reserved_bps"] for row in done.summary["rounds"] for edge in row["edges"]} == {None}


def test_a_plan_preceded_by_another_reservation_is_adapted_and_the_adaptation_reported(pair: Network) -> None:
    other = pair.uplink("edge2", 40_000_000)
    other["match"]["source_port"] = 9999
    reservation_ids: list[str] = []

    def draft(offer: Offer, keep_cuts: bool = True) -> RoundPlan:  # noqa: ARG001
        if not reservation_ids:  # another reservation is made between the offer and the request
            body = {"owner": "other", "lease_s": 300, "flows": [other]}
            reservation_ids.append(pair.api.post("/v1/reservations", json=body).json()["id"])
        rate_bps = round(offer.usable_bps["s1->s2"])
        edge = EdgePlan("edge1", 3, rate_bps, 2_000_000, 0.1, 0.1, 0.1)
        return RoundPlan((edge,), 0.1, 0.1, 0.1, 0.1, 0.1, 0.4, 0.4, 1, 0.4)

    sentences: list[str] = []
    with contextlib.closing(ControllerClient("http://127.0.0.1:8080", 1, sentences.append)) as controller:
        bandwidth = ReservedBandwidth(
            HeldReservation(controller, "cloud", 60, sentences.append), [EdgeEndpoint("edge1", 7801)], 7800, 0.9, 1e6
        )
        grant = bandwidth.acquire(draft)
        assert 0 < grant.up["edge1"].rate_bps <= 36_000_000
        assert "s1->s2" in grant.adaptations[0]
        assert "The plan adapts" in sentences[0]
        bandwidth.release()
    pair.api.delete(f"/v1/reservations/{reservation_ids[0]}").raise_for_status()
    assert reserved_bps(pair) == 0


def test_a_full_network_is_reported_with_the_link(pair: Network, tmp_path: Path) -> None:
    with other_reservation(pair, 74_000_000):
        done = train(tmp_path)
    assert done.returncode in (3, 4)
    assert done.summary["status"] == "failed"
    assert "->" in done.summary["error"]
    assert "Mb/s" in done.stderr
    assert reserved_bps(pair) == 0


@pytest.mark.usefixtures("pair")
def test_a_controller_that_is_down_is_reported_and_best_effort_suggested(tmp_path: Path) -> None:
    nowhere = ["--controller", "http://127.0.0.1:9", "--controller-retries", "1"]
    done = train(tmp_path, *nowhere)
    assert done.returncode == 3
    assert done.summary["status"] == "failed"
    assert "http://127.0.0.1:9" in done.stderr
    assert "--best-effort" in done.stderr


def test_a_partition_is_told_at_once_with_the_link_that_is_down(pair: Network, tmp_path: Path) -> None:
    faults = FaultInjector(pair.topology, pair.note.ovs_directory)

    def is_up() -> bool:
        return all(link["up"] for link in pair.api.get("/v1/network").json()["links"])

    try:
        faults.set_link("s1", "s2", up=False)
        wait_until(lambda: not is_up())
        trained = train(tmp_path, "--ask-timeout", "3600")
    finally:
        faults.set_link("s1", "s2", up=True)
        wait_until(is_up)
    assert trained.returncode == 3
    assert "No path from edge1, edge2 to cloud: s1-s2 is down." in trained.stderr


def test_an_edge_that_never_joins_is_reported(pair: Network, tmp_path: Path) -> None:
    cloud = [
        sys.executable, "-m", "trainer.cli.main", "cloud", "--bind", f"{pair.topology.ip('cloud')}:7800",
        "--name", "cloud",
        "--edge", "edge1", "--edge", "edge2", "--ask-timeout", "1", "--controller", pair.note.controller_url,
        "--runs-dir", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(pair.command_in("cloud", cloud), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert "edge1" in done.stderr
    assert "edge2" in done.stderr
    assert reserved_bps(pair) == 0


def test_the_network_and_reservations_commands_show_the_current_state(pair: Network) -> None:
    url = ["--controller", "http://127.0.0.1:8080"]
    reservation = pair.reserve(edge1=5_000_000)
    listed = paceline("reservations", "list", *url)
    assert reservation["id"] in listed.stdout
    shown = paceline("reservations", "show", reservation["id"], *url)
    assert "edge1-up" in shown.stdout
    assert "s1->s2" in paceline("network", *url).stdout
    released = paceline("reservations", "release", reservation["id"], *url)
    assert released.returncode == 0, released.stderr
    assert reserved_bps(pair) == 0
    missing = paceline("reservations", "show", "r-00000000", *url)
    assert missing.returncode == 3
    assert "r-00000000" in missing.stderr


@contextlib.contextmanager
def running(network: Network, name: str, log: Path, *arguments: str) -> Iterator[ForkedProcess]:
    """Run a training process in one of the hosts within the block."""
    process = FORK_SERVER.start(log, arguments, host=network.note.host(name).pid)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def edge(network: Network, name: str, log: Path) -> contextlib.AbstractContextManager[ForkedProcess]:
    number = int(name.removeprefix("edge"))
    return running(
        network,
        name,
        log,
        "edge",
        "--name",
        name,
        "--cloud",
        f"{network.topology.ip('cloud')}:7800",
        "--index",
        str(number - 1),
        "--of",
        "2",
        "--source-port",
        str(7800 + number),
    )


def wait_for_event(run: Path, name: str, after: int, log: Path) -> int:
    """Wait for the next event of that name; return the index after it."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        lines = (run / "events.jsonl").read_text().splitlines() if (run / "events.jsonl").exists() else []
        for index in range(after, len(lines)):
            if f'"event": "{name}"' in lines[index]:
                return index + 1
        time.sleep(0.05)
    raise AssertionError(f"no event {name}: {log.read_text()}")


def test_a_killed_edges_bandwidth_is_released_and_edge_and_cloud_can_rejoin_on_their_ports(
    pair: Network, tmp_path: Path
) -> None:
    def flows() -> set[str]:
        live = pair.api.get("/v1/reservations?state=active").json()["reservations"]
        return {flow["name"] for reservation in live for flow in reservation["flows"]}

    run, log = tmp_path / "run", tmp_path / "log"
    bind = f"{pair.topology.ip('cloud')}:7800"
    recipe = ["--edge", "edge1", "--edge", "edge2", "--rounds", "500", "--steps", "2", "--average-every", "2",
              "--run-dir", str(run), "--controller", pair.note.controller_url]
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(running(pair, "cloud", log, "cloud", "--bind", bind, *recipe))
        stack.enter_context(edge(pair, "edge1", log))
        with edge(pair, "edge2", log):
            place = wait_for_event(run, "checkpoint", 2, log)
            place = wait_for_event(run, "plan", place, log)
        place = wait_for_event(run, "lost", place, log)
        place = wait_for_event(run, "round_done", place, log)
        assert flows() == {"edge1-up", "edge1-down"}
        stack.enter_context(edge(pair, "edge2", log))
        place = wait_for_event(run, "joined", place, log)
        place = wait_for_event(run, "round_done", place, log)
        assert flows() == {"edge1-up", "edge1-down", "edge2-up", "edge2-down"}
        cloud.send_signal(signal.SIGKILL)
        cloud.wait()
        again = stack.enter_context(running(pair, "cloud", log, "cloud", "--bind", bind, "--resume", str(run),
                                            "--controller", pair.note.controller_url))
        place = wait_for_event(run, "resumed", place, log)
        wait_for_event(run, "round_done", place, log)
        again.send_signal(signal.SIGINT)
        assert again.wait(60) == 130
    assert json.loads((run / "summary.json").read_text())["promises"]["made"] > 0
