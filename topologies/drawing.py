"""A map as a picture: places where they are, spans with their length in km, ducts in colour, and where it is from."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib.patheffects as effects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from topologies.catalogue import length_km
from topologies.labels import Box, Point, Room, along, beside, line
from topologies.maps import Map, MapLink, MapNode

COLOURS = {"switch": "#31507a", "edge": "#d1782c", "cloud": "#2f7f5f", "host": "#8d8d8d"}
MARKERS = {"switch": "o", "edge": "s", "cloud": "D", "host": "^"}
SPAN_COLOUR, ACCESS_COLOUR = "#9aa7b8", "#cfcfcf"
DUCT_COLOURS = ("#b3365a", "#7a4bb0", "#0f8a8a", "#8a6d00", "#3f7a1f", "#a8501f")
LENGTHS_UP_TO = 120
"""With more spans than this the lengths would hide the map."""
LONG_SIDE_POINTS = 760.0
MARGIN_POINTS = 60.0
NAME_POINTS, LENGTH_POINTS = 8.0, 6.5
SYMBOL_POINTS = 4.0
ASIDE_POINTS = 17.0
"""How far from its switch a host is drawn that stands at the same place."""

Places = dict[str, Point]


def draw(plan: Map, path: Path) -> None:
    """Write the picture; PNG or SVG by the file's ending.

    Raises: ValueError if the ending is something else, OSError if it cannot be written.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"{path.name}: a map is drawn as .png or .svg")
    places, (width, height) = _places(plan)
    figure = Figure(figsize=(width / 72, (height + 46) / 72))
    axes = figure.add_axes((0, 22 / (height + 46), 1, height / (height + 46)))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    _draw_spans(axes, plan, places)
    _draw_nodes(axes, plan, places)
    _write_labels(axes, plan, places)
    _add_legend(axes, plan)
    ducts = f", {len(_ducts(plan))} ducts" if _ducts(plan) else ""
    figure.text(0.5, 1 - 14 / (height + 46), f"{plan.name}: {len(plan.switches)} switches, "
                f"{length_km(plan):,.0f} km of fibre{ducts}", ha="center", va="center", fontsize=12)  # fmt: skip
    caption = f"Lengths in km. Source: {plan.source or 'Paceline'}."
    figure.text(0.5, 11 / (height + 46), caption, ha="center", va="center", fontsize=7.5, color="#666666")
    figure.savefig(path, dpi=150)


def _places(plan: Map) -> tuple[Places, Point]:
    """Where each node is drawn, in points, and the size of it all: the map's own shape, its long side as said."""
    xs, ys = zip(*(node.position_km for node in plan.nodes), strict=True)
    span_x, span_y = max(xs) - min(xs), max(ys) - min(ys)
    scale = min(LONG_SIDE_POINTS, 320 + 30 * len(plan.switches)) / max(span_x, span_y, 1e-9)
    size = span_x * scale + 2.6 * MARGIN_POINTS, span_y * scale + 2 * MARGIN_POINTS
    places: Places = {}
    for node in sorted(plan.nodes, key=_switches_first):
        x = (node.position_km[0] - min(xs)) * scale + 1.1 * MARGIN_POINTS
        y = (node.position_km[1] - min(ys)) * scale + MARGIN_POINTS
        places[node.name] = (x, y) if node.kind == "switch" else _aside(plan, node, (x, y), places)
    return places, (max(size[0], 420.0), max(size[1], 300.0))


def _aside(plan: Map, node: MapNode, point: Point, places: Places) -> Point:
    """A host's place, moved into the widest gap between its switch's lines if it stands on something."""
    if all(math.dist(point, other) > ASIDE_POINTS for other in places.values()):
        return point
    (link,) = (link for link in plan.links if node.name in link.ends)
    switch = next(end for end in link.ends if end != node.name)
    x, y = places[switch]
    near = [end for link in plan.links if switch in link.ends for end in link.ends if end != switch and end in places]
    taken = [math.atan2(places[end][1] - y, places[end][0] - x) for end in near]
    turns = [2 * math.pi * step / 16 for step in range(16)]

    def clear(turn: float) -> tuple[float, float]:
        spot = _moved((x, y), turn)
        apart = min((abs(math.remainder(turn - other, 2 * math.pi)) for other in taken), default=math.pi)
        others = min(math.dist(spot, other) for name, other in places.items() if name != switch or len(places) == 1)
        return min(apart, 0.9) + min(others / ASIDE_POINTS, 1.5), -abs(math.remainder(turn + math.pi / 2, 2 * math.pi))

    return _moved((x, y), max(turns, key=clear))


def _moved(point: Point, turn: float) -> Point:
    return point[0] + ASIDE_POINTS * math.cos(turn), point[1] + ASIDE_POINTS * math.sin(turn)


def _switches_first(node: MapNode) -> bool:
    return node.kind != "switch"


def _core(plan: Map) -> list[MapLink]:
    return [link for link in plan.links if all(plan.node(end).kind == "switch" for end in link.ends)]


def _ducts(plan: Map) -> dict[str, str]:
    """The colour of each duct."""
    names = dict.fromkeys(link.duct for link in plan.links if link.duct)
    return {name: DUCT_COLOURS[number % len(DUCT_COLOURS)] for number, name in enumerate(names)}


def _draw_spans(axes: Axes, plan: Map, places: Places) -> None:
    ducts, core = _ducts(plan), _core(plan)
    for link in plan.links:
        xs, ys = zip(*(places[end] for end in link.ends), strict=True)
        is_core = link in core
        colour = ducts[link.duct] if link.duct else SPAN_COLOUR if is_core else ACCESS_COLOUR
        axes.plot(xs, ys, color=colour, lw=2.2 if link.duct else 1.5 if is_core else 0.8, zorder=1)


def _draw_nodes(axes: Axes, plan: Map, places: Places) -> None:
    for kind in ("switch", "host", "edge", "cloud"):
        points = [places[node.name] for node in plan.nodes if node.kind == kind]
        if points:
            xs, ys = zip(*points, strict=True)
            size = (2 * SYMBOL_POINTS) ** 2 * (0.7 if kind == "switch" else 0.6)
            axes.scatter(xs, ys, s=size, c=COLOURS[kind], marker=MARKERS[kind], ec="white", lw=0.6, zorder=3,
                         label=kind)  # fmt: skip


def _write_labels(axes: Axes, plan: Map, places: Places) -> None:
    """Names first, as they must be read; lengths then where there is room on their spans."""
    core = _core(plan)
    room = Room([Box(*place, SYMBOL_POINTS, SYMBOL_POINTS) for place in places.values()])
    room.block(box for link in plan.links for box in line(places[link.ends[0]], places[link.ends[1]]))
    halo = [effects.withStroke(linewidth=2.2, foreground="white")]
    for node in sorted(plan.nodes, key=_switches_first):
        text = node.label or node.name
        box = room.take(beside(places[node.name], text, NAME_POINTS, SYMBOL_POINTS + 1))
        colour = "#222222" if node.kind == "switch" else COLOURS[node.kind]
        axes.text(box.x, box.y, text, ha="center", va="center", fontsize=NAME_POINTS, color=colour,
                  path_effects=halo, zorder=5)  # fmt: skip
    for link in core if len(core) <= LENGTHS_UP_TO else ():
        text = f"{link.length_km:.0f}" if link.length_km >= 10 else f"{link.length_km:g}"
        box = room.take(along(places[link.ends[0]], places[link.ends[1]], text, LENGTH_POINTS))
        axes.text(box.x, box.y, text, ha="center", va="center", fontsize=LENGTH_POINTS, color="#5a5a5a",
                  path_effects=halo, zorder=4)  # fmt: skip


def _add_legend(axes: Axes, plan: Map) -> None:
    handles = list(axes.get_legend_handles_labels()[0])
    handles += [Line2D([], [], color=colour, lw=2.2, label=f"duct {name}") for name, colour in _ducts(plan).items()]
    axes.legend(handles=handles, loc="lower left", fontsize=7.5, frameon=True, framealpha=0.85, edgecolor="none")
