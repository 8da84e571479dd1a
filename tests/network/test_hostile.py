"""Forged frames of every kind from one host: they gain no priority, and a reserved flow beside them loses nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from machine.polling import wait_until
from tests.network.conftest import Network
from tests.network.datagram_stream import RATE_BPS, reserved_flow, stream, udp_flow

FORGE = """
    import sys, time
    from scapy.all import ARP, Dot1AD, Dot1Q, Ether, IP, UDP, Raw, conf, fragment
    edge_ip, edge_mac, cloud_ip, cloud_mac, own_ip, own_mac, label, seconds = sys.argv[1:]
    marker = Raw(b"forged" * 20)
    def flow(**ip): return IP(src=edge_ip, dst=cloud_ip, tos=0xb8, **ip) / UDP(sport=7801, dport=7800) / marker
    def own(**ip): return IP(src=own_ip, dst=cloud_ip, tos=0xb8, **ip) / UDP(sport=7801, dport=9) / marker
    to_cloud = Ether(src=own_mac, dst=cloud_mac)
    as_edge = Ether(src=edge_mac, dst=cloud_mac)
    broadcast = Ether(src=own_mac, dst="ff:ff:ff:ff:ff:ff")
    long = Raw(b"forged" * 400)
    frames = [
        to_cloud / flow(), as_edge / flow(),                                        # the reserved flow's 5-tuple
        Ether(src=own_mac, dst=label) / own(), Ether(src=edge_mac, dst=label) / flow(),   # the reserved flow's label
        to_cloud / own(), as_edge / own(),                                          # the mark, another's MAC
        to_cloud / Dot1Q(vlan=7, prio=7) / own(), to_cloud / Dot1Q(vlan=7) / Dot1Q(vlan=8) / flow(),
        to_cloud / Dot1AD(vlan=7) / Dot1Q(vlan=8) / own(), Ether(src=own_mac, dst=label) / Dot1Q(vlan=7) / own(),
        Ether(bytes(to_cloud / own())[:20]), Ether(bytes(to_cloud / flow())[:33]),   # truncated
        to_cloud / own(ihl=15), to_cloud / own(ihl=2), to_cloud / own(version=7), to_cloud / own(len=9000),
        to_cloud / own(len=3), to_cloud / own(chksum=1), to_cloud / own(proto=255, ttl=0),
        *(to_cloud / part for part in fragment(IP(src=own_ip, dst=cloud_ip, tos=0xb8) / UDP() / long, 512)),
        *(to_cloud / part for part in fragment(IP(src=edge_ip, dst=cloud_ip, tos=0xb8) / UDP() / long, 512)),
        Ether(src=own_mac, dst=cloud_mac, type=0x1234) / Raw(bytes(own())),          # not IP, and spells the mark
        broadcast / own(), Ether(src="ff:ff:ff:ff:ff:ff", dst=cloud_mac) / own(),
        Ether(src=own_mac, dst=edge_mac) / ARP(op=2, psrc=cloud_ip, hwsrc=own_mac, pdst=edge_ip, hwdst=edge_mac),
        broadcast / ARP(op=2, psrc=cloud_ip, hwsrc=own_mac, pdst=cloud_ip),          # "I am the cloud"
        broadcast / ARP(op=1, psrc=cloud_ip, hwsrc=own_mac, pdst=edge_ip),
        broadcast / ARP(op=1, psrc=own_ip, hwsrc=edge_mac, pdst=edge_ip),
        Ether(src=edge_mac, dst=cloud_mac) / ARP(op=2, psrc=edge_ip, hwsrc=own_mac, pdst=cloud_ip),
        Ether(src=own_mac, dst="01:80:c2:00:00:0e", type=0x88cc) / Raw(b"\\x02\\x07\\x04forged"),
    ]
    raw = [bytes(frame) for frame in frames]
    raw = [frame.ljust(20, b"\\0") for frame in raw]
    out, end, sent = conf.L2socket(iface="load1-eth1"), time.monotonic() + float(seconds), 0
    while time.monotonic() < end:
        for frame in raw:
            out.outs.send(frame)
            sent += 1
        time.sleep(0.002)
    print(sent)
"""

LISTEN = """
    import json, sys
    from scapy.all import AsyncSniffer, ARP, IP
    seen = AsyncSniffer(iface=sys.argv[1], started_callback=lambda: print("listening", flush=True))
    seen.start()
    sys.stdin.read()
    frames = [frame for frame in seen.stop() if frame.src != sys.argv[2]]
    forged = [frame for frame in frames if b"forged" in bytes(frame)]
    marked = [frame for frame in forged if bytes(frame)[15] & 0xfc == 0xb8 or frame.type in (0x8100, 0x88a8)]
    arp = [frame for frame in frames if ARP in frame]
    print(json.dumps([len(forged), len(marked), [[frame[ARP].op, frame[ARP].psrc, frame[ARP].hwsrc] for frame in arp]]))
"""


@contextmanager
def listening(network: Network, host: str) -> Iterator[list[Any]]:
    """Capture at a host: number of forged frames, of those marked or tagged, and ARP frames as [operation, IP, MAC]."""
    command = [sys.executable, "-c", textwrap.dedent(LISTEN), f"{host}-eth1", network.topology.mac(host)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    captured: list[Any] = []
    with network.running_in(host, command, **pipes) as sniffer:
        assert sniffer.stdout is not None
        assert sniffer.stdout.readline() == b"listening\n"
        yield captured
        text, errors = sniffer.communicate(timeout=60)
    assert text, errors.decode()
    captured += json.loads(text)


def test_forged_frames_gain_no_priority_and_a_reserved_flow_loses_nothing(
    pair: Network, tmp_path: Path
) -> None:
    with reserved_flow(pair, udp_flow("edge1", "cloud", {"min_bandwidth_bps": RATE_BPS})) as reservation:
        forwarding = pair.switch("dump-flows", "s1", f"cookie=0x9ace{reservation['id'][2:]}0000/0xffffffffffff0000")
        octets = forwarding.split("->eth_dst")[0].rsplit(":", 6)[-6:]
        label = ":".join([octets[0][-2:], *octets[1:]])
        with (
            listening(pair, "cloud") as cloud,
            listening(pair, "edge1") as edge,
            stream(pair, "edge1", "cloud", 5, tmp_path) as result,
        ):
            forged = forge(pair, label, 3.0)
        assert forged > 1000
        result.check_complete()
        wait_until(lambda: meter_counters(pair, reservation)["packets"] >= result.sent)
        meter = meter_counters(pair, reservation)
        assert (meter["packets"] - result.sent, meter["dropped_packets"]) == (5, 0), (
            "the packets of the stream and its end only"
        )
    assert cloud[0] > 0, "allowed frames are delivered, unmarked"
    assert cloud[1] == 0, "no forged frame is marked or tagged"
    assert edge[:2] == [0, 0]
    genuine = [[2, pair.topology.ip(host.name), pair.topology.mac(host.name)] for host in pair.topology.hosts]
    assert all(reply in genuine for reply in cloud[2] + edge[2]), (
        "hosts receive genuine ARP replies to their requests only"
    )
    neighbours = pair.run_in("edge1", ["ip", "neigh", "show", pair.topology.ip("cloud")])
    assert pair.topology.mac("cloud") in neighbours
    pair.run_in("load1", ["ping", "-c", "1", "-W", "5", pair.topology.ip("cloud")])


def forge(network: Network, label: str, seconds: float) -> int:
    """Send every kind of forged frame from load1 repeatedly; return the number of frames."""
    topology = network.topology
    addresses = [part for host in ("edge1", "cloud", "load1") for part in (topology.ip(host), topology.mac(host))]
    command = [sys.executable, "-c", textwrap.dedent(FORGE), *addresses, label, str(seconds)]
    return int(network.run_in("load1", command))


def meter_counters(network: Network, reservation: dict[str, Any]) -> dict[str, Any]:
    meters: list[dict[str, Any]] = network.api.get(f"/v1/reservations/{reservation['id']}").json()["counters"]["meters"]
    return meters[0]
