"""A run that is resumed while it is trained: the second command is refused, and after a kill it goes on."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.processes.test_trainer_local import finish, paceline, wait_for_event
from tests.processes.training import free_ports

FLAGS = ("--local", "--rounds", "400", "--steps", "2", "--batch", "16", "--average-every", "1", "--cuts", "2",
         "--quiet")


def test_of_two_commands_for_one_run_the_second_is_refused_and_after_a_kill_the_run_goes_on(tmp_path: Path) -> None:
    port = free_ports(2)
    first = paceline("train", "--edges", "1", "--port", str(port), "--runs-dir", str(tmp_path), *FLAGS)
    try:
        wait_for_event(tmp_path, "checkpointing", first)
        (run,) = tmp_path.iterdir()
        for command in (["train", "--resume", str(run)], ["cloud", "--resume", str(run), "--bind", "127.0.0.1:1999"]):
            code, _, err = finish(paceline(*command))
            assert code == 2, err
            assert err == (f"Error: The run in {run} belongs to process {first.pid}, which still runs; wait for its "
                           "end, or stop it.\n")
        os.kill(first.pid, signal.SIGKILL)
    finally:
        first.kill()
        first.communicate()
    code, _, err = finish(paceline("train", "--resume", str(run), "--port", str(port), "--rounds", "3", "--quiet"))
    assert code == 0, err
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "done"
    numbers = [row["round"] for row in summary["rounds"]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert not (run / "process.json").exists()


def test_a_new_run_is_not_written_over_an_old_one(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    code, _, err = finish(paceline("cloud", "--edge", "edge1", "--run-dir", str(tmp_path)))
    assert code == 2
    assert "which has the record of a run; resume that run with --resume" in err
