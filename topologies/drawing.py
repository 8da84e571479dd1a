"""A map as a picture: places where they are, spans with their length in km."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from topologies.catalogue import length_km
from topologies.maps import Map, MapNode

COLOURS = {"switch": "#4c6a92", "edge": "#d1782c", "cloud": "#2f7f5f", "host": "#8d8d8d"}
MARKERS = {"switch": "o", "edge": "s", "cloud": "D", "host": "^"}
LENGTHS_UP_TO = 60
"""With more spans than this the lengths would hide the map."""


def draw(plan: Map, path: Path) -> None:
    """Write the picture; PNG or SVG by the file's ending.

    Raises: ValueError if the ending is something else, OSError if it cannot be written.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"{path.name}: a map is drawn as .png or .svg")
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    axes.set_axis_off()
    places = _spread(plan)
    _draw_spans(axes, plan, places)
    for kind in ("switch", "host", "edge", "cloud"):
        nodes = [node for node in plan.nodes if node.kind == kind]
        points = [places[node.name] for node in nodes]
        if points:
            xs, ys = zip(*points, strict=True)
            axes.scatter(xs, ys, s=60, c=COLOURS[kind], marker=MARKERS[kind], label=kind, zorder=3)
        for node, point in zip(nodes, points, strict=True):
            axes.annotate(node.label or node.name, point, (5, 5), textcoords="offset points", fontsize=8, zorder=4)
    axes.legend(loc="lower left", fontsize=8, frameon=False)
    source = f", source: {plan.source}" if plan.source else ""
    title = f"{plan.name}: {len(plan.switches)} switches, {length_km(plan):,.0f} km of fibre{source}"
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=120)


def _draw_spans(axes: Axes, plan: Map, places: dict[str, tuple[float, float]]) -> None:
    switches = {node.name for node in plan.switches}
    with_lengths = len(plan.links) <= LENGTHS_UP_TO
    for link in plan.links:
        (x0, y0), (x1, y1) = (places[end] for end in link.ends)
        core = set(link.ends) <= switches
        axes.plot([x0, x1], [y0, y1], color="#9aa7b8" if core else "#cccccc", lw=1.6 if core else 0.8, zorder=1)
        if core and with_lengths:
            middle = ((x0 + x1) / 2, (y0 + y1) / 2)
            axes.annotate(f"{link.length_km:g}", middle, ha="center", va="center", fontsize=7, color="#555555",
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8}, zorder=2)  # fmt: skip


def _spread(plan: Map) -> dict[str, tuple[float, float]]:
    """Where each node is drawn: hosts at their switch's very place are moved a little aside."""
    xs, ys = zip(*(node.position_km for node in plan.nodes), strict=True)
    step = 0.03 * max(max(xs) - min(xs), max(ys) - min(ys), 1.0)
    places: dict[str, tuple[float, float]] = {}
    for node in sorted(plan.nodes, key=_switches_first):
        x, y = node.position_km
        while any(abs(x - other_x) < step / 2 and abs(y - other_y) < step / 2 for other_x, other_y in places.values()):
            y -= step
        places[node.name] = (x, y)
    return places


def _switches_first(node: MapNode) -> bool:
    return node.kind != "switch"
