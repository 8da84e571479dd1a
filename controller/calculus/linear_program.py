"""Linear programmes with unknown bursts on the right-hand side, and bounds proven from their duals.

A programme is: maximise cost z subject to A z <= constant + (x of a row's burst, if it has one), with z <= 0 in some
columns (instants) and z >= 0 in the others (levels). For every y >= 0 and every x >= 0

    cost z <= y (constant + x) + (cost - A'y) z,

whatever the solver did to find y: y is clipped at zero, and where the residual cost - A'y has the sign that exact
arithmetic would exclude, it is multiplied by a proven range of z. The result is a `Majorant`: constant + slopes x, for
all x.

The solver is given the dual: minimise y (constant + x) subject to A'y <= cost for instants, >= cost for levels. It has
far fewer rows, and few of its columns are ever needed: those of `Rows.is_optional` are added when they have a negative
reduced cost.

Source: Dantzig, "Linear Programming and Extensions" (weak duality); Neumaier and Shcherbina, "Safe bounds in linear and
mixed-integer linear programming", Mathematical Programming 99 (2004).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int32]

ROUNDING = 1e-9
"""Relative margin of a majorant: far more than the rounding of its sums."""
VIOLATION = 1e-7
"""In us or kbit: an optional row that is violated by less is left out; its dual is 0, which is as valid as any."""

NO_BURST = -1
OPTIONS: dict[str, Any] = {
    "output_flag": False, "presolve": "off", "solver": "simplex", "threads": 1, "simplex_scale_strategy": 0,
    "small_matrix_value": 1e-12, "primal_feasibility_tolerance": 1e-9, "dual_feasibility_tolerance": 1e-9,
}  # fmt: skip


class Unsolved(Exception):  # noqa: N818 - a result, not an error
    """The solver found no optimum within its limits, or the programme is unbounded."""


@dataclass(frozen=True, slots=True)
class Majorant:
    """For all bursts x >= 0 the optimum is at most `constant` + `slopes` x."""

    constant: float
    slopes: Floats


@dataclass(slots=True)
class Rows:
    """The rows of a programme while it is built."""

    starts: list[int] = field(default_factory=lambda: [0])
    columns: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    constants: list[float] = field(default_factory=list)
    bursts: list[int] = field(default_factory=list)
    is_optional: list[bool] = field(default_factory=list)

    def add(
        self, terms: Sequence[tuple[int, float]], constant: float, burst: int = NO_BURST, is_optional: bool = False
    ) -> int:
        """Add the row: sum of (column, coefficient) <= constant + x[burst]; return its number.

        Column -1 stands for the constant 0.
        """
        for column, value in terms:
            if column >= 0:
                self.columns.append(column)
                self.values.append(value)
        self.starts.append(len(self.columns))
        self.constants.append(constant)
        self.bursts.append(burst)
        self.is_optional.append(is_optional)
        return len(self.constants) - 1


class LinearProgram:
    """A programme that stays in the solver: costs and right-hand sides change, each objective keeps its basis."""

    def __init__(self, rows: Rows, is_time: Sequence[bool], bursts: int) -> None:
        """`is_time`: for each column, whether it is at most zero; otherwise it is at least zero. `bursts`: length of x.
        """
        self.constants: Floats = np.array(rows.constants)
        self.bursts = bursts
        self.is_time = np.array(is_time, bool)
        self._row_bursts: Indices = np.array(rows.bursts, np.int32)
        self._burst_rows = np.flatnonzero(self._row_bursts != NO_BURST)
        self._starts: Indices = np.array(rows.starts, np.int32)
        self._columns: Indices = np.array(rows.columns, np.int32)
        self._values: Floats = np.array(rows.values)
        self._entry_rows = np.repeat(np.arange(len(self.constants)), np.diff(self._starts))
        self._given = np.flatnonzero(~np.array(rows.is_optional, bool))
        """The rows that the solver has, in its order."""
        self._cost: Floats = np.zeros(len(is_time))
        self._rhs: Floats = np.zeros(0)
        self._bases: dict[Hashable, Any] = {}
        self._highs: Any = None

    def maximum(
        self,
        objective: Hashable,
        cost: Mapping[int, float],
        bursts: Floats,
        reach: tuple[Floats, Floats],
        limit_s: float = inf,
    ) -> Majorant:
        """Maximise at these bursts and return a majorant that holds for all.

        `objective`: names the cost, so that the next call starts from its basis. `reach`: two linear forms in x
        (constant first) that no instant exceeds in absolute value, and no level. `limit_s`: time for the solver.

        Raises: Unsolved
        """
        new_cost = np.zeros(len(self.is_time))
        new_cost[list(cost)] = list(cost.values())
        dual = self._dual(objective, new_cost, bursts, limit_s)
        residual = new_cost - np.bincount(self._columns, self._values * dual[self._entry_rows], len(new_cost))
        slack_time = float(np.maximum(-residual[self.is_time], 0.0).sum())
        slack_level = float(np.maximum(residual[~self.is_time], 0.0).sum())
        forms = slack_time * reach[0] + slack_level * reach[1]
        products = dual * np.where(dual > 0, self.constants, 0.0)
        margin = ROUNDING * (float(np.abs(products).sum()) + float(forms[0]))
        slopes = np.bincount(self._row_bursts[self._burst_rows], dual[self._burst_rows], self.bursts)
        return Majorant(float(products.sum() + forms[0]) + margin, (slopes + forms[1:]) * (1 + ROUNDING))

    def _dual(self, objective: Hashable, cost: Floats, bursts: Floats, limit_s: float) -> Floats:
        """Return the duals of all rows, not negative.

        Raises: Unsolved
        """
        rhs = self.constants.copy()
        rhs[self._burst_rows] += bursts[self._row_bursts[self._burst_rows]]
        self._update(cost, rhs)
        basis = self._bases.get(objective)
        if basis is not None:
            self._set_basis(basis)
        if isfinite(limit_s):
            self._highs.setOptionValue("time_limit", self._highs.getRunTime() + max(limit_s, 0.0))
        while True:
            self._run()
            solution = self._highs.getSolution()
            primal = np.array(solution.row_dual)
            used = np.bincount(self._entry_rows, self._values * primal[self._columns], len(rhs))
            missing = used > rhs + VIOLATION
            missing[self._given] = False
            if not missing.any():
                break
            self._give(np.flatnonzero(missing))
        self._bases[objective] = self._highs.getBasis()
        dual = np.zeros(len(rhs))
        dual[self._given] = np.maximum(np.array(solution.col_value), 0.0)
        dual[~np.isfinite(rhs)] = 0.0
        return dual

    def _update(self, cost: Floats, rhs: Floats) -> None:
        if self._highs is None:
            self._cost, self._rhs = cost, rhs
            self._load()
            return
        changed = np.flatnonzero(cost != self._cost).astype(np.int32)
        if len(changed):
            lower, upper = self._row_limits(cost)
            self._highs.changeRowsBounds(len(changed), changed, lower[changed], upper[changed])
        moved = np.flatnonzero(rhs[self._given] != self._rhs[self._given]).astype(np.int32)
        if len(moved):
            self._highs.changeColsCost(len(moved), moved, _finite(rhs[self._given][moved]))
        self._cost, self._rhs = cost, rhs

    def _run(self) -> None:
        """Raises: Unsolved"""
        import highspy

        self._highs.run()
        status = self._highs.getModelStatus()
        if status == highspy.HighsModelStatus.kInfeasible and len(self._given) < len(self._rhs):
            self._give(np.setdiff1d(np.arange(len(self._rhs)), self._given))
            self._highs.run()
            status = self._highs.getModelStatus()
        if status != highspy.HighsModelStatus.kOptimal:
            raise Unsolved(str(status))

    def _set_basis(self, basis: Any) -> None:
        import highspy

        added = len(self._given) - len(basis.col_status)
        if added:
            basis.col_status = [*basis.col_status, *[highspy.HighsBasisStatus.kLower] * added]
        self._highs.setBasis(basis)

    def _give(self, rows: NDArray[np.intp]) -> None:
        """Hand more rows to the solver."""
        starts, index, value = self._entries(rows)
        costs, zeros = _finite(self._rhs[rows]), np.zeros(len(rows))
        self._highs.addCols(len(rows), costs, zeros, np.full(len(rows), np.inf), len(index), starts[:-1], index, value)
        self._given = np.concatenate([self._given, rows])

    def _entries(self, rows: NDArray[np.intp]) -> tuple[Indices, Indices, Floats]:
        lengths = np.diff(self._starts)[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        entries = np.repeat(self._starts[rows] - starts[:-1], lengths) + np.arange(starts[-1])
        return starts.astype(np.int32), self._columns[entries], self._values[entries]

    def _row_limits(self, cost: Floats) -> tuple[Floats, Floats]:
        return np.where(self.is_time, -np.inf, cost), np.where(self.is_time, cost, np.inf)

    def _load(self) -> None:
        import highspy
        from highspy import _core

        highs = _core._Highs()  # the public subclass prints a banner to stdout
        for name, value in OPTIONS.items():
            highs.setOptionValue(name, value)
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = len(self._given), len(self._cost)
        lp.col_cost_ = _finite(self._rhs[self._given])
        lp.col_lower_, lp.col_upper_ = np.zeros(len(self._given)), np.full(len(self._given), np.inf)
        lp.row_lower_, lp.row_upper_ = self._row_limits(self._cost)
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = self._entries(self._given)
        highs.passModel(lp)
        self._highs = highs


UNLIMITED = 1e9
"""In us or kbit: stands for an infinite right-hand side in the solver, whose dual is set to 0 afterwards."""


def _finite(rhs: Floats) -> Floats:
    limited: Floats = np.minimum(rhs, UNLIMITED)
    return limited
