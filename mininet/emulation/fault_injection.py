"""Fault injection: takes links, ducts, switches and the controller of an emulation down, and brings them up again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emulation.open_vswitch import set_controller_command
from machine.errors import EmulationError
from machine.kernel_settings import prefer
from machine.undo_journal import UndoJournal, start_time
from topologies import running_emulation
from topologies.map_file.loader import load_map
from topologies.maps import Map, Port

OFCTL = ["ovs-ofctl", "-O", "OpenFlow13"]
NO_CONTROLLER = "tcp:127.0.0.1:1"
"""Target on which nothing listens. A switch without any target would act as a learning switch."""
SAVED_TARGET_COLUMN = "external-ids:paceline-controller"
"""Column of the bridge that holds the controller target of a switch while it is down."""
EXIT_TIMEOUT_S = 10


@dataclass(frozen=True)
class FaultInjector:
    """Takes parts of an emulation down and up; `ovs_directory`: run directory of its Open vSwitch."""

    topology: Map
    ovs_directory: str

    def set_link(self, a: str, b: str, up: bool) -> None:
        """Restore or cut the first link between two nodes; both ends detect it.

        Raises: EmulationError if there is no such link.
        """
        self.set_span(f"{a}-{b}", up)

    def set_span(self, name: str, up: bool) -> None:
        """Restore or cut the span of that name, such as r1-r2, or r1-r2.2 for the second between the two.

        Raises: EmulationError if there is no such span.
        """
        try:
            number = self.topology.link_index(name)
        except KeyError:
            spans = ", ".join(self.topology.span_names)
            raise EmulationError(f"there is no link {name!r}; links: {spans}") from None
        self._set_interfaces([self._near_end(self.topology.link_ports[number])], up)

    def set_duct(self, name: str, up: bool) -> None:
        """Restore or cut all spans of a duct at once.

        Raises: EmulationError if there is no such duct.
        """
        topology = self.topology
        spans = [ports for link, ports in zip(topology.links, topology.link_ports, strict=True) if link.duct == name]
        if not spans:
            ducts = ", ".join(sorted({link.duct for link in topology.links if link.duct}))
            raise EmulationError(f"there is no duct {name!r}; " + (f"ducts: {ducts}" if ducts else "the map has none"))
        self._set_interfaces([self._near_end(ports) for ports in spans], up)

    def _near_end(self, ports: tuple[Port, Port]) -> str:
        """The end to set down: a switch's end, which is in the root namespace; the other end loses its carrier."""
        return next(port.interface for port in ports if self._is_switch(port.node))

    def set_switch(self, name: str, up: bool) -> None:
        """Power a switch off or on; it restarts with all its links and without flow, group and meter entries.

        Raises: EmulationError if there is no such switch.
        """
        switches = [node.name for node in self.topology.switches]
        if name not in switches:
            raise EmulationError(f"there is no switch {name!r}; switches: {', '.join(switches)}")
        if up:
            self._set_ports(name, True)
            saved_target = self._vsctl("get", "bridge", name, SAVED_TARGET_COLUMN).strip('"\n')
            self._vsctl(*set_controller_command(name, saved_target))
            return
        target = self._vsctl("get-controller", name).strip()
        if target != NO_CONTROLLER:
            self._vsctl("set", "bridge", name, f'{SAVED_TARGET_COLUMN}="{target}"')
        self._vsctl("set-controller", name, NO_CONTROLLER)
        self._set_ports(name, False)
        for command in ("del-flows", "del-groups", "del-meters"):
            self._run([*OFCTL, command, f"unix:{self.ovs_directory}/{name}.mgmt"])

    def set_controller(self, up: bool) -> None:
        """Kill the controller (kill -9), or start it again with the same command; it ends with the emulation.

        Raises: EmulationError if the emulation has no controller of its own, or it is in that state already.
        """
        journal = UndoJournal(Path(self.ovs_directory).parent)
        command_file = journal.path.with_name("controller") / "command.json"
        pid = journal.newest_process("controller")
        if pid is None:
            raise EmulationError("this emulation was started without a controller of its own")
        is_running = start_time(pid) is not None
        if is_running == up:
            raise EmulationError(f"the controller (pid {pid}) is already {'up' if is_running else 'down'}")
        if not up:
            command_file.write_text(json.dumps(Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]))
            os.kill(pid, signal.SIGKILL)
            self._wait_until_gone(pid)
            return
        log = str(journal.path.with_name("controller.log"))
        start = ["sh", "-c", 'setsid "$@" </dev/null >>"$0" 2>&1 & echo $!', log]  # detached from this process
        pid = int(self._run([*start, *json.loads(command_file.read_text())]))
        prefer(pid)
        journal.record_process(pid, "controller")

    def _wait_until_gone(self, pid: int) -> None:
        """Wait for the end of a killed process: kill returns before the signal has taken effect."""
        deadline = time.monotonic() + EXIT_TIMEOUT_S
        while start_time(pid) is not None:
            if time.monotonic() > deadline:
                raise EmulationError(f"the controller (pid {pid}) is still running {EXIT_TIMEOUT_S} s after kill -9")
            time.sleep(0.01)

    def _set_ports(self, switch: str, up: bool) -> None:
        self._set_interfaces([port.interface for port in self.topology.ports if port.node == switch], up)

    def _set_interfaces(self, interfaces: Sequence[str], up: bool) -> None:
        """Set all interfaces by one process, within one or two milliseconds."""
        lines = "".join(f"link set {interface} {'up' if up else 'down'}\n" for interface in interfaces)
        self._run(["ip", "-batch", "-"], lines)

    def _is_switch(self, name: str) -> bool:
        return self.topology.node(name).kind == "switch"

    def _vsctl(self, *arguments: str) -> str:
        return self._run(["ovs-vsctl", *arguments])

    def _run(self, command: list[str], text: str | None = None) -> str:
        directories = dict.fromkeys(("OVS_RUNDIR", "OVS_DBDIR"), self.ovs_directory)
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, check=False, env={**os.environ, **directories}
        )
        if done.returncode:
            raise EmulationError(f"{' '.join(command)} failed: {done.stderr.strip()}")
        return done.stdout


def attach_to_running_emulation() -> FaultInjector:
    """A fault injector for the emulation running on this machine.

    Raises: EmulationError if there is none.
    """
    running = running_emulation.read()
    if running is None:
        raise EmulationError("no emulation is running; start one with mininet/start.py")
    return FaultInjector(load_map(running.map_path), running.ovs_directory)
