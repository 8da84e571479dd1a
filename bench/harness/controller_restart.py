"""Reserved transfers while the controller is killed (kill -9) and started again: each against its proven bound."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from rich.table import Table

from control_plane.switch_row import switches_in_sync
from emulation.cross_traffic import Flood
from emulation.fault_injection import FaultInjector
from harness import report
from harness.timed_transfers import MBPS, Epoch, Order, TimedTransfers, Transfer, rate, sleep_until
from machine.polling import wait_until

TRANSFER_MBPS, TRANSFER_BYTES, PERIOD_S = 15, 500_000, 0.32
TRANSFERS = 50
"""Of each edge over one restart: that long the controller may take until it is in step."""
SETTLE_S = 1.5


@dataclass(frozen=True, slots=True)
class Restart:
    """From the kill to the moment when the new controller was in step, in Unix time."""

    killed_s: float
    in_step_s: float

    def met(self, transfer: Transfer) -> bool:
        """Whether a transfer was on its way at some moment of it."""
        return transfer.sent_s < self.in_step_s and self.killed_s < transfer.sent_s + transfer.measured_ms / 1e3


def restart_beside_transfers(timed: TimedTransfers) -> Restart:
    """Transfers of all edges, one after the other beside a flood, from before the kill until after the recovery.

    They are judged by what was promised before the kill.

    Raises: RuntimeError if it took longer than the transfers, or the new controller knows the reservation otherwise.
    """
    outages = FaultInjector(timed.plan, str(timed.emulation.vswitch.directory))
    flows = timed.flows([rate(TRANSFER_MBPS * MBPS)] * len(timed.edges))
    with timed.reserved(flows) as reservation, Flood(timed.emulation, 1.5):
        first_s, epochs = time.time() + 0.4, [Epoch(0, inf, timed.told(reservation))]
        timed.order([
            Order("restart", edge, first_s + n * PERIOD_S, TRANSFER_BYTES, TRANSFER_MBPS * MBPS, epochs)
            for edge in timed.edges
            for n in range(TRANSFERS)
        ])  # fmt: skip
        sleep_until(first_s + SETTLE_S)
        killed_s = time.time()
        outages.set_controller(up=False)
        time.sleep(SETTLE_S)
        outages.set_controller(up=True)
        wait_until(lambda: switches_in_sync(timed.api), 30)
        in_step_s, end_s = time.time(), first_s + TRANSFERS * PERIOD_S
        if in_step_s > end_s:
            raise RuntimeError(f"the controller was in step {in_step_s - end_s:.1f} s after the last transfer's begin")
        found = timed.api.get(f"/v1/reservations/{reservation['id']}").raise_for_status().json()
        if (found["state"], found["version"]) != ("active", reservation["version"]):
            raise RuntimeError(f"the reservation is {found['state']} in version {found['version']} after the restart")
        sleep_until(end_s + 0.5)
    return Restart(killed_s, in_step_s)


def claims_of(transfers: Sequence[Transfer]) -> dict[str, report.Claim]:
    """Of the transfers that were on their way between a kill and the recovery."""
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
    """One row an edge."""
    table = Table("transfers of", "count", "median / bound", "worst / bound", "late", "machine stood still")
    for edge in dict.fromkeys(transfer.edge for transfer in transfers):
        own = [transfer for transfer in transfers if transfer.edge == edge]
        ratios = [transfer.over_bound for transfer in own]
        late, excused = sum(not transfer.kept for transfer in own), sum(transfer.excused for transfer in own)
        figures = f"{statistics.median(ratios):.3f}", f"{max(ratios):.3f}", str(late), str(excused)
        table.add_row(edge, str(len(own)), *figures)
    return table
