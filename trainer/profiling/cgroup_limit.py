"""The CPU limit of this process: the bandwidth limits of its control groups, version 1 or 2.

Source: Linux Documentation/scheduler/sched-bwc.rst and admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

from pathlib import Path

from trainer.profiling.slowdown import CpuLimit

PROC_CGROUP = Path("/proc/self/cgroup")
CGROUP_MOUNT = Path("/sys/fs/cgroup")


class CgroupCpuLimit:
    """Reads the current CPU limit of the groups that this process was in at construction."""

    def __init__(self, proc_cgroup: Path = PROC_CGROUP, mount: Path = CGROUP_MOUNT) -> None:
        self._groups = _groups(proc_cgroup, mount)

    def read(self) -> CpuLimit | None:
        """Return the tightest limit of the groups; None if there is none or it cannot be read."""
        limits = [limit for group in self._groups if (limit := _limit_of(group)) is not None]
        return min(limits, key=lambda limit: limit.cores, default=None)


def _groups(proc_cgroup: Path, mount: Path) -> list[Path]:
    """Return the directories of the cpu controller's groups, innermost first, without the root."""
    try:
        lines = proc_cgroup.read_text().splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:  # number:controllers:path; version 2 lists no controllers
        _, controllers, name = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            root = mount / controllers
            group = root / name.lstrip("/")
            groups += [path for path in (group, *group.parents) if path.is_relative_to(root) and path != root]
    return [group for group in groups if (group / "cpu.max").exists() or (group / "cpu.cfs_quota_us").exists()]


def _limit_of(group: Path) -> CpuLimit | None:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return None if quota in ("max", "-1") else CpuLimit(int(quota) / 1e6, int(period) / 1e6)
    except (OSError, ValueError):
        return None
