"""Sites without coordinates whose spans need them: left out, placed between their neighbours, or refused."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import networkx as nx

from topologies.plants.plant import Site
from topologies.problems import MapError, listed

Unplaced = Literal["drop", "place", "refuse"]
ROUNDS = 200
"""Of averaging over neighbours, by which chains of unplaced sites spread out evenly enough."""


@dataclass(frozen=True, slots=True)
class Settled:
    """Sites that are left out, those that got a place, and what to tell about both."""

    left_out: Collection[str]
    placed: Mapping[str, Site]
    notes: list[str]


def settle(
    graph: nx.MultiGraph[str], sites: Mapping[str, Site], external: Collection[str], policy: Unplaced | None, name: str
) -> Settled:
    """Decide what becomes of sites without a place. Edges are `known` if their length is.

    By default a site that is a peer outside the network, or has one neighbour only, is left out if the rest stays
    whole; any other is placed.

    Raises: MapError if `policy` is refuse, or no site has a place and lengths are missing.
    """
    needed = [
        key
        for key, site in sites.items()
        if not site.is_placed and any(not facts["known"] for _, _, facts in graph.edges(key, data=True))
    ]
    if not needed:
        if policy is not None and all(site.is_placed for site in sites.values()):
            raise MapError([f"{name}: every site has a place, so --unplaced does not apply"])
        return Settled((), {}, [])
    names = [sites[key].name for key in needed]
    missing = [(a, b) for a, b, facts in graph.edges(data=True) if not facts["known"]]
    if len(needed) == len(sites) or not any(site.is_placed for site in sites.values()):
        spans = listed([f"{sites[a].name} - {sites[b].name}" for a, b in missing], 5)
        raise MapError([
            f"{name}: no length and no coordinates of both ends for {spans}; give the spans `length_km` or the sites "
            "longitude and latitude, or say --span-km KM for all of them"
        ])  # fmt: skip
    if policy == "refuse":
        raise MapError([f"{name}: sites without coordinates: {listed(names)}; --unplaced drop or place takes the rest"])
    left_out = needed if policy == "drop" else [] if policy == "place" else _dispensable(graph, needed, external)
    placed = _between_neighbours(graph, sites, [key for key in needed if key not in set(left_out)])
    lost = [key for key in needed if key not in placed]
    notes = []
    if lost:
        notes.append(f"left out, without coordinates: {listed([sites[key].name for key in lost])}")
    if placed:
        notes.append(f"placed between their neighbours: {listed([sites[key].name for key in placed])}")
    return Settled(lost, placed, notes)


def _dispensable(graph: nx.MultiGraph[str], needed: list[str], external: Collection[str]) -> list[str]:
    """The sites that can be left out one by one without splitting what is left, peers outside the network first."""
    rest: nx.Graph[str] = nx.Graph(graph)
    left_out: list[str] = []
    changed = True
    while changed:
        changed = False
        for key in sorted((key for key in needed if key in rest), key=lambda key: key not in external):
            is_leaf = rest.degree(key) <= 1
            if is_leaf or (key in external and not _joins(rest, key)):
                rest.remove_node(key)
                left_out.append(key)
                changed = True
    return left_out


def _joins(graph: nx.Graph[str], key: str) -> bool:
    """Whether the neighbours of a site would be in several pieces without it."""
    near = list(graph.neighbors(key))
    without = nx.restricted_view(graph, [key], [])
    return bool(near) and not set(near) <= nx.node_connected_component(without, near[0])


def _between_neighbours(graph: nx.MultiGraph[str], sites: Mapping[str, Site], keys: list[str]) -> dict[str, Site]:
    """Every site in the middle of its neighbours; those that no placed site reaches are missing."""
    vectors = {key: _vector(site) for key, site in sites.items() if site.is_placed}
    neighbours = {key: list(dict.fromkeys(graph.neighbors(key))) for key in keys}
    for _ in range(ROUNDS if keys else 0):
        for key, near in neighbours.items():
            known = [vectors[other] for other in near if other in vectors]
            if known:
                vectors[key] = tuple(fmean(axis) for axis in zip(*known, strict=True))
    return {key: _site_at(sites[key].name, vectors[key]) for key in keys if key in vectors}


Vector = tuple[Any, ...]
"""On a drawing x, y; on the globe x, y, z, so that a middle is one across the date line, too."""


def _vector(site: Site) -> Vector:
    if site.drawn_km is not None:
        return site.drawn_km
    longitude, latitude = math.radians(site.longitude_deg or 0.0), math.radians(site.latitude_deg or 0.0)
    shrink = math.cos(latitude)
    return shrink * math.cos(longitude), shrink * math.sin(longitude), math.sin(latitude)


def _site_at(name: str, vector: Vector) -> Site:
    if len(vector) == 2:
        return Site(name, None, None, vector)
    x, y, z = vector
    longitude, latitude = math.degrees(math.atan2(y, x)), math.degrees(math.atan2(z, math.hypot(x, y)))
    return Site(name, round(longitude, 4), round(latitude, 4))
