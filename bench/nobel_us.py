"""End to end on a published optical map: SNDlib's nobel-us, emulated, with six edges and a cloud.

1. A reservation across the network, for which a lightpath is set up: time until every switch has confirmed.
2. A training run beside a flood of its bottleneck's full rate: share of the transfers within their bound.
3. Another run during which a fibre is cut: the longest gap in a protected stream (1000 datagrams per second) over that
   fibre, and the rounds after the cut in which a transfer exceeded its bound. The run is protected like the stream.

Each figure is also given without delays explained by proven stalls of this machine (mininet/machine/stall_watch.py).

    sudo .venv/bin/python bench/nobel_us.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import click
import httpx
from matplotlib.figure import Figure
from rich.table import Table

from harness import report
from emulation.cross_traffic import Flood
from emulation.fault_injection import FaultInjector
from emulation.network import Emulation, EmulationSettings
from emulation.session import emulate
from harness.datagram_stream import Arrivals, datagram_stream, reserved_stream
from machine.errors import EmulationError
from machine.polling import wait_until
from machine.quantile import quantile
from machine.stall_watch import Stall, StallWatch, describe_stalls, stalled_s
from topologies.catalogue import MapOptions, resolve_map
from topologies.placement.map_document import PlacementOptions

PLANT, EDGES = "sndlib/nobel-us", 6
RATE_BPS = 2_000_000
PROTECTION = "link_disjoint"
"""Protection of the training runs and of the stream."""
CUT_AFTER_ROUND = 2
STREAM_S = 20.0
TRAIN_LIMIT_S = 240.0

Summary = dict[str, Any]


def set_up_ms(api: httpx.Client, emulation: Emulation, times: int) -> list[float]:
    """Milliseconds from a request until its lightpath is lit and confirmed, each time from a dark network."""
    edges = [node.name for node in emulation.topology.edges]
    taken = []
    for number in range(times):
        if lit := api.get("/v1/lightpaths").json()["lightpaths"]:
            raise EmulationError(f"{len(lit)} lightpaths are lit before anything is reserved")
        match = {"protocol": "udp", "source_port": 10_000 + number, "destination_port": 7800}
        ends = {"source": edges[number % len(edges)], "destination": "cloud"}
        flow = {"name": "f", **ends, "match": match, "requirement": {"min_bandwidth_bps": RATE_BPS}}
        began_s = time.perf_counter()
        response = api.post("/v1/reservations", json={"lease_s": 600, "flows": [flow]})
        taken.append((time.perf_counter() - began_s) * 1e3)
        response.raise_for_status()
        if not response.json()["flows"][0]["lightpaths"]:
            raise EmulationError(f"the flow of {ends['source']} travels in no lightpath")
        api.delete(f"/v1/reservations/{response.json()['id']}").raise_for_status()
        wait_until(lambda: not api.get("/v1/lightpaths").json()["lightpaths"], 30)
    return taken


def train(runs: Path, rounds: int, on_round: Callable[[int], None] = lambda _: None) -> Summary:
    """Run `paceline train` with reservations; call `on_round` with the number of each completed round.

    Raises: EmulationError if the run wrote no summary.
    """
    before = set(runs.iterdir())
    command = [sys.executable, "-m", "trainer.cli.main", "train", "--runs-dir", str(runs), "--rounds", str(rounds)]
    command += ["--steps", "2", "--average-every", "2", "--protection", PROTECTION]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        reported, ends_s = 0, time.monotonic() + TRAIN_LIMIT_S
        while process.poll() is None and time.monotonic() < ends_s:
            time.sleep(0.1)
            for directory in set(runs.iterdir()) - before:
                log = directory / "events.jsonl"
                events = log.read_text().splitlines() if log.exists() else []
                done = sum(json.loads(line)["event"] == "round_done" for line in events)
                if done > reported:
                    reported = done
                    on_round(done)
        process.terminate()
    for directory in set(runs.iterdir()) - before:
        summary: Summary = json.loads((directory / "summary.json").read_text())
        return summary
    raise EmulationError("the training run wrote no summary")


def broken_rounds(summary: Summary, stalls: Sequence[Stall] = ()) -> list[int]:
    """Return the round of every transfer that exceeded its bound, with `stalls`: by more than the time stalled."""
    late = []
    for row in summary["rounds"]:
        for transfer in row["transfers"]:
            if transfer["kept"] is not False:
                continue
            took_ms = inf if transfer["measured_ms"] is None else transfer["measured_ms"]
            stalled_ms = stalled_s(stalls, transfer["sent_at"], transfer["sent_at"] + took_ms / 1e3) * 1e3
            if took_ms - stalled_ms > transfer["bound_ms"]:
                late.append(row["round"])
    return late


def after_the_cut(rounds: Sequence[int]) -> int:
    """Number of distinct rounds after the cut."""
    return len({number for number in rounds if number > CUT_AFTER_ROUND})


def over_a_cut(
    emulation: Emulation, api: httpx.Client, directory: Path, runs: Path, rounds: int
) -> tuple[Summary, Arrivals, str]:
    """Cut a fibre of a protected stream's path during a run; return the results of both, and the fibre."""
    faults = FaultInjector(emulation.topology, str(emulation.vswitch.directory))
    streamed: list[Arrivals] = []
    with reserved_stream(api, PROTECTION) as reservation:
        span = list(pairwise(reservation["flows"][0]["path"]))[-2]

        def stream_during_cut() -> None:
            with datagram_stream(emulation, STREAM_S, directory) as result:
                time.sleep(1.0)
                faults.set_link(*span, up=False)
            streamed.extend(result)

        streaming = threading.Thread(target=stream_during_cut)

        def on_round(completed: int) -> None:
            if completed == CUT_AFTER_ROUND:
                streaming.start()

        try:
            summary = train(runs, rounds, on_round)
            if not streaming.ident:
                raise EmulationError(
                    f"the run ended before round {CUT_AFTER_ROUND} was completed: {summary.get('error')}"
                )
            streaming.join()
        finally:
            faults.set_link(*span, up=True)
    return summary, streamed[0], "-".join(span)


def plot(taken_ms: list[float], runs: dict[str, Summary]) -> Figure:
    """Plot the set-up times, and the transfers of every round within and over their bound."""
    figure = Figure(figsize=(11, 3), layout="constrained")
    left, *others = figure.subplots(1, 1 + len(runs))
    left.hist(taken_ms, bins=20, color="#4c6a92")
    left.set_xlabel("lightpath and reservation set up, ms", fontsize=8)
    for axes, (name, summary) in zip(others, runs.items(), strict=True):
        for kept, colour, bottom in ((True, "#2f7f5f", False), (False, "#b03030", True)):
            counts = [sum(transfer["kept"] is kept for transfer in row["transfers"]) for row in summary["rounds"]]
            under = [
                sum(transfer["kept"] is True for transfer in row["transfers"]) * bottom for row in summary["rounds"]
            ]
            numbers = [row["round"] for row in summary["rounds"]]
            axes.bar(numbers, counts, bottom=under, color=colour, label="kept" if kept else "broken")
        axes.set_title(f"transfers by round: {name}", fontsize=8)
        axes.legend(fontsize=7)
    return figure


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Fewer set-ups and rounds.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures there as JSON, and a plot beside it.")
def main(quick: bool, out: Path | None) -> None:
    """Measure set-up, a run under a flood, and a cut."""
    times, rounds = (12, 4) if quick else (60, 10)
    try:
        with tempfile.TemporaryDirectory() as name:
            directory, runs = Path(name), Path(name) / "runs"
            runs.mkdir()
            options = MapOptions(placement=PlacementOptions(edges=EDGES))
            settings = EmulationSettings(resolve_map(PLANT, options, directory))
            with (
                emulate(settings) as emulation,
                httpx.Client(base_url=f"http://127.0.0.1:{settings.rest_port}", timeout=60) as api,
                StallWatch() as watch,
            ):
                taken_ms = set_up_ms(api, emulation, times)
                with Flood(emulation, 1.0):
                    flooded = train(runs, rounds)
                cut, streamed, span = over_a_cut(emulation, api, directory, runs, rounds)
    except EmulationError as error:
        raise click.ClickException(str(error)) from error
    promises = flooded["promises"]
    made = max(1, promises["made"])
    claims = {
        "set_up_ms_p50": report.Claim(quantile(taken_ms, 0.5), "ms"),
        "set_up_ms_max": report.Claim(max(taken_ms), "ms"),
        "promises_kept_share": report.at_least(promises["kept"] / made, "", 1.0),
        "promises_kept_while_machine_ran_share": report.at_least(
            1 - len(broken_rounds(flooded, watch.stalls)) / made, "", 1.0
        ),
        "cut_gap_ms": report.at_most(streamed.gap_ms, "ms", 50),
        "cut_gap_while_machine_ran_ms": report.at_most(
            streamed.gap_while_machine_ran_ms(watch.stalls), "ms", 50
        ),
        "cut_lost": report.Claim(streamed.lost, "datagrams"),
        "rounds_affected": report.Claim(after_the_cut(broken_rounds(cut)), "rounds"),
        "rounds_affected_while_machine_ran": report.Claim(after_the_cut(broken_rounds(cut, watch.stalls)), "rounds"),
    }
    table = Table("run", "rounds", "promises made", "kept", "broken in round", title=f"cut: {span}")
    for label, summary in (("flood of 100 %", flooded), ("fibre cut", cut)):
        counts = len(summary["rounds"]), summary["promises"]["made"], summary["promises"]["kept"]
        table.add_row(label, *map(str, counts), ", ".join(map(str, sorted({*broken_rounds(summary)}))) or "none")
    both = {"flood": flooded, "cut": cut}
    run_facts = {
        label: {field: run.get(field) for field in ("status", "error", "promises")} for label, run in both.items()
    }
    samples = {"set_up_ms": taken_ms, "runs": run_facts, "span": span}
    click.echo(describe_stalls(watch.stalls))
    report.publish("nobel_us", claims, samples, [table], out, {"runs": plot(taken_ms, both)})


if __name__ == "__main__":
    main()
