"""Open vSwitch for benchmarks without root and without traffic: ovs-vswitchd with its dummy datapath.

The OpenFlow code is the same as in an emulation; only the ports carry no traffic.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from emulation.open_vswitch import set_controller_command
from machine.polling import wait_until
from machine.without_perf_counters import WITHOUT_PERF_COUNTERS
from topologies.maps import Map, Port

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


class DummySwitches:
    """A private Open vSwitch with the switches of a map, joined by patch ports; hosts are dummy ports."""

    def __init__(self, plan: Map, directory: Path) -> None:
        self.plan = plan
        self.directory = directory
        self._environment = {**os.environ} | dict.fromkeys(("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR"), str(directory))
        self._run("ovsdb-tool", "create", str(directory / "conf.db"), SCHEMA)
        remote = f"--remote=punix:{directory}/db.sock"
        self._processes = [
            self._start("ovsdb-server", str(directory / "conf.db"), remote, before=WITHOUT_PERF_COUNTERS)
        ]
        arguments = ["--enable-dummy=override", "--disable-system"]
        self._processes.insert(0, self._start("ovs-vswitchd", f"unix:{directory}/db.sock", *arguments))
        self._build()

    def _start(self, program: str, *arguments: str, before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        control = self.directory / f"{program}.ctl"
        command = [*before, program, *arguments, f"--unixctl={control}"]
        process = subprocess.Popen(command, env=self._environment, stderr=subprocess.DEVNULL)
        wait_until(control.exists)
        return process

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True)
        return done.stdout

    def vsctl(self, *arguments: str) -> str:
        """Run ovs-vsctl; returns its output."""
        return self._run("ovs-vsctl", f"--db=unix:{self.directory}/db.sock", *arguments)

    def ofctl(self, command: str, switch: str, *arguments: str) -> str:
        """Run ovs-ofctl on a switch; returns its output."""
        address = f"unix:{self.directory}/{switch}.mgmt"
        return self._run("ovs-ofctl", "-O", "OpenFlow13", command, address, *arguments)

    def appctl(self, *arguments: str) -> str:
        """Run ovs-appctl on ovs-vswitchd; returns its output."""
        return self._run("ovs-appctl", "-t", f"{self.directory}/ovs-vswitchd.ctl", *arguments)

    def _build(self) -> None:
        arguments: list[str] = []
        for node in self.plan.switches:
            identity = f"other-config:datapath-id={self.plan.datapath_id(node.name):016x}"
            kind = ["datapath_type=netdev", "protocols=OpenFlow13", "fail-mode=secure", identity]
            arguments += ["--", "add-br", node.name, "--", "set", "bridge", node.name, *kind]
        for port in self.plan.ports:
            if self.plan.node(port.node).kind == "switch":
                arguments += self._added(port)
        self.vsctl(*arguments[1:])

    def _added(self, port: Port) -> list[str]:
        kind = ["type=dummy"]
        if self.plan.node(port.peer).kind == "switch":
            kind = ["type=patch", f"options:peer={self.plan.opposite(port).interface}"]
        arguments = ["--", "add-port", port.node, port.interface]
        return [*arguments, "--", "set", "interface", port.interface, f"ofport_request={port.number}", *kind]

    def set_span(self, ends: tuple[str, str], up: bool) -> None:
        """Restore or cut the span between two switches: its ports are added or deleted, since patch ports have no state
        that can be set (`mod-port` is accepted and does nothing)."""
        ports = [self.plan.port(node, peer) for node, peer in (ends, ends[::-1])]
        arguments = [part for port in ports for part in (
            self._added(port) if up else ["--", "del-port", port.node, port.interface]
        )]  # fmt: skip
        self.vsctl(*arguments[1:])

    def connect(self, openflow_port: int) -> None:
        """Set the controller target of every switch."""
        for node in self.plan.switches:
            self.vsctl(*set_controller_command(node.name, f"tcp:127.0.0.1:{openflow_port}"))

    def clear(self) -> None:
        """Delete all flow, group and meter entries."""
        for node in self.plan.switches:
            self.ofctl("del-flows", node.name)
            self.ofctl("del-groups", node.name)
            self.ofctl("del-meters", node.name)

    def stop(self) -> None:
        """End Open vSwitch."""
        for process in self._processes:
            process.terminate()
            process.wait(10)


def free_port() -> int:
    """A TCP port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
