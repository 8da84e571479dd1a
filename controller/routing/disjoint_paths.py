"""Two disjoint paths of the least total length.

Source: Suurballe and Tarjan, "A quick method for finding shortest pairs of disjoint paths", Networks 14 (1984).
"""

from __future__ import annotations

import networkx as nx

from controller.domain.path import Path

Half = tuple[str, bool]
"""A node's way in (False) or out (True): the edge between the two can be used once, so no two paths share the node."""


def shortest_disjoint_pair(
    graph: nx.DiGraph[str], source: str, target: str, nodes_too: bool
) -> tuple[Path, Path] | None:
    """The two paths without a common span, the shorter first, with the least sum of "weight"; None if there are none.

    `nodes_too`: nor a common node but their ends. Every span is an edge in both directions, or in the one that is up.
    """
    halves: nx.DiGraph[Half] = nx.DiGraph()
    for node in graph:
        halves.add_node((node, False))
        if nodes_too:
            halves.add_edge((node, False), (node, True), weight=0.0)
    for a, b in graph.edges:
        halves.add_edge((a, nodes_too), (b, False), weight=graph[a][b]["weight"])
    used = _edges_of_pair(halves, (source, nodes_too), (target, False))
    if used is None:
        return None
    following: dict[Half, list[Half]] = {}
    for tail, head in sorted(used):
        following.setdefault(tail, []).append(head)
    paths = [_walk(following, (source, nodes_too), (target, False)) for _ in range(2)]

    def length(path: Path) -> float:
        return float(nx.path_weight(graph, list(path), "weight"))

    short, long = sorted(paths, key=lambda path: (length(path), path))
    return short, long


def _edges_of_pair(graph: nx.DiGraph[Half], source: Half, target: Half) -> set[tuple[Half, Half]] | None:
    """The edges of both paths together, those used in both directions cancelled."""
    distance = nx.single_source_dijkstra_path_length(graph, source, weight="weight")
    if target not in distance:
        return None
    first = nx.dijkstra_path(graph, source, target, "weight")
    residual: nx.DiGraph[Half] = nx.DiGraph()
    for a, b in graph.edges:
        if a in distance and b in distance:
            residual.add_edge(a, b, weight=max(0.0, graph[a][b]["weight"] + distance[a] - distance[b]))
    for a, b in nx.utils.pairwise(first):
        residual.remove_edge(a, b)
    for a, b in nx.utils.pairwise(first):
        residual.add_edge(b, a, weight=0.0)
    try:
        second = nx.dijkstra_path(residual, source, target, "weight")
    except nx.NetworkXNoPath:
        return None
    forth, back = set(nx.utils.pairwise(first)), set(nx.utils.pairwise(second))
    cancelled = {(a, b) for a, b in forth if (b, a) in back}
    return (forth | back) - cancelled - {(b, a) for a, b in cancelled}


def _walk(following: dict[Half, list[Half]], source: Half, target: Half) -> Path:
    """One path along edges that lead to the target, taking away those it uses."""
    nodes, at = [source[0]], source
    while at != target:
        at = following[at].pop(0)
        if nodes[-1] != at[0]:
            nodes.append(at[0])
    return tuple(nodes)
