"""The journal undoes what was written in it, newest first, and only that."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from machine.undo_journal import UndoJournal, end_process, start_time


@pytest.fixture
def journal(tmp_path: Path) -> UndoJournal:
    return UndoJournal(tmp_path / "run")


def test_an_empty_journal_has_nothing_to_undo(journal: UndoJournal) -> None:
    assert not journal.exists()
    assert journal.undo() == []


def test_processes_and_directories_are_gone_after_undo(journal: UndoJournal, tmp_path: Path) -> None:
    place = tmp_path / "ovs"
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "file").touch()
    with subprocess.Popen(["sleep", "100"]) as sleeper:
        journal.record_directory(place)
        journal.record_process(sleeper.pid, "sleep")
        assert journal.undo() == []
        assert sleeper.wait(60) != 0
    assert not place.exists()
    assert not journal.exists()


def test_a_pid_that_belongs_to_somebody_else_by_now_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "100"]) as sleeper:
        end_process(sleeper.pid, started="1")
        assert sleeper.poll() is None
        end_process(sleeper.pid, start_time(sleeper.pid))
        assert sleeper.wait(60) != 0


def test_what_could_not_be_undone_is_said_and_stays_in_the_journal(journal: UndoJournal) -> None:
    journal.record_sysctl("no.such.setting", "1")
    assert "no.such.setting" in journal.undo()[0]
    assert journal.exists()


def test_a_line_cut_short_by_a_crash_is_passed_over(journal: UndoJournal) -> None:
    journal.record_process(2**22 + 1, "nobody")
    with journal.path.open("a") as file:
        file.write('{"kind": "proc')
    assert journal.undo() == []
