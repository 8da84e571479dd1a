"""What two training runs, one reserved and one not, say beside each other: tables and verdicts from their records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table

from machine.stall_watch import Stall, describe, held_up_s

Row = dict[str, Any]

ACCURACY_GOAL = 0.95
P99_GOAL = 1.10


@dataclass(frozen=True)
class Findings:
    """The summaries of the two runs. `observed` in the reserved one: the reservation as the switches held it, and whose
    CPU share was halved after which round."""

    reserved: Row
    best_effort: Row
    stalls: tuple[Stall, ...] = ()

    def disturbed(self, transfer: Row) -> bool:
        """Whether this machine itself is proven to have stood still during a transfer."""
        begin_s = transfer["sent_at"]
        return held_up_s(self.stalls, begin_s, begin_s + transfer["measured_ms"] / 1e3) > 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A sentence with the figures in it, and whether it is as it should be."""

    sentence: str
    holds: bool


def transfers(summary: Row) -> list[Row]:
    """Every transfer of a run, up and down."""
    return [transfer for row in summary["rounds"] for transfer in row["transfers"]]


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    return float(np.quantile(values, share, method="inverted_cdf"))


def tell(found: Findings) -> Iterator[RenderableType]:
    """Everything worth printing, in order."""
    yield rounds_table(found.reserved)
    yield comparison_table(found)
    yield prediction_table(found)
    if (reservation := found.reserved["observed"].get("reservation")) is not None:
        yield meters_table(reservation)
        yield entries_table(reservation)
    for verdict in verdicts(found):
        yield f"{'[green]✓[/]' if verdict.holds else '[red]✗[/]'} {verdict.sentence}"


def rounds_table(summary: Row) -> Table:
    """A line for each round: who was cut where, the delays, the accuracy."""
    edges = [edge["edge"] for edge in summary["rounds"][0]["edges"]]
    table = Table(title="Rounds: the cut of each edge, and the two delays that are the same for all")
    for name in ("round", *edges, "training ms", "transmission ms", "loss", "accuracy"):
        table.add_column(name, justify="right")
    for row in summary["rounds"]:
        table.add_row(
            str(row["round"]), *(str(edge["cut"]) for edge in row["edges"]),
            f"{row['training_delay_ms']['target']:.0f}", f"{row['transmission_delay_ms']['target']:.0f}",
            f"{row['loss']:.3f}", "" if row["accuracy"] is None else f"{row['accuracy']:.3f}",
        )  # fmt: skip
    return table


def comparison_table(found: Findings) -> Table:
    """The same kind of transfers beside the same cross-traffic, with and without a reservation."""
    table = Table(title="Segment transfers beside cross-traffic of 150 % of the bottleneck")
    columns = ("", "transfers", "p50 ms", "p99 ms", "worst ms", "p99 / rate's time", "spread p50 ms", "promises kept")
    for name in columns:
        table.add_column(name, justify="right")
    for name, summary in (("reserved", found.reserved), ("best effort", found.best_effort)):
        rows, ages = transfers(summary), unfinished(summary)
        made, kept = summary["promises"]["made"], summary["promises"]["kept"]
        promises = f"{kept} of {made}" if made else "none made"
        count = f"{len(rows)} + {len(ages)} unfinished" if ages else str(len(rows))
        table.add_row(name, count, *(_times(summary, rows, ages) if rows or ages else ["-"] * 5), promises)
    return table


def unfinished(summary: Row) -> list[Row]:
    """Transfers that were under way when the run was ended; their age is a lower bound of what they would take."""
    return [{**row, "measured_ms": row["age_ms"]} for row in summary.get("unfinished", ())]


def _times(summary: Row, rows: Sequence[Row], ages: Sequence[Row]) -> list[str]:
    at_least = "≥ " if ages else ""  # an age is less than the time it stands for, so every quantile is, too
    measured = [row["measured_ms"] for row in (*rows, *ages)]
    spreads = [spread for row in summary["rounds"] for spread in row["spread_ms"]]
    quantiles = [f"{at_least}{quantile(measured, share):.0f}" for share in (0.5, 0.99, 1.0)]
    spread = f"{quantile(spreads, 0.5):.0f}" if spreads else "-"
    return [*quantiles, f"{at_least}{over_ideal([*rows, *ages], 0.99):.3f}", spread]


def over_ideal(rows: Sequence[Row], share: float) -> float:
    """A quantile of measured time over the time that the rate implies; infinite if there are no transfers."""
    if not rows:
        return float("inf")
    return quantile([row["measured_ms"] / row["ideal_ms"] for row in rows], share)


def prediction_table(found: Findings) -> Table:
    """Predicted against measured delay of each edge: medians, and the median error."""
    table = Table(title="Predicted and measured (median over rounds, and median error)")
    for name in ("edge", "training ms", "measured", "error", "transmission ms", "measured", "error"):
        table.add_column(name, justify="right")
    for index, edge in enumerate(found.reserved["rounds"][0]["edges"]):
        rows = [row["edges"][index] for row in found.reserved["rounds"]]
        cells = [edge["edge"]]
        for delay in ("training_ms", "uplink_ms"):
            predicted = [row[delay]["predicted"] for row in rows]
            measured = [row[delay]["measured"] for row in rows]
            error = quantile([abs(p - m) / m for p, m in zip(predicted, measured, strict=True)], 0.5)
            cells += [f"{quantile(predicted, 0.5):.0f}", f"{quantile(measured, 0.5):.0f}", f"{error:.1%}"]
        table.add_row(*cells)
    return table


def meters_table(reservation: Row) -> Table:
    """The meters of the reservation, as the switches counted."""
    table = Table(title=f"Meters of reservation {reservation['id']}, read back from the switches")
    for name in ("switch", "meter", "flow", "rate kb/s", "burst kbit", "packets", "dropped"):
        table.add_column(name, justify="right")
    for meter in reservation["counters"]["meters"]:
        names = ("switch", "meter_id", "flow", "rate_kbps", "burst_kbit", "packets", "dropped_packets")
        table.add_row(*(str(meter[name]) for name in names))
    return table


def entries_table(reservation: Row) -> Table:
    """The flow entries of the reservation: where each flow goes, and how many packets went there."""
    table = Table(title="Flow entries: packets on the way of each flow, switch by switch (cookie)")
    table.add_column("flow")
    table.add_column("entries")
    by_flow: dict[str, list[str]] = {}
    cookies: dict[str, str] = {}
    for entry in reservation["counters"]["entries"]:
        by_flow.setdefault(entry["flow"], []).append(f"{entry['switch']}/{entry['table']}: {entry['packets']}")
        cookies[entry["flow"]] = entry["cookie"]
    for flow, cells in by_flow.items():
        table.add_row(flow, f"{'  '.join(cells)}  ({cookies[flow]})")
    return table


def verdicts(found: Findings) -> list[Verdict]:
    """What the demo is to show, each with its figures."""
    return [_accuracy(found), _cuts(found), _promises(found), _punctuality(found)]


def _accuracy(found: Findings) -> Verdict:
    final = found.reserved["accuracy"]["final"]
    averaged = [row["round"] for row in found.reserved["rounds"] if row["averaged"]]
    text = ", ".join(map(str, averaged))
    return Verdict(
        f"global accuracy {final:.3f} after {len(found.reserved['rounds'])} rounds, averaged after rounds {text}",
        final >= ACCURACY_GOAL,
    )


def _cuts(found: Findings) -> Verdict:
    rounds = found.reserved["rounds"]
    different = any(len({edge["cut"] for edge in row["edges"]}) > 1 for row in rounds)
    halved, after_round = (found.reserved["observed"].get(name) for name in ("halved_edge", "halved_after"))
    if after_round is None:
        return Verdict("no edge's CPU share was halved", False)
    cuts = [next(e["cut"] for e in row["edges"] if e["edge"] == halved) for row in rounds]
    before, after = cuts[after_round - 1], cuts[-1]
    return Verdict(
        f"edges are cut differently, and {halved}'s cut went from {before} to {after} layers "
        f"after its CPU share was halved in round {after_round + 1}",
        different and after < before,
    )


def _promises(found: Findings) -> Verdict:
    made, kept = found.reserved["promises"]["made"], found.reserved["promises"]["kept"]
    sentence = f"{kept} of {made} reserved transfers arrived within their proven bound"
    broken = [row for row in transfers(found.reserved) if not row["kept"]]
    excused = sum(found.disturbed(row) for row in broken)
    if broken:
        sentence += f"; {excused} of the {len(broken)} late ones while this machine itself stood still"
    return Verdict(f"{sentence} ({describe(found.stalls)})", made > 0 and excused == len(broken))


def _punctuality(found: Findings) -> Verdict:
    rows = transfers(found.reserved)
    ages = unfinished(found.best_effort)
    others = [*transfers(found.best_effort), *ages]
    reserved = over_ideal(rows, 0.99)
    undisturbed = over_ideal([row for row in rows if not found.disturbed(row)], 0.99)
    at_least = "at least " if ages else ""
    beside = f"it is {at_least}{over_ideal(others, 0.99):.1f} x" if others else "not one transfer began in time"
    aside = "" if reserved <= P99_GOAL else f", {undisturbed:.3f} x without those during which this machine stood still"
    return Verdict(
        f"p99 of a reserved transfer is {reserved:.3f} x the time its rate implies (goal {P99_GOAL:g}){aside}; with "
        f"nothing reserved {beside}: every round waits for its slowest segment",
        undisturbed <= P99_GOAL,
    )
