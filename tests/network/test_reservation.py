"""Reservations on real Open vSwitch: their guarantees, also against floods, spoofing and overuse."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from emulation.open_vswitch import set_controller_command
from machine.polling import wait_until
from tests.network.conftest import Network
from trainer.processes.fork import ForkedProcess

RATE_BPS = 20_000_000
SEGMENT_BYTES = 500_000
COUNT = 6
SET_UP_S = 1.0
"""Time from the start of the senders to their first transfer; a sender that needs longer sends later."""
IDEAL_MS = SEGMENT_BYTES * 8 / RATE_BPS * 1e3
MAX_RATIO = 1.2
"""Median time / ideal time: 1.00 without disturbance; single transfers may be delayed by a busy machine."""


@contextmanager
def flood(
    network: Network, source: str, sink: str, rate_bps: int, *options: str, tcp: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Send UDP, or TCP at full speed, from one host to another within the block."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    ip = network.topology.ip(sink)
    with network.running_in(sink, ["iperf3", "-s", "-p", "5999"], **quiet):
        wait_until(lambda: ":5999" in network.run_in(sink, ["ss", "-ltnH"]))
        kind = ["-C", "cubic"] if tcp else ["-u", "-l", "8000", "-b", str(rate_bps)]
        load = ["iperf3", "-c", ip, "-p", "5999", *kind, "-t", "0", *options]
        before_bytes = received_bytes(network, sink)
        with network.running_in(source, load, **quiet) as client:
            wait_until(lambda: client.poll() is not None or received_bytes(network, sink) - before_bytes >= 500_000)
            assert client.poll() is None
            yield client


def received_bytes(network: Network, host: str) -> int:
    return int(network.run_in(host, ["cat", f"/sys/class/net/{host}-eth1/statistics/rx_bytes"]))


def transfer(network: Network, tmp_path: Path, **reserved_bps: int) -> dict[str, list[float]]:
    """Run COUNT transfers of each edge, paced for its rate; return the milliseconds of each."""
    out = tmp_path / "received.json"
    edges = list(reserved_bps)
    names = [node.name for node in network.topology.edges]
    with receiving_transfers(network, len(edges), out) as receiver:
        senders = [
            network.transfers(
                edge, tmp_path / f"{edge}.log",
                "send", network.topology.ip("cloud"), "--port", "7800",
                "--source-port", str(7801 + names.index(edge)), "--segment-bytes", str(SEGMENT_BYTES),
                "--count", str(COUNT), "--start-s", str(time.time() + SET_UP_S), "--period-s", "0.4",
                "--reserved-bps", str(rate_bps),
            )
            for edge, rate_bps in reserved_bps.items()
        ]  # fmt: skip
        try:
            assert [sender.wait(60) for sender in senders] == [0] * len(senders), logs(tmp_path)
        finally:
            for sender in senders:
                sender.send_signal(signal.SIGKILL)
        assert receiver.wait(60) == 0, logs(tmp_path)
    received = json.loads(out.read_text())
    return {edge: [ms for _, ms, _ in received[str(7801 + names.index(edge))]] for edge in edges}


@contextmanager
def receiving_transfers(network: Network, senders: int, out: Path) -> Iterator[ForkedProcess]:
    """Run a receiver in the cloud, listening when the block begins; it writes `out` when its senders have ended."""
    log = out.with_suffix(".log")
    receiver = network.transfers(
        "cloud", log, "receive", "--port", "7800", "--senders", str(senders), "--out", str(out)
    )
    try:
        wait_until(lambda: receiver.poll() is not None or (log.exists() and "listening" in log.read_text()))
        yield receiver
    finally:
        receiver.send_signal(signal.SIGKILL)
        receiver.wait()


def logs(directory: Path) -> str:
    return "\n".join(path.read_text() for path in directory.glob("*.log"))


@pytest.fixture
def reserved(pair: Network) -> Iterator[Callable[..., dict[str, Any]]]:
    """Function: rates by edge -> a reservation, released after the test."""
    made = []

    def reserve(**rates_bps: int) -> dict[str, Any]:
        made.append(pair.reserve(**rates_bps))
        return made[-1]

    yield reserve
    for reservation in made:
        pair.api.delete(f"/v1/reservations/{reservation['id']}")


def test_every_host_reaches_every_other_without_a_packet_to_the_controller(pair: Network) -> None:
    for source in pair.topology.hosts:
        for sink in pair.topology.hosts:
            if source != sink:
                pair.run_in(source.name, ["ping", "-c", "1", "-W", "2", "-s", "1000", pair.topology.ip(sink.name)])
    for switch in pair.topology.switches:
        punted = [line for line in pair.switch("dump-flows", switch.name).splitlines() if "CONTROLLER" in line]
        assert punted
        assert all("dl_type=0x88cc" in line for line in punted)


def test_reserved_transfers_are_not_delayed_by_a_flood(
    pair: Network, reserved: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    reservation = reserved(edge1=RATE_BPS, edge2=RATE_BPS)
    with flood(pair, "load1", "load2", 120_000_000):
        measured = transfer(pair, tmp_path, edge1=RATE_BPS, edge2=RATE_BPS)
    assert statistics.median(measured["edge1"] + measured["edge2"]) < IDEAL_MS * MAX_RATIO
    live = pair.api.get(f"/v1/reservations/{reservation['id']}").json()
    sent = 2 * COUNT * SEGMENT_BYTES
    assert sum(meter["bytes"] for meter in live["counters"]["meters"]) >= sent
    assert {entry["switch"] for entry in live["counters"]["entries"]} == {"s1", "s2"}


@pytest.mark.parametrize("source_port", [None, "32768-60999"])
def test_a_client_with_a_port_chosen_by_the_system_gets_its_reserved_rate_under_a_flood(
    pair: Network, tmp_path: Path, source_port: str | None
) -> None:
    match = {"protocol": "tcp", "source_port": source_port, "destination_port": 7800}
    flow = {"name": "any-client", "source": "edge1", "destination": "cloud", "match": match,
            "requirement": {"min_bandwidth_bps": RATE_BPS}}  # fmt: skip
    answer = pair.api.post("/v1/reservations", json={"owner": "test", "lease_s": 60, "flows": [flow]})
    assert answer.status_code == 201, answer.text
    reservation = answer.json()
    try:
        out, to = tmp_path / "received.json", ["send", pair.topology.ip("cloud"), "--port", "7800"]
        timing = ["--count", str(COUNT), "--start-s", str(time.time() + SET_UP_S), "--period-s", "0.4"]
        size = ["--segment-bytes", str(SEGMENT_BYTES), "--reserved-bps", str(RATE_BPS)]
        with flood(pair, "load1", "load2", 120_000_000), receiving_transfers(pair, 1, out) as receiver:
            sender = pair.transfers("edge1", tmp_path / "edge1.log", *to, "--source-port", "0", *timing, *size)
            assert (sender.wait(60), receiver.wait(60)) == (0, 0), logs(tmp_path)
        ((port, received),) = json.loads(out.read_text()).items()
        counters = pair.api.get(f"/v1/reservations/{reservation['id']}").json()["counters"]
        consistency = pair.api.get("/v1/consistency").json()
    finally:
        pair.api.delete(f"/v1/reservations/{reservation['id']}").raise_for_status()
    assert 32768 <= int(port) <= 60999
    assert statistics.median(ms for _, ms, _ in received) < IDEAL_MS * MAX_RATIO
    (meter,) = counters["meters"]
    assert meter["bytes"] >= COUNT * SEGMENT_BYTES
    assert meter["dropped_packets"] == 0
    assert sum(entry["table"] == 0 for entry in counters["entries"]) == (1 if source_port is None else 7)
    assert consistency["consistent"], consistency


def test_meters_reported_by_rest_are_those_of_the_switch(
    pair: Network, reserved: Callable[..., dict[str, Any]]
) -> None:
    reservation = reserved(edge1=RATE_BPS)
    meter = pair.api.get(f"/v1/reservations/{reservation['id']}").json()["counters"]["meters"][0]
    dump = pair.switch("dump-meters", meter["switch"])
    expected = f"meter={meter['meter_id']} kbps burst stats bands=\ntype=drop rate={meter['rate_kbps']} "
    assert f"{expected}burst_size={meter['burst_kbit']}" in dump
    pair.api.delete(f"/v1/reservations/{reservation['id']}").raise_for_status()
    assert f"meter={meter['meter_id']} " not in pair.switch("dump-meters", meter["switch"])


def test_best_effort_is_reduced_by_exactly_the_reserved_rate(
    pair: Network, reserved: Callable[..., dict[str, Any]]
) -> None:
    port = pair.topology.port("s1", "s2").number

    def best_effort_kbps() -> int:
        text = pair.switch("dump-meters", "s1", f"meter={100_000 + port}")
        return int(text.split("rate=")[1].split()[0])

    before = best_effort_kbps()
    reservation = reserved(edge1=RATE_BPS)
    assert best_effort_kbps() == before - RATE_BPS // 1000
    pair.api.delete(f"/v1/reservations/{reservation['id']}")
    assert best_effort_kbps() == before


def test_a_spoofed_mark_gains_no_priority(
    pair: Network, reserved: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    reserved(edge1=RATE_BPS)
    with flood(pair, "load1", "load2", 120_000_000, "-S", "0xb8"):
        measured = transfer(pair, tmp_path, edge1=RATE_BPS)
    assert statistics.median(measured["edge1"]) < IDEAL_MS * MAX_RATIO


def test_a_forged_mark_is_cleared_at_the_first_switch(pair: Network) -> None:
    capture = (
        "from scapy.all import sniff\n"
        "print('listening', flush=True)\n"
        "mine = lambda frame: frame.haslayer('UDP') and frame['UDP'].dport == 4242\n"
        "seen = sniff(iface='load2-eth1', lfilter=mine, count=20, timeout=20)\n"
        "print(sorted({packet['IP'].tos for packet in seen}), len(seen))\n"
    )
    forge = (
        "from scapy.all import Ether, IP, UDP, Raw, sendp\n"
        f"frame = Ether(src='{pair.topology.mac('load1')}', dst='{pair.topology.mac('load2')}')"
        f"/IP(src='{pair.topology.ip('load1')}', dst='{pair.topology.ip('load2')}', tos=0xb8)"
        "/UDP(dport=4242)/Raw(b'x' * 64)\n"
        "sendp([frame] * 20, iface='load1-eth1', verbose=False)\n"
    )
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with pair.running_in("load2", [sys.executable, "-c", capture], **options) as sniffer:
        assert sniffer.stdout is not None
        sniffer.stdout.readline()
        time.sleep(0.5)  # scapy does not report when its socket is open
        pair.run_in("load1", [sys.executable, "-c", forge])
        text, errors = sniffer.communicate(timeout=30)
    assert text.decode().strip() == "[0] 20", errors.decode()


def test_excess_traffic_of_a_reserved_flow_delays_no_other_flow(
    pair: Network, reserved: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    match = {"protocol": "udp", "source_port": 9000, "destination_port": 5999}
    flow = {"name": "greedy", "source": "edge2", "destination": "load2", "match": match,
            "requirement": {"min_bandwidth_bps": 5_000_000}}  # fmt: skip
    greedy = pair.api.post("/v1/reservations", json={"owner": "test", "lease_s": 60, "flows": [flow]}).json()
    reserved(edge1=RATE_BPS)
    try:
        with flood(pair, "edge2", "load2", 60_000_000, "--cport", "9000"):
            measured = transfer(pair, tmp_path, edge1=RATE_BPS)
        meter = pair.api.get(f"/v1/reservations/{greedy['id']}").json()["counters"]["meters"][0]
    finally:
        pair.api.delete(f"/v1/reservations/{greedy['id']}")
    assert meter["dropped_bytes"] > 2 * (meter["bytes"] - meter["dropped_bytes"])
    assert statistics.median(measured["edge1"]) < IDEAL_MS * MAX_RATIO


def test_best_effort_to_the_cloud_does_not_delay_reserved_flows_to_it(
    pair: Network, reserved: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    reserved(edge1=RATE_BPS)
    with flood(pair, "load1", "cloud", 150_000_000), flood_more(pair):
        measured = transfer(pair, tmp_path, edge1=RATE_BPS)
    assert statistics.median(measured["edge1"]) < IDEAL_MS * MAX_RATIO


@contextmanager
def flood_more(network: Network) -> Iterator[None]:
    """Flood from a second source to the cloud, at the cloud's own switch."""
    command = ["iperf3", "-c", network.topology.ip("cloud"), "-p", "5998", "-u", "-l", "8000", "-b", "150M", "-t", "0"]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with network.running_in("cloud", ["iperf3", "-s", "-p", "5998"], **quiet):
        time.sleep(0.5)
        with network.running_in("load2", command, **quiet):
            yield


def test_entries_of_other_programs_are_kept(pair: Network, reserved: Callable[..., dict[str, Any]]) -> None:
    pair.switch("add-flow", "s1", "cookie=0x77,priority=7,udp,tp_dst=9,actions=drop")
    pair.switch("add-meter", "s1", "meter=7,kbps,burst,band=type=drop,rate=1000,burst_size=100")
    try:
        reservation = reserved(edge1=RATE_BPS)
        pair.api.delete(f"/v1/reservations/{reservation['id']}").raise_for_status()
        assert "cookie=0x77" in pair.switch("dump-flows", "s1")
        assert "meter=7 " in pair.switch("dump-meters", "s1")
    finally:
        pair.switch("del-flows", "s1", "cookie=0x77/-1")
        pair.switch("del-meters", "s1", "meter=7")


def test_a_request_beyond_capacity_is_refused_with_the_bottleneck_and_installs_nothing(pair: Network) -> None:
    before = pair.switch("dump-flows", "s1").count("cookie")
    flows = [pair.uplink("edge1", 40_000_000), pair.uplink("edge2", 60_000_000)]
    answer = pair.api.post("/v1/reservations", json={"owner": "test", "lease_s": 60, "flows": flows})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, "no_capacity")
    assert problem["bottleneck"]["link"] == "s1->s2"
    assert problem["bottleneck"]["asked_bps"] == 100_000_000
    assert 0 < problem["bottleneck"]["free_bps"] < 80_000_000
    assert pair.switch("dump-flows", "s1").count("cookie") == before
    assert all(link["reserved_bps"] == 0 for link in pair.api.get("/v1/network").json()["links"])


def test_a_reservation_over_a_disconnected_switch_is_refused_and_changes_no_other_switch(pair: Network) -> None:
    def vsctl(*words: str) -> str:
        environment = {"OVS_RUNDIR": pair.note.ovs_directory}
        return subprocess.run(
            ["ovs-vsctl", *words], env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    target = vsctl("get-controller", "s2")
    assert vsctl("get", "controller", "s2", "max_backoff") == "1000"  # it reconnects soon after losing its controller
    before = pair.switch("dump-meters", "s1")
    vsctl("set-controller", "s2", "tcp:127.0.0.1:1")
    try:
        wait_until(lambda: pair.api.get("/v1/healthz").json()["switches_up"] == 1)
        flows = [pair.uplink("edge1", RATE_BPS)]
        answer = pair.api.post("/v1/reservations", json={"owner": "test", "lease_s": 60, "flows": flows})
        assert answer.status_code == 503
        assert answer.json()["code"] in {"switch_down", "switch_timeout"}
        assert "s2" in answer.json()["detail"]
        assert pair.switch("dump-meters", "s1") == before
    finally:
        vsctl(*set_controller_command("s2", target))
    wait_until(lambda: pair.api.get("/v1/healthz").json()["switches_up"] == 2)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"flows": []}', b"\xff\xfe", b'{"owner": 1, "flows": [{"name": 3}]}']
)
def test_garbage_on_the_rest_api_gets_problem_details(pair: Network, body: bytes) -> None:
    answer = pair.api.post("/v1/reservations", content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert pair.api.get("/v1/healthz").json()["status"] == "ok"
