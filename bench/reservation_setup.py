"""How long a confirmed reservation takes, against Ryu's own ofctl_rest telling switches the same entries unconfirmed.

Six switches of real Open vSwitch in a row, a controller process, REST over keep-alive connections. A reservation is
decided, proven, installed on six switches with best effort shrunk on seven links, confirmed by barriers, and written to
the ledger. ofctl_rest is sent the same meter and flow entries, a request each (it has no other way): the flow's meter,
the best-effort meters that shrink, seven flow entries. It decides, confirms and remembers nothing.

Servers are what is compared, so the clients do next to nothing (keepalive.py). With a client of everyday, httpx, which
takes longer over 14 requests than ofctl_rest over their answers, the ratio is another: `rate_ratio_with_httpx`. The
floor (floor.py) is what FastAPI and the switches alone cost: no controller in one Python process can be faster.

    .venv/bin/python bench/reservation_setup.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import httpx
import report
from floor import floor_of, needed
from keepalive import KeepAlive
from rich.table import Table
from switches import ControllerProcess, DummySwitches, free_port, wait_until

from controller.entries import FlowEntry, MeterEntry
from controller.network import Network, network_from_map
from controller.reconcile import Kind
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


# Ours ----------------------------------------------------------------------------------------------------------------


def reserve(api: httpx.Client, numbers: range) -> tuple[float, str]:
    """One reservation of these flows: milliseconds, and its id."""
    body = {"flows": [flow_body(number) for number in numbers], "lease_s": 600}
    began_s = time.perf_counter()
    answer = api.post("/v1/reservations", json=body)
    took_ms = (time.perf_counter() - began_s) * 1e3
    answer.raise_for_status()
    return took_ms, answer.json()["id"]


def sequence(api: httpx.Client, count: int, group: int) -> list[float]:
    """Milliseconds of so many reservations, one after the other, each beside the ones before; then all are released."""
    bodies = [body_of(range(i * group, (i + 1) * group)) for i in range(count)]
    client, took_ms = KeepAlive(port_of(api)), []
    for body in bodies:
        began_s = time.perf_counter()
        client.post("/v1/reservations", body)
        took_ms.append((time.perf_counter() - began_s) * 1e3)
    client.close()
    release_all(api)
    return took_ms


def body_of(numbers: range) -> dict[str, Any]:
    """A request for these flows."""
    return {"flows": [flow_body(number) for number in numbers], "lease_s": 600}


def port_of(api: httpx.Client) -> int:
    """Where a client's server listens."""
    assert api.base_url.port is not None
    return api.base_url.port


def release_all(api: httpx.Client) -> None:
    """Release whatever is live."""
    for each in api.get("/v1/reservations?state=active").json()["reservations"]:
        api.delete(f"/v1/reservations/{each['id']}").raise_for_status()


# Loads ---------------------------------------------------------------------------------------------------------------

Work = list[tuple[str, dict[str, Any]]]
"""Requests that belong together: (path, body)."""


def per_second(work: list[Work], clients: Sequence[KeepAlive | Everyday]) -> float:
    """How many of these are done in a second when the clients share them, each doing one after the other."""
    began_s = time.perf_counter()
    with ThreadPoolExecutor(len(clients)) as pool:
        jobs = [pool.submit(_do, client, work[k :: len(clients)]) for k, client in enumerate(clients)]
        for job in jobs:
            job.result()
    rate = len(work) / (time.perf_counter() - began_s)
    for client in clients:
        client.close()
    return rate


def _do(client: KeepAlive | Everyday, share: list[Work]) -> None:
    for requests in share:
        for path, body in requests:
            client.post(path, body)


class Everyday:
    """httpx, as most people would use it."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        self.close = self._client.close

    def post(self, path: str, body: dict[str, Any]) -> bytes:
        """Send it and wait for a good answer."""
        return self._client.post(path, json=body).raise_for_status().content


def reservations(numbers: range) -> list[Work]:
    """A reservation of one flow each."""
    return [[("/v1/reservations", body_of(range(number, number + 1)))] for number in numbers]


def both_kinds(port: int, work: Callable[[int], list[Work]]) -> tuple[float, float]:
    """Per second with AT_ONCE clients that do next to nothing, and with as many of everyday."""
    light = per_second(work(0), [KeepAlive(port) for _ in range(AT_ONCE)])
    return light, per_second(work(1), [Everyday(port) for _ in range(AT_ONCE)])


# The peer ------------------------------------------------------------------------------------------------------------


def peer_requests(network: Network, number: int) -> Work:
    """What ofctl_rest must be sent for the same reservation: from the last switch to the first."""
    numbers = {node.name: node.datapath_id for node in network.switches}
    return [_peer_request(kind, entry, numbers[switch]) for switch, kind, entry in needed(network, number, RATE_BPS)]


def _peer_request(kind: Kind, entry: MeterEntry | FlowEntry, datapath_id: int | None) -> tuple[str, dict[str, Any]]:
    command, _, what = kind.partition("_")
    body = _flow_request(entry) if isinstance(entry, FlowEntry) else _meter_request(entry)
    return f"/stats/{what}entry/{command}", {"dpid": datapath_id, **body}


def _meter_request(meter: MeterEntry) -> dict[str, Any]:
    band = {"type": "DROP", "rate": meter.rate_kbps, "burst_size": meter.burst_kbit}
    return {"flags": ["KBPS", "BURST"], "meter_id": meter.meter_id, "bands": [band]}


def _flow_request(entry: FlowEntry) -> dict[str, Any]:
    actions: list[dict[str, Any]] = []
    if entry.meter_id is not None:
        actions.append({"type": "METER", "meter_id": entry.meter_id})
    for name, value in entry.actions:
        if name == "output":
            actions.append({"type": "OUTPUT", "port": value})
        else:
            actions.append({"type": "SET_FIELD", "field": name.removeprefix("set_"), "value": value})
    if entry.goto is not None:
        actions.append({"type": "GOTO_TABLE", "table_id": entry.goto})
    return {
        "cookie": entry.cookie, "table_id": entry.table, "priority": entry.priority, "match": dict(entry.match),
        "actions": actions,
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


def peer_figures(switches: DummySwitches, network: Network, count: int) -> tuple[list[float], float, float]:
    """Milliseconds for each reservation's requests; reservations per second, with either kind of clients."""
    with ofctl_rest(switches) as api:
        client, took_ms = KeepAlive(port_of(api)), []
        for requests in [peer_requests(network, number) for number in range(count)]:
            began_s = time.perf_counter()
            for path, body in requests:
                client.post(path, body)
            took_ms.append((time.perf_counter() - began_s) * 1e3)
        client.close()

        def work(turn: int) -> list[Work]:
            return [peer_requests(network, (turn + 1) * count + number) for number in range(count)]

        rates = both_kinds(port_of(api), work)
        wait_until(lambda: switches.ofctl("dump-flows", "s1").count("cookie=0x9ace") == 6 * count)
    return took_ms, *rates


# All of it -----------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--quick", is_flag=True, help="Fewer reservations; about half a minute.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure confirmed reservations against ofctl_rest."""
    count = 60 if quick else 300
    with row_of_switches() as (switches, map_file):
        network = network_from_map(load_map(str(map_file)))
        with controller_of(switches, map_file) as controller:
            sequence(controller.api, 10, 1)  # nobody measures a first time
            one_ms = sequence(controller.api, count, 1)

            def work(turn: int) -> list[Work]:
                release_all(controller.api)
                return reservations(range(turn * count, (turn + 1) * count))

            rate, rate_by_httpx = both_kinds(port_of(controller.api), work)
            release_all(controller.api)
            group_ms = sequence(controller.api, max(10, count // 10), GROUP)
        switches.clear()
        peer_ms, peer_rate, peer_rate_by_httpx = peer_figures(switches, network, count)
        switches.clear()
        with floor_of(switches, map_file, count, RATE_BPS) as port:
            floor_rate = per_second(reservations(range(count)), [KeepAlive(port) for _ in range(AT_ONCE)])
    best = max(rate, 1e3 / report.quantile(one_ms, 0.5))
    peer_best = max(peer_rate, 1e3 / report.quantile(peer_ms, 0.5))
    claims = {
        "confirmed_p50_ms": report.at_most(report.quantile(one_ms, 0.5), "ms", 10),
        "confirmed_p99_ms": report.Claim(report.quantile(one_ms, 0.99), "ms"),
        "ofctl_rest_p50_ms": report.Claim(report.quantile(peer_ms, 0.5), "ms"),
        "confirmed_per_second": report.Claim(best, "1/s"),
        "ofctl_rest_per_second": report.Claim(peer_best, "1/s"),
        "floor_per_second": report.Claim(floor_rate, "1/s"),
        "rate_ratio_to_ofctl_rest": report.at_least(best / peer_best, "", 4),
        "floor_ratio_to_ofctl_rest": report.Claim(floor_rate / peer_best, ""),
        "rate_ratio_with_httpx": report.Claim(rate_by_httpx / peer_rate_by_httpx, ""),
        "flow_ratio_in_groups": report.Claim(GROUP * 1e3 / report.quantile(group_ms, 0.5) / peer_best, ""),
        "group16_ms": report.at_most(report.quantile(group_ms, 0.5), "ms", 60),
    }
    table = Table("", "p50 ms", "p99 ms", f"per second, {AT_ONCE} clients", title=f"{HOPS} switches, {count} each")
    for what, values, per_s in (("confirmed", one_ms, rate), ("ofctl_rest", peer_ms, peer_rate)):
        table.add_row(what, *(f"{report.quantile(values, share):.1f}" for share in (0.5, 0.99)), f"{per_s:.0f}")
    table.add_row("confirmed, httpx", "", "", f"{rate_by_httpx:.0f}")
    table.add_row("ofctl_rest, httpx", "", "", f"{peer_rate_by_httpx:.0f}")
    table.add_row("floor", "", "", f"{floor_rate:.0f}")
    table.add_row(f"{GROUP} flows at once", *(f"{report.quantile(group_ms, share):.1f}" for share in (0.5, 0.99)), "")
    samples: dict[str, object] = {"confirmed_ms": one_ms, "ofctl_rest_ms": peer_ms, "group16_ms": group_ms}
    report.publish("reservation_setup", claims, samples, [table], out)


if __name__ == "__main__":
    main()
