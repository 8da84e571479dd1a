"""Plots of a run: delays with targets and bounds, cuts, metric, promises, steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.records.run_reader import Run

COLOURS = ("#4c6a92", "#d1782c", "#2f7f5f", "#9a4f7f", "#8d8d8d", "#b8a12c")
TARGET = {"color": "#222222", "linestyle": "--", "linewidth": 1}
PREDICTED = {"color": "#8d8d8d", "linewidth": 1}
BOUND = {"color": "#b03030", "linestyle": ":", "linewidth": 1.2}


def plots(run: Run) -> dict[str, tuple[str, Figure]]:
    """Return title and figure by name; empty if no round was completed."""
    if not run.rounds:
        return {}
    draw: dict[str, tuple[str, Callable[[Run], Figure]]] = {
        "delays": ("Delays of each edge, with the common target and the latency bound", _delays),
        "cuts": ("Layers on each edge", _cuts),
        "accuracy": (f"{run.metric['name'].capitalize()} of the global model over time and data sent "
                     f"({run.metric['better']} is better)", _metric),
        "promises": ("Reserved transfers within and beyond their latency bound", _promises),
        "steps": ("Step time, planned and measured, and spread of the arrivals of the edges' segments", _steps),
    }
    return {name: (title, figure(run)) for name, (title, figure) in draw.items()}


def _delays(run: Run) -> Figure:
    """Draw a row of plots for each edge: training, uplink, downlink."""
    names = run.edges
    figure = Figure(figsize=(11, 1.2 + 1.9 * len(names)), layout="constrained")
    grid = figure.subplots(len(names), 3, squeeze=False, sharex=True)
    for index, name in enumerate(names):
        rows = run.of_edge(name)
        for column, (kind, title) in enumerate((("training_ms", "training"), ("uplink_ms", "uplink"),
                                                ("downlink_ms", "downlink"))):
            axes = grid[index, column]
            numbers = [number for number, _ in rows]
            axes.plot(numbers, [row[kind]["measured"] for _, row in rows], "o-", markersize=3,
                      color=COLOURS[index % len(COLOURS)], label="measured")
            axes.plot(numbers, [row[kind]["predicted"] for _, row in rows], label="predicted", **PREDICTED)
            target = "training_delay_ms" if kind == "training_ms" else "transmission_delay_ms"
            targets = {row["round"]: row[target]["target"] for row in run.rounds}
            axes.plot(numbers, [targets[number] for number in numbers], label="target", **TARGET)
            if any(row[kind].get("bound") is not None for _, row in rows):
                axes.plot(numbers, [row[kind].get("bound") for _, row in rows], label="latency bound", **BOUND)
            _label(axes, f"{name}: {title} (ms)", None)
            axes.set_ylim(bottom=0)
    grid[0, 1].legend(fontsize=7)
    for axes in grid[-1]:
        axes.set_xlabel("round", fontsize=8)
    return figure


def _cuts(run: Run) -> Figure:
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate(run.edges):
        rows = run.of_edge(name)
        axes.plot([number for number, _ in rows], [row["cut"] for _, row in rows], "o-", markersize=4,
                  drawstyle="steps-mid", color=COLOURS[index % len(COLOURS)], label=name)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _label(axes, "layers on the edge", "round")
    axes.legend(fontsize=8)
    return figure


def _metric(run: Run) -> Figure:
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    grid = figure.subplots(1, 2, sharey=True)
    target, values_of = run.metric["target"], [row.get("metric", row["accuracy"]) for row in run.rounds]
    evaluated = [index for index, value in enumerate(values_of) if value is not None]
    for axes, values, unit in ((grid[0], run.seconds(), "seconds of training"),
                               (grid[1], run.megabytes(), "MB of segments and gradients")):
        axes.plot([values[index] for index in evaluated], [values_of[index] for index in evaluated], "o-",
                  color=COLOURS[0])
        if target is not None:
            axes.axhline(target, label="target", **TARGET)
            axes.legend(fontsize=8)
        _label(axes, run.metric["name"], unit, whole=False)
    return figure


def _promises(run: Run) -> Figure:
    figure = Figure(figsize=(11, 2.8), layout="constrained")
    axes = figure.subplots()
    numbers = [row["round"] for row in run.rounds]
    kept = [sum(transfer["kept"] is True for transfer in row["transfers"]) for row in run.rounds]
    broken = [sum(transfer["kept"] is False for transfer in row["transfers"]) for row in run.rounds]
    axes.bar(numbers, kept, color=COLOURS[2], label="within the bound")
    axes.bar(numbers, broken, bottom=kept, color="#b03030", label="beyond the bound")
    _label(axes, "transfers", "round")
    if any(kept) or any(broken):
        axes.legend(fontsize=8)
    else:
        axes.text(0.5, 0.5, "nothing was reserved", ha="center", transform=axes.transAxes)
        axes.set_yticks([])
    return figure


def _steps(run: Run) -> Figure:
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    grid = figure.subplots(1, 2)
    numbers = [row["round"] for row in run.rounds]
    for row in run.rounds:
        measured = row["step_ms"]["measured"]
        grid[0].plot([row["round"]] * len(measured), measured, "o", markersize=3, color=COLOURS[0])
        grid[1].plot([row["round"]] * len(row["spread_ms"]), row["spread_ms"], "o", markersize=3, color=COLOURS[1])
    grid[0].plot(numbers, [row["step_ms"]["predicted"] for row in run.rounds], label="planned", **TARGET)
    grid[0].set_ylim(bottom=0)
    grid[0].legend(fontsize=8)
    _label(grid[0], "step time (ms)", "round")
    _label(grid[1], "spread of arrivals (ms)", "round")
    return figure


def _label(axes: Axes, y: str, x: str | None, whole: bool = True) -> None:
    axes.set_ylabel(y, fontsize=8)
    if x:
        axes.set_xlabel(x, fontsize=8)
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    _hide_spines(axes)


def _hide_spines(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
