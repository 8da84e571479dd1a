"""CPU limits read from control groups, and the lower bound of a step time that follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.cloud.step_timing import RoundBound, StepResult, StepTransfers
from trainer.profiling.cgroup_limit import CgroupCpuLimit
from trainer.profiling.slowdown import CpuLimit, looser_limit
from trainer.protocol.messages import StepDone
from trainer.reservation.bandwidth import FlowGuarantee


def machine(tmp_path: Path, own: str, files: dict[str, str]) -> CgroupCpuLimit:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        path = tmp_path / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return CgroupCpuLimit(tmp_path / "own", tmp_path / "mounted")


def test_version_1_quota_and_period_of_the_innermost_group(tmp_path: Path) -> None:
    limit = machine(tmp_path, "3:cpuset:/\n1:cpu,cpuacct:/paceline/edge1\n0::/\n", {
        "cpu,cpuacct/paceline/edge1/cpu.cfs_quota_us": "2400", "cpu,cpuacct/paceline/edge1/cpu.cfs_period_us": "20000",
        "cpu,cpuacct/paceline/cpu.cfs_quota_us": "-1", "cpu,cpuacct/paceline/cpu.cfs_period_us": "100000",
    })  # fmt: skip
    read = limit.read()
    assert read == CpuLimit(0.0024, 0.02)
    assert read.cores == pytest.approx(0.12)
    (tmp_path / "mounted/cpu,cpuacct/paceline/edge1/cpu.cfs_quota_us").write_text("1200\n")
    assert limit.read() == CpuLimit(0.0012, 0.02)


def test_with_version_2_the_tightest_of_nested_groups_counts(tmp_path: Path) -> None:
    limit = machine(tmp_path, "0::/slice/edge1\n", {
        "slice/edge1/cpu.max": "max 100000", "slice/cpu.max": "50000 100000", "cpu.weight": "100",
    })  # fmt: skip
    assert limit.read() == CpuLimit(0.05, 0.1)


def test_without_a_limit_or_control_groups_there_is_none(tmp_path: Path) -> None:
    assert machine(tmp_path, "0::/a\n", {"a/cpu.max": "max 100000"}).read() is None
    assert CgroupCpuLimit(tmp_path / "nothing", tmp_path / "mounted").read() is None


def test_a_limit_that_changed_during_a_step_counts_as_the_looser() -> None:
    tight, loose = CpuLimit(0.001, 0.02), CpuLimit(0.002, 0.02)
    assert looser_limit(tight, loose) == looser_limit(loose, tight) == loose
    assert looser_limit(tight, None) is None


def test_a_limit_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a CPU limit of 0 s per 0\.02 s is not positive"):
        CpuLimit(0.0, 0.02)


def steps(*limits: CpuLimit | None) -> list[StepResult]:
    """Steps of an edge with 0.2 s of wall time and 0.03 s of CPU time."""
    results = []
    for number, limit in enumerate(limits):
        transfers = StepTransfers(0.0, 1448, FlowGuarantee(1), FlowGuarantee(1))
        transfers.done = StepDone(step=number, forward_s=0.12, forward_cpu_s=0.015, backward_s=0.08,
                                 backward_cpu_s=0.015, late_s=0.0, gradients_received_s=[], cpu_limit=limit)
        results.append(StepResult(number, 0.3, {"edge1": transfers}))
    return results


def test_a_round_takes_at_least_its_processor_time_within_the_limit() -> None:
    eighth, quarter = CpuLimit(0.0025, 0.02), CpuLimit(0.005, 0.02)
    bound = RoundBound.from_steps(steps(eighth, eighth, eighth, eighth))
    assert bound.edge_s == pytest.approx(0.8)
    assert bound.limit_s == pytest.approx(4 * 0.03 * 8 - 2 * 0.02)
    assert bound.largest_s == bound.limit_s
    assert RoundBound.from_steps(steps(eighth, quarter)).limit_s == pytest.approx(0.03 * 8 + 0.03 * 4 - 4 * 0.02)


def test_without_a_limit_in_every_step_wall_time_alone_counts() -> None:
    bound = RoundBound.from_steps(steps(CpuLimit(0.0025, 0.02), None))
    assert bound.limit_s == 0
    assert bound.largest_s == bound.edge_s
