"""Candidate paths: the k shortest by fibre length, then by hops; pairs of disjoint paths. Hosts never transit.

A fibre that is too long for any light counts only where there is no other way: a refusal says then what is missing.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Mapping
from functools import lru_cache
from itertools import islice, permutations

import networkx as nx

from controller.domain.frozen import frozen
from controller.domain.network import DirectedLink, Network
from controller.domain.path import Path, link_names
from controller.domain.route import Route, SrlgBySpan
from controller.optical.lightpath_design import design_lightpath
from controller.routing.srlg_disjoint import Undecided, shortest_srlg_disjoint_pair, srlgs_of

CANDIDATES = 6
"""How many paths admission tries for a flow; a metro ring with a chord has three."""

HOP_KM = 1e-6
"""Added to the length of each hop, so that of two paths of one length the one with fewer hops comes first."""

NOTHING_DOWN: frozenset[str] = frozenset()

log = logging.getLogger(__name__)


@frozen
class Pairs:
    """Candidate routes, best first; not `complete`: the search for the best was given up, and there may be others."""

    routes: tuple[Route, ...]
    complete: bool = True


def candidate_paths(
    network: Network, source: str, destination: str, down: frozenset[str] = NOTHING_DOWN, most: int = CANDIDATES
) -> tuple[Path, ...]:
    """Up to so many simple paths over links that are up, best first; empty if there is none.

    Source: Yen, "Finding the K shortest loopless paths in a network", Management Science 17 (1971).
    """
    whole = _candidate_paths(network, source, destination, NOTHING_DOWN, most)
    # Without links that none of them crosses, they are still the shortest: what is cached outlives most failures.
    return _candidate_paths(network, source, destination, down, most) if _touches(down, whole) else whole


@lru_cache(maxsize=8192)
def plain_routes(paths: tuple[Path, ...]) -> Pairs:
    """These paths without backups."""
    return Pairs(tuple(Route(path) for path in paths))


def candidate_routes(
    network: Network, source: str, destination: str, down: frozenset[str] = NOTHING_DOWN, ducts_too: bool = False
) -> Pairs:
    """Up to CANDIDATES pairs of a path and a backup that share no span.

    `ducts_too`: nor a duct.

    Pairs that share no switch but the first and the last come first, then those of the least total length; the least
    of all is among them. If both hosts are at one switch, there is no span to lose and no backup.
    """
    apart = ducts_too and bool(network.srlg_by_span)
    whole = _candidate_routes(network, source, destination, NOTHING_DOWN, apart)
    paths = [path for route in whole.routes for path in (route.path, route.backup or ())]
    return _candidate_routes(network, source, destination, down, apart) if _touches(down, paths) else whole


@lru_cache(maxsize=1024)
def next_hops(
    network: Network, destination: str, down: frozenset[str] = NOTHING_DOWN
) -> Mapping[str, DirectedLink]:
    """For every switch that can reach the host: the link on the shortest path towards it (a tree)."""
    graph = _graph(network, frozenset({destination}), down).reverse(copy=False)
    paths = nx.single_source_dijkstra_path(graph, destination, weight="weight")
    return {
        switch.name: network.links[f"{switch.name}->{paths[switch.name][-2]}"]
        for switch in network.switches
        if switch.name in paths
    }


def _touches(down: frozenset[str], paths: Collection[Path]) -> bool:
    return bool(down) and (not paths or any(link in down for path in paths for link in link_names(path)))


@lru_cache(maxsize=65_536)
def _candidate_paths(
    network: Network, source: str, destination: str, down: frozenset[str], most: int
) -> tuple[Path, ...]:
    if source == destination:
        return ()
    for without in _with_light(network, down):
        graph = _graph(network, frozenset({source, destination}), without)
        with contextlib.suppress(nx.NetworkXNoPath):
            paths = islice(nx.shortest_simple_paths(graph, source, destination, "weight"), most)
            return tuple(tuple(path) for path in paths)
    return ()


def _with_light(network: Network, down: frozenset[str]) -> list[frozenset[str]]:
    """The links that are not used: first without those that light does not get over, and if there are any, with."""
    return list(dict.fromkeys((down | too_long(network), down)))


@lru_cache(maxsize=64)
def too_long(network: Network) -> frozenset[str]:
    """The links of an optical network whose fibre no modulation gets over."""
    if network.grid is None:
        return NOTHING_DOWN
    spans = (link for link in network.links.values() if link.slot_count)
    return frozenset(
        link.name for link in spans if not design_lightpath(network, (link.source, link.destination)).works
    )


@lru_cache(maxsize=65_536)
def _candidate_routes(
    network: Network, source: str, destination: str, down: frozenset[str], apart: bool
) -> Pairs:
    for without in _with_light(network, down):
        pairs = _pairs(network, source, destination, without, network.srlg_by_span if apart else {})
        if pairs.routes:
            break
    return pairs


def _pairs(network: Network, source: str, destination: str, down: frozenset[str], ducts: SrlgBySpan) -> Pairs:
    ends = frozenset({source, destination})
    paths = candidate_paths(network, source, destination, down)
    graph = _graph(network, ends, down)
    routes = dict.fromkeys(Route(path) for path in paths if len(path) == 3)
    complete = True
    for first, last in dict.fromkeys((path[1], path[-2]) for path in paths if len(path) > 3):
        inner = graph.copy()
        inner.remove_nodes_from(ends)
        for nodes_too in (True, False):
            try:
                pair = shortest_srlg_disjoint_pair(inner, first, last, nodes_too, ducts)
            except Undecided as undecided:
                log.warning("search for disjoint paths given up: %s", undecided)
                complete, pair = False, None
            if pair is not None:
                one, other = ((source, *half, destination) for half in pair)
                routes |= {Route(one, other): None, Route(other, one): None}
    routes |= {Route(one, other): None for one, other in permutations(paths, 2) if _are_apart(one, other, ducts)}
    for path in paths:
        around = _best_backup(graph, path, ducts)
        if around is not None:
            routes[Route(path, around)] = None
    ordered = sorted(routes, key=lambda route: _order(network, route))
    return Pairs(tuple(ordered[:CANDIDATES]), complete)


def _are_apart(path: Path, backup: Path, ducts: SrlgBySpan) -> bool:
    """Whether two candidates make a pair: from the same switch to the same switch over other spans and ducts."""
    same_ends = len(path) > 3 and (path[1], path[-2]) == (backup[1], backup[-2])
    return same_ends and not srlgs_of(path[1:-1], ducts) & srlgs_of(backup[1:-1], ducts)


def _best_backup(graph: nx.DiGraph[str], path: Path, ducts: SrlgBySpan) -> Path | None:
    """The shortest way around a path's inner switches, or around its spans and ducts; None if there is neither."""
    taken = srlgs_of(path[1:-1], ducts)
    ends = {path[0], path[-1]}
    for avoided in (ends | set(path[2:-2]), ends):
        rest = graph.copy()
        rest.remove_nodes_from(avoided)
        rest.remove_edges_from([(a, b) for a, b in rest.edges if srlgs_of((a, b), ducts) & taken])
        try:
            inner = nx.dijkstra_path(rest, path[1], path[-2], "weight")
        except nx.NetworkXNoPath:
            continue
        return (path[0], *inner, path[-1]) if len(path) > 3 else None
    return None


def _order(network: Network, route: Route) -> tuple[bool, float, float, Path, Path]:
    """Disjoint nodes first, then the least total length, then the shorter path, then by name."""
    backup = route.backup or ()
    shared = set(route.path[2:-2]) & set(backup[2:-2])
    lengths = [sum(link.length_km + HOP_KM for link in network.links_along(path)) for path in (route.path, backup)]
    return bool(shared), round(sum(lengths), 9), round(lengths[0], 9), route.path, backup


def _graph(network: Network, ends: frozenset[str], down: frozenset[str]) -> nx.DiGraph[str]:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(node.name for node in network.nodes.values() if node.is_switch or node.name in ends)
    for link in network.links.values():
        if link.name not in down and link.source in graph and link.destination in graph:
            graph.add_edge(link.source, link.destination, weight=link.length_km + HOP_KM)
    return graph
