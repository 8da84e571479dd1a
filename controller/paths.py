"""Candidate paths: the k shortest by fibre length, then by hops; hosts never transit."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import islice

import networkx as nx

from controller.network import DirectedLink, Network

CANDIDATES = 6
"""How many paths admission tries for a flow; a metro ring with a chord has three."""

HOP_KM = 1e-6
"""Added to the length of each hop, so that of two paths of one length the one with fewer hops comes first."""

Path = tuple[str, ...]


@lru_cache(maxsize=4096)
def candidate_paths(
    network: Network, source: str, destination: str, down: frozenset[str] = frozenset()
) -> tuple[Path, ...]:
    """Up to CANDIDATES simple paths over links that are up, best first; empty if there is none.

    Source: Yen, "Finding the K shortest loopless paths in a network", Management Science 17 (1971).
    """
    if source == destination:
        return ()
    graph = _graph(network, frozenset({source, destination}), down)
    try:
        paths = list(islice(nx.shortest_simple_paths(graph, source, destination, "weight"), CANDIDATES))
    except nx.NetworkXNoPath:
        return ()
    return tuple(tuple(path) for path in paths)


@lru_cache(maxsize=1024)
def next_hops(
    network: Network, destination: str, down: frozenset[str] = frozenset()
) -> Mapping[str, DirectedLink]:
    """For every switch that can reach the host: the link on the shortest path towards it (a tree)."""
    graph = _graph(network, frozenset({destination}), down).reverse(copy=False)
    paths = nx.single_source_dijkstra_path(graph, destination, weight="weight")
    return {
        switch.name: network.links[f"{switch.name}->{paths[switch.name][-2]}"]
        for switch in network.switches
        if switch.name in paths
    }


def _graph(network: Network, ends: frozenset[str], down: frozenset[str]) -> nx.DiGraph[str]:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(node.name for node in network.nodes.values() if node.is_switch or node.name in ends)
    for link in network.links.values():
        if link.name not in down and link.source in graph and link.destination in graph:
            graph.add_edge(link.source, link.destination, weight=link.length_km + HOP_KM)
    return graph
