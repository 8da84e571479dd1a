"""Requests shared among clients that are at it at once: how many are done in a second.

A server's rate is the one it has with as many clients as suit it best. Two kinds of clients: such that do next to
nothing (keepalive.py), and httpx, as most people would use it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from control_plane.http_client import KeepAlive

CLIENTS = (1, 2, 4, 8, 16)
TURNS = 3
AT_ONCE = 4
"""So many of everyday."""

Work = list[tuple[str, dict[str, Any]]]
"""Requests that belong together: (path, body)."""


class Everyday:
    """httpx, as most people would use it."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        self.close = self._client.close

    def post(self, path: str, body: dict[str, Any]) -> bytes:
        """Send it and wait for a good answer."""
        return self._client.post(path, json=body).raise_for_status().content


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


@dataclass(frozen=True, slots=True)
class Rates:
    """How many a second: by so many clients that do next to nothing, the median of TURNS; with AT_ONCE of everyday."""

    light: dict[int, float]
    everyday: float

    @property
    def best(self) -> float:
        """With as many clients as suit the server best."""
        return max(self.light.values())


def rates(port: int, work: Callable[[], list[Work]]) -> Rates:
    """Of a server that listens there; `work` makes everything as it was and tells what to do."""
    turns = [
        {count: per_second(work(), [KeepAlive(port) for _ in range(count)]) for count in CLIENTS} for _ in range(TURNS)
    ]
    light = {count: statistics.median(turn[count] for turn in turns) for count in CLIENTS}
    return Rates(light, per_second(work(), [Everyday(port) for _ in range(AT_ONCE)]))
