"""PLP as published, solved by lp_solve: one programme for the bursts at all cuts, then one for each part of a path.

lp_solve is Debian's package, unpacked into a temporary folder. The rows are those of `controller.calculus.tree_program`
with the flow of interest left out of the shaping rows. The equalities of first come, first served are substituted, so
that the programmes are smaller than those of the published implementation: the peer is faster here than there.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from controller.calculus.cut_bursts import CutAnalysis
from controller.calculus.linear_program import NO_BURST
from controller.calculus.tree_program import TreeProgram
from harness.published_networks import Case, improve_by_total_flow, plp_analysis, total_flow_delays

PACKAGES = ("lp-solve", "libcolamd2", "libcolamd3", "libsuitesparseconfig5", "libsuitesparseconfig7")
"""The library's names on Debian 12 and 13; those that a release does not have are skipped."""


class PeerError(Exception):
    """lp_solve cannot be installed or gives no result."""


class LpSolve:
    """lp_solve in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Download and unpack it.

        Raises: PeerError
        """
        for package in PACKAGES:
            subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, check=False)
        for archive in folder.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
        self.program = folder / "usr/bin/lp_solve"
        if not self.program.exists():
            raise PeerError("apt-get download lp-solve brought no lp_solve")
        libraries = {str(path.parent) for path in folder.rglob("*.so*")}
        self.environment = os.environ | {"LD_LIBRARY_PATH": ":".join(sorted(libraries))}
        self.folder = folder

    def solve(self, text: str, limit_s: float) -> dict[str, float]:
        """Return the values of all variables and of the objective ("").

        Raises: PeerError
        """
        file = self.folder / "program.lp"
        file.write_text(text)
        try:
            done = subprocess.run([self.program, "-S3", file], env=self.environment, capture_output=True, text=True,
                                  timeout=limit_s, check=False)  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise PeerError(f"lp_solve needs more than {limit_s:.0f} s") from error
        if "Value of objective function:" not in done.stdout:
            raise PeerError(f"lp_solve: {done.stdout.strip()[:200]} {done.stderr.strip()[:200]}")
        head, _, values = done.stdout.partition("Actual values of the variables:")
        objective = head.partition("Value of objective function:")[2].split()[0]
        pairs = [line.split() for line in values.partition("Actual values of the constraints:")[0].splitlines()]
        return {"": float(objective)} | {pair[0]: float(pair[1]) for pair in pairs if len(pair) == 2}


def plp_by_lp_solve(case: Case, solver: LpSolve, limit_s: float) -> list[float]:
    """Return the delay bounds of all flows in us.

    Raises: PeerError
    """
    servers, streams = case
    analysis = plp_analysis(case)
    if analysis.cuts:
        values = solver.solve(_all_bursts(analysis), limit_s)
        analysis.bursts = np.array([values[f"x{number}"] for number in range(len(analysis.cuts))])
    improve_by_total_flow(servers, analysis, total_flow_delays(case))
    totals = dict.fromkeys(range(len(streams)), 0.0)
    for segment in analysis.segments:
        program = analysis.program(segment.servers[-1])
        text = "max: " + _sum(program, program.delay_cost(segment.servers[0]), "z") + ";\n"
        text += "\n".join(_rows(program, "z", analysis.bursts.tolist())) + "\n"
        totals[segment.flow] += solver.solve(text, limit_s)[""]
    return list(totals.values())


def _all_bursts(analysis: CutAnalysis) -> str:
    """One programme: the rows of every cut, and each burst at most its objective."""
    lines = ["max: " + " + ".join(f"x{number}" for number in range(len(analysis.cuts))) + ";"]
    for sink, cuts in analysis.cuts_by_sink().items():
        for number, before in cuts:
            program = analysis.program(sink, before)
            prefix = f"c{number}z"
            lines += _rows(program, prefix, None)
            cost = program.burst_cost(program.number(before))
            less = _sum(program, {column: -value for column, value in cost.items()}, prefix)
            lines.append(f"B{number}: x{number} {less} <= 0;")
    return "\n".join(lines) + "\n"


def _rows(program: TreeProgram, prefix: str, bursts: Sequence[float] | None) -> list[str]:
    rows, lines = program.rows, []
    for row, constant in enumerate(program.program.constants.tolist()):
        if not np.isfinite(constant):
            continue
        entries = range(rows.starts[row], rows.starts[row + 1])
        burst, right = rows.bursts[row], constant
        left = _sum(program, {rows.columns[entry]: rows.values[entry] for entry in entries}, prefix)
        if burst != NO_BURST and bursts is None:
            left += f" -1 x{burst}"
        elif burst != NO_BURST and bursts is not None:
            right += bursts[burst]
        lines.append(f"R{prefix}{row}: {left} <= {right!r};")
    return lines


def _sum(program: TreeProgram, terms: Mapping[int, float], prefix: str) -> str:
    """A sum in lp_solve's format, whose variables are not negative: instants change their sign."""
    signs = {column: -value if program.is_time[column] else value for column, value in terms.items()}
    return " ".join(f"{value:+.17g} {prefix}{column}" for column, value in signs.items())
