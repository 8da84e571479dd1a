"""Links, ducts, switches, controller down and up (from outages.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emulation.open_vswitch import seek
from machine.errors import EmulationError
from machine.undo_journal import UndoJournal, start_time
from topologies import running_emulation
from topologies.loader import load_map
from topologies.maps import Map

OPENFLOW = ["ovs-ofctl", "-O", "OpenFlow13"]


NOWHERE = "tcp:127.0.0.1:1"


REMEMBERED = "external-ids:paceline-controller"


GONE_TIMEOUT_S = 10


@dataclass(frozen=True)
class FaultInjector:
    """Brings links and switches of an emulation down and up; `ovs_directory` is its Open vSwitch's run directory."""

    plan: Map
    ovs_directory: str

    def link(self, a: str, b: str, up: bool) -> None:
        """Light a link or cut it; both ends notice.

        Raises: EmulationError if there is no such link.
        """
        if not any({*link.ends} == {a, b} for link in self.plan.links):
            spans = ", ".join("-".join(link.ends) for link in self.plan.links)
            raise EmulationError(f"there is no link between {a!r} and {b!r}; links: {spans}")
        self._set_interfaces([self._near_end(a, b)], up)

    def duct(self, name: str, up: bool) -> None:
        """Cut all spans of a duct at once, or light them again.

        Raises: EmulationError if there is no such duct.
        """
        spans = [link.ends for link in self.plan.links if link.duct == name]
        if not spans:
            ducts = ", ".join(sorted({link.duct for link in self.plan.links if link.duct}))
            raise EmulationError(f"there is no duct {name!r}; " + (f"ducts: {ducts}" if ducts else "the map has none"))
        self._set_interfaces([self._near_end(*ends) for ends in spans], up)

    def _near_end(self, a: str, b: str) -> str:
        """One end is enough, and a switch's end is in the root namespace: the other end sees its light go out."""
        near, far = (a, b) if self._is_switch(a) else (b, a)
        return self.plan.port(near, far).interface

    def switch(self, name: str, up: bool) -> None:
        """Switch a switch off, or on again: it comes back with all its links, and empty.

        Raises: EmulationError if there is no such switch.
        """
        switches = [node.name for node in self.plan.switches]
        if name not in switches:
            raise EmulationError(f"there is no switch {name!r}; switches: {', '.join(switches)}")
        if up:
            self._lights(name, True)
            self._vsctl(*seek(name, self._vsctl("get", "bridge", name, REMEMBERED).strip('"\n')))
            return
        target = self._vsctl("get-controller", name).strip()
        if target != NOWHERE:
            self._vsctl("set", "bridge", name, f'{REMEMBERED}="{target}"')
        self._vsctl("set-controller", name, NOWHERE)  # with no controller at all it would be a learning switch
        self._lights(name, False)
        for forget in ("del-flows", "del-groups", "del-meters"):
            self._run([*OPENFLOW, forget, f"unix:{self.ovs_directory}/{name}.mgmt"])

    def controller(self, up: bool) -> None:
        """Kill the controller (kill -9), or start it again as it was started; it ends with the emulation.

        Raises: EmulationError if the emulation has no controller of its own, or it is in that state already.
        """
        journal = UndoJournal(Path(self.ovs_directory).parent)
        command_file = journal.path.with_name("controller") / "command.json"
        pid = journal.newest_process("controller")
        if pid is None:
            raise EmulationError("this emulation has no controller of its own that runs or ran")
        alive = start_time(pid) is not None
        if alive == up:
            raise EmulationError(f"the controller (pid {pid}) {'runs' if alive else 'does not run'} already")
        if not up:
            command_file.write_text(json.dumps(Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]))
            os.kill(pid, signal.SIGKILL)
            self._wait_until_gone(pid)
            return
        log = str(journal.path.with_name("controller.log"))
        start = ["sh", "-c", 'setsid "$@" </dev/null >>"$0" 2>&1 & echo $!', log]  # nobody's child
        journal.process(int(self._run([*start, *json.loads(command_file.read_text())])), "controller")

    def _wait_until_gone(self, pid: int) -> None:
        """A signal is sent, but not yet carried out, when kill returns."""
        deadline = time.monotonic() + GONE_TIMEOUT_S
        while start_time(pid) is not None:
            if time.monotonic() > deadline:
                raise EmulationError(f"the controller (pid {pid}) was killed {GONE_TIMEOUT_S} s ago and is still there")
            time.sleep(0.01)

    def _lights(self, switch: str, up: bool) -> None:
        self._set_interfaces([port.interface for port in self.plan.ports if port.node == switch], up)

    def _set_interfaces(self, interfaces: Sequence[str], up: bool) -> None:
        """All of them by one process, within a millisecond or two."""
        lines = "".join(f"link set {interface} {'up' if up else 'down'}\n" for interface in interfaces)
        self._run(["ip", "-batch", "-"], lines)

    def _is_switch(self, name: str) -> bool:
        return self.plan.node(name).kind == "switch"

    def _vsctl(self, *arguments: str) -> str:
        return self._run(["ovs-vsctl", *arguments])

    def _run(self, command: list[str], text: str | None = None) -> str:
        places = dict.fromkeys(("OVS_RUNDIR", "OVS_DBDIR"), self.ovs_directory)
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, check=False, env={**os.environ, **places}
        )
        if done.returncode:
            raise EmulationError(f"{' '.join(command)} failed: {done.stderr.strip()}")
        return done.stdout


def of_running_emulation() -> FaultInjector:
    """For the emulation that runs on this machine.

    Raises: EmulationError if there is none.
    """
    note = running_emulation.read()
    if note is None:
        raise EmulationError("no emulation is running; start one with mininet/start.py")
    return FaultInjector(load_map(note.map_path), note.ovs_directory)
