"""One process trains in a run directory: others are refused by name, and a kill frees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from trainer.errors import DirectoryInUseError, UsageError
from trainer.records import run_control
from trainer.records.run_control import PROCESS, RunProcess, registered
from trainer.records.run_record import check_is_new

HOLDER = """
import os, sys, time
from pathlib import Path
from trainer.records.run_control import leave, registered
with registered(Path(sys.argv[1])):
    if os.fork() == 0:
        if "child leaves" in sys.argv:
            leave()
        print(os.getpid(), flush=True)
        time.sleep(float(sys.argv[2]))
        os._exit(0)
    time.sleep(600)
"""


@contextmanager
def holder(directory: Path, child_s: float, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """Start a process that holds the directory, with a child that lives for `child_s`; at the end both are killed."""
    command = [sys.executable, "-c", HOLDER, str(directory), str(child_s), *flags]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = os.pidfd_open(int(process.stdout.readline()))
        try:
            yield process
        finally:
            process.kill()
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(child, signal.SIGKILL)
            os.close(child)


def test_a_second_process_is_refused_and_told_the_first(tmp_path: Path) -> None:
    with holder(tmp_path, 60) as first:
        with pytest.raises(DirectoryInUseError, match=f"The run in {tmp_path} belongs to process {first.pid}"), \
                registered(tmp_path):
            pass
        assert RunProcess.of(tmp_path) is not None


def test_a_killed_process_frees_the_directory_once_its_children_have_ended(tmp_path: Path) -> None:
    with holder(tmp_path, 1.0) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert (tmp_path / PROCESS).exists()
        with registered(tmp_path):  # waits for the child, which may still write
            found = RunProcess.of(tmp_path)
            assert found is not None
            assert found.pid == os.getpid()
    assert not (tmp_path / PROCESS).exists()


def test_a_child_that_leaves_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path, 300, "child leaves") as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
        begun = time.monotonic()
        with registered(tmp_path):
            assert time.monotonic() - begun < run_control.ENDING_S


def test_a_process_that_never_ends_is_refused_also_when_its_starter_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_control, "ENDING_S", 0.2)
    with holder(tmp_path, 30) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
        with pytest.raises(DirectoryInUseError, match="a process that cannot be seen"), registered(tmp_path):
            pass


def test_the_same_process_enters_again(tmp_path: Path) -> None:
    with registered(tmp_path):
        with registered(tmp_path):
            pass
        assert (tmp_path / PROCESS).exists()


def test_a_directory_with_a_record_is_no_new_one(tmp_path: Path) -> None:
    check_is_new(tmp_path / "new")
    (tmp_path / "summary.json").touch()
    with pytest.raises(UsageError, match="has the record of a run; resume that run with --resume"):
        check_is_new(tmp_path)
