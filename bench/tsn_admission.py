"""How many of the public TSN scheduling instances are admitted by calculus alone, stream by stream.

FOLDER holds instances as tsnkit publishes them: N_task.csv (source, destination, size in bytes, period and deadline in
ns) and N_topo.csv (links at 1 Gb/s, processing in ns). An instance is feasible if no stream's best case exceeds its
deadline. Every stream is requested as a periodic transfer of one frame, in the order of the deadlines; an instance
counts as admitted if all its streams are. Switches are ideal: their delay is constant, meters are exact, and links have
their rate without a shaper.

Three ways to state the same streams: without a largest frame, on a map whose largest frame is 1514 bytes; with it; and
with it on a map without other traffic, as the instances and their published schedules know none: no best-effort frame
is in transmission, and the largest frame is that of the instance.

    .venv/bin/python bench/tsn_admission.py FOLDER [--quick] [--out FILE.json]
"""

from __future__ import annotations

import ast
import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import click
from rich.table import Table

from controller.admission.admission import Admitted, Request, decide
from controller.admission.live_reservations import LiveReservations
from controller.booking.calendar import Calendar
from controller.calculus.network_bounds import Calibration
from controller.domain.network import ETHERNET_HEADER_BYTES, Network, network_from_map
from controller.domain.path import link_names
from controller.domain.reservation import Flow, Match, Requirement, Reservation, State
from controller.routing.candidates import candidate_paths
from harness.report import Claim, at_least, publish
from topologies.maps import Map, MapLink, MapNode

QUICK_EVERY = 8
MTU_BYTES = 1500
LINK_GBPS = 1.0
WAYS = ("largest frame of the map", "own frames", "own frames, no other traffic")


@dataclass(frozen=True, slots=True)
class TsnStream:
    """One stream of an instance."""

    source: str
    destination: str
    size_bytes: int
    period_us: float
    deadline_us: float


@dataclass(frozen=True, slots=True)
class Instance:
    """A topology and its streams."""

    name: str
    network: Network
    processing_us: float
    streams: tuple[TsnStream, ...]

    def is_feasible(self) -> bool:
        """Whether every stream would arrive in time if it was alone."""
        return all(self._best_us(stream) <= stream.deadline_us for stream in self.streams)

    def _best_us(self, stream: TsnStream) -> float:
        path = candidate_paths(self.network, stream.source, stream.destination, max_paths=1)[0]
        hops = len(link_names(path))
        return hops * stream.size_bytes * 8 / LINK_GBPS / 1e3 + (hops - 1) * self.processing_us


def read_instance(folder: Path, number: int) -> Instance:
    """Read one instance; nodes are named n0, n1, …, those that only end streams are hosts."""
    with (folder / f"{number}_topo.csv").open() as topology, (folder / f"{number}_task.csv").open() as tasks:
        rows, streams = list(csv.DictReader(topology)), list(csv.DictReader(tasks))
    links = [ast.literal_eval(row["link"]) for row in rows]
    degree = Counter(source for source, _ in links)
    nodes = [MapNode(f"n{node}", "switch" if degree[node] > 1 else "host", (0.0, 0.0)) for node in sorted(degree)]
    spans = tuple(MapLink((f"n{a}", f"n{b}"), 0.0, 1, LINK_GBPS) for a, b in links if a < b)
    network = network_from_map(Map(f"tsn-{number}", "", 1000, MTU_BYTES, tuple(nodes), spans))
    return Instance(
        str(number), network, max(float(row["t_proc"]) for row in rows) / 1e3, tuple(_stream(row) for row in streams)
    )


def _stream(row: dict[str, str]) -> TsnStream:
    (destination,) = ast.literal_eval(row["dst"])
    times_us = float(row["period"]) / 1e3, float(row["deadline"]) / 1e3
    return TsnStream(f"n{row['src']}", f"n{destination}", int(row["size"]), *times_us)


def admitted(instance: Instance, way: str) -> int:
    """How many streams are admitted before the first one that is not."""
    network = instance.network
    if way == WAYS[2]:
        largest_bytes = max(stream.size_bytes for stream in instance.streams)
        network = replace(network, mtu_bytes=largest_bytes - ETHERNET_HEADER_BYTES)
    best_effort_bytes = 0 if way == WAYS[2] else None
    calibration = Calibration(instance.processing_us, instance.processing_us, 0.0, 0.0, 0.0, best_effort_bytes)
    calendar, live = Calendar(), LiveReservations(network, calibration)
    for number, stream in enumerate(sorted(instance.streams, key=lambda stream: stream.deadline_us)):
        requirement = Requirement(
            burst_bytes=stream.size_bytes,
            max_frame_bytes=None if way == WAYS[0] else stream.size_bytes,
            transfer_bytes=stream.size_bytes,
            deadline_ms=stream.deadline_us / 1e3,
            period_ms=stream.period_us / 1e3,
        )
        flow = Flow("f", stream.source, stream.destination, Match("udp", 1 + number, 1), requirement)
        decision = decide(network, calendar, live, Request(f"r-{number}", 1, (flow,)), 0.0, calibration=calibration)
        if not isinstance(decision, Admitted):
            return number
        new = Reservation(
            f"r-{number}", number, 1, "bench", State.ACTIVE, 60, 0.0, inf, decision.placements, start_at_s=0.0
        )
        calendar, live = decision.calendar, decision.others.with_reservation(new)
    return len(instance.streams)


def instance_numbers(folder: Path) -> list[int]:
    """The numbers of the instances in a folder."""
    return sorted(int(path.name.split("_")[0]) for path in folder.glob("*_task.csv"))


def count(instances: Sequence[Instance], way: str) -> int:
    """How many instances are admitted as a whole."""
    return sum(admitted(instance, way) == len(instance.streams) for instance in instances)


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--quick", is_flag=True, help=f"Every {QUICK_EVERY}th instance.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures there as JSON.")
def main(folder: Path, quick: bool, out: Path | None) -> None:
    """Count the admitted instances, each way."""
    numbers = instance_numbers(folder)[:: QUICK_EVERY if quick else 1]
    if not numbers:
        raise click.ClickException(f"no N_task.csv in {folder}")
    instances = [instance for number in numbers if (instance := read_instance(folder, number)).is_feasible()]
    counts = {way: count(instances, way) for way in WAYS}
    table = Table("streams stated with", "admitted", "of feasible", title=f"{len(numbers)} instances")
    for way, number in counts.items():
        table.add_row(way, str(number), str(len(instances)))
    claims = {
        "admitted_share": at_least(counts[WAYS[2]] / len(instances), "of the feasible instances", 110 / 179),
        "admitted_share_beside_largest_frames": Claim(counts[WAYS[1]] / len(instances), "of the feasible instances"),
        "admitted_share_without_frame_sizes": Claim(counts[WAYS[0]] / len(instances), "of the feasible instances"),
        "feasible": Claim(len(instances), "instances"),
    }
    publish("tsn_admission", claims, {"admitted": counts}, [table], out)


if __name__ == "__main__":
    main()
