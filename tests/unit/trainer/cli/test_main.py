"""How `paceline` ends: a sentence and an exit code, also where the fault is not the user's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.cli import main
from trainer.cli.group import paceline


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"], ["runs", "list"]], ids=" ".join)
def test_output_into_a_full_disk_is_one_sentence(arguments: list[str], unbuffered: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainer.cli.main", *arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path,
                              env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    assert (done.returncode, done.stderr) == (2, "Error: No space left on device.\n")


def test_a_bug_is_a_sentence_with_the_file_that_has_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise KeyError("switches_up")

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(paceline, "main", fail)
    with pytest.raises(SystemExit) as ended:
        main.run_command_line(["health"])
    assert ended.value.code == main.EXIT_INTERNAL
    (report,) = tmp_path.iterdir()
    said = capsys.readouterr().err
    assert said.startswith("Error: this is a bug in Paceline: KeyError: 'switches_up'.")
    assert str(report) in said
    assert "in fail" in report.read_text()
