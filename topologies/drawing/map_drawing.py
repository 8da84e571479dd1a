"""Draws a map: nodes at their positions, spans with their length in km, parallel ones side by side, ducts in colour.

Below it are the map's source and what was left out.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from textwrap import wrap

import matplotlib as mpl
import matplotlib.patheffects as effects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D

from topologies.catalogue import length_km
from topologies.drawing.labels import Box, LabelLayout, Point, candidates_along, candidates_beside, line_obstacles
from topologies.maps import Map, MapLink, MapNode

COLOURS = {"switch": "#31507a", "edge": "#d1782c", "cloud": "#2f7f5f", "host": "#8d8d8d"}
MARKERS = {"switch": "o", "edge": "s", "cloud": "D", "host": "^"}
SPAN_COLOUR, ACCESS_COLOUR = "#9aa7b8", "#cfcfcf"
DUCT_COLOURS = ("#b3365a", "#7a4bb0", "#0f8a8a", "#8a6d00", "#3f7a1f", "#a8501f")
LENGTHS_UP_TO = 120
"""Lengths are omitted on maps with more spans than this: they would cover the map."""
LONG_SIDE_POINTS = 760.0
OVERLAY_SIDE_POINTS = 400.0
"""With an overlay the map is smaller and its side margins wider, for the notes."""
MARGIN_POINTS = 60.0
NAME_POINTS, LENGTH_POINTS = 8.0, 6.5
NOTE_POINTS, NOTE_LINE_POINTS = 7.5, 11.0
SYMBOL_POINTS = 4.0
ASIDE_POINTS = 17.0
"""Distance from its switch at which a host with the same position is drawn."""

FLOW_COLOURS = ("#b3365a", "#7a4bb0", "#0f8a8a", "#c07a00", "#3f7a1f", "#2b6cb0")
SPAN_GAP_POINTS = 5.0
"""Distance between parallel spans."""
FLOW_GAP_POINTS = 3.6
"""Distance between flows drawn side by side along a link."""

Positions = dict[str, Point]


@dataclass(frozen=True, slots=True)
class FlowOverlay:
    """Flows drawn over a map: paths as node names, texts for nodes beside their names, and the picture's title."""

    paths: Sequence[Sequence[str]] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    title: str = ""


def draw(topology: Map, path: Path, overlay: FlowOverlay | None = None) -> str:
    """Write the picture as PNG or SVG, by the file's suffix; the same input always gives the same file.

    Returns the letters of names that the font lacks, in whose place there are boxes.

    Raises: ValueError for another suffix, OSError if the file cannot be written.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"{path.name}: a map is drawn as .png or .svg")
    with mpl.rc_context({"svg.hashsalt": "paceline", "text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        _draw(topology, path, overlay)
    glyphs = get_font(findfont(FontProperties())).get_charmap()
    letters = dict.fromkeys("".join(node.label or "" for node in topology.nodes))
    return "".join(letter for letter in letters if ord(letter) not in glyphs and not letter.isspace())


def _draw(topology: Map, path: Path, overlay: FlowOverlay | None) -> None:
    positions, (width, height) = _positions(topology, OVERLAY_SIDE_POINTS if overlay else LONG_SIDE_POINTS)
    left_out = _left_out_lines(topology, width)
    below = 22 + NOTE_LINE_POINTS * len(left_out)
    total = height + 24 + below
    figure = Figure(figsize=(width / 72, total / 72))
    axes = figure.add_axes((0, below / total, 1, height / total))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    _draw_spans(axes, topology, positions)
    _draw_flows(axes, overlay.paths if overlay else (), positions)
    _draw_nodes(axes, topology, positions)
    _write_labels(axes, topology, positions, overlay)
    _add_legend(axes, topology, overlay)
    ducts = f", {len(_ducts(topology))} ducts" if _ducts(topology) else ""
    title = f"{topology.name}: {len(topology.switches)} switches, {length_km(topology):,.0f} km of fibre{ducts}"
    title = overlay.title if overlay and overlay.title else title
    figure.text(0.5, 1 - 14 / total, title, ha="center", va="center", fontsize=12)
    for number, line in enumerate(left_out):
        y = (below - NOTE_LINE_POINTS * (number + 0.5)) / total
        figure.text(0.5, y, line, ha="center", va="center", fontsize=NOTE_POINTS, color="#8a2b2b")
    caption = f"Lengths in km. Source: {topology.source or 'Paceline'}."
    figure.text(0.5, 11 / total, caption, ha="center", va="center", fontsize=7.5, color="#666666")
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
    figure.savefig(path, dpi=150, metadata=metadata)


def _left_out_lines(topology: Map, width: float) -> list[str]:
    """The notes on sites and spans that are not on the map, in lines as wide as the picture."""
    columns = int(width / (0.52 * NOTE_POINTS))
    return [line for note in topology.notes if "left out" in note for line in wrap(note, columns)]


def _positions(topology: Map, long_side: float) -> tuple[Positions, Point]:
    """The position of each node and the size of the picture, both in points; the map keeps its aspect ratio."""
    xs, ys = zip(*(node.position_km for node in topology.nodes), strict=True)
    span_x, span_y = max(xs) - min(xs), max(ys) - min(ys)
    scale = min(long_side, 320 + 30 * len(topology.switches)) / max(span_x, span_y, 1e-9)
    left = 1.1 * MARGIN_POINTS if long_side == LONG_SIDE_POINTS else 2.2 * MARGIN_POINTS
    size = span_x * scale + 2 * left + 0.4 * MARGIN_POINTS, span_y * scale + 2 * MARGIN_POINTS
    positions: Positions = {}
    for node in sorted(topology.nodes, key=_switches_first):
        x = (node.position_km[0] - min(xs)) * scale + left
        y = (node.position_km[1] - min(ys)) * scale + MARGIN_POINTS
        positions[node.name] = (x, y) if node.kind == "switch" else _aside(topology, node, (x, y), positions)
    return positions, (max(size[0], 420.0), max(size[1], 300.0))


def _aside(topology: Map, node: MapNode, point: Point, positions: Positions) -> Point:
    """A host's position, moved into the widest gap between its switch's links if it would cover another node."""
    if all(math.dist(point, other) > ASIDE_POINTS for other in positions.values()):
        return point
    (link,) = (link for link in topology.links if node.name in link.ends)
    switch = next(end for end in link.ends if end != node.name)
    x, y = positions[switch]
    near = [
        end for link in topology.links if switch in link.ends for end in link.ends if end != switch and end in positions
    ]
    link_angles = [math.atan2(positions[end][1] - y, positions[end][0] - x) for end in near]
    angles = [2 * math.pi * step / 16 for step in range(16)]

    def clearance(angle: float) -> tuple[float, float]:
        spot = _moved((x, y), angle)
        to_link = min((abs(math.remainder(angle - other, 2 * math.pi)) for other in link_angles), default=math.pi)
        to_node = min(
            math.dist(spot, other) for name, other in positions.items() if name != switch or len(positions) == 1
        )
        below = -abs(math.remainder(angle + math.pi / 2, 2 * math.pi))  # equal clearance: prefer the place below
        return min(to_link, 0.9) + min(to_node / ASIDE_POINTS, 1.5), below

    return _moved((x, y), max(angles, key=clearance))


def _moved(point: Point, angle: float) -> Point:
    return point[0] + ASIDE_POINTS * math.cos(angle), point[1] + ASIDE_POINTS * math.sin(angle)


def _switches_first(node: MapNode) -> bool:
    return node.kind != "switch"


def _core(topology: Map) -> list[MapLink]:
    return [link for link in topology.links if all(topology.node(end).kind == "switch" for end in link.ends)]


def _ducts(topology: Map) -> dict[str, str]:
    """The colour of each duct."""
    names = dict.fromkeys(link.duct for link in topology.links if link.duct)
    return {name: DUCT_COLOURS[number % len(DUCT_COLOURS)] for number, name in enumerate(names)}


def _draw_spans(axes: Axes, topology: Map, positions: Positions) -> None:
    ducts, core = _ducts(topology), _core(topology)
    for link, ends in zip(topology.links, _line_ends(topology, positions), strict=True):
        xs, ys = zip(*ends, strict=True)
        is_core = link in core
        colour = ducts[link.duct] if link.duct else SPAN_COLOUR if is_core else ACCESS_COLOUR
        axes.plot(xs, ys, color=colour, lw=2.2 if link.duct else 1.5 if is_core else 0.8, zorder=1)


def _line_ends(topology: Map, positions: Positions) -> list[tuple[Point, Point]]:
    """The ends of every link's line, in the order of the links; those of parallel links side by side."""
    numbers = Counter(frozenset(link.ends) for link in topology.links)
    lines = []
    for link, (near, _) in zip(topology.links, topology.link_ports, strict=True):
        shift = (near.span_number - (numbers[frozenset(link.ends)] + 1) / 2) * SPAN_GAP_POINTS
        (xa, ya), (xb, yb) = (positions[end] for end in sorted(link.ends))  # the same side whichever end is first
        length = math.dist((xa, ya), (xb, yb)) or 1.0
        dx, dy = -(yb - ya) / length * shift, (xb - xa) / length * shift
        lines.append(((xa + dx, ya + dy), (xb + dx, yb + dy)))
    return lines


def _draw_flows(axes: Axes, paths: Sequence[Sequence[str]], positions: Positions) -> None:
    """Draw each path in its colour."""
    for number, (xa, ya), (xb, yb) in _flow_lines(paths, positions):
        axes.plot((xa, xb), (ya, yb), color=FLOW_COLOURS[number % len(FLOW_COLOURS)], lw=2.6, solid_capstyle="round",
                  zorder=2)  # fmt: skip


def _flow_lines(paths: Sequence[Sequence[str]], positions: Positions) -> Iterator[tuple[int, Point, Point]]:
    """The number of each path with each of its lines; side by side where paths share links."""
    for number, path in enumerate(paths):
        shift = (number - (len(paths) - 1) / 2) * FLOW_GAP_POINTS
        for a, b in pairwise(path):
            (xa, ya), (xb, yb) = sorted((positions[a], positions[b]))  # the same side in both directions
            length = math.dist((xa, ya), (xb, yb))
            dx, dy = -(yb - ya) / length * shift, (xb - xa) / length * shift
            yield number, (xa + dx, ya + dy), (xb + dx, yb + dy)


def _draw_nodes(axes: Axes, topology: Map, positions: Positions) -> None:
    for kind in ("switch", "host", "edge", "cloud"):
        points = [positions[node.name] for node in topology.nodes if node.kind == kind]
        if points:
            xs, ys = zip(*points, strict=True)
            size = (2 * SYMBOL_POINTS) ** 2 * (0.7 if kind == "switch" else 0.6)
            axes.scatter(xs, ys, s=size, c=COLOURS[kind], marker=MARKERS[kind], ec="white", lw=0.6, zorder=3,
                         label=kind)  # fmt: skip


def _write_labels(axes: Axes, topology: Map, positions: Positions, overlay: FlowOverlay | None) -> None:
    """Place the names first, then the lengths where their spans leave space."""
    core, notes = _core(topology), overlay.notes if overlay else {}
    layout = LabelLayout([Box(*place, SYMBOL_POINTS, SYMBOL_POINTS) for place in positions.values()])
    layout.add_obstacles(
        box for link in topology.links for box in line_obstacles(positions[link.ends[0]], positions[link.ends[1]])
    )
    for _, start, end in _flow_lines(overlay.paths if overlay else (), positions):
        layout.add_obstacles(line_obstacles(start, end))
    halo = [effects.withStroke(linewidth=2.2, foreground="white")]
    for node in sorted(topology.nodes, key=_switches_first):
        text = node.label or node.name
        text += f"\n{notes[node.name]}" if node.name in notes else ""
        box = layout.place(candidates_beside(positions[node.name], text, NAME_POINTS, SYMBOL_POINTS + 1))
        colour = "#222222" if node.kind == "switch" else COLOURS[node.kind]
        axes.text(box.x, box.y, text, ha="center", va="center", fontsize=NAME_POINTS, color=colour,
                  path_effects=None if notes else halo, zorder=5)  # fmt: skip
    lines = zip(topology.links, _line_ends(topology, positions), strict=True)
    for link, ends in ((link, ends) for link, ends in lines if link in core and len(core) <= LENGTHS_UP_TO):
        text = f"{link.length_km:.0f}" if link.length_km >= 10 else f"{link.length_km:g}"
        box = layout.place(candidates_along(*ends, text, LENGTH_POINTS))
        axes.text(box.x, box.y, text, ha="center", va="center", fontsize=LENGTH_POINTS, color="#5a5a5a",
                  path_effects=halo, zorder=4)  # fmt: skip


def _add_legend(axes: Axes, topology: Map, overlay: FlowOverlay | None) -> None:
    handles = list(axes.get_legend_handles_labels()[0])
    handles += [Line2D([], [], color=SPAN_COLOUR, lw=1.5, label="fibre span")]
    for number, path in enumerate(overlay.paths if overlay else ()):
        colour = FLOW_COLOURS[number % len(FLOW_COLOURS)]
        handles.append(Line2D([], [], color=colour, lw=2.6, label=f"reserved flow {path[0]} to {path[-1]}"))
    handles += [Line2D([], [], color=colour, lw=2.2, label=f"duct {name}") for name, colour in _ducts(topology).items()]
    axes.legend(handles=handles, loc="lower left", fontsize=7.5, frameon=True, framealpha=0.85, edgecolor="none")
