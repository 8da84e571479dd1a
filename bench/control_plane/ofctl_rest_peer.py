"""The reference: Ryu's own ofctl_rest, and the requests it needs for one reservation."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from control_plane.dummy_switches import DummySwitches, free_port
from control_plane.load_generator import WorkUnit
from control_plane.lower_bound import required_changes
from controller.dataplane.entries import FlowEntry, MeterEntry
from controller.dataplane.update_order import Kind
from controller.domain.network import Network
from machine.polling import wait_until

RYU_MANAGER = """
import sys, warnings
warnings.simplefilter("ignore")
import eventlet.wsgi
eventlet.wsgi.ALREADY_HANDLED = object()
from ryu.cmd.manager import main
sys.exit(main(sys.argv[1:]))
"""


def peer_requests(network: Network, number: int, rate_bps: int) -> WorkUnit:
    """The requests for reservation `number`, from the last switch to the first."""
    numbers = {node.name: node.datapath_id for node in network.switches}
    return [
        _peer_request(kind, entry, numbers[switch])
        for switch, kind, entry in required_changes(network, number, rate_bps)
    ]


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
def ofctl_rest(switches: DummySwitches, count: int) -> Iterator[httpx.Client]:
    """Run ryu-manager with ryu.app.ofctl_rest; yields its client once `count` switches are connected."""
    openflow, rest = free_port(), free_port()
    options = ["--ofp-listen-host", "127.0.0.1", "--ofp-tcp-listen-port", str(openflow)]
    options += ["--wsapi-host", "127.0.0.1", "--wsapi-port", str(rest)]
    command = [sys.executable, "-c", RYU_MANAGER, *options, "ryu.app.ofctl_rest"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{rest}", timeout=60) as api:
            switches.connect(openflow)
            wait_until(lambda: _connected(api) == count, 60)
            yield api
    finally:
        process.terminate()
        process.wait(20)


def _connected(api: httpx.Client) -> int:
    try:
        return len(api.get("/stats/switches").json())
    except httpx.TransportError:
        return 0
