"""What the controller knows of the token buckets of reservations' meters, so that no change of a meter adds tokens.

Also the counters that a change would lose: `totals`. Not thread-safe; under the lock of SwitchStateTracker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from controller.dataplane.entries import Entries, Entry, Key, MeterEntry, key_of
from controller.dataplane.meter_tokens import (
    DRAWS,
    GROWTH_DRAWS,
    TokenMove,
    bucket_bytes,
    drain_frames,
    draw_frames,
    frames_of,
    start_bytes,
)
from controller.dataplane.update_order import Change
from controller.domain.reservation import FIRST_METER_ID, Reservation
from controller.switches.meter_totals import MeterKey, MeterTotals

DRAWN_BYTES = 2 << 20
"""Tokens are taken out of so many bytes of buckets at a time: the less time passes until they are changed, the fewer
tokens they lose by it."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """Tokens taken out of a meter in use, when, and what had passed it until then."""

    bytes: int
    at_s: float
    passed_bytes: int


@dataclass(frozen=True, slots=True)
class _Start:
    """A changed meter: the content of its new bucket, and the tokens taken out of the old one before."""

    bytes: int
    taken: _Taken | None
    grant_bytes: int = 0
    """The part by which the meter has grown."""


class MeterBuckets:
    """The buckets of all reservations' meters on all switches.

    Three things may have tokens: the first meter of a flow of a new reservation starts full; a changed meter starts
    with what was taken out of the old bucket; every other meter that is added starts empty.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._unused: set[MeterKey] = set()
        """Meters that no switch has yet, of flows that have never sent by another meter of their reservation."""
        self._taken: dict[MeterKey, _Taken] = {}
        self._grants: dict[MeterKey, int] = {}
        """Tokens that the next change of a meter adds, because the bounds count as many more from now on."""
        self._starts: dict[MeterKey, _Start] = {}
        """Meters whose change is being confirmed."""
        self._surplus_bytes: dict[MeterKey, int] = {}
        """Tokens that a bucket may have beyond those of its flow."""
        self.totals = MeterTotals()
        """Thread-safe."""
        self._deleting: set[MeterKey] = set()
        """Meters whose deletion is not confirmed yet."""
        self._ended_s: dict[MeterKey, float] = {}
        """When the deletion of a meter that packets had passed was confirmed."""

    # Intended state -------------------------------------------------------------------------------------------------

    def set_intended(self, before: Reservation | None, after: Reservation | None) -> None:
        """Note the new meters of a reservation."""
        if before is None and after is not None:
            self._unused.update(meters_of(after))
            return
        old, new = meters_of(before), meters_of(after)
        suspended = _suspended_meters(after)
        self._unused -= old - new
        self.totals.end_suspended(_suspended_meters(before) - suspended - new)
        if before is not None:
            for key in old - new:
                self.totals.leave(key, before, key in suspended)
        if not old - new:
            self._unused |= new - old

    def grow(self, key: MeterKey, by_bytes: int) -> None:
        """Give these tokens to a meter that grows."""
        self._grants[key] = self._grants.get(key, 0) + max(0, by_bytes)

    def forget_grants(self, switch: str | None = None) -> None:
        """Give no tokens for how the meters of a switch, or of all, have grown so far."""
        self._grants = {key: grant for key, grant in self._grants.items() if switch not in (None, key[0])}

    def forget(self, switch: str) -> None:
        """The state of a switch is not known: it may have any of its intended meters already."""
        self._unused = {key for key in self._unused if key[0] != switch}
        self._deleting = {key for key in self._deleting if key[0] != switch}
        self.totals.forget(switch)

    # Changes --------------------------------------------------------------------------------------------------------

    def draws(
        self, changes: Mapping[str, Iterable[Change]], applied: Mapping[str, Entries]
    ) -> tuple[dict[str, list[Change]], set[tuple[str, Key]] | None]:
        """The moves of tokens out of meters that these changes modify; to be confirmed before the changes.

        Of many meters only some are chosen, which are returned, too; the others keep all their tokens until it is their
        turn.
        """
        draws: dict[str, list[Change]] = {}
        chosen: set[tuple[str, Key]] = set()
        is_all, size_bytes = True, 0
        for switch, listed in changes.items():
            for change in listed:
                key = key_of(change.entry)
                if change.kind != "modify_meter" or not is_bucket(key):
                    continue
                if size_bytes >= DRAWN_BYTES:
                    is_all = False
                    break
                chosen.add((switch, key))
                meter = applied[switch].get(key)
                count = GROWTH_DRAWS if (switch, key[1]) in self._grants else DRAWS
                frames = draw_frames(meter, count) if isinstance(meter, MeterEntry) else ()
                if isinstance(meter, MeterEntry) and frames:
                    size_bytes += sum(frames)
                    self.totals.change((switch, meter.meter_id))
                    draws.setdefault(switch, []).append(Change("move_tokens", meter, TokenMove(frames)))
        return draws, None if is_all else chosen

    def with_tokens(self, switch: str, change: Change, applied: Entry | None) -> Change:
        """The change of a reserved flow's meter with the frames that leave only the flow's own tokens in its bucket."""
        meter = change.entry
        assert isinstance(meter, MeterEntry)
        key = switch, meter.meter_id
        grant_bytes = self._grants.pop(key, 0)
        if change.kind == "delete_meter":
            self._deleting.add(key)
            self.totals.change(key)
            return Change(change.kind, meter, TokenMove())
        if change.kind == "add_meter" and key in self._unused:
            self._unused.discard(key)
            self.totals.start(key)
            return change
        self.totals.change(key)
        taken = self._taken.pop(key, None)
        content_bytes = 0
        if isinstance(applied, MeterEntry) and taken is not None:
            content_bytes = start_bytes(applied, meter, taken.bytes, self._clock() - taken.at_s)
        if change.kind == "modify_meter":
            content_bytes = min(content_bytes + grant_bytes, bucket_bytes(meter))
        self._starts[key] = _Start(content_bytes, taken, grant_bytes)
        return Change(change.kind, meter, TokenMove(drain_frames(meter, content_bytes)))

    def settle(self, changes: Mapping[str, Sequence[Change]], is_confirmed: bool = True) -> None:
        """Take over what the meters counted when these changes were confirmed: all of them, or those that were read."""
        for switch, listed in changes.items():
            for change in listed:
                move = change.tokens
                if move is not None and (is_confirmed or move.is_read) and isinstance(change.entry, MeterEntry):
                    self._settle((switch, change.entry.meter_id), change, move)

    def _settle(self, key: MeterKey, change: Change, move: TokenMove) -> None:
        if change.kind == "delete_meter":
            counted = self.totals.end(key, move.before)
            for known in (self._taken, self._starts, self._surplus_bytes):
                known.pop(key, None)
            self._deleting.discard(key)
            if counted.passed_bytes > 0:
                self._ended_s[key] = self._clock()
            return
        self.totals.confirm(key, move.before, move.after)
        if change.kind == "move_tokens":
            self._settle_draw(key, move)
            return
        start = self._starts.pop(key, _Start(0, None))
        own_bytes = start.grant_bytes
        if start.taken is not None:
            own_bytes += max(0, start.taken.bytes - max(0, move.before.passed_bytes - start.taken.passed_bytes))
        surplus_bytes = max(0, start.bytes - own_bytes) + move.after.dropped_bytes
        self._surplus_bytes[key] = surplus_bytes

    def _settle_draw(self, key: MeterKey, move: TokenMove) -> None:
        taken_bytes, surplus_bytes = move.taken_bytes, self._surplus_bytes.pop(key, 0)
        if surplus_bytes > taken_bytes:
            self._surplus_bytes[key] = surplus_bytes - taken_bytes
        taken_bytes = max(0, taken_bytes - surplus_bytes)
        self._taken[key] = _Taken(taken_bytes, self._clock(), move.after.passed_bytes)

    def corrections(self, changes: Mapping[str, Sequence[Change]]) -> dict[str, list[Change]]:
        """The moves that take the surplus out of meters that were just changed."""
        return {
            switch: moves
            for switch, listed in changes.items()
            if (moves := [move for change in listed if (move := self._correction(switch, change)) is not None])
        }

    def _correction(self, switch: str, change: Change) -> Change | None:
        surplus_bytes = 0
        if change.kind in ("add_meter", "modify_meter") and isinstance(change.entry, MeterEntry):
            surplus_bytes = self._surplus_bytes.get((switch, change.entry.meter_id), 0)
        if not surplus_bytes or not isinstance(change.entry, MeterEntry):
            return None
        self.totals.change((switch, change.entry.meter_id))
        return Change("move_tokens", change.entry, TokenMove(frames_of(surplus_bytes)))

    # Ended flows ----------------------------------------------------------------------------------------------------

    def is_deleting(self, key: MeterKey) -> bool:
        """Whether the deletion of a meter has been sent but not confirmed."""
        return key in self._deleting

    def pop_end_s(self, reservation: Reservation) -> float | None:
        """When the last meter of an ended reservation was deleted that packets had passed; None: none had."""
        ends_s = [self._ended_s.pop(key, None) for key in meters_of(reservation)]
        return max((end_s for end_s in ends_s if end_s is not None), default=None)


def meters_of(reservation: Reservation | None) -> set[MeterKey]:
    """The meters of a reservation's flows."""
    carried = reservation.carried_placements if reservation is not None else ()
    return {(placement.switches[0], placement.meter_id) for placement in carried}


def _suspended_meters(reservation: Reservation | None) -> set[MeterKey]:
    """The meters that the suspended flows of a reservation will have."""
    suspended = [each for each in reservation.placements if each.suspended] if reservation is not None else ()
    return {(placement.switches[0], placement.meter_id) for placement in suspended}


def is_bucket(key: Key) -> bool:
    """Whether it is the key of a reserved flow's meter."""
    return key[0] == "meter" and key[1] >= FIRST_METER_ID
