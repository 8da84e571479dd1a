"""A private Open vSwitch with its own database, run directory and daemons, independent of the system's."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from machine.errors import EmulationError
from machine.kernel_settings import REAL_TIME_PRIORITY
from machine.undo_journal import UndoJournal
from machine.without_perf_counters import WITHOUT_PERF_COUNTERS

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
START_TIMEOUT_S = 10.0
TAP = "ovs-netdev"
"""The userspace datapath's own interface."""

MALLOC_SETTINGS = {
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**26),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
}
"""The netdev datapath allocates 32 full-size buffers for every read of a port and frees the unused ones. With frames of
9000 bytes the C library then returns memory to the kernel each time and requests it again: measured under the metro
map's flood, 78 % of a core in the kernel with the defaults, 27 % with these."""

MAX_BACKOFF_MS = 1000
"""Largest interval between a switch's attempts to reconnect to its controller. Open vSwitch's default is 8 s; this is
the smallest value it accepts."""


def set_controller_command(switch: str, target: str) -> list[str]:
    """The ovs-vsctl command that sets the controller target of a switch."""
    return ["set-controller", switch, target, "--", "set", "controller", switch, f"max_backoff={MAX_BACKOFF_MS}"]


def set_controllers_command(switch: str, targets: Sequence[str]) -> list[str]:
    """The ovs-vsctl command that sets several controllers as the targets of a switch."""
    names = [f"@{switch}-{number}" for number in range(len(targets))]
    command = ["set", "bridge", switch, f"controller={','.join(names)}"]
    for name, target in zip(names, targets, strict=True):
        command += ["--", f"--id={name}", "create", "controller", f'target="{target}"', f"max_backoff={MAX_BACKOFF_MS}"]
    return command


class VirtualSwitchDaemon:
    """ovsdb-server and ovs-vswitchd under `directory`; `start` sets the environment by which tools find them."""

    def __init__(self, directory: Path, journal: UndoJournal) -> None:
        self.directory = directory
        self.journal = journal
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.real_time = True

    def start(self, pki: Path | None = None) -> None:
        """Start both daemons and wait until they respond; `pki`: directory of the switches' certificate (None: no TLS).

        All switches of one vswitchd share one certificate, which names them all.

        Raises: EmulationError if a daemon ends or does not respond.
        """
        self.journal.record_directory(self.directory)
        self.directory.mkdir(parents=True)
        if not Path("/sys/class/net", TAP).exists():
            self.journal.record_interface(TAP)  # removed by the kernel shortly after vswitchd ends
        for name in ("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR"):
            os.environ[name] = str(self.directory)
        database, socket = self.directory / "conf.db", self.directory / "db.sock"
        _run(["ovsdb-tool", "create", str(database), str(SCHEMA)])
        self._daemon(
            [*WITHOUT_PERF_COUNTERS, "ovsdb-server", str(database), f"--remote=punix:{socket}"], "ovsdb-server"
        )
        self._wait_for(socket)
        _run(["ovs-vsctl", "--no-wait", "init"])
        self.real_time = _run(["chrt", "-f", str(REAL_TIME_PRIORITY), "true"], check=False) == 0
        prefix = ["chrt", "-f", str(REAL_TIME_PRIORITY)] if self.real_time else []
        self._daemon([*prefix, "ovs-vswitchd", f"unix:{socket}"], "ovs-vswitchd")
        _run(["ovs-vsctl", "-t", "10", "show"])
        if pki:
            _run(["ovs-vsctl", "set-ssl", *(str(pki / name) for name in ("switch.key", "switch.crt", "ca.crt"))])

    def stop(self) -> None:
        """End both daemons, ovs-vswitchd first, and reap them."""
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self.daemons.clear()

    def _daemon(self, command: list[str], name: str) -> None:
        control = f"--unixctl={self.directory}/{name}.ctl"
        log = (self.directory / f"{name}.log").open("ab")
        daemon = subprocess.Popen(
            [*command, control, "-vconsole:off", f"--log-file={self.directory}/{name}.log"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, **MALLOC_SETTINGS},
        )  # fmt: skip
        log.close()
        self.journal.record_process(daemon.pid, name)
        self.daemons.append(daemon)

    def _wait_for(self, socket: Path) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not socket.exists():
            if time.monotonic() > deadline or any(daemon.poll() is not None for daemon in self.daemons):
                raise EmulationError(f"Open vSwitch's database did not start; see {self.directory}/ovsdb-server.log")
            time.sleep(0.01)


def _run(command: list[str], check: bool = True) -> int:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise EmulationError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.returncode
