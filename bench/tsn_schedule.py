"""How many of the public TSN scheduling instances get gate control lists, how fast, and whether the lists are right.

FOLDER holds instances as tsnkit publishes them: N_task.csv and N_topo.csv. Each is scheduled as a whole; an instance is
impossible if a stream's best case exceeds its deadline. Every schedule is exported and simulated from the exported
lists alone. With --tsnkit PYTHON, an interpreter that has tsnkit 0.3.0, its list scheduler `ls` runs on a sample of the
same instances, and its simulator judges our lists there: it has a processing time of 2 us built in and knows no
propagation, which is what the instances have. Times are processor seconds.

    .venv/bin/python bench/tsn_schedule.py FOLDER [--tsnkit PYTHON] [--quick] [--out FILE.json]
"""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.table import Table

from controller.tsn.export import schedule_document
from controller.tsn.gate_lists import gate_lists, longest_list
from controller.tsn.instance_files import network_from_csv, streams_from_csv
from controller.tsn.network import TsnNetwork
from controller.tsn.scheduler import add_stream, schedule, without_stream
from controller.tsn.simulation import simulate
from controller.tsn.streams import FailureCode, Schedule, TsnStream
from harness.report import Claim, at_least, at_most, publish

QUICK_EVERY, SAMPLE_EVERY = 8, 9
SEARCH_LIMIT_S = 300.0
LS_LIMIT_S, LS_IMPORTS_S = 10.0, 5.0
LARGEST = 220
"""Streams of the largest instances, to which one more is added."""

JUDGE = """
import json, sys
from tsnkit.simulation import tas
tas.T_SLOT = int(sys.argv[3])
print(json.dumps(tas.simulation(sys.argv[1], sys.argv[2], it=2, draw_results=False, disable_pbar=True)))
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an instance; `processor_s` is the time of the schedule or of the refusal."""

    number: int
    network: TsnNetwork
    streams: Sequence[TsnStream]
    made: Schedule
    processor_s: float

    @property
    def is_impossible(self) -> bool:
        """Whether streams were refused, each by name, because no frame could be in time."""
        return bool(self.made.refused) and all(
            refusal.code == FailureCode.MAX_LATENCY_EXCEEDED and refusal.stream in refusal.reason
            for refusal in self.made.refused
        )


def run(folder: Path, number: int) -> Outcome:
    """Read and schedule one instance."""
    network = network_from_csv((folder / f"{number}_topo.csv").read_text(), str(number))
    streams = streams_from_csv((folder / f"{number}_task.csv").read_text(), network)
    start_s = time.process_time()
    made = schedule(network, streams, lambda: time.process_time() < start_s + SEARCH_LIMIT_S)
    return Outcome(number, network, streams, made, time.process_time() - start_s)


def exported(outcome: Outcome) -> dict[str, Any]:
    """The schedule as it is read back from a file."""
    lists = gate_lists(outcome.network, outcome.made)
    document: dict[str, Any] = json.loads(json.dumps(schedule_document(outcome.made, lists)))
    return document


def one_more_s(outcome: Outcome) -> float:
    """Processor seconds of adding the last stream to the schedule of all others."""
    fewer, last = without_stream(outcome.made, outcome.streams[-1].name), outcome.streams[-1]
    start_s = time.process_time()
    more = add_stream(outcome.network, fewer, last)
    taken_s = time.process_time() - start_s
    if more.refused or more.frames[:-1] != fewer.frames:
        raise RuntimeError(f"instance {outcome.number}: the stream that was taken out does not fit again")
    return taken_s


def run_ls(python: str, folder: Path, number: int, out: Path) -> tuple[bool, float]:
    """Whether tsnkit's list scheduler schedules an instance, and its processor seconds; the limit if it took so many.

    The limit is one of processor time: a busy machine must not stop it earlier. Its imports take some of it.
    """
    files = [str(folder.resolve() / f"{number}_{kind}.csv") for kind in ("task", "topo")]
    command = [python, "-m", "tsnkit.algorithms.ls", *files, f"{out}/", "1", f"ls-{number}"]
    limited = ["prlimit", f"--cpu={round(LS_LIMIT_S + LS_IMPORTS_S)}", *command]
    done = subprocess.run(limited, cwd=out, capture_output=True, text=True, check=False)
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return False, LS_LIMIT_S
    rows = [line.split("|") for line in done.stdout.splitlines() if f"ls-{number}" in line]
    if not rows:
        raise click.ClickException(f"tsnkit's ls says nothing of instance {number}: {done.stderr[-500:]}")
    return rows[-1][3].strip() == "succ", min(float(rows[-1][4]), LS_LIMIT_S)


def judge(python: str, folder: Path, number: int, document: Mapping[str, Any], out: Path) -> tuple[int, int, int]:
    """Frames lost and late, and the largest jitter in ns, in tsnkit's simulator over two hyperperiods."""
    tick_ns = write_tsnkit(document, out, number)
    task = str(folder.resolve() / f"{number}_task.csv")
    command = [python, "-c", JUDGE, task, str(out / f"ours-{number}-"), str(tick_ns)]
    log = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    streams = document["streams"]
    hyperperiod_ns = max(stream["interval_ns"] for stream in streams)
    lost = late = jitter_ns = 0
    for stream, (sent, received) in zip(streams, log, strict=True):
        lost += max(0, hyperperiod_ns // stream["interval_ns"] - len(received))
        # The log has a frame as sent when it is at the first bridge, so the first link is missing in the latency.
        first_ns = stream["frame_bytes"] * 8 + 2000
        latencies = [there - begun + first_ns for begun, there in zip(sent, received, strict=False)]
        late += sum(latency > stream["max_latency_ns"] for latency in latencies)
        jitter_ns = max(jitter_ns, *(latency - min(latencies) for latency in latencies), 0)
    return lost, late, jitter_ns


def write_tsnkit(document: Mapping[str, Any], out: Path, number: int) -> int:
    """Write a schedule as tsnkit's simulator reads it; return what divides all its times, in ns."""
    gates, times_ns = [], 0
    for node in document["nodes"].values():
        for interface in node["ietf-interfaces:interfaces"]["interface"]:
            link = "({}, {})".format(*interface["description"].split("->"))
            table = interface["ieee802-dot1q-bridge:bridge-port"]["ieee802-dot1q-sched-bridge:gate-parameter-table"]
            cycle_ns, now_ns = table["admin-cycle-time"]["numerator"], 0
            for entry in table["admin-control-list"]["gate-control-entry"]:
                end_ns = now_ns + entry["time-interval-value"]
                queues = [queue for queue in (5, 6, 7) if entry["gate-states-value"] >> queue & 1]
                gates += [(link, queue, now_ns, end_ns, cycle_ns) for queue in queues]
                times_ns = gcd(times_ns, *((now_ns, end_ns, cycle_ns) if queues else ()))
                now_ns = end_ns
    routes, offsets, queued = [], [], []
    for stream in document["streams"]:
        (frame,) = stream["frames"]
        offsets.append((stream["stream"], 0, frame["time_aware_offset_ns"]))
        times_ns = gcd(times_ns, frame["time_aware_offset_ns"], stream["frame_bytes"] * 8, 2000, stream["interval_ns"])
        for name, queue in frame["queues"].items():
            link = "({}, {})".format(*name.split("->"))
            routes.append((stream["stream"], link))
            queued.append((stream["stream"], 0, link, queue))
    tables: dict[str, tuple[str, list[tuple[Any, ...]]]] = {
        "GCL": ("link queue start end cycle", gates),
        "ROUTE": ("stream link", routes),
        "OFFSET": ("stream frame offset", offsets),
        "QUEUE": ("stream frame link queue", queued),
    }
    for name, (columns, rows) in tables.items():
        with (out / f"ours-{number}-{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([columns.split(), *rows])
    return times_ns


def peer(python: str, folder: Path, outcomes: Sequence[Outcome]) -> tuple[dict[str, Claim], dict[str, Any]]:
    """Claims and samples of the comparison with tsnkit."""
    ls, judged = {}, {}
    with tempfile.TemporaryDirectory() as name:
        for outcome in outcomes:
            ls[outcome.number] = run_ls(python, folder, outcome.number, Path(name))
            if not outcome.made.refused:
                judged[outcome.number] = judge(python, folder, outcome.number, exported(outcome), Path(name))
    ours_s = median(outcome.processor_s for outcome in outcomes)
    ls_s = median(taken_s for _, taken_s in ls.values())
    claims = {
        "time_to_ls": at_most(ours_s / ls_s, "of tsnkit ls, medians", 0.1),
        "ls_scheduled": Claim(sum(found for found, _ in ls.values()), f"of {len(ls)} by tsnkit ls in {LS_LIMIT_S:g} s"),
        "tsnkit_lost_or_late": at_most(sum(lost + late for lost, late, _ in judged.values()), "frames", 0),
        "tsnkit_jitter_ns": at_most(max(jitter_ns for _, _, jitter_ns in judged.values()), "ns", 0),
        "tsnkit_judged": Claim(len(judged), "instances"),
    }
    return claims, {"ls": ls, "tsnkit_lost_late_jitter": judged}


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--tsnkit", "python", metavar="PYTHON", help="An interpreter with tsnkit 0.3.0, for the comparison.")
@click.option("--quick", is_flag=True, help=f"Every {QUICK_EVERY}th instance.")
@click.option("--sample", "every", default=SAMPLE_EVERY, show_default=True, help="tsnkit gets every so-manieth.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures there as JSON.")
def main(folder: Path, python: str | None, quick: bool, every: int, out: Path | None) -> None:
    """Schedule all instances, simulate the schedules, and compare."""
    numbers = sorted(int(path.name.split("_")[0]) for path in folder.glob("*_task.csv"))[:: QUICK_EVERY if quick else 1]
    if not numbers:
        raise click.ClickException(f"no N_task.csv in {folder}")
    outcomes = [run(folder, number) for number in numbers]
    impossible = [outcome for outcome in outcomes if outcome.is_impossible]
    possible = [outcome for outcome in outcomes if not outcome.is_impossible]
    scheduled = [outcome for outcome in possible if not outcome.made.refused]
    results = [simulate(outcome.network, exported(outcome)) for outcome in scheduled]
    more_s = [one_more_s(outcome) for outcome in scheduled if len(outcome.streams) == LARGEST]
    times_s = [outcome.processor_s for outcome in scheduled]
    claims = {
        "scheduled_share": at_least(len(scheduled) / len(possible), "of the instances that are not impossible", 1.0),
        "possible": Claim(len(possible), f"of {len(numbers)} instances"),
        "schedule_s_median": Claim(median(times_s), "s"),
        "schedule_s_max": Claim(max(times_s), "s"),
        "refusal_s_max": at_most(max((outcome.processor_s for outcome in impossible), default=0.0), "s", 0.2),
        "lost_or_late": at_most(sum(result.lost + result.late for result in results), "frames", 0),
        "jitter_ns": at_most(max(result.jitter_ns for result in results), "ns", 0),
        "longest_list": Claim(max(longest_list(gate_lists(each.network, each.made)) for each in scheduled), "entries"),
    }
    if more_s:
        claims["one_more_stream_ms_max"] = at_most(max(more_s) * 1000, f"ms beside {LARGEST - 1} streams", 20)
    samples: dict[str, Any] = {"processor_s": {outcome.number: outcome.processor_s for outcome in outcomes}}
    if python:
        peer_claims, peer_samples = peer(python, folder, possible[::every])
        claims, samples = claims | peer_claims, samples | peer_samples
    table = Table("instance", "streams", "s", title="not scheduled")
    for outcome in possible:
        if outcome.made.refused:
            table.add_row(str(outcome.number), str(len(outcome.streams)), f"{outcome.processor_s:.2f}")
    publish("tsn_schedule", claims, samples, [table] if table.row_count else [], out)


if __name__ == "__main__":
    main()
