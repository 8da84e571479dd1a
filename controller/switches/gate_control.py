"""Opens and closes periodic windows on time.

One thread sleeps until the next moment at which a gate opens or closes. It then sends every switch concerned its own
update, so a switch that confirms slowly delays no other; when it has confirmed, it gets one update with all later
changes. A change that is confirmed later than the bounds allow for is told, at most once a second.

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
from math import inf
from typing import NamedTuple, Protocol

from controller.booking.gate_schedule import TOLERATED_LATE_US
from controller.dataplane.intended_state import ChangedKeys
from controller.domain.events import GatesLate

log = logging.getLogger(__name__)

MAX_WAIT_S = 1.0
"""The next moment is computed again after this time: the clock may have been set."""

TELL_INTERVAL_S = 1.0
"""Late changes are told together after so much time."""


class GateTarget(Protocol):
    """Intended state that depends on time."""

    def next_gate_us(self) -> int | None:
        """When the next gate opens or closes, in Unix time; None if no gate ever does."""

    def apply_gates(self) -> ChangedKeys:
        """Adapt the intended state to the current time; the changes to send."""


class _Late(NamedTuple):
    """A change that a switch has confirmed late: when, and by how much."""

    switch: str
    confirmed_s: float
    late_s: float


class GateController:
    """Applies gate changes from `start` until `stop`.

    `synchronize` starts an update of switches; `publish` is called with late changes, in the thread of the gates.
    """

    def __init__(
        self,
        target: GateTarget,
        synchronize: Callable[[ChangedKeys], Future[None]],
        publish: Callable[[GatesLate], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._target = target
        self._synchronize = synchronize
        self._publish = publish
        self._clock = clock
        self._wakeup = threading.Condition()
        self._stopping = False
        self._rescheduled = False
        self._lock = threading.Lock()
        self._pending: dict[str, ChangedKeys] = {}
        """For every switch with an update in progress: the changes to send next."""
        self._next_due_s: dict[str, float] = {}
        """For every switch with changes to send next: when the first of them was due."""
        self._late: list[_Late] = []
        """Late changes that have not been told."""
        self._told_s = -inf
        self._due_s = -inf
        """When the gates should change next: on the monotonic clock, so that a step of the other makes none late."""
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
            following_us = self._next_us()
            try:
                self._apply()
                self._tell_late()
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
        self._due_s = inf
        with self._wakeup:
            while not self._stopping and not self._rescheduled:
                if moment_us is None:
                    self._wakeup.wait()
                    continue
                wait_s = moment_us / 1e6 - self._clock()
                if wait_s <= 0:
                    if self._due_s == inf:  # it has passed while the changes before were applied
                        self._due_s = time.monotonic() + max(wait_s, -MAX_WAIT_S)
                    break
                self._due_s = time.monotonic() + wait_s
                is_notified = self._wakeup.wait(min(wait_s, MAX_WAIT_S))
                if not is_notified and wait_s > MAX_WAIT_S:
                    break
            self._rescheduled = False
            self._due_s = min(self._due_s, time.monotonic())
            return self._stopping

    def _apply(self) -> None:
        for switch, keys in self._target.apply_gates().items():
            self._send(switch, {switch: keys}, self._due_s)

    def _send(self, switch: str, changed: ChangedKeys, due_s: float) -> None:
        with self._lock:
            if switch in self._pending:  # its last update is not confirmed yet: merge into the next one
                if not self._pending[switch]:
                    self._next_due_s[switch] = due_s
                self._pending[switch].setdefault(switch, set()).update(changed[switch])
                return
            self._pending[switch] = {}
        self._synchronize(changed).add_done_callback(lambda _: self._on_confirmed(switch, due_s))

    def _on_confirmed(self, switch: str, due_s: float) -> None:
        late_s = time.monotonic() - due_s
        with self._lock:
            changed = self._pending.pop(switch)
            next_due_s = self._next_due_s.pop(switch, due_s)
            if late_s * 1e6 > TOLERATED_LATE_US:
                self._late.append(_Late(switch, self._clock(), late_s))
        if changed:
            self._send(switch, changed, next_due_s)

    def _tell_late(self) -> None:
        """Tell of the late changes since the last time, if that was long enough ago."""
        if not self._late or time.monotonic() < self._told_s + TELL_INTERVAL_S:
            return
        self._told_s = time.monotonic()
        with self._lock:
            late, self._late = self._late, []
        names = tuple(sorted({each.switch for each in late}))
        since_s = min(each.confirmed_s - each.late_s for each in late)
        event = GatesLate(names, since_s, max(each.late_s for each in late), len(late))
        log.warning("gates changed late switches=%s late_ms=%.1f", ",".join(names), event.late_s * 1e3)
        self._publish(event)
