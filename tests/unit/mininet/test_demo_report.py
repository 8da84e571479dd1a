"""The demo's tables and verdicts, computed from the records of its two runs."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from demo_report import DemoResults, comparison_table, over_ideal, verdicts


def transfer(measured_ms: float, kept: bool | None = True) -> dict[str, Any]:
    return {"measured_ms": measured_ms, "ideal_ms": 100.0, "sent_at": 0.0, "kept": kept}


def summary(rows: list[dict[str, Any]], unfinished: list[dict[str, Any]], rounds: int = 1) -> dict[str, Any]:
    edges = [{"edge": "edge1", "cut": 3}, {"edge": "edge2", "cut": 5}]
    return {
        "rounds": [{"round": number + 1, "transfers": rows, "spread_ms": [1.0], "averaged": True, "edges": edges}
                   for number in range(rounds)],
        "promises": {"made": len(rows), "kept": len(rows)}, "unfinished": unfinished, "observed": {},
        "accuracy": {"final": 0.99},
    }


def printed(results: DemoResults) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(comparison_table(results))
    return console.export_text()


def test_unfinished_transfers_count_with_their_age_as_a_lower_bound() -> None:
    ages = [{"age_ms": 4000.0, "ideal_ms": 100.0, "sent_at": 0.0}]
    results = DemoResults(summary([transfer(101.0)], []), summary([], ages, rounds=0))
    text = printed(results)
    assert "0 + 1 unfinished" in text
    assert "≥ 4000" in text
    assert "≥ 40.000" in text
    assert any("best effort: at least 40.0 x" in verdict.sentence for verdict in verdicts(results))


def test_completed_run_has_no_lower_bounds() -> None:
    results = DemoResults(summary([transfer(101.0)], []), summary([transfer(250.0, None)], []))
    text = printed(results)
    assert "≥" not in text
    assert "2.500" in text
    assert over_ideal([transfer(250.0)], 0.99) == 2.5
