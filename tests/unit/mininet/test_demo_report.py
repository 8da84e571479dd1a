"""The demo's tables, verdicts and notes, computed from records of runs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from demo_comparison import LOADS, ComparedRun, LoadResult
from demo_report import DemoResults, comparison_table, notes, over_ideal, report_parts, verdicts


def transfer(measured_ms: float, kept: bool | None = True) -> dict[str, Any]:
    return {"measured_ms": measured_ms, "span_ms": measured_ms, "ideal_ms": 100.0, "sent_at": 0.0, "bytes": 4_000_000,
            "kept": kept}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    delay = {"predicted": 100.0, "measured": 101.0}
    edges = [{"edge": "edge1", "cut": 3, "training_ms": delay, "uplink_ms": delay},
             {"edge": "edge2", "cut": 5, "training_ms": delay, "uplink_ms": delay}]
    return {
        "rounds": [{"round": 1, "transfers": rows, "spread_ms": [1.0], "averaged": True, "edges": edges, "loss": 0.5,
                    "accuracy": 0.99, "training_delay_ms": {"target": 5.0}, "transmission_delay_ms": {"target": 5.0}}],
        "promises": {"made": len(rows), "kept": sum(row["kept"] is True for row in rows)}, "observed": {},
        "accuracy": {"final": 0.99}, "model_bytes": 250_000,
    }


def compared(round_s: float, stuck: bool, kept: bool | None) -> ComparedRun:
    results = [LoadResult(load, None if load.tcp_flows else 80e6 * load.udp_share, (round_s, round_s + 0.1, round_s),
                          5.0, None if load.title == "none" else 21e6) for load in LOADS]
    if stuck:
        results[-1] = LoadResult(LOADS[-1], 120e6, (), 15.2, 75e6)
    return ComparedRun(tuple(results), summary([transfer(101.0, kept)]), Path("runs/x"))


def results_of(rows: list[dict[str, Any]]) -> DemoResults:
    return DemoResults(summary(rows), compared(1.3, False, True), compared(1.29, True, None))


def printed(*parts: Any) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    for part in parts:
        console.print(part)
    return console.export_text()


def test_the_comparison_has_a_row_for_each_kind_of_cross_traffic() -> None:
    lines = [line.split() for line in printed(comparison_table(results_of([transfer(101.0)]))).splitlines()]
    rows = [line for line in lines if "s" in line]
    assert len(rows) == len(LOADS) == 6
    none, busiest = rows[0], rows[-1]
    assert [cell for cell in none if cell not in "│|"] == ["none", "-", "1.30", "s", "-", "1.29", "s", "-"]
    assert [cell for cell in busiest if cell not in "│|"][3:] == ["120.0", "1.30", "s", "21.0", ">", "15", "s", "75.0"]


def test_it_is_said_that_an_empty_network_needs_no_reservation_and_what_the_bytes_are() -> None:
    found = notes(results_of([transfer(101.0)]))
    assert "takes 1.30 s with reservations and 1.29 s without: an empty network needs no reservation" in found[0]
    assert "beside UDP, 150 % it takes 1.30 s with reservations and > 15 s without" in found[1]
    assert "sent 4.0 MB of segments and gradients, 4.0 times as many bytes as federated averaging" in found[2]


def test_a_late_transfer_of_either_reserved_run_breaks_the_verdict() -> None:
    held = [verdict.holds for verdict in verdicts(results_of([transfer(101.0)]))]
    assert held[2:] == [True, True]
    late = verdicts(results_of([transfer(101.0), transfer(150.0, kept=False)]))[2]
    assert not late.holds
    assert "2 of 3 reserved transfers arrived within their proven bounds; 0 of the 1 late ones" in late.sentence
    assert over_ideal([transfer(250.0)], 0.99) == 2.5


def test_everything_is_printed() -> None:
    text = printed(*report_parts(results_of([transfer(101.0)])))
    assert "Reserved transfers: time on the way" in text
    assert "1 of 1" in text
