"""Tables, verdicts and notes of the demo, from the records of its runs and the compared rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from demo_comparison import ComparedRun
from machine.quantile import quantile
from machine.stall_watch import Stall, describe_stalls, stalled_s

Row = dict[str, Any]

ACCURACY_GOAL = 0.95
P99_GOAL = 1.25
"""Of the time on the way, without waiting between micro-batches; beside much other work 1.17 was measured."""


@dataclass(frozen=True)
class DemoResults:
    """The summary of the training over reserved flows, the compared rounds, and the stalls of the machine meanwhile.

    `observed` in the summary: the reservation as read back from the switches, and which edge's CPU share was halved
    after which round.
    """

    reserved: Row
    reserved_rounds: ComparedRun
    best_effort_rounds: ComparedRun
    stalls: tuple[Stall, ...] = ()

    def disturbed(self, transfer: Row) -> bool:
        """Whether this machine is proven to have stalled during a transfer."""
        begin_s = transfer["sent_at"]
        return stalled_s(self.stalls, begin_s, begin_s + transfer["span_ms"] / 1e3) > 0


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
    yield transfers_table(results)
    yield comparison_table(results)
    yield prediction_table(results)
    if (reservation := results.reserved["observed"].get("reservation")) is not None:
        yield meters_table(reservation)
        yield entries_table(reservation)
    for verdict in verdicts(results):
        yield f"{'[green]✓[/]' if verdict.holds else '[red]✗[/]'} {verdict.sentence}"
    yield from (f"[blue]i[/] {note}" for note in notes(results))


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
    """The same steps over the same paths beside each kind of cross-traffic: round times, and what of it arrived."""
    table = Table(title="A round (4 steps) beside cross-traffic on its paths, and the cross-traffic that arrived")
    columns = ("cross-traffic", "sent Mb/s", "reserved: round", "it kept Mb/s", "best effort: round", "it kept Mb/s")
    for name in columns:
        table.add_column(name, justify="left" if name == columns[0] else "right")
    for reserved, best_effort in zip(results.reserved_rounds.results, results.best_effort_rounds.results, strict=True):
        sent = "as it can" if reserved.offered_bps is None else _mbps(reserved.offered_bps or None)
        table.add_row(reserved.load.title, sent, reserved.round_text, _mbps(reserved.delivered_bps),
                      best_effort.round_text, _mbps(best_effort.delivered_bps))
    return table


def _mbps(rate_bps: float | None) -> str:
    return "-" if rate_bps is None else f"{rate_bps / 1e6:.1f}"


def transfers_table(results: DemoResults) -> Table:
    """Reserved transfers: time on the way, beside ideal times and bounds."""
    table = Table(title="Reserved transfers: time on the way")
    for name in ("cross-traffic", "transfers", "p50 ms", "p99 ms", "worst ms", "p99 / ideal", "spread p50 ms",
                 "bounds kept"):
        table.add_column(name, justify="left" if name == "cross-traffic" else "right")
    for name, summary in (("UDP, 150 %", results.reserved), ("all kinds", results.reserved_rounds.summary)):
        rows = transfers(summary)
        measured = [row["measured_ms"] for row in rows]
        spreads = [spread for row in summary["rounds"] for spread in row["spread_ms"]]
        table.add_row(
            name, str(len(rows)), *(f"{quantile(measured, share):.0f}" for share in (0.5, 0.99, 1.0)),
            f"{over_ideal(rows, 0.99):.3f}", f"{quantile(spreads, 0.5):.0f}",
            f"{summary['promises']['kept']} of {summary['promises']['made']}",
        )  # fmt: skip
    return table


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
    summaries = (results.reserved, results.reserved_rounds.summary)
    made, kept = (sum(summary["promises"][name] for summary in summaries) for name in ("made", "kept"))
    sentence = f"{kept} of {made} reserved transfers arrived within their proven bounds"
    late = [row for summary in summaries for row in transfers(summary) if not row["kept"]]
    excused = sum(results.disturbed(row) for row in late)
    if late:
        sentence += f"; {excused} of the {len(late)} late ones while this machine itself stalled"
    return Verdict(f"{sentence} ({describe_stalls(results.stalls)})", made > 0 and excused == len(late))


def _punctuality(results: DemoResults) -> Verdict:
    rows = transfers(results.reserved)
    reserved = over_ideal(rows, 0.99)
    undisturbed = over_ideal([row for row in rows if not results.disturbed(row)], 0.99)
    aside = "" if reserved <= P99_GOAL else f", {undisturbed:.3f} x without transfers during a stall of this machine"
    return Verdict(
        f"p99 of reserved transfers: {reserved:.3f} x the ideal time, size / rate (goal {P99_GOAL:g}){aside}",
        undisturbed <= P99_GOAL,
    )


def notes(results: DemoResults) -> list[str]:
    """What the figures mean: where a reservation helps and where not, and the bytes beside federated averaging."""
    reserved, best_effort = (run.results for run in (results.reserved_rounds, results.best_effort_rounds))
    busiest = reserved[-1]
    run, model = results.reserved, results.reserved["model_bytes"]
    sent = sum(row["bytes"] for row in transfers(run)) / 1e6
    fedavg = sum(2 * model * len(row["edges"]) for row in run["rounds"] if row["averaged"]) / 1e6
    compared = f"{sent / fedavg:.1f} times as many" if sent > fedavg else f"{fedavg / sent:.1f} times as few"
    return [
        f"without cross-traffic a round takes {reserved[0].round_text} with reservations and "
        f"{best_effort[0].round_text} without: an empty network needs no reservation",
        f"beside {busiest.load.title} it takes {busiest.round_text} with reservations and "
        f"{best_effort[-1].round_text} without",
        f"the run of part 2 sent {sent:.1f} MB of segments and gradients, {compared} bytes as federated averaging "
        f"with the same averagings ({fedavg:.1f} MB): splitting saves computation on the edges, not bytes",
    ]
