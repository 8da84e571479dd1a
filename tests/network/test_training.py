"""Training in a real emulation, as a user starts it, and what it does when the network says no."""

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
    """A `paceline train` that has ended."""

    returncode: int | None
    stdout: str
    stderr: str
    summary: dict[str, Any]


def train(directory: Path, *arguments: str) -> Trained:
    """A short training, by a process that has all imported already."""
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
def somebody_else(network: Network, rate_bps: int) -> Iterator[None]:
    """Another owner's flow from edge1 to the cloud, as long as the block lasts."""
    flow = network.uplink("edge1", rate_bps)
    flow["match"]["source_port"] = 9999
    taken = network.api.post("/v1/reservations", json={"owner": "other", "lease_s": 300, "flows": [flow]}).json()
    try:
        yield
    finally:
        network.api.delete(f"/v1/reservations/{taken['id']}").raise_for_status()


def test_a_reserved_run_takes_what_others_leave_free_makes_promises_and_gives_everything_back(
    pair: Network, tmp_path: Path
) -> None:
    with somebody_else(pair, 65_000_000):
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
    with somebody_else(pair, 65_000_000):
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
    for row, version in zip(done.summary["rounds"], (1, 3), strict=True):  # the averaging between them has the second
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
            for transfer in (one for one in row["transfers"] if one["edge"] == edge["edge"]):
                assert transfer["bytes"] > edge["segment_bytes"] + edge[f"tail_{transfer['direction']}_bytes"]
    assert reserved_bps(pair) == 0


@pytest.mark.usefixtures("pair")
def test_best_effort_reserves_nothing_and_promises_nothing(tmp_path: Path) -> None:
    done = train(tmp_path, "--best-effort")
    assert done.returncode == 0, done.stderr
    assert done.summary["promises"] == {"made": 0, "kept": 0}
    assert "no reservations" in done.stdout
    assert {edge["reserved_bps"] for row in done.summary["rounds"] for edge in row["edges"]} == {None}


def test_a_plan_that_is_overtaken_by_another_reservation_adapts_and_says_so(pair: Network) -> None:
    other = pair.uplink("edge2", 40_000_000)
    other["match"]["source_port"] = 9999
    taken: list[str] = []

    def draft(offer: Offer, keep_cuts: bool = True) -> RoundPlan:  # noqa: ARG001
        if not taken:  # somebody is quicker, between the offer and the request
            body = {"owner": "other", "lease_s": 300, "flows": [other]}
            taken.append(pair.api.post("/v1/reservations", json=body).json()["id"])
        rate_bps = round(offer.usable_bps["s1->s2"])
        edge = EdgePlan("edge1", 3, rate_bps, 2_000_000, 0.1, 0.1, 0.1)
        return RoundPlan((edge,), 0.1, 0.1, 0.1, 0.1, 0.1, 0.4, 0.4, 1, 0.4)

    said: list[str] = []
    with contextlib.closing(ControllerClient("http://127.0.0.1:8080", 1, said.append)) as controller:
        road = ReservedBandwidth(
            HeldReservation(controller, "cloud", 60, said.append), [EdgeEndpoint("edge1", 7801)], 7800, 0.9, 1e6
        )
        grant = road.acquire(draft)
        assert 0 < grant.up["edge1"].rate_bps <= 36_000_000
        assert "s1->s2" in grant.adaptations[0]
        assert "The plan adapts" in said[0]
        road.release()
    pair.api.delete(f"/v1/reservations/{taken[0]}").raise_for_status()
    assert reserved_bps(pair) == 0


def test_a_network_that_is_full_is_said_with_the_link(pair: Network, tmp_path: Path) -> None:
    with somebody_else(pair, 74_000_000):
        done = train(tmp_path)
    assert done.returncode in (3, 4)
    assert done.summary["status"] == "failed"
    assert "->" in done.summary["error"]
    assert "Mb/s" in done.stderr
    assert reserved_bps(pair) == 0


@pytest.mark.usefixtures("pair")
def test_a_controller_that_is_down_is_said_and_best_effort_is_offered(tmp_path: Path) -> None:
    nowhere = ["--controller", "http://127.0.0.1:9", "--controller-retries", "1"]
    done = train(tmp_path, *nowhere)
    assert done.returncode == 3
    assert done.summary["status"] == "failed"
    assert "http://127.0.0.1:9" in done.stderr
    assert "--best-effort" in done.stderr


def test_an_edge_that_never_asks_is_named(pair: Network, tmp_path: Path) -> None:
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


def test_the_network_and_reservations_commands_show_what_is_there(pair: Network) -> None:
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
    """A process of the training in one of the hosts."""
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
    """The place behind the next event of that name."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        lines = (run / "events.jsonl").read_text().splitlines() if (run / "events.jsonl").exists() else []
        for place in range(after, len(lines)):
            if f'"event": "{name}"' in lines[place]:
                return place + 1
        time.sleep(0.05)
    raise AssertionError(f"no event {name}: {log.read_text()}")


def test_a_killed_edge_gives_its_bandwidth_back_and_comes_back_to_its_own_port_and_so_does_a_killed_cloud(
    pair: Network, tmp_path: Path
) -> None:
    def flows() -> set[str]:
        live = pair.api.get("/v1/reservations?state=active").json()["reservations"]
        return {flow["name"] for one in live for flow in one["flows"]}

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
