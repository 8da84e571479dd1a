"""Processes for tests: Open vSwitch without root (ovs-vswitchd's dummy datapath) and the controller."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from emulation.open_vswitch import set_controller_command
from machine.polling import wait_until
from machine.without_perf_counters import WITHOUT_PERF_COUNTERS
from tests.forked_processes import CONTROLLER_FORK_SERVER
from topologies.map_file.loader import load_map
from trainer.processes.fork import ForkedProcess

MAP = load_map("pair")

needs_open_vswitch = pytest.mark.skipif(
    not (shutil.which("ovs-vswitchd") and shutil.which("ovsdb-server")),
    reason="OPEN VSWITCH IS MISSING: install openvswitch-switch to run these tests",
)


class OpenVSwitch:
    """A private Open vSwitch with the switches of the map, joined by patch ports; hosts are dummy ports."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {**os.environ} | dict.fromkeys(("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR"), str(directory))
        schema = "/usr/share/openvswitch/vswitch.ovsschema"
        self._run("ovsdb-tool", "create", str(directory / "conf.db"), schema)
        sock = f"punix:{directory}/db.sock"
        self.database = self._start(
            "ovsdb-server", str(directory / "conf.db"), f"--remote={sock}", before=WITHOUT_PERF_COUNTERS
        )
        wait_until((directory / "db.sock").exists)
        arguments = ["--enable-dummy=override", "--disable-system"]
        self.switch = self._start("ovs-vswitchd", f"unix:{directory}/db.sock", *arguments)

    def _start(self, program: str, *arguments: str, before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        control = f"--unixctl={self.directory}/{program}.ctl"
        process = subprocess.Popen(
            [*before, program, *arguments, control], env=self.environment, stderr=subprocess.DEVNULL
        )
        wait_until((self.directory / f"{program}.ctl").exists)
        return process

    def _run(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout

    def vsctl(self, *arguments: str) -> str:
        return self._run("ovs-vsctl", f"--db=unix:{self.directory}/db.sock", *arguments)

    def ofctl(self, command: str, switch: str, *arguments: str) -> str:
        address = f"unix:{self.directory}/{switch}.mgmt"
        return self._run("ovs-ofctl", "-O", "OpenFlow13", command, address, *arguments)

    def appctl(self, *arguments: str) -> str:
        return self._run("ovs-appctl", "-t", f"{self.directory}/ovs-vswitchd.ctl", *arguments)

    def flows(self, switch: str, match: str = "") -> list[str]:
        """The flow entries without counters and times."""
        dump = self.ofctl("dump-flows", switch, *([match] if match else [])).splitlines()[1:]
        return sorted(re.sub(r"(duration|n_packets|n_bytes|idle_age)=[^,]*, ?", "", line).strip() for line in dump)

    def meters(self, switch: str) -> dict[int, tuple[int, int]]:
        dump = self.ofctl("dump-meters", switch)
        meters = re.findall(r"meter=(\d+) kbps burst stats bands=\s*type=drop rate=(\d+) burst_size=(\d+)", dump)
        return {int(meter): (int(rate), int(burst)) for meter, rate, burst in meters}

    def build(self, openflow_port: int, transport: str = "tcp") -> None:
        arguments = []
        for node in MAP.switches:
            identity = f"other-config:datapath-id={MAP.datapath_id(node.name):016x}"
            kind = ["datapath_type=netdev", "protocols=OpenFlow13", "fail-mode=secure", identity]
            arguments += ["--", "add-br", node.name, "--", "set", "bridge", node.name, *kind]
        for port in MAP.ports:
            if MAP.node(port.node).kind == "switch":
                arguments += self._port(port.node, port.peer)
        self.vsctl(*arguments[1:])
        self.connect(openflow_port, transport)

    def _port(self, node: str, peer: str) -> list[str]:
        port = MAP.port(node, peer)
        kind = ["type=dummy"]
        if MAP.node(peer).kind == "switch":
            kind = ["type=patch", f"options:peer={MAP.port(peer, node).interface}"]
        column = [f"ofport_request={port.number}", *kind]
        return ["--", "add-port", node, port.interface, "--", "set", "interface", port.interface, *column]

    def add_port(self, node: str, peer: str) -> None:
        self.vsctl(*self._port(node, peer)[1:])

    def connect(self, openflow_port: int, transport: str = "tcp") -> None:
        for node in MAP.switches:
            self.vsctl(*set_controller_command(node.name, f"{transport}:127.0.0.1:{openflow_port}"))

    def disconnect(self, switch: str) -> None:
        """Set an unreachable controller: with none at all the switch would delete its entries."""
        self.vsctl("set-controller", switch, "tcp:127.0.0.1:1")

    def stop(self) -> None:
        for process in (self.switch, self.database):
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(60)


class Controller:
    """`paceline controller pair` on ports of its own."""

    def __init__(
        self, directory: Path, *options: str, authority: Path | None = None, ledger: str | None = None
    ) -> None:
        """`authority`: CA certificate file; the REST API then uses https. `ledger`: by default an SQLite file."""
        self.openflow_port, self.rest_port = free_port(), free_port()
        self.log = directory / "controller.log"
        self.ledger = ledger or f"sqlite:///{directory}/ledger.db"
        self.output = directory / "controller.out"
        self.arguments = (
            *("pair", "--ledger", self.ledger),
            *("--openflow", f"127.0.0.1:{self.openflow_port}", "--listen", f"127.0.0.1:{self.rest_port}"),
            *options,
        )
        trust = ssl.create_default_context(cafile=str(authority)) if authority else True
        url = f"{'https' if authority else 'http'}://127.0.0.1:{self.rest_port}"
        self.client = httpx.Client(base_url=url, timeout=30, verify=trust)
        self.start()

    def start(self) -> None:
        self.output.write_text("")
        self.process = self.spawn()
        wait_until(lambda: self.output.read_text().endswith("\n") or self.process.poll() is not None)
        self.greeting = self.output.read_text()
        assert self.greeting, self.log.read_text()

    def spawn(self) -> subprocess.Popen[bytes] | ForkedProcess:
        return CONTROLLER_FORK_SERVER.start(self.output, self.arguments, "controller", errors=self.log)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(60)
        assert code is not None, self.log.read_text()
        return code

    def switches_up(self) -> int:
        return int(self.client.get("/v1/healthz").json()["switches_up"])

    def in_sync(self) -> bool:
        return self.switches_up() == len(MAP.switches)

    def reserve(self, rate_bps: int = 15_000_000, edge: str = "edge1", **changes: object) -> httpx.Response:
        return self.client.post("/v1/reservations", json={"flows": [flow(rate_bps, edge)], **changes})

    def complaints(self) -> list[str]:
        complaints: list[str] = self.client.get("/v1/network").json()["complaints"]
        return complaints


def flow(rate_bps: int, edge: str = "edge1", source_port: int = 7801) -> dict[str, object]:
    match = {"protocol": "tcp", "source_port": source_port, "destination_port": 7800}
    requirement = {"min_bandwidth_bps": rate_bps, "burst_bytes": 40_000}
    return {"name": f"{edge}-up", "source": edge, "destination": "cloud", "match": match, "requirement": requirement}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
