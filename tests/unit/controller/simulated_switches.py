"""The real service and its REST interface on switches that confirm every request immediately."""

# ruff: noqa: ARG002 - the signatures are those of the real switches

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from queue import Queue
from typing import Any

import httpx
from fastapi import FastAPI

from controller.api.server import RestServer
from controller.dataplane.entries import MeterEntry
from controller.dataplane.southbound import (
    ChangesByDatapath,
    FlowCounter,
    MeterCounter,
    Pause,
    PortCounter,
    Reading,
    SwitchConnected,
    SwitchEvent,
)
from controller.dataplane.switch_capabilities import SwitchCapabilities
from controller.domain.network import Network, network_from_map
from controller.errors import SwitchRefused
from controller.service.reservation_service import Service
from controller.service.retention import RetentionTask
from controller.storage.ledger import Ledger
from machine.polling import wait_until
from topologies.map_file.loader import load_map

PAIR = network_from_map(load_map("pair"))


class ConfirmingSwitches:
    """All switches of the map, connected; they confirm every request. `failures`: the next so many changes fail."""

    def __init__(self, network: Network = PAIR) -> None:
        self.network = network
        self.failures = 0
        self.events: Queue[SwitchEvent | None] = Queue()
        self.connections = dict.fromkeys(network.switch_by_datapath_id, 1)
        for switch in network.switches:
            ports = {link.source_port: ("", True) for link in network.links_from(switch.name)}
            self.events.put(SwitchConnected(switch.datapath_id or 0, ports))

    def expect(self, names: Mapping[int, str], ports: Mapping[int, Collection[int]]) -> None:
        pass

    def connected(self) -> dict[int, int]:
        return self.connections.copy()

    def silent_s(self, datapath_id: int) -> float:
        return 0.0

    def apply(self, stages: Iterable[ChangesByDatapath | Pause], timeout_s: float) -> Future[None]:
        result = _done(list(stages))
        if self.failures:
            self.failures -= 1
            result = Future()
            result.set_exception(SwitchRefused("a switch refused a change.", datapath_ids=[]))
        return result

    def read_state(self, datapath_id: int, timeout_s: float, on_request: Callable[[], None]) -> Future[Reading]:
        on_request()
        return _done(Reading({}))

    def read_counters(
        self, datapath_id: int, cookie: int, cookie_mask: int, meters: Sequence[MeterEntry], timeout_s: float
    ) -> Future[tuple[list[FlowCounter], list[MeterCounter]]]:
        return _done(([], []))

    def read_ports(self, datapath_id: int, timeout_s: float) -> Future[list[PortCounter]]:
        name = self.network.switch_by_datapath_id[datapath_id].name
        links = self.network.links_from(name)
        return _done([PortCounter(link.source_port, 1000 * link.source_port, datapath_id) for link in links])

    def read_capabilities(self, datapath_id: int, timeout_s: float) -> Future[SwitchCapabilities]:
        return _done(SwitchCapabilities(datapath_id))

    def send_frames(self, datapath_id: int, frames: Mapping[int, bytes]) -> None:
        pass


def _done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future


@contextmanager
def running_service(
    ledger: Ledger, retention_tasks: Sequence[RetentionTask] = (), switches: ConfirmingSwitches | None = None
) -> Iterator[Service]:
    """Run a service on the map `pair`, with all switches in sync."""
    running = Service(PAIR, switches or ConfirmingSwitches(), ledger, retention_tasks=retention_tasks)
    running.start()
    try:
        wait_until(lambda: running.queries.switches_up() == len(PAIR.switches))
        yield running
    finally:
        running.stop()


@contextmanager
def serving(app: FastAPI) -> Iterator[httpx.Client]:
    """Serve the application with uvicorn; yields an HTTP client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rest = RestServer(app, [listener])
        rest.start()
        try:
            assert rest.ready.wait(60)
            with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30) as client:
                yield client
        finally:
            rest.stop()
