"""A standby takes over while reserved datagrams are on the way: none is lost, whatever has become of the one before."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from emulation.controller_process import ControllerProcess
from machine.polling import wait_until
from machine.postgresql_server import PostgreSQL
from tests.network.conftest import Network, started
from tests.network.datagram_stream import RATE_BPS, stream, udp_flow
from tests.network.lab import free_port
from topologies import running_emulation
from topologies.map_file.loader import load_map, map_path

STREAM_S = 6.0


@pytest.fixture
def controllers(tmp_path: Path) -> Iterator[list[ControllerProcess]]:
    """The active one, and its standby."""
    with ExitStack() as stack:
        server = PostgreSQL()
        stack.callback(server.remove)
        url, running = server.create("takeover"), list[ControllerProcess]()
        for name in ("one", "two"):
            addresses = [("127.0.0.1", free_port()) for _ in range(2)]
            running.append(
                ControllerProcess(
                    map_path("pair"), addresses[0], addresses[1:], url, tmp_path / f"{name}.log", options=["--standby"]
                )
            )
            stack.callback(running[-1].stop)
            wait_until(lambda: health(running[-1]))
        yield running


def health(controller: ControllerProcess) -> dict[str, Any]:
    """What it says of itself; empty if it does not answer."""
    try:
        answer: dict[str, Any] = httpx.get(f"{controller.url}/v1/healthz", timeout=2).json()
        return answer
    except httpx.TransportError:
        return {}


@pytest.mark.usefixtures("no_emulation")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_no_reserved_datagram_is_lost_when_a_standby_takes_over(
    controllers: list[ControllerProcess], tmp_path: Path, end: signal.Signals
) -> None:
    before, after = controllers
    targets = [word for each in controllers for word in ("--openflow", f"127.0.0.1:{each.openflow_port}")]
    start = ["pair", "--no-prompt", "--controller", "remote", *targets]
    with started(start, tmp_path / "start.log"), httpx.Client(base_url=after.url, timeout=20) as successor:
        note = running_emulation.read()
        assert note is not None
        topology = load_map(note.map_path)
        wait_until(lambda: health(before).get("switches_up") == len(topology.switches))
        with httpx.Client(base_url=before.url, timeout=20) as api:
            network = Network(topology, note, api)
            flow = udp_flow("edge1", "cloud", {"min_bandwidth_bps": RATE_BPS})
            made = api.post("/v1/reservations", json={"lease_s": 300, "flows": [flow]})
        assert made.status_code == 201, made.text
        with stream(network, "edge1", "cloud", STREAM_S, tmp_path) as result:
            before.process.send_signal(end)
            other = {"flows": [network.uplink("edge2", RATE_BPS)], "lease_s": 300}
            wait_until(lambda: successor.post("/v1/reservations", json=other).status_code == 201)
            if end is signal.SIGSTOP:
                before.process.send_signal(signal.SIGCONT)
                assert before.process.wait(60) == 3, before.log.read_text()
        result.check_complete()
        kept = successor.get(f"/v1/reservations/{made.json()['id']}").json()
        assert kept["state"] == "active", kept
        assert [flow["path"] for flow in kept["flows"]] == [flow["path"] for flow in made.json()["flows"]]
        assert successor.get("/v1/consistency").json()["consistent"]
