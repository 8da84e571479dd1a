"""Mininet's command line with Paceline's commands: change CPU shares, links, ducts and switches during training."""

from __future__ import annotations

from typing import Any

from mininet.cli import CLI
from mininet.log import setLogLevel

from emulation.fault_injection import FaultInjector
from emulation.network import Emulation
from machine import cgroups
from machine.errors import EmulationError


class MininetConsole(CLI):  # type: ignore[misc]
    """Mininet's command line; Ctrl-C at the prompt exits, like `exit`."""

    prompt = "paceline> "

    def __init__(self, emulation: Emulation) -> None:
        self.emulation = emulation
        self.faults = FaultInjector(emulation.topology, str(emulation.vswitch.directory))
        setLogLevel("output")
        super().__init__(emulation.net, script=None)

    def run(self) -> None:
        """Do nothing: Mininet's constructor calls this, but `cmdloop_until_end` starts the loop."""

    def cmdloop_until_end(self) -> None:
        """Read commands until `exit`, end of input or Ctrl-C at the prompt."""
        try:
            self.cmdloop()
        except KeyboardInterrupt:
            print()

    def do_share(self, line: str) -> None:
        """share HOST CORES: set the CPU share of a host, in cores. Example: share edge1 0.06"""
        try:
            self.set_share(line)
        except EmulationError as error:
            print(error)

    def do_link(self, line: str) -> None:
        """link A B down|up: cut a link, or restore it. Example: link r1 r2 down"""
        try:
            a, b, up = _parse(line, 2, "link A B down|up, for example `link r1 r2 down`")
            self.faults.set_link(a, b, up)
        except EmulationError as error:
            print(error)

    def do_duct(self, line: str) -> None:
        """duct NAME down|up: cut all spans of a duct at once, or restore them. Example: duct east down"""
        try:
            name, up = _parse(line, 1, "duct NAME down|up, for example `duct east down`")
            self.faults.set_duct(name, up)
        except EmulationError as error:
            print(error)

    def do_switch(self, line: str) -> None:
        """switch NAME down|up: power a switch off, or on again without its flow entries. Example: switch r3 down"""
        try:
            name, up = _parse(line, 1, "switch NAME down|up, for example `switch r3 down`")
            self.faults.set_switch(name, up)
        except EmulationError as error:
            print(error)

    def set_share(self, line: str) -> None:
        """Parse and execute `HOST CORES`.

        Raises: EmulationError if the host has no CPU share, or the number of cores is invalid.
        """
        name, _, share = line.strip().partition(" ")
        limited = {host.name: host for host in self.emulation.hosts if host.cpu_share is not None}
        if name not in limited:
            raise EmulationError(f"share: {name!r} has no CPU share to change; hosts with one: {', '.join(limited)}")
        try:
            cores = float(share)
        except ValueError as error:
            raise EmulationError(f"share: {share!r} is not a number of cores; give 0.01 to 64") from error
        if not 0.01 <= cores <= 64:
            raise EmulationError(f"share: {cores:g} cores; give 0.01 to 64")
        cgroups.set_share(limited[name].cgroup, cores)


def _parse(line: str, names: int, usage: str) -> tuple[Any, ...]:
    *arguments, state = line.split() or [""]
    if len(arguments) != names or state not in ("up", "down"):
        raise EmulationError(f"{line!r} is invalid; usage: {usage}")
    return *arguments, state == "up"
