"""CPU shares by control groups, version 1 or 2, whichever the machine has.

A share is in cores. It is an upper limit and also guaranteed: the hosts' group has the highest weight, so other load on
the machine does not slow the hosts down. The period is short, so that a small share slows a process evenly instead of
stopping it for a tenth of a second. Source: Linux Documentation/scheduler/sched-bwc.rst.
"""

from __future__ import annotations

from pathlib import Path

from machine.undo_journal import UndoJournal

PERIOD_US = 20_000
GROUP = "paceline"


def create(host: str, share: float | None, journal: UndoJournal) -> tuple[str, ...]:
    """Create a control group that limits its processes to `share` cores (None: no limit).

    Returns the directories to join. Raises: OSError if the machine has no cpu controller.
    """
    root = _root()
    parent = root / GROUP
    if not parent.exists():
        journal.record_cgroup(parent)
        parent.mkdir()
        if _is_version_2(root):
            (parent / "cgroup.subtree_control").write_text("+cpu")
            (parent / "cpu.weight").write_text("10000")
        else:
            (parent / "cpu.shares").write_text("200000")
    group = parent / host
    journal.record_cgroup(group)
    group.mkdir(exist_ok=True)
    if share is not None:
        set_share((str(group),), share)
    return (str(group),)


def create_idle(journal: UndoJournal) -> tuple[str, ...]:
    """Create a control group whose processes run only when no others can.

    Returns the directories to join; none if the machine has no such groups.
    """
    try:
        group = _root() / f"{GROUP}-idle"
        journal.record_cgroup(group)
        group.mkdir(exist_ok=True)
        if (group / "cpu.idle").exists():  # Linux 5.15 and later
            (group / "cpu.idle").write_text("1")
        else:
            least, value = ("cpu.weight", "1") if (group / "cpu.weight").exists() else ("cpu.shares", "2")
            (group / least).write_text(value)
    except OSError:
        return ()
    return (str(group),)


def set_share(directories: tuple[str, ...], share: float) -> None:
    """Set the share of a control group, in cores; takes effect within one period."""
    quota_us = max(1000, round(share * PERIOD_US))
    for directory in map(Path, directories):
        if (directory / "cpu.max").exists():
            (directory / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        else:
            (directory / "cpu.cfs_quota_us").write_text("-1")
            (directory / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (directory / "cpu.cfs_quota_us").write_text(str(quota_us))


def join(pid: int, directories: tuple[str, ...]) -> None:
    """Move a process, and with it its future children, into a control group."""
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
