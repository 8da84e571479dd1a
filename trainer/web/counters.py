"""Rates from successive readings of counters."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

Json = dict[str, Any]

KEPT = 256
LEAST_INTERVAL_S = 1.0


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
