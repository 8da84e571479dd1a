"""Compares the two training runs of the demo, reserved and best effort: tables and verdicts from their records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from machine.quantile import quantile
from machine.stall_watch import Stall, describe_stalls, stalled_s

Row = dict[str, Any]

ACCURACY_GOAL = 0.95
P99_GOAL = 1.25
"""Of the time on the way, without waiting between micro-batches; beside much other work 1.17 was measured."""


@dataclass(frozen=True)
class DemoResults:
    """Summaries of the two runs, and the stalls of the machine meanwhile.

    `observed` in the reserved summary: the reservation as read back from the switches, and which edge's CPU share was
    halved after which round.
    """

    reserved: Row
    best_effort: Row
    stalls: tuple[Stall, ...] = ()

    def disturbed(self, transfer: Row) -> bool:
        """Whether this machine is proven to have stalled during a transfer."""
        begin_s = transfer["sent_at"]
        return stalled_s(self.stalls, begin_s, begin_s + transfer["measured_ms"] / 1e3) > 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A sentence with the measured figures, and whether its goal is met."""

    sentence: str
    holds: bool


def transfers(summary: Row) -> list[Row]:
    """All transfers of a run, uplink and downlink."""
    return [transfer for row in summary["rounds"] for transfer in row["transfers"]]


def report_parts(results: DemoResults) -> Iterator[RenderableType]:
    """All tables and verdicts, in the order in which they are printed."""
    yield rounds_table(results.reserved)
    yield comparison_table(results)
    yield prediction_table(results)
    if (reservation := results.reserved["observed"].get("reservation")) is not None:
        yield meters_table(reservation)
        yield entries_table(reservation)
    for verdict in verdicts(results):
        yield f"{'[green]✓[/]' if verdict.holds else '[red]✗[/]'} {verdict.sentence}"


def rounds_table(summary: Row) -> Table:
    """One row per round: the cut of each edge, the delays, loss and accuracy."""
    edges = [edge["edge"] for edge in summary["rounds"][0]["edges"]]
    table = Table(title="Rounds: the cut of each edge (layers), and the two delays that all edges share")
    for name in ("round", *edges, "training ms", "transmission ms", "loss", "accuracy"):
        table.add_column(name, justify="right")
    for row in summary["rounds"]:
        table.add_row(
            str(row["round"]), *(str(edge["cut"]) for edge in row["edges"]),
            f"{row['training_delay_ms']['target']:.0f}", f"{row['transmission_delay_ms']['target']:.0f}",
            f"{row['loss']:.3f}", "" if row["accuracy"] is None else f"{row['accuracy']:.3f}",
        )  # fmt: skip
    return table


def comparison_table(results: DemoResults) -> Table:
    """Segment transfers under the same cross-traffic, with and without a reservation."""
    table = Table(title="Segment transfers under cross-traffic of 150 % of the bottleneck")
    columns = ("", "transfers", "p50 ms", "p99 ms", "worst ms", "p99 / ideal", "spread p50 ms", "bounds kept")
    for name in columns:
        table.add_column(name, justify="right")
    for name, summary in (("reserved", results.reserved), ("best effort", results.best_effort)):
        rows, ages = transfers(summary), unfinished(summary)
        made, kept = summary["promises"]["made"], summary["promises"]["kept"]
        promises = f"{kept} of {made}" if made else "no bounds"
        count = f"{len(rows)} + {len(ages)} unfinished" if ages else str(len(rows))
        table.add_row(name, count, *(_times(summary, rows, ages) if rows or ages else ["-"] * 5), promises)
    return table


def unfinished(summary: Row) -> list[Row]:
    """Transfers in progress when the run was stopped; their age is a lower bound of their duration."""
    return [{**row, "measured_ms": row["age_ms"]} for row in summary.get("unfinished", ())]


def _times(summary: Row, rows: Sequence[Row], ages: Sequence[Row]) -> list[str]:
    at_least = "≥ " if ages else ""  # an age is a lower bound, hence every quantile is one
    measured = [row["measured_ms"] for row in (*rows, *ages)]
    spreads = [spread for row in summary["rounds"] for spread in row["spread_ms"]]
    quantiles = [f"{at_least}{quantile(measured, share):.0f}" for share in (0.5, 0.99, 1.0)]
    spread = f"{quantile(spreads, 0.5):.0f}" if spreads else "-"
    return [*quantiles, f"{at_least}{over_ideal([*rows, *ages], 0.99):.3f}", spread]


def over_ideal(rows: Sequence[Row], share: float) -> float:
    """A quantile of measured / ideal transfer time (size / reserved rate); infinite if there are no transfers."""
    if not rows:
        return float("inf")
    return quantile([row["measured_ms"] / row["ideal_ms"] for row in rows], share)


def prediction_table(results: DemoResults) -> Table:
    """Predicted and measured delay of each edge: medians, and the median error."""
    table = Table(title="Predicted and measured delays (medians over the rounds)")
    for name in ("edge", "training ms", "measured", "error", "transmission ms", "measured", "error"):
        table.add_column(name, justify="right")
    for index, edge in enumerate(results.reserved["rounds"][0]["edges"]):
        rows = [row["edges"][index] for row in results.reserved["rounds"]]
        cells = [edge["edge"]]
        for delay in ("training_ms", "uplink_ms"):
            predicted = [row[delay]["predicted"] for row in rows]
            measured = [row[delay]["measured"] for row in rows]
            error = quantile([abs(p - m) / m for p, m in zip(predicted, measured, strict=True)], 0.5)
            cells += [f"{quantile(predicted, 0.5):.0f}", f"{quantile(measured, 0.5):.0f}", f"{error:.1%}"]
        table.add_row(*cells)
    return table


def meters_table(reservation: Row) -> Table:
    """The meters of the reservation, with the counters of the switches."""
    table = Table(title=f"Meters of reservation {reservation['id']}, read back from the switches")
    for name in ("switch", "meter", "flow", "rate kb/s", "burst kbit", "packets", "dropped"):
        table.add_column(name, justify="right")
    for meter in reservation["counters"]["meters"]:
        names = ("switch", "meter_id", "flow", "rate_kbps", "burst_kbit", "packets", "dropped_packets")
        table.add_row(*(str(meter[name]) for name in names))
    return table


def entries_table(reservation: Row) -> Table:
    """The flow entries of the reservation: the path of each flow, with packet counters."""
    table = Table(title="Flow entries along the path of each flow: switch/table: packets (cookie)")
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


def verdicts(results: DemoResults) -> list[Verdict]:
    """The four claims of the demo, each with its figures."""
    return [_accuracy(results), _cuts(results), _promises(results), _punctuality(results)]


def _accuracy(results: DemoResults) -> Verdict:
    final = results.reserved["accuracy"]["final"]
    averaged = [row["round"] for row in results.reserved["rounds"] if row["averaged"]]
    text = ", ".join(map(str, averaged))
    return Verdict(
        f"accuracy of the global model: {final:.3f} (goal {ACCURACY_GOAL:g}) after "
        f"{len(results.reserved['rounds'])} rounds, averaged after rounds {text}",
        final >= ACCURACY_GOAL,
    )


def _cuts(results: DemoResults) -> Verdict:
    rounds = results.reserved["rounds"]
    different = any(len({edge["cut"] for edge in row["edges"]}) > 1 for row in rounds)
    halved, after_round = (results.reserved["observed"].get(name) for name in ("halved_edge", "halved_after"))
    if after_round is None:
        return Verdict("no edge's CPU share was halved", False)
    cuts = [next(e["cut"] for e in row["edges"] if e["edge"] == halved) for row in rounds]
    before, after = cuts[after_round - 1], cuts[-1]
    return Verdict(
        f"each edge has its own cut; {halved}'s went from {before} to {after} layers after its CPU share was halved "
        f"in round {after_round + 1}",
        different and after < before,
    )


def _promises(results: DemoResults) -> Verdict:
    made, kept = results.reserved["promises"]["made"], results.reserved["promises"]["kept"]
    sentence = f"{kept} of {made} reserved transfers arrived within their proven bound"
    late = [row for row in transfers(results.reserved) if not row["kept"]]
    excused = sum(results.disturbed(row) for row in late)
    if late:
        sentence += f"; {excused} of the {len(late)} late ones while this machine itself stalled"
    return Verdict(f"{sentence} ({describe_stalls(results.stalls)})", made > 0 and excused == len(late))


def _punctuality(results: DemoResults) -> Verdict:
    rows = transfers(results.reserved)
    ages = unfinished(results.best_effort)
    others = [*transfers(results.best_effort), *ages]
    reserved = over_ideal(rows, 0.99)
    undisturbed = over_ideal([row for row in rows if not results.disturbed(row)], 0.99)
    at_least = "at least " if ages else ""
    best_effort = f"{at_least}{over_ideal(others, 0.99):.1f} x" if others else "no transfer began in time"
    aside = "" if reserved <= P99_GOAL else f", {undisturbed:.3f} x without transfers during a stall of this machine"
    return Verdict(
        f"p99 of reserved transfers: {reserved:.3f} x the ideal time (goal {P99_GOAL:g}){aside}; best effort: "
        f"{best_effort}; every round waits for its slowest segment",
        undisturbed <= P99_GOAL,
    )
