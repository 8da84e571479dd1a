"""Real control groups: who gets how much of a core that two hosts want."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cpushare
from journal import Journal

BURN = "print(flush=True)\nwhile True: pass"
MEASURED_S = 0.6


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_host_with_a_whole_core_goes_before_one_with_half_of_it_where_they_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpushare, "GROUP", "paceline-test")
    journal, burning = Journal(tmp_path), []
    core = {max(os.sched_getaffinity(0))}
    try:
        for host, share in (("cloud", 1.0), ("edge1", 0.5)):
            groups = cpushare.create(host, share, journal)
            process = subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.PIPE)
            burning.append(process)
            assert process.stdout is not None
            process.stdout.readline()
            os.sched_setaffinity(process.pid, core)
            cpushare.join(process.pid, groups)
        before_s = [processor_s(process.pid) for process in burning]
        time.sleep(MEASURED_S)
        cloud_s, edge_s = (processor_s(process.pid) - began for process, began in zip(burning, before_s, strict=True))
    finally:
        for process in burning:
            process.kill()
            process.communicate()
        journal.undo()
    assert cloud_s / edge_s == pytest.approx(2.0, rel=0.25)  # 1.0 if both weighed the same: the limit lets edge1 do so
