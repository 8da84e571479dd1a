"""Reads GraphML (such as the Internet Topology Zoo's) and GML by networkx."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, tostring

import networkx as nx

from topologies.readers.source import SourceNetwork, SourceSite, SourceSpan, as_key, first_of, off_globe, unreadable

GRAPHML = "{http://graphml.graphdrawing.org/xmlns}"
DEGREES = (
    ("Longitude", "Latitude"), ("longitude", "latitude"), ("lon", "lat"), ("lng", "lat"), ("long", "lat"),
    ("Lon", "Lat"), ("LONGITUDE", "LATITUDE"),
)  # fmt: skip
PLANE = ("x", "y")
UNREADABLE = (nx.NetworkXError, ValueError, LookupError, TypeError, AttributeError)
"""What networkx raises for files in another form."""


def read_graphml(path: Path, content: bytes, root: Element) -> SourceNetwork:
    """Read the content of a GraphML file; `root`: its parsed XML.

    Raises: MapError
    """
    edges = list(root.iter(f"{GRAPHML}edge"))
    if len({edge.get("id") for edge in edges}) < len(edges):  # networkx would keep the last of those with one id
        for edge in edges:
            edge.attrib.pop("id", None)
        content = tostring(root)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            graph = nx.read_graphml(io.BytesIO(content), force_multigraph=True)
    except UNREADABLE as error:
        raise unreadable(path.name, error) from error
    declared = {as_key(node.get("id")) for node in root.iter(f"{GRAPHML}node")}
    graphs = len(root.findall(f"{GRAPHML}graph"))
    notes = tuple(dict.fromkeys(str(warning.message).rstrip(".") for warning in warned))
    notes += (f"{path.name} has {graphs} graphs; the first is taken",) if graphs > 1 else ()
    return from_graph(path.stem, f"{path.name} (GraphML)", graph, declared, notes)


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
    is_directed: bool, notes: tuple[str, ...] = (),
) -> SourceNetwork:  # fmt: skip
    """The network of nodes, as key and attributes, and spans; `x` and `y` count where no node has degrees."""
    pairs = DEGREES if any(_has_degrees(facts) for _, facts in nodes) else ((*DEGREES, PLANE))
    sites = tuple(_site_of(key, facts, pairs) for key, facts in nodes)
    is_drawing: bool | None = False
    if pairs[-1] == PLANE and any(site.x is not None for site in sites):
        is_drawing = off_globe([(site.x, site.y) for site in sites]) or None
        sentence = "`x` and `y` are taken as longitude and latitude; --km-per-unit says otherwise"
        notes = notes if is_drawing else (*notes, sentence)
    return SourceNetwork(name, source, sites, spans, is_directed, is_drawing, True, notes)


def _site_of(key: str, facts: Mapping[str, object], pairs: Sequence[tuple[str, str]]) -> SourceSite:
    label = first_of(facts, "name", "label", "Label", "Name")
    position = facts.get("pos")
    x, y = position if isinstance(position, list | tuple) and len(position) == 2 else _coordinates(facts, pairs)
    internal = facts.get("Internal")
    return SourceSite(key, None if label is None else str(label), x, y, internal in (0, "0", 0.0, False))


def _coordinates(facts: Mapping[str, object], pairs: Sequence[tuple[str, str]]) -> tuple[object, object]:
    for names in pairs:
        if any(facts.get(name) not in (None, "") for name in names):
            return facts.get(names[0]), facts.get(names[1])
    return None, None


def _has_degrees(facts: Mapping[str, object]) -> bool:
    return "pos" in facts or any(name in facts for pair in DEGREES for name in pair)
