"""A network that exists: Open vSwitch with addresses and numbers of its own, not started by Paceline."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from machine.polling import wait_until
from machine.without_perf_counters import WITHOUT_PERF_COUNTERS
from tests.network.conftest import ROOT

ENDPOINTS = str(ROOT / "bench/harness/datagram_endpoints.py")
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
HOSTS = {
    "camera": ("br-core", 11, "192.168.7.11", "52:54:00:07:00:11"),
    "server": ("br-far", 42, "192.168.9.200", "52:54:00:09:00:c8"),
}
PATCHES = {"core-far": ("br-core", 48, "far-core"), "far-core": ("br-far", 3, "core-far")}
DATAPATH_IDS = {"br-core": "00000000000000a1", "br-far": "0000525400bb0002"}
LAB = """\
name: lab
scale_mbps_per_gbps: 1000
mtu_bytes: 1500
nodes:
  - {name: sw1, kind: switch, position_km: [0, 0], datapath_id: "00000000000000a1"}
  - {name: sw2, kind: switch, position_km: [1, 0], datapath_id: "0000525400bb0002"}
  - {name: camera, kind: edge, position_km: [0, 1], ip: 192.168.7.11, mac: "52:54:00:07:00:11"}
  - {name: server, kind: cloud, position_km: [1, 1], ip: 192.168.9.200, mac: "52:54:00:09:00:c8"}
links:
  - {ends: [sw1, sw2], length_km: 1, channel_rate_gbps: 10, ports: [48, 3], queue_bytes: 4000000}
  - {ends: [camera, sw1], length_km: 0.1, channel_rate_gbps: 1, ports: [null, 11]}
  - {ends: [server, sw2], length_km: 0.1, channel_rate_gbps: 10, ports: [null, 42]}
"""
PER_S, PAYLOAD_BYTES, SECONDS = 400, 1000, 2
RATE_BPS = 5_000_000


class Lab:
    """The switches and hosts, made with the tools of their own; `directory`: of Open vSwitch."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
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
        for host, (bridge, number, ip, mac) in HOSTS.items():
            near, far = f"lab-{host}", f"{host}0"
            self.run("ip", "netns", "add", near)
            self.run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", near)
            self.run("ip", "link", "set", near, "up")
            inside = [["link", "set", far, "address", mac, "up"], ["address", "add", f"{ip}/16", "dev", far]]
            for arguments in inside:
                self.run(*self.in_host(host, "ip", *arguments))
            self.run(*self.in_host(host, "ethtool", "-K", far, "tx", "off"))
            request = f"ofport_request={number}"
            self.run("ovs-vsctl", "add-port", bridge, near, "--", "set", "interface", near, request)

    def remove(self) -> None:
        """Remove hosts and bridges; ovs-vswitchd leaves its interfaces when it is ended."""
        for host in HOSTS:
            subprocess.run(["ip", "netns", "delete", f"lab-{host}"], capture_output=True, check=False)
        for interface in (*(f"lab-{host}" for host in HOSTS), *DATAPATH_IDS, "ovs-netdev"):
            subprocess.run(["ip", "link", "delete", interface], capture_output=True, check=False)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.fixture
def lab(no_emulation: None, tmp_path: Path) -> Iterator[Lab]:  # noqa: ARG001
    directory, interfaces = tmp_path / "ovs", set(Path("/sys/class/net").iterdir())
    directory.mkdir()
    made = Lab(directory)
    made.run("ovsdb-tool", "create", str(directory / "conf.db"), SCHEMA)
    database = directory / "db.sock"
    server = [*WITHOUT_PERF_COUNTERS, "ovsdb-server", str(directory / "conf.db"), f"--remote=punix:{database}"]
    with ExitStack() as stack:
        stack.callback(made.remove)
        stack.enter_context(made.running(*server))
        wait_until(database.exists)
        stack.enter_context(made.running("ovs-vswitchd", f"unix:{database}"))
        made.wire()
        yield made
    wait_until(lambda: set(Path("/sys/class/net").iterdir()) <= interfaces)


@pytest.fixture
def api(lab: Lab, tmp_path: Path) -> Iterator[httpx.Client]:
    """The REST API of a controller of these switches, all of them in step."""
    map_file, rest, openflow = tmp_path / "lab.yaml", f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    map_file.write_text(LAB)
    options = ["--listen", rest, "--openflow", openflow, "--ledger", "sqlite://"]
    with lab.running(sys.executable, "-m", "controller.runtime.main", str(map_file), *options):
        for bridge in DATAPATH_IDS:
            lab.run("ovs-vsctl", "set-controller", bridge, f"tcp:{openflow}")
        with httpx.Client(base_url=f"http://{rest}", timeout=20) as client:

            def in_step() -> bool:
                try:
                    health, network = client.get("/v1/healthz").json(), client.get("/v1/network").json()
                except httpx.TransportError:
                    return False
                return bool(health["status"] == "ok" and network["complaints"] == [])

            wait_until(in_step, 40)
            yield client


def test_switches_with_numbers_of_their_own_carry_best_effort_and_reservations(
    lab: Lab, api: httpx.Client, tmp_path: Path
) -> None:
    lab.run(*lab.in_host("camera", "ping", "-c", "2", "-W", "5", "192.168.9.200"))
    match = {"protocol": "udp", "source_port": 7801, "destination_port": 7800}
    flow = {
        "name": "video", "source": "camera", "destination": "server", "match": match,
        "requirement": {"min_bandwidth_bps": RATE_BPS},
    }  # fmt: skip
    reserved = api.post("/v1/reservations", json={"lease_s": 600, "flows": [flow]})
    assert reserved.status_code == 201, reserved.text
    meters = lab.run("ovs-ofctl", "-O", "OpenFlow13", "dump-meters", f"unix:{lab.directory}/br-core.mgmt")
    assert f"rate={RATE_BPS // 1000} " in meters
    out = tmp_path / "arrivals.json"
    receive = lab.in_host("server", sys.executable, ENDPOINTS, "receive", "7800", str(out))
    send = ["send", "192.168.9.200", "7800", "7801", str(PER_S), str(PAYLOAD_BYTES), str(SECONDS)]
    with lab.running(*receive) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == b"listening\n"
        lab.run(*lab.in_host("camera", sys.executable, ENDPOINTS, *send))
        receiver.wait(60)
    arrivals = json.loads(out.read_text())["arrivals"]
    assert len({number for number, _, _ in arrivals}) == PER_S * SECONDS
    assert {dscp for _, _, dscp in arrivals} == {46}
    assert api.get("/v1/consistency").json()["consistent"]
