"""`paceline sweep` on a Ray cluster of its own."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import EXIT_USAGE

SWEEP = """\
fixed: {edges: 2, rounds: 2, steps: 1, batch: 16, micro: 1, average_every: 1, cuts: "1,1", model: mlp}
vary: {seed: [1, 2]}
search: {learning_rate: {loguniform: [1e-4, 1e-2]}}
parallel: 1
"""
COMMAND = [sys.executable, "-m", "trainer.cli.main", "sweep"]


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Environment of the sweeps: Ray's files are in a directory that is removed; its sockets' paths must be short."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:
        yield {**os.environ, "HOME": directory, "RAY_TMPDIR": directory, "RAY_USAGE_STATS_ENABLED": "0"}


def rows(directory: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((directory / "results.json").read_text())["rows"]
    return found


def test_a_sweep_that_is_killed_goes_on_with_the_runs_that_are_left(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    run: dict[str, Any] = {"cwd": tmp_path, "text": True, "env": environment}
    (tmp_path / "try.yaml").write_text(SWEEP)
    out = tmp_path / "sweeps" / "try"
    with subprocess.Popen([*COMMAND, "try.yaml"], stdout=subprocess.PIPE, **run) as killed:
        assert killed.stdout is not None
        said = next(line for line in killed.stdout if line.startswith(("done", "failed")))
        killed.kill()
    assert said.startswith("done: seed "), said
    (before,) = rows(out).values()
    again = subprocess.run([*COMMAND, "try.yaml"], capture_output=True, check=False, **run)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("2 runs, of which 1 are finished;")
    after = rows(out)
    assert before in after.values() and len(after) == 2
    assert {row["seed"] for row in after.values()} == {1, 2}
    for row in after.values():
        assert row["status"] == "done" and row["round"] == 2 and row["value"] > 0
        assert (Path(row["record"]) / "summary.json").exists()
    with (out / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["value"] for row in table] == [str(row["value"]) for row in sorted(
        after.values(), key=lambda row: -float(row["value"]))]
    assert (out / "results.md").read_text().count("\n") == 4
    assert (out / "results.png").read_bytes().startswith(b"\x89PNG")
    assert Path(environment["HOME"], ".ray").exists() or Path(environment["RAY_TMPDIR"], "ray").exists()


def test_a_second_sweep_in_the_same_directory_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """The first goes on as if nothing had happened; the third, after its end, finds all runs finished."""
    (tmp_path / "try.yaml").write_text(SWEEP)
    out = tmp_path / "sweeps" / "try"
    with subprocess.Popen([*COMMAND, "try.yaml"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        begun = first.stdout.readline()  # said while it holds the directory
        second = subprocess.run([*COMMAND, "try.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False)
        before_its_end = first.poll()
        rest = first.stdout.read()
    assert before_its_end is None
    assert begun.startswith("2 runs, of which 0 are finished;")
    assert second.returncode == EXIT_USAGE and not second.stdout
    assert second.stderr == (f"Error: The sweep in {out} belongs to process {first.pid}, which still runs; wait for "
                             "its end, or stop it.\n")
    assert first.returncode == 0, rest
    assert [row["status"] for row in rows(out).values()] == ["done", "done"]
    third = subprocess.run([*COMMAND, "try.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert third.returncode == 0, third.stderr
    assert third.stdout.startswith("2 runs, of which 2 are finished;")


@pytest.mark.parametrize(("text", "sentence"), [
    ("fixed: {edges: 2", "try.yaml is not YAML: "),
    ("[1]", "try.yaml must be a mapping with fixed, vary, search, samples, seed, stop, parallel."),
    ("vary: {modle: [mlp]}", "try.yaml: modle is no setting of paceline train, nor edges or map."),
    ("vary: {model: mlp}", "try.yaml: vary.model is 'mlp'; it must be a list of values, such as [1, 2]."),
    ("vary: {model: [mlpp]}", "try.yaml: There is no model 'mlpp'; there are: "),
    ("vary: {rounds: [1, many]}", "try.yaml: Invalid value for '--rounds': 'many' is not a valid integer."),
    ("search: {learning_rate: {loguniform: [0, 1]}}", "the first must be less than the second and above 0."),
    ("search: {learning_rate: {normal: [0, 1]}}", "it must be one of uniform, loguniform, randint, choice with"),
    ("samples: 3", "try.yaml: samples is 3, but no setting is drawn; add search, or vary seed."),
    ("stop: {factor: 2}", "try.yaml: stop needs grace_rounds, the rounds after which a run may be stopped."),
    ("fixed: {learning_rate: -1}", "try.yaml: --learning-rate is -1.0; it must be above 0."),
    ("fixed: {seed: 1}\nvary: {seed: [1]}", "try.yaml: seed is given twice; "),
])
def test_a_file_that_cannot_be_run_is_told_before_any_run(tmp_path: Path, text: str, sentence: str) -> None:
    from click.testing import CliRunner

    from trainer.cli.sweep import sweep
    from trainer.errors import UsageError

    path = tmp_path / "try.yaml"
    path.write_text(text)
    result = CliRunner().invoke(sweep, [str(path), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, UsageError)
    assert sentence in str(result.exception).replace(str(path), "try.yaml")
    assert not (tmp_path / "out").exists()
