"""Suurballe's algorithm: two disjoint paths of least total length.

Source: Suurballe and Tarjan, "A quick method for finding shortest pairs of disjoint paths", Networks 14 (1984).
"""

from __future__ import annotations

import networkx as nx

from controller.domain.path import Path

SplitNode = tuple[str, bool]
"""A node's entry (False) or exit (True): the single edge between them can be used once, so paths cannot share the node.
"""


def shortest_disjoint_pair(
    graph: nx.DiGraph[str], source: str, target: str, node_disjoint: bool
) -> tuple[Path, Path] | None:
    """Return two span-disjoint paths with the least sum of "weight", the shorter first; None if there are none.

    `node_disjoint`: they share no node but their ends either. Every span is an edge in one or both directions.
    """
    split_graph: nx.DiGraph[SplitNode] = nx.DiGraph()
    for node in graph:
        split_graph.add_node((node, False))
        if node_disjoint:
            split_graph.add_edge((node, False), (node, True), weight=0.0)
    for a, b in graph.edges:
        split_graph.add_edge((a, node_disjoint), (b, False), weight=graph[a][b]["weight"])
    used = _edges_of_pair(split_graph, (source, node_disjoint), (target, False))
    if used is None:
        return None
    successors: dict[SplitNode, list[SplitNode]] = {}
    for tail, head in sorted(used):
        successors.setdefault(tail, []).append(head)
    paths = [_extract_path(successors, (source, node_disjoint), (target, False)) for _ in range(2)]

    def length(path: Path) -> float:
        return float(nx.path_weight(graph, list(path), "weight"))

    short, long = sorted(paths, key=lambda path: (length(path), path))
    return short, long


def _edges_of_pair(
    graph: nx.DiGraph[SplitNode], source: SplitNode, target: SplitNode
) -> set[tuple[SplitNode, SplitNode]] | None:
    """Return the edges of both paths together, without those used in both directions."""
    distance = nx.single_source_dijkstra_path_length(graph, source, weight="weight")
    if target not in distance:
        return None
    first = nx.dijkstra_path(graph, source, target, "weight")
    residual: nx.DiGraph[SplitNode] = nx.DiGraph()
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
    first_edges, second_edges = set(nx.utils.pairwise(first)), set(nx.utils.pairwise(second))
    cancelled = {(a, b) for a, b in first_edges if (b, a) in second_edges}
    return (first_edges | second_edges) - cancelled - {(b, a) for a, b in cancelled}


def _extract_path(successors: dict[SplitNode, list[SplitNode]], source: SplitNode, target: SplitNode) -> Path:
    """Return one path along edges that lead to the target, removing the edges it uses."""
    nodes, current = [source[0]], source
    while current != target:
        current = successors[current].pop(0)
        if nodes[-1] != current[0]:
            nodes.append(current[0])
    return tuple(nodes)
