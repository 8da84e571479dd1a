"""Rates from successive readings of counters."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Any

Json = dict[str, Any]

KEPT = 256
LEAST_INTERVAL_S = 1.0
MOST_INTERVAL_S = 10.0
"""A rate since a reading longer ago says nothing of now."""


class CounterReadings:
    """The last readings of the meters of reservations."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, tuple[float, dict[str, int], dict[str, float]]] = OrderedDict()

    def rates_bps(self, reservation: str, counters: Json) -> dict[str, float]:
        """Return the rate of every flow since the reading before; empty at the first one."""
        now_s = time.monotonic()
        passed = {meter["flow"]: meter["bytes"] - meter["dropped_bytes"] for meter in counters["meters"]}
        before = self._last.get(reservation)
        if before is not None and now_s - before[0] < LEAST_INTERVAL_S:
            return before[2]
        rates = (
            {}
            if before is None
            else {
                flow: max(0, count - before[1][flow]) * 8 / (now_s - before[0])
                for flow, count in passed.items()
                if flow in before[1]
            }
        )
        self._last[reservation] = now_s, passed, rates
        self._last.move_to_end(reservation)
        while len(self._last) > KEPT:
            self._last.popitem(last=False)
        return rates


class LinkRates:
    """What flows on every link: rates between the last two readings of the links' counters. Thread-safe."""

    def __init__(self, read: Callable[[], Json]) -> None:
        """`read`: returns the answer of GET /v1/network/counters."""
        self._read = read
        self._lock = threading.Lock()
        self._asked_at_s = -LEAST_INTERVAL_S
        self._before: tuple[float, dict[str, int]] | None = None
        self._rates: dict[str, float] = {}

    def now_bps(self) -> dict[str, float]:
        """Return the rate of every directed link; empty at the first reading. All who ask within a second share one.

        Raises: TrainerError.
        """
        with self._lock:
            if time.monotonic() - self._asked_at_s >= LEAST_INTERVAL_S:
                self._asked_at_s = time.monotonic()
                self._rates = {}
                self._take(self._read())
            return self._rates

    def _take(self, answer: Json) -> None:
        at_s = datetime.fromisoformat(answer["read_at"]).timestamp()
        counts = {each["link"]: each["bytes"] for each in answer["links"]}
        if self._before is not None and self._before[0] < at_s < self._before[0] + MOST_INTERVAL_S:
            then_s, earlier = self._before
            self._rates = {
                link: max(0, count - earlier[link]) * 8 / (at_s - then_s)
                for link, count in counts.items()
                if link in earlier
            }
        self._before = at_s, counts
