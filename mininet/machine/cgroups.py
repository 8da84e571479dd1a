"""CPU shares by control groups, version 1 or 2, whichever the machine has.

A share is in cores, and it is a promise too: the hosts' group outweighs everything else on the machine, so that a busy
neighbour does not make all hosts equally slow. The period is short, so that a small share means "slow" and not "stalls
for a tenth of a second". Source: Linux Documentation/scheduler/sched-bwc.rst.
"""

from __future__ import annotations

from pathlib import Path

from machine.undo_journal import UndoJournal

PERIOD_US = 20_000
GROUP = "paceline"


def create(host: str, share: float | None, journal: UndoJournal) -> tuple[str, ...]:
    """A control group that limits its processes to `share` cores (None: no limit); returns the directories to join.

    Raises: OSError if the machine has no cpu controller.
    """
    root = _root()
    parent = root / GROUP
    if not parent.exists():
        journal.cgroup(parent)
        parent.mkdir()
        if _is_version_2(root):
            (parent / "cgroup.subtree_control").write_text("+cpu")
            (parent / "cpu.weight").write_text("10000")
        else:
            (parent / "cpu.shares").write_text("200000")
    group = parent / host
    journal.cgroup(group)
    group.mkdir(exist_ok=True)
    if share is not None:
        set_share((str(group),), share)
    return (str(group),)


def set_share(directories: tuple[str, ...], share: float) -> None:
    """Change the share of a control group; takes effect within one period."""
    quota_us = max(1000, round(share * PERIOD_US))
    for directory in map(Path, directories):
        if (directory / "cpu.max").exists():
            (directory / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        else:
            (directory / "cpu.cfs_quota_us").write_text("-1")
            (directory / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (directory / "cpu.cfs_quota_us").write_text(str(quota_us))


def join(pid: int, directories: tuple[str, ...]) -> None:
    """Put a process, and all it starts from now on, into a control group."""
    for directory in directories:
        (Path(directory) / "cgroup.procs").write_text(str(pid))


def _root() -> Path:
    for version_1 in (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/cpu,cpuacct")):
        if (version_1 / "cpu.cfs_quota_us").exists() or (version_1 / "cgroup.procs").exists():
            return version_1
    version_2 = Path("/sys/fs/cgroup")
    controllers = version_2 / "cgroup.controllers"
    if controllers.exists() and "cpu" in controllers.read_text().split():
        enabled = version_2 / "cgroup.subtree_control"
        if "cpu" not in enabled.read_text().split():
            enabled.write_text("+cpu")
        return version_2
    raise OSError("this machine has no cpu control group, version 1 or 2: mount one, or remove cpu_share from the map")


def _is_version_2(root: Path) -> bool:
    return (root / "cgroup.controllers").exists()
