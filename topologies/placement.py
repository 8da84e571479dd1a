"""Turns a fibre plant into a map: places edges and cloud, sets the scale of the emulation.

Default placement: the cloud is at the site with the highest closeness centrality (by fibre length); each edge is then
placed as far as possible from the cloud and from the edges before it (Gonzalez' greedy k-center). One host for
cross-traffic is attached beside the first edge, another beside the cloud; they load the last span of the first edge's
path to the cloud.

Source: Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical Computer Science 38 (1985).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import networkx as nx
import yaml

from topologies.maps import Grid
from topologies.problems import MapError
from topologies.published import Plant

ACCESS_KM = 3.0
"""Length of the access link between a host and its switch."""
KM_PER_DEGREE = 111.2
CPU_SHARES = (0.12, 0.18, 0.24, 0.30)
"""CPU shares of the edges in turn: devices of different speed."""
CPU_TOTAL = 0.9
"""Upper limit of the sum of all edges' CPU shares."""
CLOUD_CPU_SHARE = 1.0
"""All that its one thread can use: no limit, but it puts the cloud into the hosts' control group, which has preference.
"""


@dataclass(frozen=True, slots=True)
class PlacementOptions:
    """What is added to a plant. `edges`: their number or their sites; `cloud`: its site, None: the most central one."""

    edges: int | Sequence[str] = 4
    cloud: str | None = None
    channels: int = 4
    channel_rate_gbps: float = 100.0
    scale_mbps_per_gbps: float = 0.2
    grid: Grid = "fixed"
    mtu_bytes: int = 9000


def map_document(plant: Plant, options: PlacementOptions) -> dict[str, Any]:
    """The content of the map's YAML file.

    Raises: MapError if the options name sites that do not exist, or the plant is not connected.
    """
    graph = _graph(plant)
    cloud = _site(plant, options.cloud) if options.cloud else _most_central(graph)
    edges = _edge_sites(plant, graph, options.edges, cloud)
    names = short_names([site.name for site in plant.sites])
    positions = _positions_km(plant)
    access = {"length_km": ACCESS_KM, "channel_rate_gbps": options.channel_rate_gbps}
    shares = _cpu_shares(len(edges))
    nodes: list[dict[str, Any]] = [
        {"name": names[site.name], "kind": "switch", "position_km": positions[site.name], "label": site.name}
        for site in plant.sites
    ]
    links: list[dict[str, Any]] = [
        {
            "ends": [names[end] for end in fibre.ends], "length_km": fibre.length_km,
            "channels": options.channels, "channel_rate_gbps": options.channel_rate_gbps,
            **({"duct": fibre.duct} if fibre.duct else {}),
        }
        for fibre in plant.fibres
    ]  # fmt: skip

    def attach(host: str, kind: str, site: str, channels: int, **facts: object) -> None:
        nodes.append({"name": host, "kind": kind, "position_km": positions[site], **facts})
        links.append({"ends": [host, names[site]], "channels": channels, **access})

    for number, site in enumerate(edges, 1):
        attach(f"edge{number}", "edge", site, options.channels, cpu_share=shares[number - 1])
    attach("cloud", "cloud", cloud, 2 * options.channels, cpu_share=CLOUD_CPU_SHARE)
    for host, site in (("load1", edges[0]), ("load2", cloud)):
        attach(host, "host", site, 2 * options.channels)
    path = nx.dijkstra_path(graph, edges[0], cloud, weight="km")
    bottleneck = [names[site] for site in path[-2:]] if len(path) > 1 else ["cloud", names[cloud]]
    return {
        "name": _map_name(plant.name),
        "description": f"{len(plant.sites)} sites; cloud at {cloud}, edges at {', '.join(edges)}.",
        "source": plant.source,
        "scale_mbps_per_gbps": options.scale_mbps_per_gbps,
        "mtu_bytes": options.mtu_bytes,
        "optical": {"grid": options.grid},
        "nodes": nodes,
        "links": links,
        "cross_traffic": {"source": "load1", "sink": "load2", "bottleneck": bottleneck},
    }


def write_map(document: Mapping[str, Any], path: Path) -> None:
    """Write the map as a YAML file; creates missing directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(document), sort_keys=False, default_flow_style=None, width=118))


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Unique short names that fit into interface names: up to nine lower-case letters and digits."""
    short: dict[str, str] = {}
    for name in names:
        letters = re.sub(r"[^a-z0-9]", "", name.lower())
        base = letters if letters[:1].isalpha() else f"s{letters}"
        reserved = re.fullmatch(r"edge\d+|cloud|load\d", base[:9])
        candidate, number, used = base[:8] if reserved else base[:9], 2, set(short.values())
        while candidate in used or (reserved and candidate == base):
            tail = str(number)
            candidate, number = base[: 9 - len(tail)] + tail, number + 1
        short[name] = candidate
    return short


def _graph(plant: Plant) -> nx.Graph[str]:
    graph: nx.Graph[str] = nx.Graph()
    graph.add_nodes_from(site.name for site in plant.sites)
    for fibre in plant.fibres:
        graph.add_edge(*fibre.ends, km=fibre.length_km)
    if len(graph) < 2 or not nx.is_connected(graph):
        pieces = nx.number_connected_components(graph) if len(graph) else 0
        raise MapError([f"{plant.name}: {len(graph)} sites in {pieces} pieces; a map must be connected"])
    return graph


def _site(plant: Plant, requested: str) -> str:
    names = [site.name for site in plant.sites]
    found = [name for name in names if name.lower() == requested.lower()]
    if not found:
        near = get_close_matches(requested, names, 3, 0.5) or names[:8]
        raise MapError([f"{plant.name} has no site {requested!r}; some of its {len(names)} sites: {', '.join(near)}"])
    return found[0]


def _most_central(graph: nx.Graph[str]) -> str:
    closeness = nx.closeness_centrality(graph, distance="km")
    return max(graph, key=lambda site: (closeness[site], site))


def _edge_sites(plant: Plant, graph: nx.Graph[str], requested: int | Sequence[str], cloud: str) -> list[str]:
    if not isinstance(requested, int):
        if not requested:
            raise MapError([f"{plant.name}: no edges; give their number or their sites"])
        return [_site(plant, name) for name in requested]
    free = len(graph) - 1
    if not 1 <= requested <= free:
        raise MapError([f"{plant.name}: {requested} edges; 1 to {free} are possible beside the cloud at {cloud}"])
    distance = dict(nx.all_pairs_dijkstra_path_length(graph, weight="km"))
    chosen = [cloud]
    while len(chosen) <= requested:
        rest = [site for site in graph if site not in chosen]
        chosen.append(max(rest, key=lambda site: (min(distance[site][other] for other in chosen), site)))
    return chosen[1:]


def _positions_km(plant: Plant) -> dict[str, list[float]]:
    """Positions on a plane, x to the east (equirectangular about the centre); on a circle if any site has none."""
    placed = [(site.longitude_deg, site.latitude_deg) for site in plant.sites]
    known = [(x, y) for x, y in placed if x is not None and y is not None]
    if len(known) < len(placed):
        angle = 2 * math.pi / max(1, len(placed))
        circle = [
            [round(100 * math.cos(angle * n), 1), round(100 * math.sin(angle * n), 1)] for n in range(len(placed))
        ]
        return dict(zip((site.name for site in plant.sites), circle, strict=True))
    middle_x, middle_y = (sum(axis) / len(known) for axis in zip(*known, strict=True))
    shrink = math.cos(math.radians(middle_y))
    return {
        site.name: [round((x - middle_x) * shrink * KM_PER_DEGREE, 1), round((y - middle_y) * KM_PER_DEGREE, 1)]
        for site, (x, y) in zip(plant.sites, known, strict=True)
    }


def _cpu_shares(edges: int) -> list[float]:
    shares = [CPU_SHARES[number % len(CPU_SHARES)] for number in range(edges)]
    shrink = min(1.0, CPU_TOTAL / sum(shares)) if shares else 1.0
    return [max(0.01, round(share * shrink, 3)) for share in shares]


def _map_name(name: str) -> str:
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    return (letters if letters[:1].isalpha() else f"m{letters}")[:9]
