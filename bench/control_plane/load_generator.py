"""Throughput of a REST API under several concurrent clients.

A server's throughput is the one with the best number of clients. Two kinds of clients: minimal ones (`http_client.py`),
and httpx, the usual choice.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from control_plane.http_client import KeepAliveClient

CLIENTS = (1, 2, 4, 8, 16)
REPEATS = 3
HTTPX_CLIENTS = 4
"""Number of httpx clients."""

WorkUnit = list[tuple[str, dict[str, Any]]]
"""Requests that form one unit of work: (path, body)."""


class HttpxClient:
    """A client by httpx, the usual choice."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        self.close = self._client.close

    def post(self, path: str, body: dict[str, Any]) -> bytes:
        """Send a request and return the body of the response. Raises: httpx.HTTPStatusError."""
        return self._client.post(path, json=body).raise_for_status().content


def completed_per_s(work: list[WorkUnit], clients: Sequence[KeepAliveClient | HttpxClient]) -> float:
    """Units of work completed per second when the clients share them, each processing its share sequentially."""
    began_s = time.perf_counter()
    with ThreadPoolExecutor(len(clients)) as pool:
        jobs = [pool.submit(_do, client, work[k :: len(clients)]) for k, client in enumerate(clients)]
        for job in jobs:
            job.result()
    rate = len(work) / (time.perf_counter() - began_s)
    for client in clients:
        client.close()
    return rate


def _do(client: KeepAliveClient | HttpxClient, share: list[WorkUnit]) -> None:
    for requests in share:
        for path, body in requests:
            client.post(path, body)


@dataclass(frozen=True, slots=True)
class RequestRates:
    """Throughput per second: by number of minimal clients (median of REPEATS), and with HTTPX_CLIENTS httpx clients."""

    minimal: dict[int, float]
    httpx: float

    @property
    def best(self) -> float:
        """The throughput with the best number of clients."""
        return max(self.minimal.values())


def measure_rates(port: int, work: Callable[[], list[WorkUnit]]) -> RequestRates:
    """Measure the server on that port; `work` restores the initial state and returns the units of work."""
    turns = [
        {count: completed_per_s(work(), [KeepAliveClient(port) for _ in range(count)]) for count in CLIENTS}
        for _ in range(REPEATS)
    ]
    light = {count: statistics.median(turn[count] for turn in turns) for count in CLIENTS}
    return RequestRates(light, completed_per_s(work(), [HttpxClient(port) for _ in range(HTTPX_CLIENTS)]))
