"""Two clients train at once on one network."""

from __future__ import annotations

from pathlib import Path

from tests.forked_processes import FORK_SERVER
from tests.network.conftest import Network
from tests.network.test_training import SHORT, reserved_bps, summary_of


def test_two_runs_at_once_keep_their_promises(pair: Network, tmp_path: Path) -> None:
    runs = []
    for name, port in (("first", "7800"), ("second", "7900")):
        directory = tmp_path / name
        directory.mkdir()
        command = ("train", "--runs-dir", str(directory / "runs"), *SHORT, "--port", port)
        runs.append((directory, FORK_SERVER.start(directory / "out", command, errors=directory / "errors")))
    codes = [run.wait(240) for _, run in runs]
    assert codes == [0, 0], [(directory / "errors").read_text() for directory, _ in runs]
    for directory, _ in runs:
        summary = summary_of(directory / "runs")
        assert summary["status"] == "done"
        assert summary["promises"]["made"] == 2 * 2 * 2 * 2
        # A busy machine computes for both runs, and is late itself at times.
        assert summary["promises"]["kept"] >= 0.75 * summary["promises"]["made"]
    assert reserved_bps(pair) == 0
