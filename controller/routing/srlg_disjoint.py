"""Two SRLG-disjoint paths of least total length, exactly.

The problem is NP-hard, while the shortest span-disjoint pair is not. So that pair is returned if it happens to be
SRLG-disjoint: no pair is shorter. Otherwise the pair is the optimum of an integer programme, solved by HiGHS; on
germany50 with 18 ducts this took 0.15 s (median of 26 pairs on two busy cores). The solver may take up to
SOLVE_LIMIT_S; its best solution by then is returned, which may not be the shortest.

Source: Hu, "Diverse routing in optical mesh networks", IEEE Trans. Communications 51 (2003), for the hardness and the
programme; Huangfu and Hall, "Parallelizing the dual revised simplex method", Math. Prog. Comp. 10 (2018), for HiGHS.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np

from controller.domain.path import Path, is_parallel_span, span_of_edge
from controller.domain.route import SrlgBySpan
from controller.routing.disjoint_paths import shortest_disjoint_pair

SOLVE_LIMIT_S = 3.0
"""No other request is decided during this time."""

STOPPED = 1
"""SciPy's status of a programme stopped by its time limit."""

Coefficients = dict[int, float]
"""Coefficients by variable."""


class SolverTimeout(Exception):  # noqa: N818 - a result of the search, not an error
    """The solver reached its time limit without a pair and without a proof that there is none."""


def srlgs_of(path: Sequence[str], srlgs: SrlgBySpan) -> frozenset[str]:
    """Return the spans of a path of switches, and their SRLGs."""
    spans = [span_of_edge(a, b) for a, b in pairwise(path)]
    return frozenset(spans) | {srlgs[span] for span in spans if span in srlgs}


def shortest_srlg_disjoint_pair(
    graph: nx.DiGraph[str], source: str, target: str, node_disjoint: bool, srlgs: SrlgBySpan
) -> tuple[Path, Path] | None:
    """Return two paths without a common span or SRLG, with the least sum of "weight", the shorter first; None if none
    exist.

    `node_disjoint`: they share no node but their ends either.

    Raises: SolverTimeout.
    """
    pair = shortest_disjoint_pair(graph, source, target, node_disjoint)
    if pair is None or not srlgs_of(pair[0], srlgs) & srlgs_of(pair[1], srlgs):
        return pair
    return _solve(graph, source, target, node_disjoint, srlgs)


def _solve(
    graph: nx.DiGraph[str], source: str, target: str, node_disjoint: bool, srlgs: SrlgBySpan
) -> tuple[Path, Path] | None:
    """Solve the integer programme; return its pair of paths, None if it is infeasible.

    Raises: SolverTimeout.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow to import, and only needed here
    from scipy.sparse import csr_array

    programme = _IntegerProgramme(graph, srlgs)
    rows = [*programme.flow_conservation(source, target), *programme.disjointness(node_disjoint, (source, target))]
    data: list[float] = []
    row_numbers: list[int] = []
    columns: list[int] = []
    for number, (row, _, _) in enumerate(rows):
        data += row.values()
        columns += row.keys()
        row_numbers += [number] * len(row)
    matrix = csr_array((data, (row_numbers, columns)), shape=(len(rows), programme.size))
    constraints = LinearConstraint(matrix, [low for _, low, _ in rows], [high for _, _, high in rows])
    solution: Any = milp(
        programme.costs(), integrality=np.ones(programme.size), bounds=Bounds(0, 1), constraints=constraints,
        options={"mip_rel_gap": 0, "time_limit": SOLVE_LIMIT_S},
    )  # fmt: skip
    if solution.x is None and solution.status == STOPPED:
        raise SolverTimeout(f"no pair from {source} to {target} within {SOLVE_LIMIT_S:g} s")
    if solution.x is None:
        return None
    short, long = sorted(programme.paths(solution.x, source, target), key=lambda path: (_length(graph, path), path))
    return short, long


def _length(graph: nx.DiGraph[str], path: Path) -> float:
    return float(nx.path_weight(graph, list(path), "weight"))


class _IntegerProgramme:
    """Binary variables, for each of the two paths: uses this edge; uses this SRLG."""

    def __init__(self, graph: nx.DiGraph[str], srlgs: SrlgBySpan) -> None:
        self.graph = graph
        self.srlgs = srlgs
        self.edges = list(graph.edges)
        self.srlg_names = sorted(set(srlgs.values()))
        self.size = 2 * (len(self.edges) + len(self.srlg_names))

    def costs(self) -> list[float]:
        """Return the objective: the weight of every edge for either path; SRLGs cost nothing."""
        weights = [float(self.graph[a][b]["weight"]) for a, b in self.edges]
        return [*weights, *weights, *[0.0] * (2 * len(self.srlg_names))]

    def flow_conservation(self, source: str, target: str) -> Iterator[tuple[Coefficients, float, float]]:
        """Yield the constraints that each path leaves its source, enters its target, and is balanced at all other
        nodes.
        """
        for path in range(2):
            balance: dict[str, Coefficients] = {node: {} for node in self.graph}
            for number, (a, b) in enumerate(self.edges):
                balance[a][self._edge_variable(path, number)] = 1.0
                balance[b][self._edge_variable(path, number)] = -1.0
            for node, row in balance.items():
                net = float(node == source) - float(node == target)
                yield row, net, net

    def disjointness(self, node_disjoint: bool, ends: Collection[str]) -> Iterator[tuple[Coefficients, float, float]]:
        """Yield the constraints that a span, an SRLG and optionally a node belong to one path at most."""
        spans: dict[str, Coefficients] = {}
        nodes: dict[str, Coefficients] = {}
        for number, (a, b) in enumerate(self.edges):
            span = span_of_edge(a, b)
            for path in range(2):
                if not is_parallel_span(a):  # else the edge before it is the same span
                    spans.setdefault(span, {})[self._edge_variable(path, number)] = 1.0
                nodes.setdefault(b, {})[self._edge_variable(path, number)] = 1.0
                if span in self.srlgs:
                    srlg = self._srlg_variable(path, self.srlgs[span])
                    yield {self._edge_variable(path, number): 1.0, srlg: -1.0}, -1.0, 0.0
        yield from ((row, 0.0, 1.0) for row in spans.values())
        for name in self.srlg_names:
            yield {self._srlg_variable(path, name): 1.0 for path in range(2)}, 0.0, 1.0
        if node_disjoint:
            yield from ((row, 0.0, 1.0) for node, row in nodes.items() if node not in ends)

    def paths(self, values: Sequence[float], source: str, target: str) -> Iterator[Path]:
        """Return the two paths of a solution."""
        for path in range(2):
            used = [edge for number, edge in enumerate(self.edges) if values[self._edge_variable(path, number)] > 0.5]
            yield tuple(nx.dijkstra_path(self.graph.edge_subgraph(used), source, target, "weight"))

    def _edge_variable(self, path: int, number: int) -> int:
        return path * len(self.edges) + number

    def _srlg_variable(self, path: int, srlg: str) -> int:
        return 2 * len(self.edges) + path * len(self.srlg_names) + self.srlg_names.index(srlg)
