"""Plots of a run: loss, metric, confusion matrix, delays with targets and bounds, cuts, promises, steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.records.run_reader import Row, Run

COLOURS = ("#4c6a92", "#d1782c", "#2f7f5f", "#9a4f7f", "#8d8d8d", "#b8a12c")
RED = "#b03030"
TARGET: dict[str, Any] = {"color": "#222222", "linestyle": "--", "linewidth": 1}
PREDICTED: dict[str, Any] = {"color": "#8d8d8d", "linewidth": 1}
BOUND: dict[str, Any] = {"color": RED, "linestyle": "none", "marker": "_", "markersize": 4}

SMALL = (4.8, 3.0)
"""Inches; two beside each other fill the page, and one is legible on a phone."""
MAX_DELAY_EDGES = 12
MAX_NUMBERED_CELLS = 400
UNIT_METRICS = ("accuracy", "f1-micro", "f1-macro")


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure under a heading; `section` groups figures that belong together."""

    section: str
    title: str
    figure: Figure
    wide: bool = False


def plots(run: Run) -> dict[str, Plot]:
    """Return the plots by name, in the order of their sections; empty if no round was completed."""
    if not run.rounds:
        return {}
    metric = run.metric["name"]
    result = f"{metric.capitalize()} of the global model"
    made = {
        "loss": Plot("curves", "Training loss", _loss(run)),
        "metric": Plot("curves", f"{result} ({run.metric['better']} is better)", _metric_by_round(run)),
    }
    if run.confusion is not None:
        title = f"Held-out samples by class, after round {run.confusion['round']}"
        made["confusion"] = Plot("confusion", title, _confusion(run.confusion["counts"]))
    shown = run.edges[:MAX_DELAY_EDGES]
    which = "each edge" if len(shown) == len(run.edges) else f"the first {len(shown)} of {len(run.edges)} edges"
    delays = f"Delays of {which}, and the bound of each transfer"
    made |= {
        "delays": Plot("delays", delays, _delays(run, shown), wide=True),
        "cuts": Plot("cuts", "Layers on each edge", _cuts(run), wide=True),
        "time": Plot("cost", f"{result} over time", _metric_over(run, run.seconds(), "seconds of training")),
        "data": Plot("cost", f"{result} over data sent",
                     _metric_over(run, run.megabytes(), "MB of segments and gradients")),
        "steps": Plot("steps", "Step time, planned and measured", _step_times(run)),
        "spread": Plot("steps", "Spread of the arrivals of the edges' segments", _spreads(run)),
    }
    if run.summary["promises"]["made"]:
        made["promises"] = Plot("promises", "Reserved transfers within and beyond their bounds", _promises(run))
    return made


def _loss(run: Run) -> Figure:
    figure, axes = _small()
    axes.plot(*_columns((row["round"], row["loss"]) for row in run.rounds), "o-", markersize=4, color=COLOURS[1])
    axes.set_ylim(bottom=min(0.0, *(1.05 * row["loss"] for row in run.rounds)))
    _label(axes, "mean loss of the edges", "round")
    _whole_rounds(axes, run)
    return figure


def _metric_by_round(run: Run) -> Figure:
    figure, axes = _small()
    axes.plot(*_columns((row["round"], value) for row, value in _evaluated(run)), "o-", markersize=5, color=COLOURS[0])
    _finish_metric(axes, run, "round")
    _whole_rounds(axes, run)
    return figure


def _metric_over(run: Run, ends: Sequence[float], unit: str) -> Figure:
    figure, axes = _small()
    by_round = {row["round"]: end for row, end in zip(run.rounds, ends, strict=True)}
    axes.plot(*_columns((by_round[row["round"]], value) for row, value in _evaluated(run)), "o-", markersize=5,
              color=COLOURS[0])
    _finish_metric(axes, run, unit)
    axes.set_xlim(0, 1.05 * max(ends) or 1)
    return figure


def _finish_metric(axes: Axes, run: Run, x: str) -> None:
    metric = run.metric
    if metric["target"] is not None:
        axes.axhline(metric["target"], label="target", **TARGET)
        axes.legend(fontsize=8)
    if metric["name"] in UNIT_METRICS:
        axes.set_ylim(0, 1.03)
    _label(axes, metric["name"], x)
    if not _evaluated(run):
        axes.text(0.5, 0.5, "no averaging yet", ha="center", fontsize=9, transform=axes.transAxes)


def _evaluated(run: Run) -> list[tuple[Row, float]]:
    """Return the rounds after which the metric was measured, with its value."""
    values = [(row, row.get("metric", row["accuracy"])) for row in run.rounds]
    return [(row, value) for row, value in values if value is not None]


def _confusion(counts: Sequence[Sequence[int]]) -> Figure:
    table = np.array(counts, dtype=np.float64)
    classes = len(table)
    size = min(9.0, max(3.4, 1.8 + 0.24 * classes))
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8).set_label("share of the class", fontsize=8)
    if classes * classes <= MAX_NUMBERED_CELLS:
        for row, column in np.ndindex(classes, classes):
            if table[row, column]:
                axes.text(column, row, f"{table[row, column]:.0f}", ha="center", va="center", fontsize=7,
                          color="white" if shares[row, column] > 0.5 else "#222222")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=1))
    axes.set_xlabel("predicted class", fontsize=9)
    axes.set_ylabel("true class", fontsize=9)
    axes.tick_params(labelsize=8)
    return figure


def _delays(run: Run, names: Sequence[str]) -> Figure:
    """Draw a row of plots for each edge: training, uplink, downlink."""
    figure = Figure(figsize=(11, 0.7 + 1.9 * len(names)), layout="constrained")
    grid = figure.subplots(len(names), 3, squeeze=False, sharex=True)
    targets = {"training_ms": "training_delay_ms", "uplink_ms": "transmission_delay_ms"}
    for index, name in enumerate(names):
        rows = run.of_edge(name)
        numbers = [number for number, _ in rows]
        colour = COLOURS[index % len(COLOURS)]
        for axes, (kind, title) in zip(grid[index], (("training_ms", "training"), ("uplink_ms", "uplink"),
                                                     ("downlink_ms", "downlink")), strict=True):
            is_planned = kind == "training_ms" or run.summary.get("assumed_bps") is None
            if is_planned:
                axes.plot(numbers, [row[kind]["predicted"] for _, row in rows], label="predicted", **PREDICTED)
            if kind == "training_ms":
                axes.plot(numbers, [row[kind]["measured"] for _, row in rows], "o", markersize=3, color=colour,
                          label="measured")
            else:
                _transfers(axes, run, name, "up" if kind == "uplink_ms" else "down", colour)
            if kind in targets and is_planned:
                common = {row["round"]: row[targets[kind]]["target"] for row in run.rounds}
                axes.plot(numbers, [common[number] for number in numbers], label="target of all edges", **TARGET)
            _label(axes, f"{name}: {title} (ms)", None)
            axes.set_ylim(bottom=0)
            _whole_rounds(axes, run)
    handles = {label: handle for axes in grid[0] for handle, label in zip(*axes.get_legend_handles_labels(),
                                                                         strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=5, fontsize=8, frameon=False)
    for axes in grid[-1]:
        axes.set_xlabel("round", fontsize=8)
    return figure


def _transfers(axes: Axes, run: Run, edge: str, direction: str, colour: str) -> None:
    """Draw each transfer, and beneath or above it its own bound."""
    points = [
        (row["round"] + (transfer["step"] + 0.5) / len(row["step_ms"]["measured"]) - 0.5, transfer)
        for row in run.rounds for transfer in row["transfers"]
        if (transfer["edge"], transfer["direction"]) == (edge, direction)
    ]
    axes.plot(*_columns((x, transfer["measured_ms"]) for x, transfer in points), "o", markersize=2.5, color=colour,
              label="measured")
    bounded = [(x, transfer["bound_ms"]) for x, transfer in points if transfer["bound_ms"] is not None]
    if bounded:
        axes.plot(*_columns(bounded), label="bound of each transfer", **BOUND)
    if late := [(x, transfer["measured_ms"]) for x, transfer in points if transfer["kept"] is False]:
        axes.plot(*_columns(late), "x", markersize=5, color=RED, label="a micro-batch beyond its bound")


def _cuts(run: Run) -> Figure:
    """Draw a cell for each edge and round, so that no edge hides another."""
    rounds, names = [row["round"] for row in run.rounds], run.edges
    table = np.full((len(names), len(rounds)), np.nan)
    for column, row in enumerate(run.rounds):
        for edge in row["edges"]:
            table[names.index(edge["edge"]), column] = edge["cut"]
    figure = Figure(figsize=(11, min(12.0, 1.2 + 0.34 * len(names))), layout="constrained")
    axes = figure.subplots()
    edges = np.arange(len(rounds) + 1) - 0.5
    image = axes.pcolormesh(edges, np.arange(len(names) + 1) - 0.5, table, cmap="YlGnBu", vmin=0,
                            vmax=max(1.0, float(np.nanmax(table))), edgecolors="white", linewidth=0.6)
    if table.size <= MAX_NUMBERED_CELLS:
        for row_index, column in np.ndindex(*table.shape):
            if not np.isnan(value := table[row_index, column]):
                axes.text(column, row_index, f"{value:.0f}", ha="center", va="center", fontsize=8,
                          color="white" if value > 0.6 * np.nanmax(table) else "#222222")
    else:
        figure.colorbar(image, ax=axes).set_label("layers", fontsize=8)
    ticks = range(0, len(rounds), -(-len(rounds) // 20))
    axes.set_xticks(list(ticks), [str(rounds[tick]) for tick in ticks])
    every = -(-len(names) // 32)
    axes.set_yticks(range(0, len(names), every), names[::every])
    axes.invert_yaxis()
    axes.set_xlabel("round", fontsize=9)
    axes.tick_params(labelsize=8, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def _promises(run: Run) -> Figure:
    figure, axes = _small()
    numbers = [row["round"] for row in run.rounds]
    kept = [sum(transfer["kept"] is True for transfer in row["transfers"]) for row in run.rounds]
    broken = [sum(transfer["kept"] is False for transfer in row["transfers"]) for row in run.rounds]
    axes.bar(numbers, kept, width=0.7, color=COLOURS[2], label="within the bound")
    axes.bar(numbers, broken, width=0.7, bottom=kept, color=RED, label="beyond the bound")
    _label(axes, "transfers", "round")
    axes.set_ylim(top=1.25 * max(k + b for k, b in zip(kept, broken, strict=True)))
    axes.legend(fontsize=8, ncols=2, loc="upper center")
    _whole_rounds(axes, run)
    return figure


def _step_times(run: Run) -> Figure:
    figure, axes = _small()
    axes.plot(*_columns(_by_step(run, lambda row: row["step_ms"]["measured"])), "o", markersize=3, color=COLOURS[0],
              label="measured")
    axes.plot([row["round"] for row in run.rounds], [row["step_ms"]["predicted"] for row in run.rounds], "_",
              markersize=12, color="#222222", label="planned")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    _label(axes, "step time (ms)", "round")
    _whole_rounds(axes, run)
    return figure


def _spreads(run: Run) -> Figure:
    figure, axes = _small()
    axes.plot(*_columns(_by_step(run, lambda row: row["spread_ms"])), "o", markersize=3, color=COLOURS[1])
    axes.set_ylim(bottom=0)
    _label(axes, "first to last edge (ms)", "round")
    _whole_rounds(axes, run)
    return figure


def _by_step(run: Run, values: Callable[[Row], Sequence[float]]) -> list[tuple[float, float]]:
    return [(row["round"] + (step + 0.5) / len(values(row)) - 0.5, value)
            for row in run.rounds for step, value in enumerate(values(row))]


def _small() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SMALL, layout="constrained")
    return figure, figure.subplots()


def _columns(points: Any) -> tuple[list[float], list[float]]:
    pairs = list(points)
    return [x for x, _ in pairs], [y for _, y in pairs]


def _whole_rounds(axes: Axes, run: Run) -> None:
    numbers = [row["round"] for row in run.rounds]
    axes.set_xlim(min(numbers) - 0.6, max(numbers) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _label(axes: Axes, y: str, x: str | None) -> None:
    axes.set_ylabel(y, fontsize=9)
    if x:
        axes.set_xlabel(x, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
