"""How long a confirmed reservation takes, against Ryu's own ofctl_rest telling switches the same entries unconfirmed.

Six switches of real Open vSwitch in a row, a controller process, REST over keep-alive connections. A reservation is
decided, proven, installed on six switches with best effort shrunk on seven links, confirmed by barriers, and written to
the ledger. ofctl_rest is sent the same meter and flow entries, a request each (it has no other way): the flow's meter,
the best-effort meters that shrink, seven flow entries. It decides, confirms and remembers nothing.

    .venv/bin/python bench/reservation_setup.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import httpx
import report
from rich.table import Table
from switches import ControllerProcess, DummySwitches, free_port, wait_until

from controller.admission import Admitted, Request, decide
from controller.bookings import Bookings
from controller.entries import FlowEntry, MeterEntry, cookie_of
from controller.forwarding import best_effort_meter, reservation_meter, reserved_entries
from controller.network import network_from_map
from controller.reservation import Flow, Match, Requirement
from topologies.loader import load_map

HOPS = 6
RATE_BPS = 200_000
AT_ONCE = 4
GROUP = 16

RYU_MANAGER = """
import sys, warnings
warnings.simplefilter("ignore")
import eventlet.wsgi
eventlet.wsgi.ALREADY_HANDLED = object()
from ryu.cmd.manager import main
sys.exit(main(sys.argv[1:]))
"""


def chain_map() -> str:
    """A map of HOPS switches in a row, an edge at one end and a cloud at the other."""
    nodes = [f"  - {{name: s{i}, kind: switch, position_km: [{i}, 0]}}" for i in range(1, HOPS + 1)]
    nodes += ["  - {name: edge1, kind: edge, position_km: [0, 0], cpu_share: 0.2}"]
    nodes += [f"  - {{name: cloud, kind: cloud, position_km: [{HOPS + 1}, 0]}}"]
    names = ["edge1", *(f"s{i}" for i in range(1, HOPS + 1)), "cloud"]
    links = [
        f"  - {{ends: [{a}, {b}], length_km: 1, channels: 1, channel_rate_gbps: 100}}"
        for a, b in pairwise(names)
    ]
    head = ["name: chain", "description: Switches in a row.", "scale_mbps_per_gbps: 8", "mtu_bytes: 9000"]
    return "\n".join([*head, "nodes:", *nodes, "links:", *links, ""])


@contextmanager
def row_of_switches() -> Iterator[tuple[DummySwitches, Path]]:
    """The switches of that map, and its file."""
    with tempfile.TemporaryDirectory() as name:
        map_file = Path(name) / "chain.yaml"
        map_file.write_text(chain_map())
        switches = DummySwitches(load_map(str(map_file)), map_file.parent)
        try:
            yield switches, map_file
        finally:
            switches.stop()


@contextmanager
def controller_of(switches: DummySwitches, map_file: Path) -> Iterator[ControllerProcess]:
    """A controller with which all of them are in step."""
    controller = ControllerProcess(map_file, map_file.parent)
    try:
        switches.connect(controller.openflow_port)
        wait_until(controller.is_in_step, 60)
        yield controller
    finally:
        controller.stop()


def flow_body(number: int) -> dict[str, Any]:
    """One flow through the whole row."""
    match = {"protocol": "udp", "source_port": 10_000 + number, "destination_port": 7800}
    requirement = {"min_bandwidth_bps": RATE_BPS, "burst_bytes": 9014}
    return {
        "name": f"f{number}", "source": "edge1", "destination": "cloud", "match": match, "requirement": requirement,
    }  # fmt: skip


def timed(work: Callable[[], httpx.Response]) -> float:
    """Milliseconds until a good answer."""
    began_s = time.perf_counter()
    answer = work()
    took_ms = (time.perf_counter() - began_s) * 1e3
    answer.raise_for_status()
    return took_ms


# Ours ----------------------------------------------------------------------------------------------------------------


def reserve(api: httpx.Client, numbers: range) -> tuple[float, str]:
    """One reservation of these flows: milliseconds, and its id."""
    body = {"flows": [flow_body(number) for number in numbers], "lease_s": 600}
    began_s = time.perf_counter()
    answer = api.post("/v1/reservations", json=body)
    took_ms = (time.perf_counter() - began_s) * 1e3
    answer.raise_for_status()
    return took_ms, answer.json()["id"]


def sequence(api: httpx.Client, count: int, group: int, first: int = 0) -> list[float]:
    """So many reservations, one after the other, each beside the ones before; then all are released."""
    made = [reserve(api, range(first + i * group, first + (i + 1) * group)) for i in range(count)]
    for _, identity in made:
        api.delete(f"/v1/reservations/{identity}").raise_for_status()
    return [took_ms for took_ms, _ in made]


def together(url: str, count: int) -> float:
    """Confirmed reservations per second with AT_ONCE clients."""
    clients = [httpx.Client(base_url=url, timeout=60) for _ in range(AT_ONCE)]
    began_s = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = [pool.submit(_share, client, k * count, count) for k, client in enumerate(clients)]
        made = [identity for job in jobs for identity in job.result()]
    rate = len(made) / (time.perf_counter() - began_s)
    for identity in made:
        clients[0].delete(f"/v1/reservations/{identity}").raise_for_status()
    for client in clients:
        client.close()
    return rate


def _share(client: httpx.Client, first: int, count: int) -> list[str]:
    return [reserve(client, range(number, number + 1))[1] for number in range(first, first + count)]


# The peer ------------------------------------------------------------------------------------------------------------


def peer_requests(map_file: Path, number: int) -> list[tuple[str, dict[str, Any]]]:
    """What ofctl_rest must be sent for the same reservation: (path, body), from the last switch to the first."""
    network = network_from_map(load_map(str(map_file)))
    asked = flow_body(number)
    match = Match("udp", asked["match"]["source_port"], 7800)
    flow = Flow(asked["name"], "edge1", "cloud", match, Requirement(RATE_BPS, 9014))
    decision = decide(network, Bookings(), (), Request("r-00000001", 1, (flow,)), 0.0)
    assert isinstance(decision, Admitted)
    placement = decision.placements[0]
    numbers = {node.name: node.datapath_id for node in network.switches}
    requests = []
    for link in network.links_along(placement.path)[1:]:
        port_meter = best_effort_meter(link, RATE_BPS * (number + 1))
        requests.append(("/stats/meterentry/modify", _meter_body(port_meter, numbers[link.source])))
    meter = reservation_meter(placement)
    own = replace(meter, meter_id=meter.meter_id + number)
    requests.append(("/stats/meterentry/add", _meter_body(own, numbers[placement.switches[0]])))
    for switch, entry in reserved_entries(network, placement, cookie_of(number + 1, 1)):
        requests.append(("/stats/flowentry/add", _flow_request(entry, numbers[switch], number)))
    return requests


def _meter_body(meter: MeterEntry, datapath_id: int | None) -> dict[str, Any]:
    band = {"type": "DROP", "rate": meter.rate_kbps, "burst_size": meter.burst_kbit}
    return {"dpid": datapath_id, "flags": ["KBPS", "BURST"], "meter_id": meter.meter_id, "bands": [band]}


def _flow_request(entry: FlowEntry, datapath_id: int | None, number: int) -> dict[str, Any]:
    actions: list[dict[str, Any]] = []
    if entry.meter_id is not None:
        actions.append({"type": "METER", "meter_id": entry.meter_id + number})
    for name, value in entry.actions:
        if name == "output":
            actions.append({"type": "OUTPUT", "port": value})
        else:
            actions.append({"type": "SET_FIELD", "field": name.removeprefix("set_"), "value": value})
    if entry.goto is not None:
        actions.append({"type": "GOTO_TABLE", "table_id": entry.goto})
    match = dict(entry.match)
    if entry.table == 1:
        match["eth_dst"] = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
    return {
        "dpid": datapath_id, "cookie": entry.cookie, "table_id": entry.table, "priority": entry.priority,
        "match": match, "actions": actions,
    }  # fmt: skip


@contextmanager
def ofctl_rest(switches: DummySwitches) -> Iterator[httpx.Client]:
    """ryu-manager with ryu.app.ofctl_rest alone, on these switches."""
    openflow, rest = free_port(), free_port()
    options = ["--ofp-listen-host", "127.0.0.1", "--ofp-tcp-listen-port", str(openflow)]
    options += ["--wsapi-host", "127.0.0.1", "--wsapi-port", str(rest)]
    command = [sys.executable, "-c", RYU_MANAGER, *options, "ryu.app.ofctl_rest"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{rest}", timeout=60) as api:
            switches.connect(openflow)
            wait_until(lambda: _connected(api) == HOPS, 60)
            yield api
    finally:
        process.terminate()
        process.wait(20)


def _connected(api: httpx.Client) -> int:
    try:
        return len(api.get("/stats/switches").json())
    except httpx.TransportError:
        return 0


def peer_sequence(switches: DummySwitches, map_file: Path, count: int) -> tuple[list[float], float]:
    """Milliseconds for each reservation's requests; reservations per second, with AT_ONCE clients."""
    work = [peer_requests(map_file, number) for number in range(2 * count)]
    with ofctl_rest(switches) as api:
        for path, body in work[0]:  # the port meters stand before the first reservation
            if path == "/stats/meterentry/modify":
                _told(api, "/stats/meterentry/add", body)
        took_ms = [sum(_told(api, path, body) for path, body in requests) for requests in work[:count]]
        clients = [httpx.Client(base_url=api.base_url, timeout=60) for _ in range(AT_ONCE)]
        began_s = time.perf_counter()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            shares = [work[count + k :: AT_ONCE] for k in range(AT_ONCE)]
            for job in [pool.submit(_send_all, client, share) for client, share in zip(clients, shares, strict=True)]:
                job.result()
        rate = count / (time.perf_counter() - began_s)
        for client in clients:
            client.close()
        wait_until(lambda: switches.ofctl("dump-flows", "s1").count("cookie=0x9ace") == 4 * count)
    return took_ms, rate


def _told(api: httpx.Client, path: str, body: dict[str, Any]) -> float:
    return timed(lambda: api.post(path, content=json.dumps(body)))


def _send_all(api: httpx.Client, work: list[list[tuple[str, dict[str, Any]]]]) -> None:
    for requests in work:
        for path, body in requests:
            api.post(path, content=json.dumps(body)).raise_for_status()


# All of it -----------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--quick", is_flag=True, help="Fewer reservations; about half a minute.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure confirmed reservations against ofctl_rest."""
    count = 60 if quick else 300
    with row_of_switches() as (switches, map_file):
        with controller_of(switches, map_file) as controller:
            sequence(controller.api, 10, 1)  # nobody measures a first time
            one_ms = sequence(controller.api, count, 1)
            rate = together(controller.url, count // AT_ONCE)
            group_ms = sequence(controller.api, max(10, count // 10), GROUP)
        switches.clear()
        peer_ms, peer_rate = peer_sequence(switches, map_file, count)
    best, peer_best = max(rate, 1e3 / report.quantile(one_ms, 0.5)), max(peer_rate, 1e3 / report.quantile(peer_ms, 0.5))
    claims = {
        "confirmed_p50_ms": report.at_most(report.quantile(one_ms, 0.5), "ms", 10),
        "confirmed_p99_ms": report.Claim(report.quantile(one_ms, 0.99), "ms"),
        "ofctl_rest_p50_ms": report.Claim(report.quantile(peer_ms, 0.5), "ms"),
        "confirmed_per_second": report.Claim(best, "1/s"),
        "ofctl_rest_per_second": report.Claim(peer_best, "1/s"),
        "rate_ratio_to_ofctl_rest": report.at_least(best / peer_best, "", 4),
        "flow_ratio_in_groups": report.Claim(GROUP * 1e3 / report.quantile(group_ms, 0.5) / peer_best, ""),
        "group16_ms": report.at_most(report.quantile(group_ms, 0.5), "ms", 60),
    }
    table = Table("", "p50 ms", "p99 ms", f"per second, {AT_ONCE} clients", title=f"{HOPS} switches, {count} each")
    for what, values, per_second in (("confirmed", one_ms, rate), ("ofctl_rest", peer_ms, peer_rate)):
        table.add_row(
            what, *(f"{report.quantile(values, share):.1f}" for share in (0.5, 0.99)), f"{per_second:.0f}"
        )
    table.add_row(f"{GROUP} flows at once", *(f"{report.quantile(group_ms, share):.1f}" for share in (0.5, 0.99)), "")
    samples: dict[str, object] = {"confirmed_ms": one_ms, "ofctl_rest_ms": peer_ms, "group16_ms": group_ms}
    report.publish("reservation_setup", claims, samples, [table], out)


if __name__ == "__main__":
    main()
