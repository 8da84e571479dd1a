"""The record of a run while it runs: what a round costs, and what survives a kill."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trainer.records.test_html_report import round_row
from trainer.errors import CheckpointError
from trainer.records.run_reader import read_run
from trainer.records.run_record import RunRecord

Row = dict[str, Any]
CONFIG: Row = {"map_name": "pair", "target": 0.9}
EDGES = {"edge1": 2, "edge2": 5}


def summary_of(directory: Path) -> Row:
    content: Row = json.loads((directory / "summary.json").read_text())
    return content


def recorded(directory: Path, rounds: int) -> RunRecord:
    """A run of that many rounds that averages after every third; accuracy grows by 0.1 each time."""
    record = RunRecord(directory, CONFIG)
    for number in range(1, rounds + 1):
        record.add_round(round_row(number, EDGES, number != 2, number / 30 if number % 3 == 0 else None))
    return record


def test_every_round_is_appended_and_the_summary_is_written_at_averagings_and_at_the_end(tmp_path: Path) -> None:
    record = recorded(tmp_path, 5)
    lines = (tmp_path / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == record.summary["rounds"]
    assert [row["round"] for row in summary_of(tmp_path)["rounds"]] == [1, 2, 3]
    record.add_unfinished([{"round": 6}])
    record.finish("done")
    assert summary_of(tmp_path) == record.summary
    assert summary_of(tmp_path)["unfinished"] == [{"round": 6}]
    assert (tmp_path / "summary.json").read_text() == json.dumps(record.summary, indent=1) + "\n"


def test_a_round_that_does_not_average_writes_its_own_line_only(tmp_path: Path) -> None:
    row = round_row(31, EDGES, True, None)
    with closing(recorded(tmp_path, 30)) as record:
        before = (tmp_path / "summary.json").stat(), (tmp_path / "rounds.jsonl").stat()
        record.add_round(row)
    after = (tmp_path / "summary.json").stat(), (tmp_path / "rounds.jsonl").stat()
    assert (after[0].st_ino, after[0].st_mtime_ns) == (before[0].st_ino, before[0].st_mtime_ns)
    assert after[1].st_ino == before[1].st_ino
    assert after[1].st_size - before[1].st_size == len(json.dumps(row)) + 1


def test_readers_see_the_rounds_after_the_last_averaging_and_no_torn_line(tmp_path: Path) -> None:
    recorded(tmp_path, 5).close()
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 6, "dura')  # killed while it was written
    run = read_run(tmp_path)
    assert [row["round"] for row in run.rounds] == [1, 2, 3, 4, 5]
    assert run.summary["promises"] == {"made": 10, "kept": 8}
    assert run.summary["accuracy"] == {"target": 0.9, "final": 0.1, "best": 0.1, "reached_round": None}


def test_a_resumed_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    recorded(tmp_path, 5).close()
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 6')
    record = RunRecord.reopen(tmp_path, CONFIG, after_round=3)
    assert summary_of(tmp_path)["redone_rounds"] == 2
    record.add_round(round_row(4, EDGES, True, None))
    rows = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [1, 2, 3, 4]
    assert read_run(tmp_path).summary["promises"] == {"made": 8, "kept": 6}
    record.finish("done")
    assert (summary_of(tmp_path)["status"], len(summary_of(tmp_path)["rounds"])) == ("done", 4)


def test_a_record_without_appended_rounds_can_be_resumed(tmp_path: Path) -> None:
    recorded(tmp_path, 3).close()
    (tmp_path / "rounds.jsonl").unlink()
    with closing(RunRecord.reopen(tmp_path, CONFIG, after_round=3)) as record:
        assert len(record.summary["rounds"]) == 3


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"rounds": [1]}'])
def test_a_summary_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"summary\.json cannot be read"):
        RunRecord.reopen(tmp_path, CONFIG, after_round=3)
