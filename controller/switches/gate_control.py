"""Opens and closes periodic windows on time.

One thread sleeps until the next moment at which a gate opens or closes and then has every switch concerned told, each
on its own: a switch that is slow to confirm delays no other, and is told only once, of how things stand by then.

Nothing else knows what is open: what the switches should hold at a moment is worked out in one place (`GateTarget`), so
whoever compares or repairs them meanwhile wants the same. If the controller is away, gates stay as they are: a flow
that finds its gate open is served as promised, one that finds it closed goes behind everything reserved and before best
effort until the controller is back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from controller.dataplane.intended_state import ChangedKeys

log = logging.getLogger(__name__)

LATE_S = 0.005
"""A gate that was told of later than this is worth a line in the log."""


class GateTarget(Protocol):
    """What the switches should hold as time goes by, and the way to tell them."""

    def next_gate_us(self) -> int | None:
        """When the next gate opens or closes, in Unix time; None if none ever does."""

    def apply_gates(self) -> ChangedKeys:
        """From now on gates should stand as this moment wants them; what must be told for that."""

    def synchronize(self, touched: ChangedKeys) -> Future[None]:
        """Bring those of these switches that are known to what they should hold."""


class GateController:
    """Turns gates from `start` until `stop`; `look_again` when windows have come or gone."""

    def __init__(self, timetable: GateTarget, clock: Callable[[], float] = time.time) -> None:
        self._timetable = timetable
        self._clock = clock
        self._changed = threading.Condition()
        self._stopping = False
        self._again = False
        self._lock = threading.Lock()
        self._waiting: dict[str, ChangedKeys] = {}
        self._thread = threading.Thread(target=self._run, name="paceline-gates", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; gates stay as they are."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def look_again(self) -> None:
        """Windows have come or gone: the next moment may be another."""
        with self._changed:
            self._again = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            moment_us = self._timetable.next_gate_us()
            if self._wait_until(moment_us):
                return
            try:
                self._turn(moment_us)
            except Exception:
                # Gates must go on turning whatever went wrong; what was missed is put right at the next moment.
                log.exception("gates could not be turned")

    def _wait_until(self, moment_us: int | None) -> bool:
        """Sleep until then, or until something has changed; whether it is the end."""
        with self._changed:
            while not self._stopping and not self._again:
                wait_s = None if moment_us is None else moment_us / 1e6 - self._clock()
                if wait_s is not None and wait_s <= 0:
                    break
                self._changed.wait(wait_s)
            self._again = False
            return self._stopping

    def _turn(self, moment_us: int | None) -> None:
        for switch, keys in self._timetable.apply_gates().items():
            self._tell({switch: keys}, switch)
        late_s = 0.0 if moment_us is None else self._clock() - moment_us / 1e6
        if late_s > LATE_S:
            log.info("gates turned late_ms=%.1f", late_s * 1e3)

    def _tell(self, touched: ChangedKeys, switch: str) -> None:
        with self._lock:
            if switch in self._waiting:  # it has not confirmed the last turn yet; then it hears of this one
                self._waiting[switch].setdefault(switch, set()).update(touched[switch])
                return
            self._waiting[switch] = {}
        self._timetable.synchronize(touched).add_done_callback(lambda _: self._confirmed(switch))

    def _confirmed(self, switch: str) -> None:
        with self._lock:
            further = self._waiting.pop(switch)
        if further:
            self._tell(further, switch)
