"""A map brought to life: Mininet hosts and Open vSwitch switches, shaped links, a management network.

`Emulation` is a context manager. Every change it makes to the machine is in the journal first, so leaving it, however
that happens, leaves nothing behind.
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

from emulation.open_vswitch import VirtualSwitchDaemon, seek
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
    """How to bring a map up; `openflow` is where the switches find their controller."""

    map_path: Path
    datapath: str = "user"
    openflow: tuple[str, int] = ("127.0.0.1", 6653)
    rest_port: int = 8080
    ready_timeout_s: float = 30.0
    tls: bool = False

    @property
    def controller_url(self) -> str:
        """The controller's REST address as the hosts see it."""
        return f"{'https' if self.tls else 'http'}://{MANAGEMENT_GATEWAY}:{self.rest_port}"

    @property
    def pki(self) -> Path | None:
        """Where the certificates lie; None without TLS."""
        return running_emulation.DIRECTORY / "pki" if self.tls else None


class Emulation:
    """One running map. `net` is the Mininet object, `hosts` what other programs need to know of the hosts.

    Entering it prepares the machine; then `build` makes the network, beside a controller that starts meanwhile.
    """

    def __init__(self, plan: Map, settings: EmulationSettings) -> None:
        self.plan = plan
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
        """Take everything down.

        Raises: EmulationError with what was left behind.
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

    def announce(self) -> None:
        """Leave the note by which other programs find the hosts."""
        note = running_emulation.Running(
            map_name=self.plan.name,
            map_path=str(self.settings.map_path.resolve()),
            pid=os.getpid(),
            controller_url=self.settings.controller_url,
            ovs_directory=str(self.vswitch.directory),
            propagation_emulated=self.propagation_emulated,
            hosts=self.hosts,
        )
        running_emulation.write(note)

    def build(self) -> None:
        """Make hosts, switches and links; no switch looks for a controller yet.

        Raises: EmulationError.
        """
        self._build_net()
        self._connect_management()
        self.hosts = tuple(self._describe(node) for node in self.net.hosts)
        self.net.start()
        self._wait_for_ports()
        self.propagation_emulated = traffic_control.has_netem()
        self._shape()

    def seek_controller(self) -> None:
        """Let the switches look for their controller. Best when it listens: else they look again 1, 3, 7 s later."""
        host, port = self.settings.openflow
        target = f"{'ssl' if self.settings.tls else 'tcp'}:{host}:{port}"
        each = [seek(node.name, target) for node in self.plan.switches]
        _run(["ovs-vsctl", *(word for command in each for word in ("--", *command))])

    def _prepare(self) -> None:
        kernel_settings.tune(self.journal, self.plan)
        kernel_settings.prefer_packets(self.journal)
        self.idle_loops = kernel_settings.start_idle_loops(self.journal)
        if self.settings.pki:
            self._make_certificates(self.settings.pki)
        self.vswitch.start(self.settings.pki)
        self._open_management()

    def _make_certificates(self, directory: Path) -> None:
        self.journal.directory(directory)
        command = [sys.executable, "-m", "controller.security.pki", "init", str(directory)]
        _run([*command, "--map", str(self.settings.map_path)])

    def _build_net(self) -> None:
        Mininet.inited = True  # its init() raises kernel limits and would not lower them again
        setLogLevel("error")
        OVSSwitch.setup()
        self.net = Mininet(topo=None, build=False, ipBase="10.0.0.0/16", autoSetMacs=False)
        for node in self.plan.switches:
            self.journal.interface(node.name)
            self.net.addSwitch(
                node.name, cls=OVSSwitch, dpid=f"{self.plan.datapath_id(node.name):016x}",
                datapath=self.settings.datapath, protocols="OpenFlow13", failMode="secure",
            )  # fmt: skip
        for node in self.plan.hosts:
            self.net.addHost(node.name, ip=f"{self.plan.ip(node.name)}/16", mac=self.plan.mac(node.name))
            self.journal.process(self.net[node.name].pid, f"host {node.name}")
            self.journal.namespace(self.net[node.name].pid)
        for link in self.plan.links:
            ends = (self.plan.port(*link.ends), self.plan.port(*link.ends[::-1]))
            for port_ in ends:
                if self.plan.node(port_.node).kind == "switch":
                    self.journal.interface(port_.interface)
            self.net.addLink(*link.ends, port1=ends[0].number, port2=ends[1].number)
        self.net.build()

    def _open_management(self) -> None:
        self.journal.interface(MANAGEMENT_BRIDGE)
        _run(["ip", "link", "add", MANAGEMENT_BRIDGE, "type", "bridge"])
        _run(["ip", "address", "add", f"{MANAGEMENT_GATEWAY}/16", "dev", MANAGEMENT_BRIDGE])
        _run(["ip", "link", "set", MANAGEMENT_BRIDGE, "up"])

    def _connect_management(self) -> None:
        for node in self.plan.hosts:
            near, far, pid = f"{node.name}-mg", f"{node.name}-mgmt", str(self.net[node.name].pid)
            self.journal.interface(near)
            _run(["ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", pid])
            _run(["ip", "link", "set", near, "master", MANAGEMENT_BRIDGE, "up"])
            address = f"{self.plan.management_ip(node.name)}/16"
            self.run_in(node.name, f"ip address add {address} dev {far} && ip link set {far} up")

    def _describe(self, node: Any) -> running_emulation.RunningHost:
        plan = self.plan.node(node.name)
        cgroup: tuple[str, ...] = ()
        if plan.cpu_share is not None or plan.kind == "cloud":  # it is in nobody's way, and nobody in its
            try:
                cgroup = cgroups.create(plan.name, plan.cpu_share, self.journal)
            except OSError as error:
                raise EmulationError(f"cannot limit the CPU of {plan.name}: {error}") from error
        return running_emulation.RunningHost(
            name=plan.name, kind=plan.kind, pid=node.pid, ip=self.plan.ip(plan.name),
            management_ip=self.plan.management_ip(plan.name), cpu_share=plan.cpu_share, cgroup=cgroup,
        )  # fmt: skip

    def _wait_for_ports(self) -> None:
        """Open vSwitch opens ports in its own time and resets their queues; shape them only then."""
        wanted = [port.interface for port in self.plan.ports if self.plan.node(port.node).kind == "switch"]
        deadline = time.monotonic() + PORTS_TIMEOUT_S
        while True:
            command = ["ovs-vsctl", "--bare", "--columns=name,ofport", "find", "Interface"]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            lines = text.split()
            present = {name for name, number in zip(lines[::2], lines[1::2], strict=True) if int(number) > 0}
            missing = [name for name in wanted if name not in present]
            if not missing:
                return
            if time.monotonic() > deadline:
                raise EmulationError(f"Open vSwitch did not open these ports: {', '.join(missing)}")
            time.sleep(0.02)

    def _shape(self) -> None:
        ports: dict[str, list[tuple[Port, MapLink]]] = {}
        for link in self.plan.links:
            for port in (self.plan.port(*link.ends), self.plan.port(*link.ends[::-1])):
                owner = port.node if self.plan.node(port.node).kind != "switch" else ""
                ports.setdefault(owner, []).append((port, link))
        for owner, its in ports.items():
            if owner:
                self.run_in(owner, "\n".join(["set -e", *_HOST_SCRIPT, *self._ports_script(its)]))
            else:
                _run(["sh", "-ec", "\n".join(self._ports_script(its))])

    def _line_bps(self, link: MapLink) -> int:
        """A lightpath's tag is the emulation's and not the network's: lines are faster by what it may take."""
        rate_bps = self.plan.rate_bps(link)
        return rate_bps if self.plan.grid is None else traffic_control.with_tags(rate_bps)

    def _ports_script(self, ports: list[tuple[Port, MapLink]]) -> list[str]:
        """All changes of a kind by one process: a process for each would take most of an emulation's start."""
        names, mtu = [port.interface for port, _ in ports], self.plan.mtu_bytes
        shapes = []
        for port, link in ports:
            delay_us = link.length_km * FIBRE_US_PER_KM if self.propagation_emulated else 0.0
            shapes += traffic_control.port_commands(port.interface, self._line_bps(link), mtu, delay_us)
        return [
            *_batch("ip", [["link", "set", name, "mtu", str(mtu), "txqueuelen", "1000"] for name in names]),
            *(f"ethtool -K {name} tx off rx off tso off gso off gro off >/dev/null" for name in names),
            *_batch("tc", shapes),
        ]

    def run_in(self, host: str, script: str) -> str:
        """Run a shell script in a host's namespace; returns what it printed.

        Raises: EmulationError if it fails.
        """
        return _run(["mnexec", "-a", str(self.net[host].pid), "sh", "-c", script])

    def popen_in(self, host: str, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a process in a host's namespace; it is in the journal and ends with the emulation."""
        process = subprocess.Popen(["mnexec", "-a", str(self.net[host].pid), *command], **options)
        self.journal.process(process.pid, f"{command[0]} in {host}")
        return process

    def wait_for_listener(self, host: str, port: int) -> None:
        """Wait until somebody in a host listens on that TCP port.

        Raises: EmulationError if nobody does.
        """
        deadline = time.monotonic() + LISTENER_TIMEOUT_S
        while f":{port}" not in self.run_in(host, "ss -ltnH"):
            if time.monotonic() > deadline:
                raise EmulationError(f"nobody listens on port {port} of {host} after {LISTENER_TIMEOUT_S:g} s")
            time.sleep(0.05)


_HOST_SCRIPT = (
    "sysctl -qw net.ipv4.tcp_rmem='4096 1048576 33554432'",
    "sysctl -qw net.ipv4.tcp_wmem='4096 1048576 33554432'",
    # Towards near peers Linux sends up to 64 KB at once, whatever the pacing rate: more than a meter's burst.
    "sysctl -qw net.ipv4.tcp_tso_rtt_log=0 2>/dev/null || true",
    "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 || true",
)


def _batch(tool: str, commands: list[list[str]]) -> list[str]:
    """The lines of a shell script in which one process carries out all these commands of `ip` or `tc`."""
    return [f"{tool} -batch - <<'END'", *(shlex.join(command) for command in commands), "END"]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EmulationError(f"{shlex.join(command)} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout
