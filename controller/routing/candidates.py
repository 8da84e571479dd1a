"""Candidate paths: the k shortest by fibre length, then by hops; pairs of disjoint paths. Hosts never forward.

A fibre beyond the optical reach is used only if there is no other path, so that the refusal can state the missing GSNR.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice, permutations

import networkx as nx

from controller.caches import MIB, bounded_cache
from controller.domain.network import DirectedLink, Network
from controller.domain.path import Path, link_names
from controller.domain.route import Route, SrlgBySpan
from controller.optical.lightpath_design import design_lightpath
from controller.routing.srlg_disjoint import SolverTimeout, shortest_srlg_disjoint_pair, srlgs_of
from topologies.maps import USUAL_LOSS_DB_PER_KM

CANDIDATES = 6
"""The number of paths that admission tries per flow; a metro ring with a chord has three."""

HOP_KM = 1e-6
"""Added to the length of each hop, so that among paths of equal length the one with fewer hops comes first."""

CERTAIN_REACH_KM = 2000.0
"""A usual fibre of up to this length is crossed by DP-QPSK with more than 2 dB to spare, so it need not be computed."""

NOTHING_DOWN: frozenset[str] = frozenset()

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RouteSet:
    """Candidate routes, best first; not `is_complete`: the search timed out, and there may be others."""

    routes: tuple[Route, ...]
    is_complete: bool = True


def candidate_paths(
    network: Network, source: str, destination: str, down: frozenset[str] = NOTHING_DOWN, max_paths: int = CANDIDATES
) -> tuple[Path, ...]:
    """Return up to `max_paths` loopless paths over links that are up, best first; empty if there is none.

    Source: Yen, "Finding the K shortest loopless paths in a network", Management Science 17 (1971).
    """
    without_failures = _candidate_paths(network, source, destination, NOTHING_DOWN, max_paths)
    # Paths that cross no failed link remain the shortest, so most failures leave the cached result valid.
    if not _affects(down, without_failures):
        return without_failures
    return _candidate_paths(network, source, destination, down, max_paths)


@bounded_cache(4 * MIB, entry_bytes=2048)
def unprotected_routes(paths: tuple[Path, ...]) -> RouteSet:
    """Return these paths without backups."""
    return RouteSet(tuple(Route(path) for path in paths))


def candidate_routes(
    network: Network, source: str, destination: str, down: frozenset[str] = NOTHING_DOWN, srlg_disjoint: bool = False
) -> RouteSet:
    """Return up to CANDIDATES pairs of a working path and a backup path that share no span.

    `srlg_disjoint`: they share no SRLG either. Node-disjoint pairs come first, then those of least total length; the
    shortest pair of all is among them. If both hosts are at one switch, there is no span to protect and no backup.
    """
    uses_srlgs = srlg_disjoint and bool(network.srlg_by_span)
    without_failures = _candidate_routes(network, source, destination, NOTHING_DOWN, uses_srlgs)
    paths = [path for route in without_failures.routes for path in (route.path, route.backup or ())]
    if not _affects(down, paths):
        return without_failures
    return _candidate_routes(network, source, destination, down, uses_srlgs)


@bounded_cache(4 * MIB, entry_bytes=8192)
def next_hops(
    network: Network, destination: str, down: frozenset[str] = NOTHING_DOWN
) -> Mapping[str, DirectedLink]:
    """Return for every switch that can reach the host the link on the shortest path towards it (a tree)."""
    graph = _graph(network, frozenset({destination}), down).reverse(copy=False)
    paths = nx.single_source_dijkstra_path(graph, destination, weight="weight")
    return {
        switch.name: network.links[link_names(tuple(reversed(paths[switch.name])))[0]]
        for switch in network.switches
        if switch.name in paths
    }


def _affects(down: frozenset[str], paths: Collection[Path]) -> bool:
    """Return whether the failed links may change the paths."""
    return bool(down) and (not paths or any(link in down for path in paths for link in link_names(path)))


@bounded_cache(8 * MIB, entry_bytes=2048)
def _candidate_paths(
    network: Network, source: str, destination: str, down: frozenset[str], max_paths: int
) -> tuple[Path, ...]:
    if source == destination:
        return ()
    for excluded in _exclusions(network, down):
        graph = _graph(network, frozenset({source, destination}), excluded)
        with contextlib.suppress(nx.NetworkXNoPath):
            paths = islice(nx.shortest_simple_paths(graph, source, destination, "weight"), max_paths)
            return tuple(tuple(path) for path in paths)
    return ()


def _exclusions(network: Network, down: frozenset[str]) -> list[frozenset[str]]:
    """Return the sets of links to exclude, in order of trial: with those out of optical reach, then only those down."""
    return list(dict.fromkeys((down | links_out_of_reach(network), down)))


@bounded_cache(2 * MIB, entry_bytes=MIB // 8)
def links_out_of_reach(network: Network) -> frozenset[str]:
    """Return the links of an optical network whose fibre is too long for every modulation."""
    if network.grid is None:
        return NOTHING_DOWN
    usual = USUAL_LOSS_DB_PER_KM, "SSMF"
    spans = (
        link
        for link in network.links.values()
        if link.slot_count
        and (
            network.band != "C"
            or link.length_km > CERTAIN_REACH_KM
            or (link.loss_db_per_km, link.fibre_type) != usual
        )
    )
    return frozenset(
        link.name for link in spans if not design_lightpath(network, link.path).is_feasible
    )


@bounded_cache(8 * MIB, entry_bytes=2048)
def _candidate_routes(
    network: Network, source: str, destination: str, down: frozenset[str], srlg_disjoint: bool
) -> RouteSet:
    for excluded in _exclusions(network, down):
        route_set = _disjoint_pairs(
            network, source, destination, excluded, network.srlg_by_span if srlg_disjoint else {}
        )
        if route_set.routes:
            break
    return route_set


def _disjoint_pairs(
    network: Network, source: str, destination: str, down: frozenset[str], srlgs: SrlgBySpan
) -> RouteSet:
    """Return the candidate pairs: shortest pairs between the ends' switches, pairs of candidates, best backups."""
    ends = frozenset({source, destination})
    paths = candidate_paths(network, source, destination, down)
    graph = _graph(network, ends, down)
    routes = dict.fromkeys(Route(path) for path in paths if len(path) == 3)
    is_complete = True
    for first, last in dict.fromkeys((path[1], path[-2]) for path in paths if len(path) > 3):
        switches_only = graph.copy()
        switches_only.remove_nodes_from(ends)
        for node_disjoint in (True, False):
            try:
                pair = shortest_srlg_disjoint_pair(switches_only, first, last, node_disjoint, srlgs)
            except SolverTimeout as timeout:
                log.warning("search for disjoint paths timed out: %s", timeout)
                is_complete, pair = False, None
            if pair is not None:
                working, backup = ((source, *half, destination) for half in pair)
                routes |= {Route(working, backup): None, Route(backup, working): None}
    routes |= {
        Route(working, backup): None
        for working, backup in permutations(paths, 2)
        if _are_disjoint(working, backup, srlgs)
    }
    for path in paths:
        backup_path = _best_backup(graph, path, srlgs)
        if backup_path is not None:
            routes[Route(path, backup_path)] = None
    ordered = sorted(routes, key=lambda route: _preference(network, route))
    return RouteSet(tuple(ordered[:CANDIDATES]), is_complete)


def _are_disjoint(path: Path, backup: Path, srlgs: SrlgBySpan) -> bool:
    """Return whether two candidates form a pair: same first and last switch, no common span or SRLG."""
    same_ends = len(path) > 3 and (path[1], path[-2]) == (backup[1], backup[-2])
    return same_ends and not srlgs_of(path[1:-1], srlgs) & srlgs_of(backup[1:-1], srlgs)


def _best_backup(graph: nx.DiGraph[str], path: Path, srlgs: SrlgBySpan) -> Path | None:
    """Return the shortest backup that avoids a path's inner switches, or else its spans and SRLGs; None without either.
    """
    used_srlgs = srlgs_of(path[1:-1], srlgs)
    ends = {path[0], path[-1]}
    for avoided in (ends | set(path[2:-2]), ends):
        remaining = graph.copy()
        remaining.remove_nodes_from(avoided)
        remaining.remove_edges_from([(a, b) for a, b in remaining.edges if srlgs_of((a, b), srlgs) & used_srlgs])
        try:
            inner = nx.dijkstra_path(remaining, path[1], path[-2], "weight")
        except nx.NetworkXNoPath:
            continue
        return (path[0], *inner, path[-1]) if len(path) > 3 else None
    return None


def _preference(network: Network, route: Route) -> tuple[bool, float, float, Path, Path]:
    """Sort key: node-disjoint first, then least total length, then the shorter working path, then by name."""
    backup = route.backup or ()
    has_shared_nodes = set(route.path[2:-2]) & set(backup[2:-2])
    lengths = [sum(link.length_km + HOP_KM for link in network.links_along(path)) for path in (route.path, backup)]
    return bool(has_shared_nodes), round(sum(lengths), 9), round(lengths[0], 9), route.path, backup


def _graph(network: Network, ends: frozenset[str], down: frozenset[str]) -> nx.DiGraph[str]:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(node.name for node in network.nodes.values() if node.is_switch or node.name in ends)
    for link in network.links.values():
        if link.name not in down and link.source in graph and link.destination in graph:
            nx.add_path(graph, link.path, weight=(link.length_km + HOP_KM) / (len(link.path) - 1))
    return graph
