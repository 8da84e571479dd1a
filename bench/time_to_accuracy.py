"""Seconds from the command to an accuracy, for Paceline and what a user would pick instead, beside cross-traffic.

The peers train the same model on the same data in turn, in one emulation of a map, with the same mini-batches,
optimizer and averaging after every 20 mini-batches:

- reserved, best-effort: Paceline with and without reservations;
- flower: federated averaging of the whole model. Flower's client starts a process for each task; the time is given with
  and without that (the start of the slowest edge, for each task);
- fixed-cut: the same cut on every edge, without overlap, best effort, as SplitFed (version 1);
- adaptive-cut: the cuts chosen by FedAdapt's way (`harness/fedadapt.py`), without overlap, best effort.

All processes of a run belong to the cloud's control group, which goes before everything else on the machine, or, once
they have loaded, to their edge's.

The bytes are those of the cloud's interface in both directions. What the cross-traffic keeps is what of it arrives: of
UDP (udp50: 50 % of the bottleneck's rate) a share of what is sent, of TCP flows a share of the bottleneck's rate. A run
that has not reached the accuracy at the limit is ended there, and counts as if it had.

    sudo .venv/bin/python bench/time_to_accuracy.py [--quick] [--peers …] [--traffic …] [--seeds …] [--out FILE.json]
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from harness import report
from emulation.cross_traffic import Flood
from emulation.network import Emulation, EmulationSettings
from emulation.session import emulate
from harness.flower_peer import FlowerRun, flower_python, flower_run
from harness.local_federation import AVERAGE_EVERY, BATCH, DATA, MODEL, STEPS, LocalEdge, standardize_inputs
from harness.paceline_peer import PacelineRun, paceline_run
from machine.errors import EmulationError
from machine.stall_watch import StallWatch, describe_stalls
from topologies.catalogue import MapOptions, resolve_map
from topologies.problems import MapError
from topologies.running_emulation import RunningHost
from trainer.data.standardization import choose_weight_decay

POLL_S, SETTLE_S = 0.05, 1.0
MAX_ROUNDS = 100
PEERS = ("reserved", "best-effort", "flower", "fixed-cut", "adaptive-cut")
OTHERS = PEERS[2:]
"""What a user would pick instead of Paceline."""
TRAFFIC = ("none", "udp50", "udp95", "tcp1", "tcp4", "udp150")
QUICK = "none", "udp95"
GOALS = {"none": 2.0, "tcp4": 2.5, "udp95": 4.0}
"""Of the best other peer's time over that with reservations."""
FIXED_CUT_GOAL = 5.0
"""Of the fixed cut's time beside udp95."""


@dataclass(frozen=True, slots=True)
class Result:
    """One run; its times begin with the command, and are None if not reached within `limit_s`.

    `task_starts_s`: the part of `accuracy_s` in which Flower's processes for tasks started. `kept_share`: what arrived
    of the cross-traffic.
    """

    peer: str
    traffic: str
    seed: int
    accuracy_s: float | None
    first_round_s: float | None
    task_starts_s: float
    accuracies: tuple[float, ...]
    bytes: int
    kept_share: float | None
    limit_s: float
    load_1min: float

    @property
    def compared_s(self) -> float:
        """The time that is compared: without the starts of processes, the limit if it was not reached."""
        return self.limit_s if self.accuracy_s is None else self.accuracy_s - self.task_starts_s


@dataclass(frozen=True, slots=True)
class Course:
    """The emulation, and what all runs on it have in common."""

    emulation: Emulation
    flower: Path
    target: float
    limit_s: float
    cut: int

    def run(self, peer: str, traffic: str, seed: int) -> Result:
        """Train with one peer beside one kind of cross-traffic.

        Raises: EmulationError.
        """
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory(prefix="paceline-") as folder, self._beside(traffic) as flood:
            time.sleep(SETTLE_S)
            starting = self._starting(peer, seed, Path(folder) / "run")
            began, carried, crossed = time.time(), self._cloud_bytes(), self._cross_bytes()
            with starting as run:
                events = self._awaited(run, began + self.limit_s)
                carried, lasted_s = self._cloud_bytes() - carried, time.time() - began
                sent, arrived = (now - before for now, before in zip(self._cross_bytes(), crossed, strict=True))
                kept = None
                if flood:
                    kept = arrived * 8 / lasted_s / flood.rate_bps if flood.tcp else arrived / sent
        found = {event["event"]: event["time"] - began for event in events}
        accuracies = tuple(event["accuracy"] for event in events if event["event"] == "evaluated")
        reached = accuracies[-1:] >= (self.target,)
        return Result(peer, traffic, seed, found["evaluated"] if reached else None, found.get("first_round"),
                      sum(event.get("start_s", 0.0) for event in events), accuracies, carried, kept, self.limit_s, load)

    @property
    def _cloud(self) -> RunningHost:
        return next(host for host in self.emulation.hosts if host.kind == "cloud")

    def _starting(
        self, peer: str, seed: int, folder: Path
    ) -> contextlib.AbstractContextManager[PacelineRun | FlowerRun]:
        """Return what starts a run within a `with` block."""
        count = sum(host.kind == "edge" for host in self.emulation.hosts)
        if peer == "flower":
            edges = [LocalEdge(number, count, seed) for number in range(count)]
            parameters = sum(values.numel() for values in edges[0].model.parameters())
            decay, _ = choose_weight_decay(sum(len(edge.labels) for edge in edges), parameters)
            return flower_run(self.emulation, self.flower, folder, seed, decay, standardize_inputs(edges))
        common = ["--data", DATA, "--model", MODEL, "--batch", str(BATCH), "--steps", str(STEPS), "--average-every",
                  str(AVERAGE_EVERY), "--rounds", str(MAX_ROUNDS), "--target", str(self.target), "--seed", str(seed)]
        own = {
            "reserved": [],
            "best-effort": ["--best-effort"],
            "fixed-cut": ["--best-effort", "--micro", "1", "--cuts", ",".join([str(self.cut)] * count)],
            "adaptive-cut": ["--best-effort", "--micro", "1", "--policy", "harness.fedadapt:policy"],
        }
        return paceline_run(folder, self._cloud.cgroup, [*common, *own[peer]])

    def _beside(self, traffic: str) -> contextlib.AbstractContextManager[Flood | None]:
        kind, number = traffic[:3], traffic[3:]
        if kind == "udp":
            return Flood(self.emulation, int(number) / 100)
        return Flood(self.emulation, 1.0, tcp=True, flows=int(number)) if kind == "tcp" else contextlib.nullcontext()

    def _awaited(self, run: PacelineRun | FlowerRun, deadline: float) -> list[dict[str, Any]]:
        """Return the events until the accuracy is reached, or until the deadline."""
        while True:
            events = run.events()
            ends = [place for place, event in enumerate(events) if event.get("accuracy", 0.0) >= self.target]
            if ends:
                return events[: ends[0] + 1]
            if time.time() > deadline:
                return events
            time.sleep(POLL_S)

    def _cloud_bytes(self) -> int:
        """L2 bytes through the cloud's interface so far, in both directions."""
        return self._counted(self._cloud.name, "rx") + self._counted(self._cloud.name, "tx")

    def _cross_bytes(self) -> tuple[int, int]:
        """L2 bytes of cross-traffic sent and received so far."""
        cross = self.emulation.topology.cross_traffic
        return (0, 0) if cross is None else (self._counted(cross.source, "tx"), self._counted(cross.sink, "rx"))

    def _counted(self, host: str, direction: str) -> int:
        return int(self.emulation.run_in(host, f"cat /sys/class/net/{host}-eth1/statistics/{direction}_bytes"))


def claims_of(results: Sequence[Result]) -> dict[str, report.Claim]:
    """Return the claims for every kind of cross-traffic of which there are results with reservations."""
    claims = {}
    for traffic in dict.fromkeys(result.traffic for result in results):
        times = {peer: statistics.median(times) for peer in PEERS if (times := [
            one.compared_s for one in results if (one.peer, one.traffic) == (peer, traffic)])}
        claims.update({f"{traffic}_{peer.replace('-', '_')}_s": report.Claim(time_s, "s")
                       for peer, time_s in times.items()})
        if "reserved" not in times:
            continue
        if others := [times[peer] for peer in OTHERS if peer in times]:
            ratio = min(others) / times["reserved"]
            claims[f"{traffic}_best_peer_over_reserved"] = (
                report.at_least(ratio, "", GOALS[traffic]) if traffic in GOALS else report.Claim(ratio, ""))
        if traffic == "udp95" and "fixed-cut" in times:
            claims["udp95_fixed_cut_over_reserved"] = report.at_least(
                times["fixed-cut"] / times["reserved"], "", FIXED_CUT_GOAL)
    return claims


def table_of(results: Sequence[Result], target: float) -> Table:
    """One row for each run."""
    table = Table("traffic", "peer", "seed", "to accuracy", "without task starts", "before the first round", "MB",
                  "cross-traffic kept", "load", title=f"seconds from the command to accuracy {target:g}")
    for one in results:
        reached = f"{one.accuracy_s:.1f}" if one.accuracy_s is not None else f"> {one.limit_s:.0f}"
        without = f"{one.compared_s:.1f}" if one.task_starts_s and one.accuracy_s is not None else ""
        table.add_row(one.traffic, one.peer, str(one.seed), reached, without,
                      "" if one.first_round_s is None else f"{one.first_round_s:.1f}", f"{one.bytes / 1e6:.1f}",
                      "" if one.kept_share is None else f"{one.kept_share:.0%}", f"{one.load_1min:.1f}")
    return table


def _chosen(text: str, names: Sequence[str], option: str) -> list[str]:
    """Return the names that a list separated by commas chooses.

    Raises: click.BadParameter.
    """
    chosen = text.split(",")
    if unknown := [name for name in chosen if name not in names]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(names)}", param_hint=option)
    return chosen


@click.command()
@click.option("--quick", is_flag=True, help="One seed, without cross-traffic and beside 95 % of UDP; six minutes.")
@click.option("--peers", default=",".join(PEERS), show_default=True, help="Separated by commas.")
@click.option("--traffic", default=",".join(TRAFFIC), show_default=True, help="Separated by commas.")
@click.option("--seeds", default="1,2,3", show_default=True, help="Separated by commas.")
@click.option("--target", default=0.95, show_default=True, type=click.FloatRange(0, 1), help="The accuracy.")
@click.option("--limit", "limit_s", default=150.0, show_default=True, type=click.FloatRange(1), metavar="SECONDS",
              help="End a run that has not reached it.")
@click.option("--cut", default=6, show_default=True, type=click.IntRange(1, 12), help="Of peer fixed-cut.")
@click.option("--map", "map_name", default="metro", show_default=True, help="Map with edges and a cloud.")
@click.option("--flower-python", "flower", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Python with Flower and PyTorch.  [default: of a new virtual environment in a temporary folder]")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(
    quick: bool, peers: str, traffic: str, seeds: str, target: float, limit_s: float, cut: int, map_name: str,
    flower: Path | None, out: Path | None,
) -> None:
    """Measure every peer beside every kind of cross-traffic."""
    chosen = _chosen(peers, PEERS, "--peers")
    kinds = list(QUICK) if quick else _chosen(traffic, TRAFFIC, "--traffic")
    numbers = [1] if quick else [int(seed) for seed in seeds.split(",")]
    results: list[Result] = []
    try:
        with (
            tempfile.TemporaryDirectory(prefix="paceline-") as folder,
            _python(chosen, flower) as python,
            emulate(EmulationSettings(resolve_map(map_name, MapOptions(), Path(folder)))) as emulation,
            StallWatch() as watch,
        ):
            course = Course(emulation, python, target, limit_s, cut)
            for seed in numbers:
                for kind in kinds:
                    for peer in chosen:
                        results.append(course.run(peer, kind, seed))
                        click.echo(_line_of(results[-1]))
    except (MapError, EmulationError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(describe_stalls(watch.stalls))
    samples: dict[str, object] = {"runs": [asdict(result) for result in results],
                                  "machine_stalls": [asdict(stall) for stall in watch.stalls]}
    report.publish("time_to_accuracy", claims_of(results), samples, [table_of(results, target)], out)


def _python(peers: Sequence[str], given: Path | None) -> contextlib.AbstractContextManager[Path]:
    return flower_python(given) if "flower" in peers else contextlib.nullcontext(Path())


def _line_of(result: Result) -> str:
    facts: Mapping[str, object] = asdict(result)
    return " ".join(f"{name}={value}" for name, value in facts.items())


if __name__ == "__main__":
    main()
