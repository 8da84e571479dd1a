"""Requests shared among clients that are at it at once: how many are done in a second.

Two kinds of clients: such that do next to nothing (keepalive.py), and httpx, as most people would use it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from keepalive import KeepAlive

AT_ONCE = 4

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


def both_kinds(port: int, work: Callable[[int], list[Work]]) -> tuple[float, float]:
    """Per second with AT_ONCE clients that do next to nothing, and with as many of everyday."""
    light = per_second(work(0), [KeepAlive(port) for _ in range(AT_ONCE)])
    return light, per_second(work(1), [Everyday(port) for _ in range(AT_ONCE)])
