"""Reads GraphML (such as the Internet Topology Zoo's) and GML by networkx."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

import networkx as nx

from topologies.problems import MapError
from topologies.readers.source import (
    SourceNetwork,
    SourceSite,
    SourceSpan,
    as_key,
    first_of,
    number_of,
    off_globe,
    unreadable,
)

GRAPHML = "{http://graphml.graphdrawing.org/xmlns}"
DEGREES = ("longitude", "lon", "lng", "long"), ("latitude", "lat")
"""In any letter case."""
PLANE = ("x",), ("y",)
POSITIONS = ("pos", "coordinates")
"""Longitude, latitude and perhaps an altitude."""
UNREADABLE = (nx.NetworkXError, ValueError, LookupError, TypeError, AttributeError)
"""What networkx raises for files in another form."""


def read_graphml(path: Path, root: Element) -> SourceNetwork:
    """Read a GraphML file, already parsed; `root` is changed.

    Raises: MapError
    """
    _check_elements(path.name, root)
    _read_values_as_text(path.name, root)
    edges = list(root.iter(f"{GRAPHML}edge"))
    if len({edge.get("id") for edge in edges}) < len(edges):  # networkx would keep the last of those with one id
        for edge in edges:
            edge.attrib.pop("id", None)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            graph = nx.read_graphml(io.BytesIO(tostring(root)), force_multigraph=True)
    except UNREADABLE as error:
        raise unreadable(path.name, error) from error
    declared = {as_key(node.get("id")) for node in root.iterfind(f"{GRAPHML}graph/{GRAPHML}node")}
    graphs, nested = len(root.findall(f"{GRAPHML}graph")), root.findall(f".//{GRAPHML}node/{GRAPHML}graph")
    notes = tuple(dict.fromkeys(str(warning.message).rstrip(".") for warning in warned))
    notes += (f"{path.name} has {graphs} graphs; the first is taken",) if graphs > 1 else ()
    notes += ("graphs within nodes are left out",) if nested else ()
    return from_graph(path.stem, f"{path.name} (GraphML)", graph, declared, notes)


def _check_elements(file: str, root: Element) -> None:
    """Check that the file has a graph, that nodes have ids of their own, and edges two ends.

    Raises: MapError
    """
    if root.find(f"{GRAPHML}graph") is None:
        raise unreadable(file, f"it has no <graph> in the namespace {GRAPHML[1:-1]}")
    ids = [node.get("id", "").strip() for node in root.iter(f"{GRAPHML}node")]
    if "" in ids:
        raise unreadable(file, f"node {ids.index('') + 1} has no id")
    repeated = [key for key, number in Counter(ids).items() if number > 1]
    if repeated:
        raise unreadable(file, f"two nodes have the id {repeated[0]!r}")
    for number, edge in enumerate(root.iter(f"{GRAPHML}edge"), 1):
        for end in ("source", "target"):
            if not edge.get(end, "").strip():
                raise unreadable(file, f"link {number} has no {end}")


def _read_values_as_text(file: str, root: Element) -> None:
    """Declare all attributes texts, so that what is no number is told with its span; none is stated twice.

    Defaults, which networkx does not apply, become values of the elements that state none.

    Raises: MapError
    """
    names: dict[str, str] = {}
    defaults: dict[str, dict[str, str]] = {"node": {}, "edge": {}}
    for key in root.iter(f"{GRAPHML}key"):
        key_id = key.get("id", "")
        if key_id in names:
            raise unreadable(file, f"two keys have the id {key_id!r}")
        names[key_id] = key.get("attr.name") or key.get("yfiles.type") or key_id
        if key.get("yfiles.type") is None:
            key.set("attr.type", "string")
            key.set("attr.name", names[key_id])
        if default := (key.findtext(f"{GRAPHML}default") or "").strip():
            for kind in defaults:
                if key.get("for", "all") in (kind, "all"):
                    defaults[kind][key_id] = default
    for kind in ("node", "edge"):
        for number, element in enumerate(root.iter(f"{GRAPHML}{kind}"), 1):
            values: dict[str, str] = {}
            own = {data.get("key") for data in element.findall(f"{GRAPHML}data")}
            for key_id, default in defaults[kind].items():
                if key_id not in own:
                    SubElement(element, f"{GRAPHML}data", key=key_id).text = default
            for data in element.findall(f"{GRAPHML}data"):
                name, value = names.get(data.get("key", ""), ""), (data.text or "").strip()
                if values.setdefault(name, value) != value:
                    what = f"{kind} {element.get('id') or number}"
                    raise unreadable(file, f"{what} states `{name}` twice: {values[name]} and {value}")


def read_gml(path: Path, text: str) -> SourceNetwork:
    """Read the text of a GML file.

    Raises: MapError
    """
    graph: Any = None
    for attempt in (text, text.replace("graph [", "graph [\n multigraph 1", 1)):  # parallel edges need this line
        try:
            graph = nx.parse_gml(attempt.splitlines(), label="id")
            break
        except UNREADABLE as error:
            if "duplicated" not in str(error) or attempt != text:
                raise unreadable(path.name, error) from error
    return from_graph(path.stem, f"{path.name} (GML)", graph, {as_key(key) for key in graph})


def from_graph(
    name: str, source: str, graph: nx.Graph[Any], declared: Iterable[str], notes: tuple[str, ...] = ()
) -> SourceNetwork:
    """The network of a networkx graph; nodes that are not declared are only ends of edges."""
    known = set(declared)
    nodes = {as_key(key): facts for key, facts in graph.nodes(data=True) if as_key(key) in known}
    spans = tuple(SourceSpan((as_key(a), as_key(b)), facts) for a, b, facts in graph.edges(data=True))
    return network_of(name, source, list(nodes.items()), spans, graph.is_directed(), notes)


def network_of(
    name: str, source: str, nodes: Sequence[tuple[str, Mapping[str, object]]], spans: tuple[SourceSpan, ...],
    is_directed: bool, notes: tuple[str, ...] = (), tells_pos: bool = True,
) -> SourceNetwork:  # fmt: skip
    """The network of nodes, as key and attributes, and spans; `x` and `y` count where no node has degrees.

    `tells_pos`: what `pos` is taken for is a note.

    Raises: MapError if coordinates of a node are no pair, or contradict each other.
    """
    has_degrees = any(_has_degrees(facts) for _, facts in nodes)
    sites = tuple(_site_of(name, key, facts, DEGREES if has_degrees else PLANE) for key, facts in nodes)
    is_drawing: bool | None = False
    for word in POSITIONS:
        if tells_pos and any(facts.get(word) not in (None, "") for _, facts in nodes):
            notes = (*notes, f"`{word}` is taken as longitude and latitude")
    if not has_degrees and any(site.x is not None for site in sites):
        is_drawing = off_globe([(site.x, site.y) for site in sites]) or None
        sentence = "`x` and `y` are taken as longitude and latitude; --km-per-unit says otherwise"
        notes = notes if is_drawing else (*notes, sentence)
    return SourceNetwork(name, source, sites, spans, is_directed, is_drawing, True, notes)


def _site_of(name: str, key: str, facts: Mapping[str, object], axes: Sequence[Sequence[str]]) -> SourceSite:
    label = first_of(facts, "name", "label", "Label", "Name")
    if isinstance(label, list | dict | bool):
        raise MapError([f"{name}: the name of node {key!r} is {label!r:.60}; it is a text"])
    position = next(((word, facts[word]) for word in POSITIONS if facts.get(word) not in (None, "")), None)
    if position is None:
        x, y = (_coordinate(name, key, facts, words) for words in axes)
    elif isinstance(position[1], list | tuple) and 2 <= len(position[1]) <= 3:
        x, y = position[1][:2]
    else:
        advice = "it is [longitude, latitude]"
        raise MapError([f"{name}: `{position[0]}` of node {key!r} is {position[1]!r:.60}; {advice}"])
    is_external = facts.get("Internal") in (0, "0", 0.0, "0.0", False, "false", "False")
    return SourceSite(key, None if label is None else str(label), x, y, is_external)


def _coordinate(name: str, key: str, facts: Mapping[str, object], words: Sequence[str]) -> object:
    """The coordinate under the first of these names that is stated; the others may not contradict it."""
    stated = {
        str(word): value
        for word, value in facts.items()
        if str(word).lower() in words and value not in (None, "")
    }
    if len({number_of(value) if number_of(value) is not None else str(value) for value in stated.values()}) > 1:
        both = " and ".join(f"`{word}` {value}" for word, value in stated.items())
        raise MapError([f"{name}: node {key!r} has {both}; one of them is its {words[0]}"])
    return next(iter(stated.values()), None)


def _has_degrees(facts: Mapping[str, object]) -> bool:
    words = {str(word).lower() for word in facts}
    return not words.isdisjoint((*POSITIONS, *DEGREES[0], *DEGREES[1]))
