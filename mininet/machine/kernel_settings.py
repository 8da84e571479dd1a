"""Prepares this machine for an emulation: required tools, kernel settings, idle loops that keep the cores awake."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path

from machine import cgroups
from machine.errors import EmulationError
from machine.traffic_control import queue_frames
from machine.undo_journal import UndoJournal
from topologies.maps import Map

SOCKET_BUFFER_BYTES = 64 * 1024 * 1024
RECEIVE_BUFFER_BYTES = 16 * 1024 * 1024
"""Of every port of vswitchd. The kernel's default holds some 13 of the largest frames, the time of a short stall."""
MAX_SOCKET_BUFFER_BYTES = 1024 * 1024 * 1024
FRAME_OVERHEAD_BYTES = 1024
"""Upper estimate of what the kernel accounts for a frame beyond its memory block."""

PREFERRED_NICE = -15
REAL_TIME_PRIORITY = 50

TOOLS = {
    "ovs-vswitchd": "openvswitch-switch",
    "ovsdb-server": "openvswitch-switch",
    "mnexec": "mininet",
    "iperf3": "iperf3",
    "ethtool": "ethtool",
    "tc": "iproute2",
    "chrt": "util-linux",
}
MODULES = {"seccomp": "python3-seccomp"}


def check_requirements(controller_ports: tuple[tuple[str, int], ...], datapath: str) -> None:
    """Check the requirements before anything is changed.

    Raises: EmulationError: not root, a tool or the kernel datapath is missing, a port is in use.
    """
    if os.geteuid() != 0:
        raise EmulationError("starting an emulation needs root: use sudo .venv/bin/python mininet/start.py …")
    missing = {tool: package for tool, package in TOOLS.items() if shutil.which(tool) is None}
    missing |= {name: package for name, package in MODULES.items() if find_spec(name) is None}
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        raise EmulationError(f"missing: {', '.join(missing)}; install with: apt-get install {packages}")
    if datapath == "kernel" and not _has_kernel_datapath():
        raise EmulationError("this kernel has no openvswitch module: use --datapath user")
    for host, port in controller_ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise EmulationError(
                    f"port {port} on {host} is in use ({error.strerror}): stop that program or choose another port"
                ) from error


def _has_kernel_datapath() -> bool:
    if Path("/sys/module/openvswitch").exists():
        return True
    return subprocess.run(["modprobe", "openvswitch"], capture_output=True, check=False).returncode == 0


def packet_buffer_bytes(topology: Map) -> int:
    """Memory of all egress queues of all switches when full: one AF_PACKET socket of vswitchd owns all their frames.

    When that socket's buffer is full, every port of every switch stalls, so it must hold all queues.
    """
    frame = topology.mtu_bytes + 14
    block = 1 << (frame - 1).bit_length()  # the kernel takes memory in powers of two
    frames = sum(
        topology.queue_bytes_of(link) // frame + 2 * queue_frames(topology.mtu_bytes, topology.queue_bytes_of(link))
        for link in topology.links
        for end in link.ends
        if topology.node(end).kind == "switch"
    )
    needed = frames * (block + FRAME_OVERHEAD_BYTES)
    return min(max(needed, SOCKET_BUFFER_BYTES), MAX_SOCKET_BUFFER_BYTES)


def apply_settings(journal: UndoJournal, topology: Map) -> None:
    """Set the kernel settings and journal the old values; vswitchd reads its buffer sizes from them at start."""
    send_buffer = str(packet_buffer_bytes(topology))
    settings = {
        "net.core.wmem_max": send_buffer,
        "net.core.wmem_default": send_buffer,
        "net.core.rmem_max": str(SOCKET_BUFFER_BYTES),
        "net.core.rmem_default": str(RECEIVE_BUFFER_BYTES),
        "net.core.netdev_max_backlog": "10000",
    }
    for key, value in settings.items():
        path = Path("/proc/sys", *key.split("."))
        if not path.exists():
            continue
        old = path.read_text().strip()
        if old.isdigit() and int(old) >= int(value):
            continue
        journal.record_sysctl(key, old)
        path.write_text(value)


def raise_softirq_priority(journal: UndoJournal) -> None:
    """Give the kernel's softirq threads the switch's priority: they run the timers of paced senders.

    Without it a transfer was up to 100 ms late when all edges computed at once.
    """
    for name in Path("/proc").glob("[0-9]*/comm"):
        try:
            if not name.read_text().startswith("ksoftirqd/"):
                continue
            pid = int(name.parent.name)
            journal.record_scheduling(pid)
            os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(REAL_TIME_PRIORITY))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue


def prefer(pid: int) -> None:
    """Have the scheduler prefer a process that leads a session, where it permits that: as if it had cores of its own.

    Its nice value counts among the processes of its session only, where the kernel groups them by session (autogroup):
    then that of the group counts among all.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, PREFERRED_NICE)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(PREFERRED_NICE))


def start_idle_loops(journal: UndoJournal) -> list[subprocess.Popen[bytes]]:
    """Start one SCHED_IDLE loop per core: idle virtual CPUs wake late, which would be measured as jitter.

    SCHED_IDLE counts within a group only. Where the kernel groups processes by session (autogroup), a loop took as much
    of a busy core as any other session; in an idle control group it takes nothing.
    """
    group = cgroups.create_idle(journal)
    loops = []
    for core in sorted(os.sched_getaffinity(0)):
        command = ["taskset", "-c", str(core), "chrt", "-i", "0", "sh", "-c", "while :; do :; done"]
        loop = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        journal.record_process(loop.pid, f"idle loop {core}")
        cgroups.join(loop.pid, group)
        loops.append(loop)
    return loops
