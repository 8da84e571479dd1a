"""Counters of reservations' meters over all resets of the switch's own counters.

A switch counts from 0 again when a meter is modified (Open vSwitch 3.1 and 3.5), deleted and added, or when it
restarts. Changes by the controller read the meter in the same write, directly before and after; any other reset shows
as a counter that has fallen, and what was counted since the last reading before it is lost.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from operator import lt

from controller.dataplane.meter_tokens import NO_COUNTS, MeterCounts
from controller.domain.reservation import Reservation

MeterKey = tuple[str, int]
"""(switch, meter id)."""

KEPT_ENDED = 1000


@dataclass(frozen=True, slots=True)
class EndedMeter:
    """What the meter of a flow that has ended had counted; `reservation`: as it was when it had the flow.

    `is_suspended`: the flow may return, and its counters then continue.
    """

    reservation: Reservation
    switch: str
    meter_id: int
    counts: MeterCounts
    is_suspended: bool = False


@dataclass(slots=True)
class _Account:
    """The counters of one meter."""

    offset: MeterCounts = NO_COUNTS
    """What to add to the counters that the switch tells."""
    last: MeterCounts = NO_COUNTS
    """What the switch told last."""
    changed: int = 0
    """The number of the last change of the meter, or of its confirmation; no two of any meters have the same."""
    unconfirmed: int = 0
    reading: int = 0
    """The number of the newest reading that is recorded."""

    def see(self, counts: MeterCounts) -> None:
        """Take over counters that the switch tells; fallen ones were reset."""
        if any(map(lt, counts, self.last)):
            self.offset = self.offset.plus(self.last)
        self.last = counts

    @property
    def total(self) -> MeterCounts:
        """All that is known to be counted."""
        return self.offset.plus(self.last)


class MeterTotals:
    """Counters that never fall while the controller runs. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts: dict[MeterKey, _Account] = {}
        self._changes = 0
        self._leaving: dict[MeterKey, tuple[Reservation, bool]] = {}
        self._suspended: dict[MeterKey, MeterCounts] = {}
        """What the meters of suspended flows had counted."""
        self._ended: deque[EndedMeter] = deque(maxlen=KEPT_ENDED)

    def _account(self, key: MeterKey) -> _Account:
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account(changed=self._number())
        return account

    def _number(self) -> int:
        self._changes += 1
        return self._changes

    # Changes --------------------------------------------------------------------------------------------------------

    def leave(self, key: MeterKey, reservation: Reservation, is_suspended: bool = False) -> None:
        """The flow of a meter ends or is suspended; the deletion of the meter follows."""
        with self._lock:
            self._leaving[key] = reservation, is_suspended

    def end_suspended(self, keys: Iterable[MeterKey]) -> None:
        """The suspended flows of these meters have ended."""
        with self._lock:
            for key in keys:
                self._suspended.pop(key, None)

    def start(self, key: MeterKey) -> None:
        """The first meter of a flow is being added: count from 0, or from where the flow was suspended."""
        with self._lock:
            self._accounts[key] = _Account(self._suspended.pop(key, NO_COUNTS), changed=self._number())

    def change(self, key: MeterKey) -> None:
        """A change of a meter is being sent, which reads it."""
        with self._lock:
            account = self._account(key)
            account.changed = self._number()
            account.unconfirmed += 1

    def confirm(self, key: MeterKey, before: MeterCounts, after: MeterCounts) -> MeterCounts:
        """A change was confirmed, between these readings; zero where the meter did not exist. Returns the total."""
        with self._lock:
            account = self._account(key)
            account.changed = self._number()
            account.unconfirmed = max(0, account.unconfirmed - 1)
            account.see(before)
            account.offset, account.last = account.offset.plus(before).plus(after, -1), after
            return account.total

    def end(self, key: MeterKey, before: MeterCounts) -> MeterCounts:
        """The deletion of a meter was confirmed, after this reading. Returns the total."""
        with self._lock:
            account = self._accounts.pop(key, _Account())
            account.see(before)
            reservation, is_suspended = self._leaving.pop(key, (None, False))
            if is_suspended:
                self._suspended[key] = account.total
            if reservation is not None and account.total.dropped_packets:
                self._ended.append(EndedMeter(reservation, *key, account.total, is_suspended))
            return account.total

    def forget(self, switch: str) -> None:
        """The state of a switch is not known: changes of its meters may not be confirmed any more."""
        with self._lock:
            for key, account in self._accounts.items():
                if key[0] == switch:
                    account.changed = self._number()
                    account.unconfirmed = 0

    # Readings -------------------------------------------------------------------------------------------------------

    def begin(self, key: MeterKey) -> int | None:
        """A reading is about to be requested: what `record` needs; None: a change is not confirmed yet."""
        with self._lock:
            account = self._account(key)
            return None if account.unconfirmed else account.changed

    def record(self, key: MeterKey, begun: int | None, number: int, counts: MeterCounts) -> MeterCounts | None:
        """The total as of a reading; None if the meter was changed meanwhile, so the reading says nothing.

        `number`: rises in the order in which readings were requested.
        """
        with self._lock:
            account = self._accounts.get(key)
            if account is None or account.unconfirmed or account.changed != begun:
                return None
            if number > account.reading:
                account.reading = number
                account.see(counts)
            return account.total

    def known(self, key: MeterKey) -> MeterCounts:
        """The total as of the last reading."""
        with self._lock:
            return self._accounts.get(key, _Account()).total

    def pop_ended(self) -> list[EndedMeter]:
        """The meters with drops that were deleted since the last call."""
        with self._lock:
            ended = list(self._ended)
            self._ended.clear()
            return ended
