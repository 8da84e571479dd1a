"""A network that exists: Open vSwitch with addresses and numbers of its own, not started by Paceline."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from machine.polling import wait_until
from tests.network.conftest import ROOT
from tests.network.lab import DATAPATH_IDS, Host, Lab, free_port, running_lab

ENDPOINTS = str(ROOT / "bench/harness/datagram_endpoints.py")
HOSTS = {
    "camera": Host("br-core", 11, "192.168.7.11", "52:54:00:07:00:11"),
    "server": Host("br-far", 42, "192.168.9.200", "52:54:00:09:00:c8"),
}
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


@pytest.fixture
def lab(no_emulation: None, tmp_path: Path) -> Iterator[Lab]:  # noqa: ARG001
    with running_lab(tmp_path / "ovs", HOSTS) as made:
        yield made


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
