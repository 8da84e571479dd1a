"""Reports, comparisons and the progress display of runs."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from trainer.cli.group import paceline
from trainer.records.plots import plots
from trainer.records.progress import Progress
from trainer.records.run_reader import key_figures, read_run

Row = dict[str, Any]


def transfer(edge: str, kept: bool | None) -> Row:
    return {"edge": edge, "direction": "up", "step": 0, "sent_at": 0.0, "bytes": 500_000, "ideal_ms": 100.0,
            "bound_ms": None, "measured_ms": 101.0, "kept": kept}


def round_row(number: int, edges: dict[str, int], kept: bool | None, accuracy: float | None) -> Row:
    delay = {"predicted": 100.0, "bound": 120.0 if kept else None, "measured": 101.0, "worst": 102.0}
    return {
        "round": number, "duration_ms": 2000.0, "averaged": accuracy is not None, "accuracy": accuracy,
        "training_delay_ms": {"target": 50.0}, "transmission_delay_ms": {"target": 100.0, "bound": None},
        "step_ms": {"predicted": 300.0, "measured": [310.0]}, "spread_ms": [2.0], "loss": 0.5,
        "adaptations": ["r1->r2 is <full>"] if number == 1 else [], "lost": [],
        "edges": [{"edge": name, "cut": cut, "training_ms": {"predicted": 50.0, "measured": 49.0}, "uplink_ms": delay,
                   "downlink_ms": delay} for name, cut in edges.items()],
        "transfers": [transfer(name, kept) for name in edges],
    }


def write_run(directory: Path, rounds: list[Row], **fields: Any) -> Path:
    bounded = [transfer["kept"] for row in rounds for transfer in row["transfers"] if transfer["kept"] is not None]
    final = rounds[-1]["accuracy"] if rounds else None
    directory.mkdir()
    (directory / "summary.json").write_text(json.dumps({
        "status": "done", "map": "pair", "model": "signal-cnn", "rounds": rounds, "unfinished": [],
        "accuracy": {"target": 0.9, "final": final, "best": final, "reached_round": len(rounds) or None},
        "promises": {"made": len(bounded), "kept": sum(bounded)}, **fields,
    }))
    return directory


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two rounds; edge2 takes part only in the first, and a promise is broken in the second."""
    return write_run(tmp_path / "reserved", [
        round_row(1, {"edge1": 2, "edge2": 5}, True, None),
        {**round_row(2, {"edge1": 3}, False, 0.95), "lost": [{"edge": "edge2", "reason": "it was <late>."}]},
    ])


def test_a_report_states_whether_labels_left_the_edges_and_the_cost_of_protection(run: Path, tmp_path: Path) -> None:
    rows = [round_row(number, {"edge1": 2, "edge2": 5}, True, 0.9) for number in (1, 2)]
    for row in rows:
        row["step_ms"] |= {"predicted": 330.0, "unprotected": 300.0, "measured": [310.0, 320.0]}
        for edge in row["edges"]:
            edge |= {"tail_up_bytes": 200_000, "tail_down_bytes": 300_000}
    protected = write_run(tmp_path / "protected", rows, labels={"protected": True, "tail": 12})
    assert key_figures(read_run(run))["labels"] == "sent with the segments"
    assert key_figures(read_run(run))["averages"] == "the cloud saw each edge's layers"
    assert key_figures(read_run(protected))["labels"] == (
        "stayed on the edges: 4.0 MB more sent; predicted step time +10.0% against the same cuts without protection")


def test_a_report_is_one_page_that_needs_no_other_file(run: Path) -> None:
    done = CliRunner().invoke(paceline, ["report", str(run)])
    assert done.exit_code == 0, done.output
    page = (run / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 9
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert {path.name for path in (run / "report").iterdir()} == {
        f"{name}.png" for name in ("loss", "metric", "delays", "cuts", "time", "data", "promises", "steps", "spread")}
    assert "2 of 3" in page
    assert "0.9 in round 2, after 4.0 s" in page
    assert "r1-&gt;r2 is &lt;full&gt;" in page
    assert "edge2 was lost: it was &lt;late&gt;." in page
    assert str(run / "report.html") in done.output


def test_a_report_begins_with_four_figures_and_the_curves_then_the_confusion_matrix(tmp_path: Path) -> None:
    rows = [round_row(1, {"edge1": 2, "edge2": 5}, None, 0.9)]
    confusion = {"round": 1, "counts": [[9, 1], [2, 8]]}
    best_effort = write_run(tmp_path / "open", rows, confusion=confusion, model_bytes=50_000)
    assert CliRunner().invoke(paceline, ["report", str(best_effort)]).exit_code == 0
    page = (best_effort / "report.html").read_text()
    places = [page.index(text) for text in (
        '<div class="tile">', "Training loss", "Accuracy of the global model",
        "Held-out samples by class, after round 1", "Settings and results", "Delays of each edge")]
    assert places == sorted(places)
    assert page.count('<div class="tile">') == 4
    assert "promises: nothing was reserved" in page
    assert "federated averaging would send 0.2 MB (5.0 times less)" in page
    assert "within and beyond" not in page
    assert not (best_effort / "report" / "promises.png").exists()


def test_the_plots_of_one_round_have_whole_rounds_on_their_axes(tmp_path: Path) -> None:
    made = plots(read_run(write_run(tmp_path / "one", [round_row(1, {"edge1": 2}, True, 0.9)])))
    for name in ("loss", "metric", "steps", "spread", "promises", "delays"):
        for axes in made[name].figure.axes:
            assert axes.get_xlim() == (0.4, 1.6)
            assert [tick for tick in axes.get_xticks() if 0.4 <= tick <= 1.6] == [1.0]


def test_a_run_without_a_completed_round_has_a_report(tmp_path: Path) -> None:
    run = write_run(tmp_path / "failed", [], status="failed", error="edge1 never asked <to> train.")
    done = CliRunner().invoke(paceline, ["report", str(run), "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "report.html").read_text()
    assert "edge1 never asked &lt;to&gt; train." in page
    assert "No round was completed." in page


def test_runs_are_compared_side_by_side(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "open", [round_row(1, {"edge1": 4}, None, 0.5)])
    done = CliRunner().invoke(paceline, ["compare", str(run), str(other)])
    assert done.exit_code == 0, done.output
    assert any("reserved" in line and "open" in line for line in done.output.splitlines())
    assert re.search(r"^accuracy +0\.9500 +0\.5000", done.output, re.MULTILINE)
    assert "2 of 3" in done.output
    assert "none made" in done.output


def test_a_directory_that_is_not_a_run_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(paceline, ["compare", str(tmp_path)])
    assert "is not the record of a run" in str(done.exception)


EVENTS: list[Row] = [
    {"event": "waiting", "edges": ["edge1", "edge2"], "address": "127.0.0.1:7800"},
    {"event": "gathered", "edges": ["edge1", "edge2"]},
    {"event": "plan", "round": 1, "cuts": {"edge1": 3, "edge2": 7}, "codecs": {"edge1": "fp32", "edge2": "int8"},
     "rates_bps": {"edge1": 15.5e6, "edge2": 4e6}, "step_ms": 100.0, "reserved": True, "adaptations": []},
    {"event": "step", "round": 1, "step": 0, "of": 4},
    {"event": "lost", "edge": "edge2", "reason": "it was late.", "left": 1},
    {"event": "round_done", "round": 1, "duration_ms": 900.0, "loss": 0.4, "accuracy": 0.875, "averaged": True,
     "cuts": {"edge1": 3}, "promises": {"made": 2, "kept": 2}, "spread_ms": [0.0],
     "training_ms": {"edge1": {"predicted": 50.0, "measured": 48.0}},
     "uplink_ms": {"edge1": {"predicted": 99.0, "measured": 97.0}}},
]
END: Row = {"event": "finished", "status": "done", "accuracy": {"final": 0.875}, "promises": {"made": 2, "kept": 2},
            "directory": "runs/x"}


def displayed(terminal: bool, events: list[Row], quiet: bool = False) -> str:
    output = io.StringIO()
    progress = Progress(Console(file=output, force_terminal=terminal, width=100), 4, quiet)
    for event in events:
        progress(event)
    return output.getvalue()


def test_a_terminal_shows_a_live_table() -> None:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", displayed(True, [*EVENTS, END]))
    last = text[text.rindex("edge "):]
    assert re.search(r"edge1 .*training.* 3 .*fp32.* 15\.5 .* 50 .* 48 .* 99 .* 97", last)
    assert re.search(r"edge2 .*lost.* 7 .*int8.* 4\.0", last)
    assert "accuracy 0.8750" in last
    assert "promises 2/2 kept" in last


def test_other_output_is_lines_and_quiet_prints_only_the_end() -> None:
    lines = displayed(False, [*EVENTS, END]).splitlines()
    assert lines[1] == "edge2 was lost: it was late. Remaining edges: 1."
    assert "accuracy 0.8750" in lines[2]
    assert "\x1b" not in "".join(lines)
    assert displayed(False, [*EVENTS, END], quiet=True).splitlines() == lines[-1:]


@pytest.mark.parametrize(("policy", "action"), [
    ("wait", "waiting"),
    ("drop", "continuing without it"),
    ("shrink", "waiting, its cut shrinks from the next round on"),
])
def test_a_late_edge_is_reported_with_the_action_taken(policy: str, action: str) -> None:
    late: Row = {"event": "late", "edge": "edge1", "round": 1, "step": 0, "policy": policy}
    assert displayed(False, [late]) == f"edge1 exceeded its deadline in step 1 of round 1; {action}.\n"
