"""Reserved transfers while the controller is killed (kill -9) and restarted, each compared with its proven bound."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from rich.table import Table

from harness import report
from control_plane.switch_row import switches_in_sync
from emulation.cross_traffic import Flood
from emulation.fault_injection import FaultInjector
from harness.timed_transfers import (
    MBPS,
    Epoch,
    ScheduledTransfer,
    TimedTransfers,
    Transfer,
    rate_requirement,
    sleep_until,
)
from machine.polling import wait_until

TRANSFER_MBPS, TRANSFER_BYTES, PERIOD_S = 15, 500_000, 0.32
TRANSFERS = 50
"""Transfers of each edge over one restart; the controller must be in sync before the last."""
SETTLE_S = 1.5


@dataclass(frozen=True, slots=True)
class Restart:
    """The interval from the kill until the new controller was in sync, in Unix time."""

    killed_s: float
    in_sync_s: float

    def overlaps(self, transfer: Transfer) -> bool:
        """Whether a transfer was in progress at any time within the interval."""
        return transfer.sent_s < self.in_sync_s and self.killed_s < transfer.sent_s + transfer.measured_ms / 1e3


def restart_during_transfers(timed: TimedTransfers) -> Restart:
    """Kill and restart the controller while all edges send transfers under a flood.

    The transfers are compared with the bounds from before the kill.

    Raises: RuntimeError if the restart takes longer than the transfers, or the reservation has changed after it.
    """
    outages = FaultInjector(timed.topology, str(timed.emulation.vswitch.directory))
    flows = timed.flow_requests([rate_requirement(TRANSFER_MBPS * MBPS)] * len(timed.edges))
    with timed.reserved(flows) as reservation, Flood(timed.emulation, 1.5):
        first_s, epochs = time.time() + 0.4, [Epoch(0, inf, timed.latencies_us(reservation))]
        timed.schedule([
            ScheduledTransfer("restart", edge, first_s + n * PERIOD_S, TRANSFER_BYTES, TRANSFER_MBPS * MBPS, epochs)
            for edge in timed.edges
            for n in range(TRANSFERS)
        ])  # fmt: skip
        sleep_until(first_s + SETTLE_S)
        killed_s = time.time()
        outages.set_controller(up=False)
        time.sleep(SETTLE_S)
        outages.set_controller(up=True)
        wait_until(lambda: switches_in_sync(timed.api), 30)
        in_sync_s, end_s = time.time(), first_s + TRANSFERS * PERIOD_S
        if in_sync_s > end_s:
            raise RuntimeError(
                f"the controller was in sync only {in_sync_s - end_s:.1f} s after the start of the last transfer"
            )
        found = timed.api.get(f"/v1/reservations/{reservation['id']}").raise_for_status().json()
        if (found["state"], found["version"]) != ("active", reservation["version"]):
            raise RuntimeError(f"the reservation is {found['state']} in version {found['version']} after the restart")
        sleep_until(end_s + 0.5)
    return Restart(killed_s, in_sync_s)


def claims_of(transfers: Sequence[Transfer]) -> dict[str, report.Claim]:
    """Claims on the transfers in progress between a kill and the recovery."""
    late = [transfer for transfer in transfers if not transfer.kept]
    ratios = [transfer.over_bound for transfer in transfers]
    return {
        "transfers_over_restart": report.Claim(len(transfers), ""),
        "transfers_late_over_restart": report.at_most(len(late), "", 0),
        "transfers_late_while_machine_ran": report.at_most(sum(not each.excused for each in late), "", 0),
        "transfer_over_bound_median": report.Claim(statistics.median(ratios), ""),
        "transfer_over_bound_worst": report.Claim(max(ratios), ""),
    }


def table_of(transfers: Sequence[Transfer]) -> Table:
    """One row per edge."""
    table = Table("transfers of", "count", "median / bound", "worst / bound", "late", "machine stalled")
    for edge in dict.fromkeys(transfer.edge for transfer in transfers):
        own = [transfer for transfer in transfers if transfer.edge == edge]
        ratios = [transfer.over_bound for transfer in own]
        late, excused = sum(not transfer.kept for transfer in own), sum(transfer.excused for transfer in own)
        figures = f"{statistics.median(ratios):.3f}", f"{max(ratios):.3f}", str(late), str(excused)
        table.add_row(edge, str(len(own)), *figures)
    return table
