"""How much of a processor the kernel gives this process at most: the limits of its control groups, version 1 or 2.

Source: Linux Documentation/scheduler/sched-bwc.rst and admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

from pathlib import Path

from trainer.profiling.slowdown import CpuLimit

OWN_GROUPS = Path("/proc/self/cgroup")
MOUNTED = Path("/sys/fs/cgroup")


class OwnLimit:
    """This process's, as it is now; the groups are those it is in when this is made."""

    def __init__(self, own_groups: Path = OWN_GROUPS, mounted: Path = MOUNTED) -> None:
        self._groups = _groups(own_groups, mounted)

    def read(self) -> CpuLimit | None:
        """The tightest of its groups'; None if there is none, or the machine does not tell."""
        limits = [limit for group in self._groups if (limit := _limit_of(group)) is not None]
        return min(limits, key=lambda limit: limit.cores, default=None)


def _groups(own_groups: Path, mounted: Path) -> list[Path]:
    """The groups of the processor's controller, from the innermost to the last below the root."""
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:  # number:controllers:path; version 2 has no controllers there
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            root = mounted / controllers
            group = root / path.lstrip("/")
            found += [one for one in (group, *group.parents) if one.is_relative_to(root) and one != root]
    return [group for group in found if (group / "cpu.max").exists() or (group / "cpu.cfs_quota_us").exists()]


def _limit_of(group: Path) -> CpuLimit | None:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return None if quota in ("max", "-1") else CpuLimit(int(quota) / 1e6, int(period) / 1e6)
    except (OSError, ValueError):
        return None
