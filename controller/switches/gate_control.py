"""Opens and closes periodic windows on time.

One thread sleeps until the next moment at which a gate opens or closes. It then sends every switch concerned its own
update, so a switch that confirms slowly delays no other; when it has confirmed, it gets one update with all later
changes.

The intended state itself depends on time (`GateTarget`), so verification and repair agree with the gates at any moment.
If the controller is down, gates stay as they are. A flow with an open gate is served as guaranteed, one with a closed
gate after all reserved and before best-effort traffic until the controller is back.
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

MAX_WAIT_S = 1.0
"""The next moment is computed again after this time: the clock may have been set."""

LATE_S = 0.005
"""Gate changes later than this are logged."""


class GateTarget(Protocol):
    """Intended state that depends on time."""

    def next_gate_us(self) -> int | None:
        """When the next gate opens or closes, in Unix time; None if no gate ever does."""

    def apply_gates(self) -> ChangedKeys:
        """Adapt the intended state to the current time; the changes to send."""


class GateController:
    """Applies gate changes from `start` until `stop`; `synchronize` starts an update of switches."""

    def __init__(
        self,
        target: GateTarget,
        synchronize: Callable[[ChangedKeys], Future[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._target = target
        self._synchronize = synchronize
        self._clock = clock
        self._wakeup = threading.Condition()
        self._stopping = False
        self._rescheduled = False
        self._lock = threading.Lock()
        self._pending: dict[str, ChangedKeys] = {}
        """For every switch with an update in progress: the changes to send next."""
        self._thread = threading.Thread(target=self._run, name="paceline-gates", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; gates stay as they are."""
        with self._wakeup:
            self._stopping = True
            self._wakeup.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def reschedule(self) -> None:
        """Recompute the next moment, after windows were added or removed."""
        with self._wakeup:
            self._rescheduled = True
            self._wakeup.notify()

    def _run(self) -> None:
        following_us = self._next_us()
        while not self._wait_until(following_us):
            # Computed before the gates are applied, so that no moment between the two is missed.
            moment_us, following_us = following_us, self._next_us()
            try:
                self._apply(moment_us)
            except Exception:
                # The thread must survive any failure; the next moment corrects what was missed.
                log.exception("applying gates failed")

    def _next_us(self) -> int | None:
        try:
            return self._target.next_gate_us()
        except Exception:
            log.exception("the next gate could not be determined")
            return int((self._clock() + MAX_WAIT_S) * 1e6)

    def _wait_until(self, moment_us: int | None) -> bool:
        """Sleep until that moment or until rescheduled, but not longer than MAX_WAIT_S; whether to stop."""
        with self._wakeup:
            while not self._stopping and not self._rescheduled:
                if moment_us is None:
                    self._wakeup.wait()
                    continue
                wait_s = moment_us / 1e6 - self._clock()
                if wait_s <= 0:
                    break
                is_notified = self._wakeup.wait(min(wait_s, MAX_WAIT_S))
                if not is_notified and wait_s > MAX_WAIT_S:
                    break
            self._rescheduled = False
            return self._stopping

    def _apply(self, moment_us: int | None) -> None:
        for switch, keys in self._target.apply_gates().items():
            self._send(switch, {switch: keys})
        late_s = 0.0 if moment_us is None else self._clock() - moment_us / 1e6
        if late_s > LATE_S:
            log.info("gates applied late_ms=%.1f", late_s * 1e3)

    def _send(self, switch: str, changed: ChangedKeys) -> None:
        with self._lock:
            if switch in self._pending:  # its last update is not confirmed yet: merge into the next one
                self._pending[switch].setdefault(switch, set()).update(changed[switch])
                return
            self._pending[switch] = {}
        self._synchronize(changed).add_done_callback(lambda _: self._on_confirmed(switch))

    def _on_confirmed(self, switch: str) -> None:
        with self._lock:
            changed = self._pending.pop(switch)
        if changed:
            self._send(switch, changed)
