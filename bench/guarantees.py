"""Transfer times against their proven bounds under varying load, and the tightness of the bounds.

Four edges of the metro map send segments at common instants in several phases: at different rates and sizes, beside no
load, a UDP flood of 60 % or 150 % of the bottleneck, or TCP, while other reservations are made and released. The bound
of a transfer is its encoded bytes over its pace plus the `accumulated_latency_us` that the controller reports at the
time.

Then periodic windows: the same transfers once per period, reserved for half of every period and reserved permanently;
the throughput of best effort beside each.

    sudo .venv/bin/python bench/guarantees.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil, inf
from pathlib import Path
from typing import Any

import click
import httpx
from rich.table import Table

from harness import report
from emulation.cross_traffic import Flood
from emulation.network import EmulationSettings
from emulation.session import emulate
from harness.timed_transfers import (
    MBPS,
    Epoch,
    ScheduledTransfer,
    TimedTransfers,
    Transfer,
    flow_request,
    rate_requirement,
    sleep_until,
    tightness,
)
from machine.errors import EmulationError
from machine.stall_watch import StallWatch, describe_stalls
from topologies.map_file.loader import map_path
from trainer.transport.pacing import BURST_BYTES, wire_bits

OTHER_PORT = 7900
LEAD_S = 0.4
FRAME_OVERHEAD_BYTES = 1000
"""More than a frame's header adds to a segment."""
WINDOW_SEGMENT_BYTES = 700_000


@dataclass(frozen=True, slots=True)
class LoadPhase:
    """Load of a phase. `load`: best-effort traffic as a share of the bottleneck; `rates_mbps` by edge."""

    name: str
    load: float | None
    tcp: bool
    rates_mbps: tuple[int, int, int, int]
    segment_bytes: int

    @property
    def period_s(self) -> float:
        """Time from one transfer to the next."""
        return self.segment_bytes * 8 / (min(self.rates_mbps) * MBPS) * 1.1 + 0.06


PHASES = (
    LoadPhase("no load", None, False, (15, 15, 15, 15), 1_000_000),
    LoadPhase("UDP 150 %", 1.5, False, (15, 15, 15, 15), 1_000_000),
    LoadPhase("UDP 60 %, others' rates", 0.6, False, (8, 12, 16, 20), 800_000),
    LoadPhase("TCP", 1.0, True, (15, 10, 15, 10), 800_000),
    LoadPhase("UDP 150 %, small segments", 1.5, False, (12, 12, 12, 12), 300_000),
)


def run_phase(timed: TimedTransfers, phase: LoadPhase, count: int) -> None:
    """Run `count` transfers of every edge; during the middle third another flow is reserved too."""
    flows = timed.flow_requests([rate_requirement(mbps * MBPS) for mbps in phase.rates_mbps])
    load = Flood(timed.emulation, phase.load, phase.tcp) if phase.load else contextlib.nullcontext()
    with timed.reserved(flows) as reservation, load:
        requested_s = time.time()
        epochs: list[Epoch] = []
        start_s, period_s = time.time() + LEAD_S, phase.period_s
        timed.schedule(
            _scheduled_transfers(timed, phase, [start_s + number * period_s for number in range(count)], epochs)
        )
        sleep_until(start_s + count * period_s / 3)
        latency_us, changed_s = timed.latencies_us(reservation), time.time()
        with timed.reserved([_other_flow(timed)]):
            epochs.append(Epoch(requested_s, time.time(), latency_us))
            latency_us = timed.latencies_us(reservation)
            sleep_until(start_s + count * period_s * 2 / 3)
            began_s, changed_s = changed_s, time.time()
        epochs.append(Epoch(began_s, time.time(), latency_us))
        epochs.append(Epoch(changed_s, inf, timed.latencies_us(reservation)))
        sleep_until(start_s + count * period_s + 0.5)


def _scheduled_transfers(
    timed: TimedTransfers, phase: LoadPhase, starts_s: Sequence[float], epochs: list[Epoch]
) -> list[ScheduledTransfer]:
    return [
        ScheduledTransfer(phase.name, edge, start_s, phase.segment_bytes, mbps * MBPS, epochs)
        for edge, mbps in zip(timed.edges, phase.rates_mbps, strict=True)
        for start_s in starts_s
    ]


def _other_flow(timed: TimedTransfers) -> dict[str, Any]:
    cross = timed.topology.cross_traffic
    assert cross is not None
    return flow_request(
        "other", (cross.source, cross.sink), (OTHER_PORT, OTHER_PORT), rate_requirement(4 * MBPS, 18_028), "udp"
    )


def run_windows(timed: TimedTransfers, count: int) -> tuple[float, float]:
    """Return best effort (bit/s) beside periodic transfers reserved in windows of half the period, and permanently."""
    transfer_bytes = ceil(wire_bits(WINDOW_SEGMENT_BYTES + FRAME_OVERHEAD_BYTES, timed.mss_bytes) / 8)
    periodic = {
        "transfer_bytes": transfer_bytes,
        "deadline_ms": 500,
        "period_ms": 1000,
        "offset_ms": 0,
        "burst_bytes": BURST_BYTES,
    }
    with timed.reserved(timed.flow_requests([periodic] * len(timed.edges))) as reservation:
        uplinks = [flow for flow in reservation["flows"] if flow["name"].endswith("-up")]
        rates = {flow["source"]: flow["reserved_bps"] for flow in uplinks}
        in_windows_bps = _best_effort_bps(timed, "windows of half a period", count, rates, reservation)
    with timed.reserved(timed.flow_requests([rate_requirement(rates[edge]) for edge in timed.edges])) as reservation:
        return in_windows_bps, _best_effort_bps(timed, "the same, reserved all the time", count, rates, reservation)


def _best_effort_bps(
    timed: TimedTransfers, name: str, count: int, rates: dict[str, int], reservation: dict[str, Any]
) -> float:
    """Measure the throughput of a flood beside one transfer of every edge per second."""
    with Flood(timed.emulation, 1.5) as flood:
        first_s, epochs = ceil(time.time() + 1), [Epoch(0, inf, timed.latencies_us(reservation))]
        timed.schedule([
            ScheduledTransfer(name, edge, first_s + number, WINDOW_SEGMENT_BYTES, rates[edge], epochs)
            for edge in timed.edges
            for number in range(count)
        ])  # fmt: skip
        sleep_until(first_s)
        before_bytes, began_s = flood.delivered_bytes(), time.monotonic()
        sleep_until(first_s + count)
        return (flood.delivered_bytes() - before_bytes) * 8 / (time.monotonic() - began_s)


def table_of(transfers: Sequence[Transfer]) -> Table:
    """Return a table with one row per phase."""
    head = ("phase", "transfers", "median ms", "worst ms", "bound ms", "bound / worst", "late", "late in stalls")
    table = Table(*head)
    for name in dict.fromkeys(transfer.phase for transfer in transfers):
        of_phase = [transfer for transfer in transfers if transfer.phase == name]
        table.add_row(
            name, str(len(of_phase)), f"{statistics.median(t.measured_ms for t in of_phase):.0f}",
            f"{max(t.measured_ms for t in of_phase):.0f}", f"{statistics.median(t.bound_ms for t in of_phase):.0f}",
            f"{statistics.median(tightness(of_phase) or [math.nan]):.3f}", str(sum(not t.kept for t in of_phase)),
            str(sum(t.excused for t in of_phase)),
        )  # fmt: skip
    return table


def claims_of(transfers: Sequence[Transfer], best_effort_bps: tuple[float, float]) -> dict[str, report.Claim]:
    """Return the claims of this benchmark."""
    late = [transfer for transfer in transfers if not transfer.kept]
    undisturbed = [transfer for transfer in transfers if not transfer.held_up_ms]
    excused = sum(transfer.excused for transfer in late)
    in_windows_bps, all_the_time_bps = best_effort_bps
    return {
        "transfers": report.Claim(len(transfers), ""),
        "violations": report.at_most(len(late), "", 0),
        "violations_in_machine_stalls": report.Claim(excused, ""),
        "violations_while_machine_ran": report.at_most(len(late) - excused, "", 0),
        "transfers_while_machine_ran": report.Claim(len(undisturbed), ""),
        "worst_over_bound_while_machine_ran": report.at_most(
            max((transfer.over_bound for transfer in undisturbed), default=inf), "", 1.0
        ),
        "median_bound_over_worst_measured": report.at_most(
            statistics.median(tightness(transfers) or [math.inf]), "", 1.25
        ),
        "window_gain": report.at_least(in_windows_bps / all_the_time_bps, "x", 1.5),
    }


@click.command()
@click.option("--quick", is_flag=True, help="Fewer transfers, about two hundred; a minute and a half.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure transfers against their proven bounds on real Open vSwitch."""
    count, periods, repeats = (8, 8, 1) if quick else (30, 40, 3)
    try:
        with (
            emulate(EmulationSettings(map_path("metro"))) as emulation,
            httpx.Client(base_url=f"http://127.0.0.1:{emulation.settings.rest_port}", timeout=30) as api,
        ):
            timed = TimedTransfers(emulation, api)
            with StallWatch() as watch, timed.running():
                for _ in range(repeats):
                    for phase in PHASES:
                        run_phase(timed, phase, count)
                best_effort_bps = run_windows(timed, periods)
            transfers = timed.results(watch.stalls)
    except EmulationError as error:
        raise click.ClickException(str(error)) from error
    samples: dict[str, object] = {
        "transfers": [asdict(transfer) for transfer in transfers],
        "best_effort_bps": {"windows": best_effort_bps[0], "all_the_time": best_effort_bps[1]},
        "machine_stalls": [asdict(stall) for stall in watch.stalls],
    }
    click.echo(describe_stalls(watch.stalls))
    report.publish("guarantees", claims_of(transfers, best_effort_bps), samples, [table_of(transfers)], out)


if __name__ == "__main__":
    main()
