"""Tuning of the route order per map: chosen on training demands, evaluated on unseen demands.

For each map the orders are compared on the `TRAINING` seeds (see bench/harness/route_order_search.py); the chosen order
is then evaluated on the `UNSEEN` seeds, beside first fit and most used. The line for
controller/optical/route_order.py is printed.

    .venv/bin/python bench/order_tuning.py [MAP ...] [--routes K] [--quick] [--out FILE.json]

MAP is `nsfnet`, a published map that `paceline maps` lists, or a file.
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
from topologies.plants.published import read_plant

TRAINING, UNSEEN = range(100, 108), range(200, 210)
COUNT = 8000


@dataclass(frozen=True, slots=True)
class Tuned:
    """Result for one map: the choice; blocking of the choice and the baselines on unseen demands, a share per seed."""

    spans: SpanLengths
    choice: TuningResult
    unseen: Mapping[RouteSelection, list[float]]

    @property
    def best_classical(self) -> RouteSelection:
        """The baseline with the least blocking on unseen demands."""
        return min(
            (baseline for baseline in self.unseen if baseline.order.is_sequential),
            key=lambda baseline: sum(self.unseen[baseline]),
        )


def spans_of(name: str) -> SpanLengths:
    """Return the fibres of a map with their lengths."""
    if name == "nsfnet":
        return SPANS
    return {fibre.ends: fibre.length_km for fibre in read_plant(name).fibres}


def tune_map(spans: SpanLengths, seeds: int, count: int, routes: int) -> Tuned:
    """Tune on the training demands, then evaluate on the unseen ones."""
    choice = tune(OrderTrial(spans, TRAINING[:seeds], count, most_routes=routes))
    evaluation = OrderTrial(spans, UNSEEN, count, most_routes=routes)
    selections = dict.fromkeys([choice.chosen, *evaluation.baselines()])
    unseen = {selection: evaluation.blocked(selection, choice.erlang) for selection in selections}
    return Tuned(spans, choice, unseen)


def label_of(candidate: RouteSelection) -> str:
    """Return a name for tables and plots."""
    order = candidate.order
    kind = f"position {order.position:g}, load {order.load:g}"
    if order.is_sequential:
        kind = "most used" if order.most_used else "first fit"
    return f"{kind}, k={candidate.k} by {candidate.by}"


def plot(results: Mapping[str, Tuned]) -> Figure:
    """Plot the blocking on unseen demands, one chart per map."""
    figure = Figure(figsize=(8, 2.2 * len(results)), layout="constrained")
    for axes, (name, result) in zip(figure.subplots(len(results), squeeze=False)[:, 0], results.items(), strict=True):
        intervals = [report.interval(shares) for shares in result.unseen.values()]
        colours = ["#2f7f5f" if selection == result.choice.chosen else "#8d8d8d" for selection in result.unseen]
        means, halves = [[100 * interval[part] for interval in intervals] for part in (0, 1)]
        axes.barh([label_of(selection) for selection in result.unseen], means, xerr=halves, color=colours, capsize=3)
        axes.set_title(f"{name}, {result.choice.erlang:.0f} erlang: % blocked, 95 % interval over seeds", fontsize=9)
        axes.set_xlim(left=0)
        axes.tick_params(labelsize=7)
        axes.invert_yaxis()
    return figure


@click.command(help=__doc__)
@click.argument("maps", nargs=-1, metavar="[MAP]...")
@click.option("--routes", default=50, show_default=True, help="Maximum number of candidate routes per pair of sites.")
@click.option("--quick", is_flag=True, help="Fewer seeds and demands: about a minute for one map of 14 sites.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures there as JSON, and a plot beside it.")
def main(maps: tuple[str, ...], routes: int, quick: bool, out: Path | None) -> None:
    """Tune each map."""
    seeds, count = (2, 4000) if quick else (len(TRAINING), COUNT)
    results = {name: tune_map(spans_of(name), seeds, count, routes) for name in maps or ("nsfnet",)}
    claims, samples = {}, {}
    table = Table(
        "map", "order", "training", "unseen", title=f"% blocked, {seeds} training seeds, {len(UNSEEN)} unseen"
    )
    for name, result in results.items():
        training = dict(result.choice.blocking)
        for selection, shares in result.unseen.items():
            mean, half = report.interval(shares)
            mark = "* " if selection == result.choice.chosen else ""
            table.add_row(
                name,
                mark + label_of(selection),
                f"{100 * training[selection]:.3f}",
                f"{100 * mean:.3f} ± {100 * half:.3f}",
            )
        ours, classical = (sum(result.unseen[selection]) for selection in (result.choice.chosen, result.best_classical))
        short = name.rpartition("/")[2].replace("-", "_")
        claims[f"blocking_over_best_classical_{short}"] = report.at_most(ours / classical, "", 1.0)
        samples[name] = {
            "erlang": result.choice.erlang,
            "training": {label_of(selection): share for selection, share in training.items()},
            "unseen": {label_of(selection): shares for selection, shares in result.unseen.items()},
        }
        click.echo(f"{fingerprint(result.spans)}: {result.choice.chosen}, {name}")
    report.publish("order_tuning", claims, samples, [table], out, {"orders": plot(results)})


if __name__ == "__main__":
    main()
