"""The loops that keep the cores awake take no time from other processes."""

from __future__ import annotations

from pathlib import Path

import pytest

LOOP = b"while :; do :; done"


@pytest.mark.usefixtures("pair")
def test_the_loop_of_every_core_is_in_a_group_that_runs_only_when_no_other_process_can() -> None:
    loops = [path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if LOOP in path.read_bytes()]
    assert loops
    for loop in loops:
        cpu = [line for line in (loop / "cgroup").read_text().splitlines() if line.endswith("/paceline-idle")]
        assert cpu, (loop / "cgroup").read_text()
    (group,) = (path for path in Path("/sys/fs/cgroup").glob("**/paceline-idle") if (path / "cgroup.procs").exists())
    assert {int(loop.name) for loop in loops} == set(map(int, (group / "cgroup.procs").read_text().split()))
    if (group / "cpu.idle").exists():
        assert (group / "cpu.idle").read_text() == "1\n"
