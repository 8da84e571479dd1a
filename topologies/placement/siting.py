"""Where edges and cloud stand on a fibre plant: at sites between which something can be reserved.

Default: the cloud is at the site with the highest closeness centrality (by fibre length); each edge is then placed as
far as possible from the cloud and from the edges before it (Gonzalez' greedy k-center). Only the largest part of the
plant counts that fibres within optical reach and of sufficient speed join: every ROADM can end a lightpath, so a path
is feasible if each of its fibres is. Distances are those over all fibres.

Source: Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical Computer Science 38 (1985).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

import networkx as nx

from topologies.maps import USUAL_LOSS_DB_PER_KM, Band
from topologies.plants.plant import Fibre, Plant
from topologies.problems import MapError, listed

REACH_KM = 3400.0
"""The longest fibre that DP-QPSK crosses, by `controller.optical.transmission_quality`; a test compares."""

MULTI_BAND_REACH_KM = 1600.0
"""The same with the C and the L band lit."""

ROUTE_REACH_KM: Final[Mapping[Band, float]] = {"C": 1900.0, "C+L": 1600.0}
"""The longest route over several fibres of 50 km or more that DP-QPSK crosses without regeneration."""

AMPLIFIER_KM = 80.0

LEAST_RATE_SHARE = 1 / 80
"""A fibre of a smaller share of the fastest one's rate is emulated too slowly for a reservation."""

EXACT_SITES = 400
"""The most central site of a larger plant is found by the distances to a sample of sites."""

DEFAULT_EDGES = 4


@dataclass(frozen=True, slots=True)
class Sites:
    """The sites of cloud and edges, the shortest path from the first edge to the cloud, and what to tell about them."""

    cloud: str
    edges: list[str]
    path: list[str]
    notes: list[str]


def choose_sites(
    plant: Plant, edges: int | Sequence[str] | None, cloud: str | None, band: Band = "C",
    regenerating: Set[str] | None = None,
) -> Sites:  # fmt: skip
    """The sites of edges (their number, or their sites; None: up to four) and cloud (None: the most central one).

    `regenerating`: the sites that can end a lightpath on the way and begin the next; None: all.
    Raises: MapError if a site does not exist, or there are too few.
    """
    graph, usable = graph_of(plant.fibres), graph_of(_usable_fibres(plant, band))
    regenerators = {site.name for site in plant.sites if site.is_regenerator}
    area = max(nx.connected_components(usable), key=len, default=set[str]()) - regenerators
    if len(area) < 2:
        beyond = "; ".join(_beyond_reach(plant, band))
        raise MapError([f"{plant.name}: no two sites between which anything can be reserved: {beyond}"])
    cloud_site = site_named(plant, cloud) if cloud else _most_central(graph, area)
    reached = nx.node_connected_component(usable, cloud_site) if cloud_site in usable else {cloud_site}
    if regenerating is not None:
        reached = _reached(usable, cloud_site, regenerating, band)
        area &= reached
    named = not (edges is None or isinstance(edges, int))
    edge_sites = _edge_sites(plant, graph, area if cloud_site in area else set(graph) - regenerators, edges, cloud_site)
    notes = _beyond_reach(plant, band)
    possible = len(plant.sites) - len(regenerators)
    if possible > len(area) and not (named and cloud):
        where = f"{len(area)} of {possible} sites"
        notes.append(f"edges and cloud are placed where something can be reserved, among {where}")
    for number, site in enumerate(edge_sites, 1):
        if site not in reached:
            notes.append(f"edge{number} at {site} can reserve nothing to the cloud at {cloud_site}")
    routes = usable if edge_sites[0] in reached and cloud_site in usable else graph
    return Sites(cloud_site, edge_sites, nx.dijkstra_path(routes, edge_sites[0], cloud_site, weight="km"), notes)


def reach_km(loss_db_per_km: float | None, band: Band = "C") -> float:
    """The longest fibre of that loss: every further dB between two amplifiers is one more of noise, if not of reach."""
    further_db = AMPLIFIER_KM * max(0.0, (loss_db_per_km or USUAL_LOSS_DB_PER_KM) - USUAL_LOSS_DB_PER_KM)
    return (REACH_KM if band == "C" else MULTI_BAND_REACH_KM) * 10 ** (-further_db / 10)


def graph_of(fibres: Sequence[Fibre]) -> nx.Graph[str]:
    """The shortest fibre between every two sites that have one."""
    graph: nx.Graph[str] = nx.Graph()
    for fibre in fibres:
        others_km = graph.get_edge_data(*fibre.ends, {"km": fibre.length_km})["km"]
        graph.add_edge(*fibre.ends, km=min(fibre.length_km, others_km))
    return graph


def _reached(graph: nx.Graph[str], cloud: str, regenerating: Set[str], band: Band) -> set[str]:
    """The sites between which and the cloud light gets through, regenerated at these sites only."""
    reached, starts = {cloud}, [cloud]
    while starts and cloud in graph:
        start = starts.pop()
        near = {site for site in graph[start] if graph.edges[start, site]["km"] <= reach_km(None, band)}
        near |= set(nx.single_source_dijkstra_path_length(graph, start, ROUTE_REACH_KM[band], weight="km"))
        starts += sorted((near - reached) & regenerating)
        reached |= near
    return reached


def _usable_fibres(plant: Plant, band: Band) -> list[Fibre]:
    fastest = max((fibre.rate_gbps or 0.0 for fibre in plant.fibres), default=0.0)
    return [
        fibre
        for fibre in plant.fibres
        if fibre.length_km <= reach_km(fibre.loss_db_per_km, band)
        and (fibre.rate_gbps is None or fibre.rate_gbps >= fastest * LEAST_RATE_SHARE)
    ]


def _beyond_reach(plant: Plant, band: Band) -> list[str]:
    usable = set(map(id, _usable_fibres(plant, band)))
    long = [fibre for fibre in plant.fibres if fibre.length_km > reach_km(fibre.loss_db_per_km, band)]
    slow = [fibre for fibre in plant.fibres if id(fibre) not in usable and fibre not in long]
    notes = []
    if long:
        spans = [f"{' - '.join(fibre.ends)} ({fibre.length_km:g} km)" for fibre in long]
        reach = f"{reach_km(None, band):g} km"
        notes.append(f"beyond optical reach ({reach}), no lightpath crosses them: {listed(spans, 6)}")
    if slow:
        spans = [f"{' - '.join(fibre.ends)} ({fibre.rate_gbps:g} Gb/s)" for fibre in slow]
        notes.append(f"too slow beside the fastest fibre to reserve on in the emulation: {listed(spans, 6)}")
    return notes


def site_named(plant: Plant, requested: str) -> str:
    """The site of that name, in any letter case.

    Raises: MapError with the names that are most like it.
    """
    names = [site.name for site in plant.sites]
    found = [name for name in names if name.casefold() == requested.casefold()]
    if not found:
        near = get_close_matches(requested, names, 3, 0.5) or names[:8]
        raise MapError([f"{plant.name} has no site {requested!r}; some of its {len(names)} sites: {', '.join(near)}"])
    return found[0]


def _most_central(graph: nx.Graph[str], among: set[str]) -> str:
    sites = sorted(among)
    sample = sites if len(sites) <= EXACT_SITES else sites[:: len(sites) // 100]
    total_km = dict.fromkeys(sites, 0.0)
    for site in sample:
        for other, km in nx.single_source_dijkstra_path_length(graph, site, weight="km").items():
            if other in among:
                total_km[other] += km
    return min(reversed(sites), key=lambda site: round(total_km[site], 6))


def _edge_sites(
    plant: Plant, graph: nx.Graph[str], among: set[str], requested: int | Sequence[str] | None, cloud: str
) -> list[str]:
    if requested is not None and not isinstance(requested, int):
        if not requested:
            raise MapError([f"{plant.name}: no edges; give their number or their sites"])
        return [site_named(plant, name) for name in requested]
    free = len(among) - 1
    number = min(DEFAULT_EDGES, free) if requested is None else requested
    if not 1 <= number <= free:
        raise MapError([f"{plant.name}: {number} edges; 1 to {free} are possible beside the cloud at {cloud}"])
    to_chosen = dict.fromkeys(graph, float("inf"))
    chosen = [cloud]
    while len(chosen) <= number:
        for site, km in nx.single_source_dijkstra_path_length(graph, chosen[-1], weight="km").items():
            to_chosen[site] = min(to_chosen[site], km)
        rest = [site for site in graph if site in among and site not in chosen]
        chosen.append(max(rest, key=lambda site: (round(to_chosen[site], 6), site)))
    return chosen[1:]
