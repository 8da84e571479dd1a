"""A network that exists: two bridges of an Open vSwitch of its own, and hosts, with numbers and addresses of theirs."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from machine.polling import wait_until
from machine.without_perf_counters import WITHOUT_PERF_COUNTERS

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
PATCHES = {"core-far": ("br-core", 48, "far-core"), "far-core": ("br-far", 3, "core-far")}
DATAPATH_IDS = {"br-core": "00000000000000a1", "br-far": "0000525400bb0002"}


@dataclass(frozen=True)
class Host:
    """A host at a port of a bridge."""

    bridge: str
    port: int
    ip: str
    mac: str


class Lab:
    """The switches and hosts, made with the tools of their own."""

    def __init__(self, directory: Path, hosts: Mapping[str, Host], before: Sequence[str] = ()) -> None:
        """`directory`: of Open vSwitch. `before`: of the commands of its daemons."""
        self.directory, self.hosts, self.before = directory, hosts, before
        self.environment = {**os.environ} | dict.fromkeys(("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR"), str(directory))

    def run(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def in_host(self, host: str, *command: str) -> list[str]:
        return ["ip", "netns", "exec", f"lab-{host}", *command]

    @contextmanager
    def running(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)
            assert process.stdout is not None
            process.stdout.close()

    def wire(self) -> None:
        """Make bridges, hosts and cables."""
        self.run("ovs-vsctl", "--no-wait", "init")
        for bridge, datapath_id in DATAPATH_IDS.items():
            settings = ["datapath_type=netdev", "protocols=OpenFlow13", "fail_mode=secure"]
            identity = f"other-config:datapath-id={datapath_id}"
            self.run("ovs-vsctl", "add-br", bridge, "--", "set", "bridge", bridge, *settings, identity)
        for port, (bridge, number, peer) in PATCHES.items():
            settings = ["type=patch", f"options:peer={peer}", f"ofport_request={number}"]
            self.run("ovs-vsctl", "add-port", bridge, port, "--", "set", "interface", port, *settings)
        for name, host in self.hosts.items():
            near, far = f"lab-{name}", f"{name}0"
            self.run("ip", "netns", "add", near)
            self.run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", near)
            self.run("ip", "link", "set", near, "up")
            inside = [["link", "set", far, "address", host.mac, "up"], ["address", "add", f"{host.ip}/16", "dev", far]]
            for arguments in inside:
                self.run(*self.in_host(name, "ip", *arguments))
            self.run(*self.in_host(name, "ethtool", "-K", far, "tx", "off"))
            request = f"ofport_request={host.port}"
            self.run("ovs-vsctl", "add-port", host.bridge, near, "--", "set", "interface", near, request)

    def remove(self) -> None:
        """Remove hosts and bridges; ovs-vswitchd leaves its interfaces when it is ended."""
        for host in self.hosts:
            subprocess.run(["ip", "netns", "delete", f"lab-{host}"], capture_output=True, check=False)
        for interface in (*(f"lab-{host}" for host in self.hosts), *DATAPATH_IDS, "ovs-netdev"):
            subprocess.run(["ip", "link", "delete", interface], capture_output=True, check=False)


@contextmanager
def running_lab(directory: Path, hosts: Mapping[str, Host], before: Sequence[str] = ()) -> Iterator[Lab]:
    """Start Open vSwitch in a directory, with its bridges, hosts and cables; all of it is taken down at the end."""
    interfaces = set(Path("/sys/class/net").iterdir())
    directory.mkdir()
    made = Lab(directory, hosts, before)
    made.run("ovsdb-tool", "create", str(directory / "conf.db"), SCHEMA)
    database = directory / "db.sock"
    server = [*WITHOUT_PERF_COUNTERS, "ovsdb-server", str(directory / "conf.db"), f"--remote=punix:{database}"]
    with ExitStack() as stack:
        stack.callback(made.remove)
        stack.enter_context(made.running(*before, *server))
        wait_until(database.exists)
        stack.enter_context(made.running(*before, "ovs-vswitchd", f"unix:{database}"))
        made.wire()
        yield made
    wait_until(lambda: set(Path("/sys/class/net").iterdir()) <= interfaces)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
