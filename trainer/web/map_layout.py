"""Where the nodes and spans of a network lie on the page. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from trainer.web.network_state import span_of

Json = dict[str, Any]
Point = tuple[float, float]

WIDTH, LEAST_HEIGHT, MOST_HEIGHT, MARGIN, SIDE_MARGIN = 720.0, 240.0, 520.0, 48.0, 96.0
ASIDE = 46.0
"""A host closer to another node than this is moved aside."""

PARALLEL_GAP = 10.0


@dataclass(frozen=True, slots=True)
class Span:
    """A span on the page. `share`: the larger reserved share of its two directions; `number`: from 1, if parallel."""

    name: str
    ends: tuple[str, str]
    start: Point
    end: Point
    share: float
    up: bool
    in_service: bool
    duct: str | None
    length_km: float
    text: str

    @property
    def style(self) -> str:
        """The CSS class of its state."""
        if not self.in_service:
            return "closed"
        return f"load-{min(5, math.ceil(self.share * 5))}" if self.up else "down"


@dataclass(frozen=True, slots=True)
class Label:
    """Where a node's name stands; `anchor` as in SVG."""

    x: float
    y: float
    anchor: str


@dataclass(frozen=True, slots=True)
class NetworkLayout:
    """Positions of all nodes in a picture of WIDTH times `height`, y downwards."""

    height: float
    positions: dict[str, Point]
    labels: dict[str, Label]
    spans: tuple[Span, ...]


def lay_out(network: Json) -> NetworkLayout:
    """Place the nodes as the map does, hosts beside their switch; on a circle where the controller tells no places."""
    positions, labels, height = _placed(
        tuple((node["name"], node["kind"], _place_of(node)) for node in network["nodes"]),
        tuple((link["source"], link["destination"]) for link in network["links"]),
    )
    numbers: dict[frozenset[str], list[str]] = {}
    both: dict[str, list[Json]] = {}
    for link in network["links"]:
        name = span_of(link)
        both.setdefault(name, []).append(link)
        between = numbers.setdefault(frozenset((link["source"], link["destination"])), [])
        if name not in between:
            between.append(name)
    spans = []
    for name, links in both.items():
        ends = sorted((links[0]["source"], links[0]["destination"]))
        parallel = numbers[frozenset(ends)]
        offset = (parallel.index(name) - (len(parallel) - 1) / 2) * PARALLEL_GAP
        spans.append(_span(name, (ends[0], ends[1]), links, positions, offset))
    return NetworkLayout(height, positions, labels, tuple(spans))


def _place_of(node: Json) -> Point | None:
    place = node.get("position_km")
    return None if place is None else (place[0], place[1])


@lru_cache(maxsize=8)
def _placed(
    nodes: tuple[tuple[str, str, Point | None], ...], links: tuple[tuple[str, str], ...]
) -> tuple[dict[str, Point], dict[str, Label], float]:
    """Return where nodes and their names are, and the height: they stay while what links carry changes."""
    network: Json = {
        "nodes": [{"name": name, "kind": kind, "position_km": place} for name, kind, place in nodes],
        "links": [{"source": source, "destination": destination} for source, destination in links],
    }
    positions, height = _positions(network)
    return positions, {node["name"]: _label(node, network, positions) for node in network["nodes"]}, height


def _label(node: Json, network: Json, positions: dict[str, Point]) -> Label:
    """A switch's name where no span is in its way, a host's on the side away from its switch."""
    x, y = positions[node["name"]]
    switch = next((link["destination"] for link in network["links"] if link["source"] == node["name"]), None)
    if node["kind"] == "switch":
        ends = (positions[link["destination"]] for link in network["links"] if link["source"] == node["name"])
        return _free_label(x, y, [math.atan2(end[1] - y, end[0] - x) for end in ends])
    if switch is None or abs(positions[switch][0] - x) < ASIDE / 4:
        return Label(x, y + 25, "middle")
    gap = 18 if node["kind"] == "cloud" else 13
    return Label(x + gap, y + 5, "start") if positions[switch][0] < x else Label(x - gap, y + 5, "end")


def _free_label(x: float, y: float, taken: list[float]) -> Label:
    """The place for a name around a node farthest from the directions in radians that are taken; below it if free."""

    def clearance(angle: float) -> float:
        return min((abs(math.remainder(angle - other, 2 * math.pi)) for other in taken), default=math.pi)

    enough = math.radians(50)
    angle = max((math.pi / 4 * turn for turn in (2, 6, 0, 4, 1, 3, 5, 7)), key=lambda at: min(clearance(at), enough))
    right, down = round(math.cos(angle)), round(math.sin(angle))
    if right == 0:
        return Label(x, y + (25 if down > 0 else -15), "middle")
    return Label(x + right * (14 if down == 0 else 11), y + 5 + 13 * down, "start" if right > 0 else "end")


def _span(name: str, ends: tuple[str, str], links: list[Json], positions: dict[str, Point], offset: float) -> Span:
    (x1, y1), (x2, y2) = positions[ends[0]], positions[ends[1]]
    length = math.dist((x1, y1), (x2, y2)) or 1.0
    dx, dy = -(y2 - y1) / length * offset, (x2 - x1) / length * offset
    share = max(link["reserved_bps"] / max(1, link["reservable_bps"]) for link in links)
    up, in_service = all(link["up"] for link in links), all(link["in_service"] for link in links)
    state = "out of service" if not in_service else f"{share:.0%} reserved" if up else "down"
    duct = links[0]["duct"]
    text = f"{name}, {links[0]['length_km']:g} km{f', duct {duct}' if duct else ''}: {state}"
    return Span(
        name, ends, (x1 + dx, y1 + dy), (x2 + dx, y2 + dy), share, up, in_service, duct, links[0]["length_km"], text
    )


def _positions(network: Json) -> tuple[dict[str, Point], float]:
    nodes = network["nodes"]
    if any(node.get("position_km") is None for node in nodes):
        return _circle([node["name"] for node in nodes])
    xs, ys = zip(*(node["position_km"] for node in nodes), strict=True)
    span_x, span_y = max(xs) - min(xs), max(ys) - min(ys)
    scale = min((WIDTH - 2 * SIDE_MARGIN) / max(span_x, 1e-9), (MOST_HEIGHT - 2 * MARGIN) / max(span_y, 1e-9))
    height = min(MOST_HEIGHT, max(LEAST_HEIGHT, span_y * scale + 2 * MARGIN))
    left, top = (WIDTH - span_x * scale) / 2, (height - span_y * scale) / 2
    places: dict[str, Point] = {}
    for node in sorted(nodes, key=lambda node: node["kind"] != "switch"):
        x, y = node["position_km"]
        places[node["name"]] = left + (x - min(xs)) * scale, top + (max(ys) - y) * scale
        if node["kind"] != "switch":
            places[node["name"]] = _aside(node["name"], network, places, height)
    return places, height


def _aside(name: str, network: Json, places: dict[str, Point], height: float) -> Point:
    """The place of a host, moved to the freest of 16 places around its switch if it would cover another node."""
    own = places[name]
    others = {other: place for other, place in places.items() if other != name}
    if all(math.dist(own, place) >= ASIDE for place in others.values()):
        return own
    switch = next(link["destination"] for link in network["links"] if link["source"] == name)
    x, y = places[switch]
    around = [
        (x + ASIDE * ring * math.cos(angle), y + ASIDE * ring * math.sin(angle))
        for ring in (1.2, 2.0)
        for angle in (2 * math.pi * step / 16 for step in range(16))
    ]
    inside = [place for place in around if 30 <= place[0] <= WIDTH - 30 and 24 <= place[1] <= height - 30] or around
    near = [
        places[end]
        for link in network["links"]
        if link["source"] == switch
        for end in (link["destination"],)
        if end != name and end in places
    ]

    def clearance(place: Point) -> float:
        to_node = min(math.dist(place, other) for other in others.values())
        to_line = min((_distance_to_line(place, (x, y), end) for end in near), default=ASIDE)
        return min(to_node, ASIDE) + min(to_line, ASIDE / 2) - 0.2 * math.dist(place, own)

    return max(inside, key=clearance)


def _distance_to_line(place: Point, start: Point, end: Point) -> float:
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = ((place[0] - start[0]) * dx + (place[1] - start[1]) * dy) / (dx * dx + dy * dy or 1.0)
    along = min(1.0, max(0.0, along))
    return math.dist(place, (start[0] + along * dx, start[1] + along * dy))


def _circle(names: list[str]) -> tuple[dict[str, Point], float]:
    height, radius = 480.0, 480.0 / 2 - MARGIN
    angles = {name: 2 * math.pi * number / max(1, len(names)) for number, name in enumerate(names)}
    return {
        name: (WIDTH / 2 + radius * math.cos(angle), height / 2 + radius * math.sin(angle))
        for name, angle in angles.items()
    }, height


def path_points(path: list[str], layout: NetworkLayout) -> str:
    """The nodes of a path as points of an SVG polyline; names of spans in it are skipped."""
    points = (layout.positions[node] for node in path if node in layout.positions)
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
