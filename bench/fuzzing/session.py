"""One run of the fuzzer on a running emulation."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.table import Table

from emulation.fault_injection import FaultInjector
from fuzzing.oracle import Verdict, judge
from fuzzing.streams import Streams
from fuzzing.tenants import Tenants
from machine.stall_watch import Stall, StallWatch
from topologies.maps import Map
from topologies.running_emulation import RunningEmulation


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found. `problems`: answers of the controller that contradict its contract; `moves`: how many of each."""

    verdicts: Sequence[Verdict]
    problems: Sequence[str]
    moves: dict[str, int]
    stalls: Sequence[Stall]

    @property
    def violated(self) -> list[Verdict]:
        """The flows of which a promise was broken."""
        return [verdict for verdict in self.verdicts if verdict.is_violated]

    @property
    def is_violated(self) -> bool:
        """Whether anything was found."""
        return bool(self.violated or self.problems)


def fuzz(
    topology: Map, note: RunningEmulation, api: httpx.Client, faults: FaultInjector, seconds: float, seed: int,
    directory: Path,
) -> Outcome:  # fmt: skip
    """Play for that long and judge everything that arrived; the moves are in `directory`/moves.jsonl."""
    streams = Streams(topology, note, directory)
    tenants = Tenants(topology, api, streams, faults, directory / "moves.jsonl", random.Random(seed))
    with StallWatch() as watch, streams.running():
        tenants.play(time.time() + seconds)
    arrivals = streams.arrivals()
    for number, history in enumerate(tenants.histories, start=1):
        history.arrivals, history.sent = arrivals.get(number, []), streams.sent.get(number, 0)
    verdicts = [judge(history, watch.stalls) for history in tenants.histories]
    return Outcome(verdicts, tenants.problems, tenants.counts, watch.stalls)


def describe(outcome: Outcome) -> str:
    """What was found, one line each."""
    return "\n".join([*map(str, outcome.violated), *outcome.problems, f"moves: {outcome.moves}"])


def table_of(outcome: Outcome) -> Table:
    """The flows with a violation, and the sums of all."""
    table = Table("flow", "judged", "late", "worst excess us", "beyond limit", "lost", "unmarked", "excess bytes")
    for verdict in outcome.violated:
        table.add_row(
            verdict.name, str(verdict.judged), str(verdict.late), f"{verdict.worst_excess_us:.0f}",
            str(verdict.beyond_limit), str(verdict.lost), str(verdict.unmarked), f"{verdict.excess_bytes:.0f}",
        )  # fmt: skip
    table.title = f"{len(outcome.verdicts)} flows, moves: {outcome.moves}"
    for problem in outcome.problems:
        table.add_row(problem)
    return table
