"""The largest forwarding load that a map can put on the machine that emulates it: total of rate x switches.

All switches of an emulation run in one process, and every switch that a frame passes costs it time. Worst case: every
pair of hosts may use each of its CANDIDATES shortest paths, and no link carries more than its rate. The largest sum of
rate x switches on the path is a linear programme, so the result is exact. It is proportional to the scale.
"""

from __future__ import annotations

from itertools import islice, pairwise, permutations
from typing import Any

import networkx as nx

from topologies.maps import Map

CANDIDATES = 6
"""Number of paths that the controller tries for a flow."""

Paths = list[tuple[str, ...]]


def worst_mbps_hops(topology: Map) -> float:
    """The largest load, in Mb/s x switches, that the hosts of a map can offer at its scale."""
    from scipy.optimize import linprog  # slow to import, rarely needed
    from scipy.sparse import csr_array

    paths = _paths(topology)
    row_of = {hop: row for row, hop in enumerate(dict.fromkeys(hop for path in paths for hop in pairwise(path)))}
    crossings = [(row_of[hop], column) for column, path in enumerate(paths) for hop in pairwise(path)]
    rows, columns = zip(*crossings, strict=True)
    matrix = csr_array(([1.0] * len(crossings), (rows, columns)), shape=(len(row_of), len(paths)))
    rates_mbps: dict[tuple[str, str], float] = {}
    for link in topology.links:
        for hop in (link.ends, link.ends[::-1]):  # parallel links together
            rates_mbps[hop] = rates_mbps.get(hop, 0.0) + topology.rate_bps(link) / 1e6
    switches_on = [float(len(path) - 2) for path in paths]
    solution: Any = linprog([-count for count in switches_on], A_ub=matrix, b_ub=[rates_mbps[hop] for hop in row_of])
    return float(-solution.fun)


def _paths(topology: Map) -> Paths:
    """The candidate paths of every pair of hosts; hosts never transit."""
    core: nx.Graph[str] = nx.Graph()
    switches = {node.name for node in topology.switches}
    core.add_nodes_from(switches)
    access_switch = {}
    for link in topology.links:
        if set(link.ends) <= switches:
            others_km = core.get_edge_data(*link.ends, {"km": link.length_km})["km"]
            core.add_edge(*link.ends, km=min(link.length_km, others_km))
        else:
            host, switch = link.ends if link.ends[1] in switches else link.ends[::-1]
            access_switch[host] = switch
    between: dict[tuple[str, str], Paths] = {}
    for a, b in permutations(sorted(set(access_switch.values())), 2):
        between[a, b] = [tuple(path) for path in islice(nx.shortest_simple_paths(core, a, b, "km"), CANDIDATES)]
    return [
        (source, *path, sink)
        for source, sink in permutations(access_switch, 2)
        for path in between.get((access_switch[source], access_switch[sink]), [(access_switch[source],)])
    ]
