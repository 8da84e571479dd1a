"""The order of routes tuned for maps: what is chosen on some demands, and how it does on others.

For each map the orders are compared on `TRAINING` seeds (see bench/harness/route_order_search.py); what is chosen then
decides demands that it has not seen, beside first fit and most used. A line for controller/optical/route_order.py is
printed.

    .venv/bin/python bench/order_tuning.py [MAP ...] [--routes K] [--quick] [--out FILE.json]

MAP is `nsfnet` or what `paceline maps` knows: a published name or a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
from matplotlib.figure import Figure
from rich.table import Table

from harness import report
from controller.optical.route_order import RouteSelection, SpanLengths, fingerprint
from harness.nsfnet import SPANS
from harness.route_order_search import OrderTrial, TuningResult, tune
from topologies.published import read_plant

TRAINING, UNSEEN = range(100, 108), range(200, 210)
COUNT = 8000


@dataclass(frozen=True, slots=True)
class Tuned:
    """One map: what was chosen; blocking on unseen demands of the choice and of the yardsticks, a share per seed."""

    spans: SpanLengths
    choice: TuningResult
    unseen: Mapping[RouteSelection, list[float]]

    @property
    def best_classical(self) -> RouteSelection:
        """The yardstick that blocks least on unseen demands."""
        return min((each for each in self.unseen if each.order.is_sequential), key=lambda each: sum(self.unseen[each]))


def spans_of(name: str) -> SpanLengths:
    """The fibres of a map."""
    if name == "nsfnet":
        return SPANS
    return {fibre.ends: fibre.length_km for fibre in read_plant(name).fibres}


def tune_map(spans: SpanLengths, seeds: int, count: int, routes: int) -> Tuned:
    """Tune, then decide what was not seen."""
    choice = tune(OrderTrial(spans, TRAINING[:seeds], count, most_routes=routes))
    judge = OrderTrial(spans, UNSEEN, count, most_routes=routes)
    fielded = dict.fromkeys([choice.chosen, *judge.baselines()])
    unseen = {each: judge.blocked(each, choice.erlang) for each in fielded}
    return Tuned(spans, choice, unseen)


def label_of(candidate: RouteSelection) -> str:
    """A name for people."""
    order = candidate.order
    what = f"position {order.position:g}, load {order.load:g}"
    if order.is_sequential:
        what = "most used" if order.most_used else "first fit"
    return f"{what}, k={candidate.k} by {candidate.by}"


def plot(results: Mapping[str, Tuned]) -> Figure:
    """Blocking on unseen demands, a picture for each map."""
    figure = Figure(figsize=(8, 2.2 * len(results)), layout="constrained")
    for axes, (name, result) in zip(figure.subplots(len(results), squeeze=False)[:, 0], results.items(), strict=True):
        intervals = [report.interval(shares) for shares in result.unseen.values()]
        colours = ["#2f7f5f" if each == result.choice.chosen else "#8d8d8d" for each in result.unseen]
        means, halves = [[100 * each[part] for each in intervals] for part in (0, 1)]
        axes.barh([label_of(each) for each in result.unseen], means, xerr=halves, color=colours, capsize=3)
        axes.set_title(f"{name}, {result.choice.erlang:.0f} erlang: % blocked, 95 % interval over seeds", fontsize=9)
        axes.set_xlim(left=0)
        axes.tick_params(labelsize=7)
        axes.invert_yaxis()
    return figure


@click.command(help=__doc__)
@click.argument("maps", nargs=-1, metavar="[MAP]...")
@click.option("--routes", default=50, show_default=True, help="The most candidate routes for a pair of sites.")
@click.option("--quick", is_flag=True, help="Fewer seeds and demands: about a minute for one map of 14 sites.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures there as JSON, and a plot beside it.")
def main(maps: tuple[str, ...], routes: int, quick: bool, out: Path | None) -> None:
    """Tune each map."""
    seeds, count = (2, 4000) if quick else (len(TRAINING), COUNT)
    results = {name: tune_map(spans_of(name), seeds, count, routes) for name in maps or ("nsfnet",)}
    claims, samples = {}, {}
    table = Table("map", "order", "training", "unseen", title=f"% blocked, {seeds} seeds seen, {len(UNSEEN)} not")
    for name, result in results.items():
        seen = dict(result.choice.blocking)
        for each, shares in result.unseen.items():
            mean, half = report.interval(shares)
            mark = "* " if each == result.choice.chosen else ""
            table.add_row(
                name, mark + label_of(each), f"{100 * seen[each]:.3f}", f"{100 * mean:.3f} ± {100 * half:.3f}"
            )
        ours, classical = (sum(result.unseen[each]) for each in (result.choice.chosen, result.best_classical))
        short = name.rpartition("/")[2].replace("-", "_")
        claims[f"blocking_over_best_classical_{short}"] = report.at_most(ours / classical, "", 1.0)
        samples[name] = {
            "erlang": result.choice.erlang,
            "training": {label_of(each): share for each, share in seen.items()},
            "unseen": {label_of(each): shares for each, shares in result.unseen.items()},
        }
        click.echo(f"{fingerprint(result.spans)}: {result.choice.chosen}, {name}")
    report.publish("order_tuning", claims, samples, [table], out, {"orders": plot(results)})


if __name__ == "__main__":
    main()
