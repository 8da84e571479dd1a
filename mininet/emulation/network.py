"""Emulates a map: Mininet hosts and Open vSwitch switches, shaped links, a management network.

`Emulation` is a context manager. Every change to the machine is journalled first, so leaving the block undoes them all,
after an error too.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulation.open_vswitch import VirtualSwitchDaemon, set_controllers_command
from machine import cgroups, kernel_settings, traffic_control
from machine.errors import EmulationError
from machine.undo_journal import UndoJournal
from topologies import running_emulation
from topologies.maps import MANAGEMENT_GATEWAY, Map, MapLink, Port

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Mininet 2.3.0 still uses distutils
    from mininet.log import setLogLevel
    from mininet.net import Mininet
    from mininet.node import OVSSwitch

MANAGEMENT_BRIDGE = "plmgmt"
FIBRE_US_PER_KM = 4.9
PORTS_TIMEOUT_S = 10.0
LISTENER_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class EmulationSettings:
    """Settings of an emulation; `openflow`: addresses of the switches' controller and its standbys."""

    map_path: Path
    datapath: str = "user"
    openflow: tuple[tuple[str, int], ...] = (("127.0.0.1", 6653),)
    rest_port: int = 8080
    ready_timeout_s: float = 30.0
    tls: bool = False

    @property
    def controller_url(self) -> str:
        """The controller's REST URL as seen from the hosts."""
        return f"{'https' if self.tls else 'http'}://{MANAGEMENT_GATEWAY}:{self.rest_port}"

    @property
    def pki(self) -> Path | None:
        """Directory of the certificates; None without TLS."""
        return running_emulation.DIRECTORY / "pki" if self.tls else None


class Emulation:
    """One running map. `net`: the Mininet object; `hosts`: the hosts as described in the run file.

    Entering the block prepares the machine; `build` then creates the network while the controller starts in parallel.
    """

    def __init__(self, topology: Map, settings: EmulationSettings) -> None:
        self.topology = topology
        self.settings = settings
        self.journal = UndoJournal(running_emulation.DIRECTORY)
        self.vswitch = VirtualSwitchDaemon(running_emulation.DIRECTORY / "ovs", self.journal)
        self.idle_loops: list[subprocess.Popen[bytes]] = []
        self.hosts: tuple[running_emulation.RunningHost, ...] = ()
        self.propagation_emulated = False
        self.net: Any = None

    def __enter__(self) -> Emulation:
        try:
            self._prepare()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *reason: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop everything and undo all changes.

        Raises: EmulationError naming the changes that could not be undone.
        """
        running_emulation.remove()
        if self.net is not None:
            self.net.stop()
            self.net = None
        self.vswitch.stop()
        for loop in self.idle_loops:
            loop.kill()
            loop.wait()
        if failures := self.journal.undo():
            raise EmulationError("\n".join(failures))

    def write_run_file(self) -> None:
        """Write the run file by which other programs find the hosts."""
        running = running_emulation.RunningEmulation(
            map_name=self.topology.name,
            map_path=str(self.settings.map_path.resolve()),
            pid=os.getpid(),
            controller_url=self.settings.controller_url,
            ovs_directory=str(self.vswitch.directory),
            propagation_emulated=self.propagation_emulated,
            hosts=self.hosts,
        )
        running_emulation.write(running)

    def build(self) -> None:
        """Create hosts, switches and links; the switches have no controller target yet.

        Raises: EmulationError.
        """
        self._build_net()
        self._connect_management()
        self.hosts = tuple(self._describe(node) for node in self.net.hosts)
        self.net.start()
        self._wait_for_ports()
        self.propagation_emulated = traffic_control.has_netem()
        self._shape()

    def connect_switches(self) -> None:
        """Set the controller target of all switches; if it does not listen yet, they retry 1, 3, 7 s later."""
        scheme = "ssl" if self.settings.tls else "tcp"
        targets = [f"{scheme}:{host}:{port}" for host, port in self.settings.openflow]
        commands = [set_controllers_command(node.name, targets) for node in self.topology.switches]
        _run(["ovs-vsctl", *(word for command in commands for word in ("--", *command))])

    def _prepare(self) -> None:
        kernel_settings.apply_settings(self.journal, self.topology)
        kernel_settings.raise_softirq_priority(self.journal)
        self.idle_loops = kernel_settings.start_idle_loops(self.journal)
        if self.settings.pki:
            self._make_certificates(self.settings.pki)
        self.vswitch.start(self.settings.pki)
        self._open_management()

    def _make_certificates(self, directory: Path) -> None:
        self.journal.record_directory(directory)
        command = [sys.executable, "-m", "controller.security.pki", "init", str(directory)]
        _run([*command, "--map", str(self.settings.map_path)])

    def _build_net(self) -> None:
        Mininet.inited = True  # Mininet's init() raises kernel limits without restoring them
        setLogLevel("error")
        OVSSwitch.setup()
        self.net = Mininet(topo=None, build=False, ipBase=str(self.topology.data_network), autoSetMacs=False)
        for node in self.topology.switches:
            self.journal.record_interface(node.name)
            self.net.addSwitch(
                node.name, cls=OVSSwitch, dpid=f"{self.topology.datapath_id(node.name):016x}",
                datapath=self.settings.datapath, protocols="OpenFlow13", failMode="secure",
            )  # fmt: skip
        prefix = self.topology.data_network.prefixlen
        for node in self.topology.hosts:
            self.net.addHost(node.name, ip=f"{self.topology.ip(node.name)}/{prefix}", mac=self.topology.mac(node.name))
            self.journal.record_process(self.net[node.name].pid, f"host {node.name}")
            self.journal.record_namespace(self.net[node.name].pid)
        for link, ends in zip(self.topology.links, self.topology.link_ports, strict=True):
            for port in ends:
                if self.topology.node(port.node).kind == "switch":
                    self.journal.record_interface(port.interface)
            names = {"intfName1": ends[0].interface, "intfName2": ends[1].interface}
            self.net.addLink(*link.ends, port1=ends[0].number, port2=ends[1].number, **names)
        self.net.build()

    def _open_management(self) -> None:
        self.journal.record_interface(MANAGEMENT_BRIDGE)
        _run(["ip", "link", "add", MANAGEMENT_BRIDGE, "type", "bridge"])
        _run(["ip", "address", "add", f"{MANAGEMENT_GATEWAY}/16", "dev", MANAGEMENT_BRIDGE])
        _run(["ip", "link", "set", MANAGEMENT_BRIDGE, "up"])

    def _connect_management(self) -> None:
        for node in self.topology.hosts:
            near, far, pid = f"{node.name}-mg", f"{node.name}-mgmt", str(self.net[node.name].pid)
            self.journal.record_interface(near)
            _run(["ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", pid])
            _run(["ip", "link", "set", near, "master", MANAGEMENT_BRIDGE, "up"])
            address = f"{self.topology.management_ip(node.name)}/16"
            self.run_in(node.name, f"ip address add {address} dev {far} && ip link set {far} up")

    def _describe(self, node: Any) -> running_emulation.RunningHost:
        spec = self.topology.node(node.name)
        cgroup: tuple[str, ...] = ()
        if spec.cpu_share is not None or spec.kind == "cloud":  # the cloud's group has no limit, only preference
            try:
                cgroup = cgroups.create(spec.name, spec.cpu_share, self.journal)
            except OSError as error:
                raise EmulationError(f"cannot limit the CPU of {spec.name}: {error}") from error
        return running_emulation.RunningHost(
            name=spec.name, kind=spec.kind, pid=node.pid, ip=self.topology.ip(spec.name),
            management_ip=self.topology.management_ip(spec.name), cpu_share=spec.cpu_share, cgroup=cgroup,
        )  # fmt: skip

    def _wait_for_ports(self) -> None:
        """Wait until Open vSwitch has opened all ports: it resets their queues then, so they are shaped afterwards."""
        expected = [port.interface for port in self.topology.ports if self.topology.node(port.node).kind == "switch"]
        deadline = time.monotonic() + PORTS_TIMEOUT_S
        while True:
            command = ["ovs-vsctl", "--bare", "--columns=name,ofport", "find", "Interface"]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            lines = text.split()
            present = {name for name, number in zip(lines[::2], lines[1::2], strict=True) if int(number) > 0}
            missing = [name for name in expected if name not in present]
            if not missing:
                return
            if time.monotonic() > deadline:
                raise EmulationError(f"Open vSwitch did not open these ports: {', '.join(missing)}")
            time.sleep(0.02)

    def _shape(self) -> None:
        ports: dict[str, list[tuple[Port, MapLink]]] = {}
        for link, link_ports in zip(self.topology.links, self.topology.link_ports, strict=True):
            for port in link_ports:
                owner = port.node if self.topology.node(port.node).kind != "switch" else ""
                ports.setdefault(owner, []).append((port, link))
        for owner, owned in ports.items():
            if owner:
                self.run_in(owner, "\n".join(["set -e", *_HOST_SCRIPT, *self._ports_script(owned)]))
            else:
                _run(["sh", "-ec", "\n".join(self._ports_script(owned))])

    def _line_bps(self, link: MapLink) -> int:
        """Port rate: on an optical map higher by a VLAN tag, which represents the lightpath only in the emulation."""
        rate_bps = self.topology.rate_bps(link)
        return rate_bps if self.topology.grid is None else traffic_control.rate_with_tags(rate_bps)

    def _ports_script(self, ports: list[tuple[Port, MapLink]]) -> list[str]:
        """Shell script that configures ports in batches: one process per command would dominate the start-up time."""
        names, mtu = [port.interface for port, _ in ports], self.topology.mtu_bytes
        shapes = []
        for port, link in ports:
            delay_us = link.length_km * FIBRE_US_PER_KM if self.propagation_emulated else 0.0
            queue_bytes = self.topology.queue_bytes_of(link)
            shapes += traffic_control.tc_commands(port.interface, self._line_bps(link), mtu, delay_us, queue_bytes)
        return [
            *_batch("ip", [["link", "set", name, "mtu", str(mtu), "txqueuelen", "1000"] for name in names]),
            *(f"ethtool -K {name} tx off rx off tso off gso off gro off >/dev/null" for name in names),
            *_batch("tc", shapes),
        ]

    def run_in(self, host: str, script: str) -> str:
        """Run a shell script in a host's namespace; returns its standard output.

        Raises: EmulationError if it fails.
        """
        return _run(["mnexec", "-a", str(self.net[host].pid), "sh", "-c", script])

    def popen_in(self, host: str, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a process in a host's namespace; it is journalled and ends with the emulation."""
        process = subprocess.Popen(["mnexec", "-a", str(self.net[host].pid), *command], **options)
        self.journal.record_process(process.pid, f"{command[0]} in {host}")
        return process

    def wait_for_listener(self, host: str, port: int) -> None:
        """Wait until a process in a host listens on that TCP port.

        Raises: EmulationError after LISTENER_TIMEOUT_S.
        """
        deadline = time.monotonic() + LISTENER_TIMEOUT_S
        while f":{port}" not in self.run_in(host, "ss -ltnH"):
            if time.monotonic() > deadline:
                raise EmulationError(f"no process listens on port {port} of {host} after {LISTENER_TIMEOUT_S:g} s")
            time.sleep(0.05)


_HOST_SCRIPT = (
    "sysctl -qw net.ipv4.tcp_rmem='4096 1048576 33554432'",
    "sysctl -qw net.ipv4.tcp_wmem='4096 1048576 33554432'",
    # On short round-trip times Linux sends up to 64 KB at once whatever the pacing rate: more than a meter's burst.
    "sysctl -qw net.ipv4.tcp_tso_rtt_log=0 2>/dev/null || true",
    "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 || true",
)


def _batch(tool: str, commands: list[list[str]]) -> list[str]:
    """Lines of a shell script in which one process executes all these commands of `ip` or `tc`."""
    return [f"{tool} -batch - <<'END'", *(shlex.join(command) for command in commands), "END"]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EmulationError(f"{shlex.join(command)} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout
