"""Output of a benchmark: tables for people, JSON for programs."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Claim:
    """A measured figure and its goal; `goal` is None for figures given for comparison only."""

    value: float
    unit: str
    goal: str | None = None
    holds: bool | None = None


def at_most(value: float, unit: str, limit: float) -> Claim:
    """A claim that holds if the value is at most `limit`."""
    return Claim(value, unit, f"<= {limit:g}", bool(value <= limit))


def at_least(value: float, unit: str, limit: float) -> Claim:
    """A claim that holds if the value is at least `limit`."""
    return Claim(value, unit, f">= {limit:g}", bool(value >= limit))


STUDENT_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Two-sided 95 % quantiles of Student's t, for 2 to 10 values."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the half-width of its 95 % confidence interval, for 2 to 10 independent values."""
    half = STUDENT_T_95[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), half


def machine_facts() -> dict[str, object]:
    """The properties of the machine that matter for the figures."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1min": os.getloadavg()[0],
    }


def publish(
    bench: str,
    claims: Mapping[str, Claim],
    samples: Mapping[str, object],
    tables: Iterable[Table],
    out: Path | None,
    plots: Mapping[str, Figure] | None = None,
) -> None:
    """Print tables and claims; with `out`, write them as JSON, and the plots beside it as PNG."""
    console = Console(width=118)
    for table in tables:
        console.print(table)
    summary = Table("claim", "value", "goal", "holds", title=bench)
    for name, claim in claims.items():
        verdict = {True: "yes", False: "NO", None: ""}[claim.holds]
        summary.add_row(name, f"{claim.value:.4g} {claim.unit}".strip(), claim.goal or "", verdict)
    console.print(summary)
    if out is not None:
        facts = {
            "bench": bench,
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine_facts(),
            "claims": {name: asdict(claim) for name, claim in claims.items()},
            "samples": samples,
        }
        out.write_text(json.dumps(facts, indent=1) + "\n")
        pictures = {out.with_name(f"{out.stem}-{name}.png"): figure for name, figure in (plots or {}).items()}
        for path, figure in pictures.items():
            figure.savefig(path, dpi=120)
        console.print(f"wrote {',  '.join(map(str, (out, *pictures)))}")
