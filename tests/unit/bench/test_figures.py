"""The table of figures: one row per claim, from the reports that the benchmarks write."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from figures import main
from harness.report import Claim, at_most, publish


def test_every_claim_of_every_report_is_a_row(tmp_path: Path) -> None:
    claims = {"p50_ms": at_most(3.14159, "ms", 10), "late": at_most(1, "", 0), "rate": Claim(1234.5, "1/s")}
    publish("labels", claims, {}, [], tmp_path / "labels.json")
    (tmp_path / "other.json").write_text(json.dumps({"a": 1}))
    done = CliRunner().invoke(main, [str(tmp_path), "--out", str(tmp_path / "figures.md")])
    assert (done.exit_code, "3 figures of 1 benchmarks" in done.output) == (0, True)
    rows = [line for line in (tmp_path / "figures.md").read_text().splitlines() if line.startswith("| `bench/")]
    assert [row.split(" | ")[:5] for row in rows] == [
        ["| `bench/label_protection.py`", "`p50_ms`", "3.142 ms", "<= 10", "yes"],
        ["| `bench/label_protection.py`", "`late`", "1", "<= 0", "no"],
        ["| `bench/label_protection.py`", "`rate`", "1234 1/s", "", ""],
    ]


def test_a_folder_without_reports_is_an_error(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [str(tmp_path), "--out", str(tmp_path / "figures.md")])
    assert done.exit_code == 1
    assert "holds no benchmark report" in done.output
