"""Two paths that no duct holds both of: disjoint in their shared risks, exactly.

That is NP-hard, while the shortest pair without a common span is not. So that pair is taken where its paths lie in
different ducts anyway: none can be shorter. Where they do not, the pair is the optimum of an integer programme, solved
by HiGHS; on germany50 with 18 ducts that took 0.15 s (median of 26 pairs on two busy cores). It may take SOLVE_LIMIT_S:
what it has found by then counts, though it may not be the shortest.

Source: Hu, "Diverse routing in optical mesh networks", IEEE Trans. Communications 51 (2003), for the hardness and the
programme; Huangfu and Hall, "Parallelizing the dual revised simplex method", Math. Prog. Comp. 10 (2018), for HiGHS.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np

from controller.domain.path import Path, span_name
from controller.domain.route import SrlgBySpan
from controller.routing.disjoint_paths import shortest_disjoint_pair

SOLVE_LIMIT_S = 3.0
"""Nobody else is decided about meanwhile."""

STOPPED = 1
"""What SciPy says of a programme that was stopped by its limit."""

Row = dict[int, float]
"""Coefficients by variable."""


class Undecided(Exception):  # noqa: N818 - named for what happened
    """Within the time there is there was neither a pair found nor proven that there is none."""


def srlgs_of(path: Sequence[str], ducts: SrlgBySpan) -> frozenset[str]:
    """The spans of a path from switch to switch, and the ducts they lie in."""
    spans = [span_name(a, b) for a, b in pairwise(path)]
    return frozenset(spans) | {ducts[span] for span in spans if span in ducts}


def shortest_srlg_disjoint_pair(
    graph: nx.DiGraph[str], source: str, target: str, nodes_too: bool, ducts: SrlgBySpan
) -> tuple[Path, Path] | None:
    """The two paths without a common span or duct, the shorter first, with the least sum of "weight"; None: none.

    `nodes_too`: nor a common node but their ends.

    Raises: Undecided.
    """
    pair = shortest_disjoint_pair(graph, source, target, nodes_too)
    if pair is None or not srlgs_of(pair[0], ducts) & srlgs_of(pair[1], ducts):
        return pair
    return _solved(graph, source, target, nodes_too, ducts)


def _solved(
    graph: nx.DiGraph[str], source: str, target: str, nodes_too: bool, ducts: SrlgBySpan
) -> tuple[Path, Path] | None:
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow to import, and only needed here
    from scipy.sparse import csr_array

    programme = _Programme(graph, ducts)
    rows = [*programme.ways(source, target), *programme.apart(nodes_too, (source, target))]
    data: list[float] = []
    at: list[int] = []
    columns: list[int] = []
    for number, (row, _, _) in enumerate(rows):
        data += row.values()
        columns += row.keys()
        at += [number] * len(row)
    matrix = csr_array((data, (at, columns)), shape=(len(rows), programme.size))
    limits = LinearConstraint(matrix, [low for _, low, _ in rows], [high for _, _, high in rows])
    answer: Any = milp(
        programme.costs(), integrality=np.ones(programme.size), bounds=Bounds(0, 1), constraints=limits,
        options={"mip_rel_gap": 0, "time_limit": SOLVE_LIMIT_S},
    )  # fmt: skip
    if answer.x is None and answer.status == STOPPED:
        raise Undecided(f"no pair from {source} to {target} within {SOLVE_LIMIT_S:g} s")
    if answer.x is None:
        return None
    short, long = sorted(programme.paths(answer.x, source, target), key=lambda path: (_length(graph, path), path))
    return short, long


def _length(graph: nx.DiGraph[str], path: Path) -> float:
    return float(nx.path_weight(graph, list(path), "weight"))


class _Programme:
    """For each of the two paths: does it take this edge, does it lie in this duct?"""

    def __init__(self, graph: nx.DiGraph[str], ducts: SrlgBySpan) -> None:
        self.graph = graph
        self.ducts = ducts
        self.edges = list(graph.edges)
        self.names = sorted(set(ducts.values()))
        self.size = 2 * (len(self.edges) + len(self.names))

    def costs(self) -> list[float]:
        """The weight of every edge for either path; ducts cost nothing."""
        weights = [float(self.graph[a][b]["weight"]) for a, b in self.edges]
        return [*weights, *weights, *[0.0] * (2 * len(self.names))]

    def ways(self, source: str, target: str) -> Iterator[tuple[Row, float, float]]:
        """Each path leaves its source, enters its target, and leaves every other node as often as it enters it."""
        for which in range(2):
            balance: dict[str, Row] = {node: {} for node in self.graph}
            for number, (a, b) in enumerate(self.edges):
                balance[a][self._edge(which, number)] = 1.0
                balance[b][self._edge(which, number)] = -1.0
            for node, row in balance.items():
                net = float(node == source) - float(node == target)
                yield row, net, net

    def apart(self, nodes_too: bool, ends: Collection[str]) -> Iterator[tuple[Row, float, float]]:
        """A span, a duct, and if wished a node belongs to one path at most."""
        spans: dict[str, Row] = {}
        nodes: dict[str, Row] = {}
        for number, (a, b) in enumerate(self.edges):
            span = span_name(a, b)
            for which in range(2):
                spans.setdefault(span, {})[self._edge(which, number)] = 1.0
                nodes.setdefault(b, {})[self._edge(which, number)] = 1.0
                if span in self.ducts:
                    yield {self._edge(which, number): 1.0, self._duct(which, self.ducts[span]): -1.0}, -1.0, 0.0
        yield from ((row, 0.0, 1.0) for row in spans.values())
        yield from (({self._duct(0, name): 1.0, self._duct(1, name): 1.0}, 0.0, 1.0) for name in self.names)
        if nodes_too:
            yield from ((row, 0.0, 1.0) for node, row in nodes.items() if node not in ends)

    def paths(self, taken: Sequence[float], source: str, target: str) -> Iterator[Path]:
        """The two paths of a solution."""
        for which in range(2):
            used = [edge for number, edge in enumerate(self.edges) if taken[self._edge(which, number)] > 0.5]
            yield tuple(nx.dijkstra_path(self.graph.edge_subgraph(used), source, target, "weight"))

    def _edge(self, which: int, number: int) -> int:
        return which * len(self.edges) + number

    def _duct(self, which: int, name: str) -> int:
        return 2 * len(self.edges) + which * len(self.names) + self.names.index(name)
