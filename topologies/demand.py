"""How much forwarding a map can ask of the machine it is emulated on: the largest total of rate x switches.

All switches of an emulation are one process, and each switch that a frame passes costs it time. The worst case is what
hosts can have on their way at once: every pair of hosts may use each of its CANDIDATES shortest paths, and no link
carries more than its rate. The largest sum of rate x switches on the way is a linear programme, so the answer is exact.
It is proportional to the scale.
"""

from __future__ import annotations

from itertools import islice, pairwise, permutations
from typing import Any

import networkx as nx

from topologies.maps import Map

CANDIDATES = 6
"""As many paths as the controller tries for a flow."""

Paths = list[tuple[str, ...]]


def worst_mbps_hops(plan: Map) -> float:
    """The most Mb/s x switches that the hosts of a map can ask for at its scale."""
    from scipy.optimize import linprog  # slow to import, seldom wanted
    from scipy.sparse import csr_array

    paths = _paths(plan)
    number = {link: row for row, link in enumerate(dict.fromkeys(edge for path in paths for edge in pairwise(path)))}
    crossings = [(number[edge], column) for column, path in enumerate(paths) for edge in pairwise(path)]
    rows, columns = zip(*crossings, strict=True)
    matrix = csr_array(([1.0] * len(crossings), (rows, columns)), shape=(len(number), len(paths)))
    rates_mbps = {
        edge: plan.rate_bps(link) / 1e6 for link in plan.links for edge in (link.ends, link.ends[::-1])
    }
    hops = [float(len(path) - 2) for path in paths]
    answer: Any = linprog([-each for each in hops], A_ub=matrix, b_ub=[rates_mbps[edge] for edge in number])
    return float(-answer.fun)


def _paths(plan: Map) -> Paths:
    """The candidate paths of every pair of hosts; hosts never transit."""
    core: nx.Graph[str] = nx.Graph()
    switches = {node.name for node in plan.switches}
    core.add_nodes_from(switches)
    at = {}
    for link in plan.links:
        if set(link.ends) <= switches:
            core.add_edge(*link.ends, km=link.length_km)
        else:
            host, switch = link.ends if link.ends[1] in switches else link.ends[::-1]
            at[host] = switch
    between: dict[tuple[str, str], Paths] = {}
    for a, b in permutations(sorted(set(at.values())), 2):
        between[a, b] = [tuple(path) for path in islice(nx.shortest_simple_paths(core, a, b, "km"), CANDIDATES)]
    return [
        (source, *way, sink)
        for source, sink in permutations(at, 2)
        for way in between.get((at[source], at[sink]), [(at[source],)])
    ]
