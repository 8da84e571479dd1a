"""Real switches for benchmarks that need no root and no traffic: ovs-vswitchd's dummy datapath, and a controller.

The OpenFlow side is the same code that runs under an emulation; only ports carry nothing by themselves.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[2] / "mininet"))

from emulation.open_vswitch import seek
from machine.without_perf_counters import UNCOUNTED
from topologies.maps import Map

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


class DummySwitches:
    """A private Open vSwitch with the switches of a map, joined by patch ports; hosts are dummy ports."""

    def __init__(self, plan: Map, directory: Path) -> None:
        self.plan = plan
        self.directory = directory
        self._environment = {**os.environ} | dict.fromkeys(("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR"), str(directory))
        self._run("ovsdb-tool", "create", str(directory / "conf.db"), SCHEMA)
        remote = f"--remote=punix:{directory}/db.sock"
        self._processes = [self._start("ovsdb-server", str(directory / "conf.db"), remote, before=UNCOUNTED)]
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
        """Ask or tell the database."""
        return self._run("ovs-vsctl", f"--db=unix:{self.directory}/db.sock", *arguments)

    def ofctl(self, command: str, switch: str, *arguments: str) -> str:
        """Ask or tell a switch."""
        address = f"unix:{self.directory}/{switch}.mgmt"
        return self._run("ovs-ofctl", "-O", "OpenFlow13", command, address, *arguments)

    def _build(self) -> None:
        arguments: list[str] = []
        for node in self.plan.switches:
            identity = f"other-config:datapath-id={self.plan.datapath_id(node.name):016x}"
            kind = ["datapath_type=netdev", "protocols=OpenFlow13", "fail-mode=secure", identity]
            arguments += ["--", "add-br", node.name, "--", "set", "bridge", node.name, *kind]
        for port in self.plan.ports:
            if self.plan.node(port.node).kind == "switch":
                kind = ["type=dummy"]
                if self.plan.node(port.peer).kind == "switch":
                    kind = ["type=patch", f"options:peer={self.plan.port(port.peer, port.node).interface}"]
                arguments += ["--", "add-port", port.node, port.interface]
                arguments += ["--", "set", "interface", port.interface, f"ofport_request={port.number}", *kind]
        self.vsctl(*arguments[1:])

    def connect(self, openflow_port: int) -> None:
        """Give every switch to a controller."""
        for node in self.plan.switches:
            self.vsctl(*seek(node.name, f"tcp:127.0.0.1:{openflow_port}"))

    def clear(self) -> None:
        """Forget everything."""
        for node in self.plan.switches:
            self.ofctl("del-flows", node.name)
            self.ofctl("del-groups", node.name)
            self.ofctl("del-meters", node.name)

    def stop(self) -> None:
        """End Open vSwitch."""
        for process in self._processes:
            process.terminate()
            process.wait(10)


class ControllerProcess:
    """`python -m controller.runtime.main MAP` on ports of its own; its ledger outlives it."""

    def __init__(self, map_file: Path, directory: Path) -> None:
        self.openflow_port, rest_port = free_port(), free_port()
        self.ledger = f"sqlite:///{directory}/ledger.db"
        self._command = [
            *(sys.executable, "-m", "controller.runtime.main", str(map_file), "--ledger", self.ledger),
            *("--openflow", f"127.0.0.1:{self.openflow_port}", "--listen", f"127.0.0.1:{rest_port}"),
        ]
        self._log = directory / "controller.log"
        self.url = f"http://127.0.0.1:{rest_port}"
        self.api = httpx.Client(base_url=self.url, timeout=60)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=log)
        wait_until(self.answers, 60)

    def answers(self) -> bool:
        """Whether it can be asked."""
        if self.process.poll() is not None:
            raise RuntimeError(self._log.read_text())
        try:
            return self.api.get("/v1/healthz").is_success
        except httpx.TransportError:
            return False

    def is_in_step(self) -> bool:
        """Whether every switch is."""
        health = self.api.get("/v1/healthz").json()
        return bool(health["switches_up"] == health["switches_expected"])

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it as an operator would."""
        self.process.terminate()
        self.process.wait(20)
        self.api.close()


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something that cannot be waited for otherwise.

    Raises: TimeoutError.
    """
    end_s = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError(f"not within {seconds} s: {condition}")
        time.sleep(0.01)


def free_port() -> int:
    """A TCP port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
