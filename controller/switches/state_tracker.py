"""Applied and intended state of every switch (RFC 8342), and the update stages between them. Thread-safe.

The applied state is known from a reading and from the changes sent since; it is discarded after any failure. Stages are
computed one at a time from the current state: several updates may be in progress at once, and the one that changes a
shared meter last sends the rate that all of them need.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from operator import itemgetter

from controller.booking.gate_schedule import next_change_us, windows_of
from controller.dataplane.entries import (
    Entries,
    Entry,
    FlowEntry,
    Key,
    describe,
)
from controller.dataplane.fast_failover import is_broken
from controller.dataplane.intended_state import ChangedKeys, IntendedState, merge_keys
from controller.dataplane.pipeline import contribution_of, reservation_meter
from controller.dataplane.southbound import Pause, Reading
from controller.dataplane.update_order import DELETES, STAGE_OF, STAGES, Stage, change_for
from controller.domain.network import Network
from controller.domain.reservation import FIRST_METER_ID, Reservation, Window
from controller.failpoints import failpoint
from controller.switches.drift import Drift, differing_keys
from controller.switches.meter_buckets import MeterBuckets, meters_of
from controller.switches.pending_update import (
    FAIL_POINT_OF,
    PendingUpdate,
    StageChanges,
    not_in_step,
)

MeterBursts = Mapping[str, Mapping[str, int]]
"""The bursts of meters in bytes, by reservation and flow, where they differ from those of the flows."""

NO_METERS: MeterBursts = {}


class SwitchStateTracker:
    """Applied and intended entries of all switches."""

    def __init__(self, network: Network, clock: Callable[[], float] = time.time) -> None:
        self._network = network
        self._clock = clock
        self._lock = threading.Lock()
        self._intended = IntendedState(network)
        self.buckets = MeterBuckets()
        self._applied: dict[str, Entries] = {}
        self._down: frozenset[str] = frozenset()
        self._reservations: dict[str, Reservation] = {}
        self._meter_bursts: dict[str, Mapping[str, int]] = {}
        self._windows: dict[str, tuple[Window, ...]] = {}
        """The windows of the reservations that have any."""
        self._revision = 0
        """Incremented with every change of applied or intended state."""

    # Intended state -------------------------------------------------------------------------------------------------

    def set_intended(
        self, changed: Mapping[str, Reservation | None], meter_bursts: MeterBursts = NO_METERS
    ) -> ChangedKeys:
        """Set the reservations that should be installed; None: removed.

        `meter_bursts`: of these reservations, and of others whose meters grow.
        """
        with self._lock:
            keys: ChangedKeys = {}
            for name in meter_bursts.keys() - changed.keys():
                if name in self._reservations:
                    self._grow(self._reservations[name], meter_bursts[name], keys)
            for name, reservation in changed.items():
                self._meter_bursts.pop(name, None)
                if reservation is not None:
                    self._meter_bursts[name] = meter_bursts.get(name, {})
            for name, reservation in changed.items():
                self.buckets.set_intended(self._reservations.pop(name, None), reservation)
                self._windows.pop(name, None)
                if reservation is not None:
                    self._reservations[name] = reservation
                    if windows := windows_of(reservation.carried_placements):
                        self._windows[name] = windows
            recomputed = self._recompute(changed)
            return merge_keys(keys, recomputed) if keys else recomputed

    def meter_bursts(self, reservation_id: str) -> Mapping[str, int]:
        """Return the bursts of the meters of a reservation that should be installed, by flow; empty if none is."""
        with self._lock:
            return self._meter_bursts.get(reservation_id, {})

    def _grow(self, reservation: Reservation, bursts: Mapping[str, int], changed: ChangedKeys) -> None:
        """Change the meters of a reservation to these bursts, and give the tokens by which they grow to their buckets.
        """
        before = self._meter_bursts.get(reservation.id, {})
        self._meter_bursts[reservation.id] = bursts
        for placement in reservation.carried_placements:
            name, switch = placement.flow.name, placement.switches[0]
            if name in before and name in bursts:
                self.buckets.grow((switch, placement.meter_id), bursts[name] - before[name])
            meter = reservation_meter(placement, bursts.get(name))
            self._intended.set_meter(reservation.id, switch, meter, changed)

    def set_links_down(self, down: frozenset[str]) -> ChangedKeys:
        """Set the links that are down; best effort is routed around them, reservations use the paths that are left."""
        with self._lock:
            changed = self._down ^ down
            self._down = down
            affected = [name for name, reservation in self._reservations.items() if _uses(reservation, changed)]
            return merge_keys(self._intended.set_base(down), self._recompute(affected))

    def apply_gates(self) -> ChangedKeys:
        """Adapt the gates of periodic windows to the current time."""
        with self._lock:
            return self._recompute(self._windows)

    @property
    def has_windows(self) -> bool:
        """Whether any reservation has a window."""
        return bool(self._windows)

    def next_gate_us(self) -> int | None:
        """When the next gate opens or closes, in Unix time; None if no gate ever does."""
        with self._lock:
            return next_change_us({window for windows in self._windows.values() for window in windows}, self._now_us())

    def _recompute(self, names: Iterable[str]) -> ChangedKeys:
        self._revision += 1
        now_us = self._now_us()
        contributions = {
            name: contribution_of(
                self._network, self._reservations[name], self._down, now_us, self._meter_bursts.get(name, {})
            )
            if name in self._reservations
            else None
            for name in names
        }
        changed = [self._intended.set_contribution(name, added) for name, added in contributions.items()]
        return changed[0] if len(changed) == 1 else merge_keys(*changed)

    def _now_us(self) -> int:
        return int(self._clock() * 1e6)

    # Applied state --------------------------------------------------------------------------------------------------

    def known_switches(self) -> frozenset[str]:
        """The switches whose applied state is known."""
        return frozenset(tuple(self._applied))

    def forget(self, switches: Iterable[str]) -> None:
        """Discard the applied state of these switches."""
        with self._lock:
            self._revision += 1
            for name in switches:
                self._applied.pop(name, None)
                self.buckets.forget(name)

    def set_applied(self, switch: str, read: Entries) -> ChangedKeys:
        """Record the entries read from a switch; the keys at which they differ from the intended ones."""
        with self._lock:
            self._revision += 1
            self.buckets.forget(switch)
            applied = self._applied[switch] = dict(read)
            return {switch: set(differing_keys(applied, self._intended.entries[switch]))}

    def applied(self, switch: str) -> Entries:
        """The applied entries of a switch; empty if unknown."""
        with self._lock:
            return dict(self._applied.get(switch, {}))

    def forget_meter_changes(self, switch: str | None = None) -> None:
        """Forget which tokens changed meters, of one switch or all, are to get: another controller has given them."""
        with self._lock:
            self.buckets.forget_grants(switch)

    def drift_of(self, switch: str, reading: Reading, changed_keys: ChangedKeys) -> Drift:
        """The drift at these keys of a switch whose reading was just recorded."""
        with self._lock:
            intended, keys = self._intended.entries[switch], changed_keys.get(switch, set())
            read = reading.entries
            missing = tuple(describe(intended[key]) for key in keys if key not in read and key in intended)
            return Drift(missing, tuple(describe(read[key]) for key in keys if key in read), reading.foreign)

    def drift_since(self, reading: Reading, expected: Entries) -> tuple[Drift, dict[Key, Entry | None]]:
        """The drift of a reading from the entries expected at that moment, and the expected entries at those keys."""
        read = reading.entries
        keys = differing_keys(read, expected)
        missing = tuple(describe(expected[key]) for key in keys if key not in read)
        wrong = tuple(describe(read[key]) for key in keys if key in read)
        return Drift(missing, wrong, reading.foreign), {key: expected.get(key) for key in keys}

    def accept_reading(self, switch: str, reading: Reading, differs: Mapping[Key, Entry | None]) -> ChangedKeys:
        """Record the entries read where they differ from the expected ones; the keys to repair."""
        with self._lock:
            self._revision += 1
            applied = self._applied.get(switch, {})
            keys = {key for key, expected in differs.items() if applied.get(key) == expected}
            for key in keys:
                _set(applied, key, reading.entries.get(key))
        return {switch: keys} if keys else {}

    def may_forward(self, reservation: Reservation) -> bool:
        """Whether a switch may admit packets of this reservation: it has a meter of it, or its state is unknown."""
        with self._lock:
            for name, meter_id in meters_of(reservation):
                applied = self._applied.get(name)
                if applied is None or ("meter", meter_id) in applied or self.buckets.is_deleting((name, meter_id)):
                    return True
        return False

    def pop_end_s(self, reservation: Reservation) -> float | None:
        """When the last packets of an ended reservation may have entered the network; None: it never sent any."""
        with self._lock:
            return self.buckets.pop_end_s(reservation)

    # Updates --------------------------------------------------------------------------------------------------------

    def update_stages(
        self, changed_keys: ChangedKeys, require_all: bool, drain_s: float = 0.0
    ) -> Generator[StageChanges | Pause, None, None]:
        """The changes at these keys, stage by stage; each must be confirmed before the generator is advanced, and
        the generator is closed if it is not.

        A stage that modifies meters of reservations comes after one that takes tokens out of them; where these are
        many, such pairs follow each other.

        `require_all`: a switch of unknown state is an error; otherwise it is skipped.
        `drain_s`: how long packets may be in flight on an old path.

        Raises: SwitchDown.
        """
        update = PendingUpdate(changed_keys, require_all)
        for number, stage in enumerate(STAGES):
            if number and not update.changes[number]:
                continue  # concurrent updates send their own changes
            if drain_s and stage is Stage.CLEAR and update.deletes(number):
                yield Pause(drain_s)
            is_left = True
            while is_left:
                if draws := self._draws(update, number):
                    yield from self._settled(draws, draws)
                changes = self._stage_changes(update, number)
                is_left = update.drawn is not None
                if changes and not update.moved:
                    yield changes
                elif changes:
                    yield from self._settled(changes, update.moved)
                    corrections = self._corrections(update)
                    yield from self._settled(corrections, corrections)
            if changes:
                failpoint(FAIL_POINT_OF[stage])

    def _settled(self, changes: StageChanges, moved: StageChanges) -> Iterator[StageChanges]:
        """Yield changes, then take over what the meters among them counted, also when only some were confirmed."""
        is_confirmed = False
        if not changes:
            return
        try:
            yield changes
            is_confirmed = True
        finally:
            if moved:
                with self._lock:
                    self.buckets.settle(moved, is_confirmed)

    def _draws(self, update: PendingUpdate, number: int) -> StageChanges:
        """The tokens to take out of the meters that the stage of that number modifies."""
        with self._lock:
            if update.revision != self._revision:
                self._compute(update)
            update.drawn = None
            if not update.modifies_buckets:
                return {}
            draws, update.drawn = self.buckets.draws(update.stage(number), self._applied)
            return draws

    def _corrections(self, update: PendingUpdate) -> StageChanges:
        """The tokens to take out of the meters of the last stage."""
        with self._lock:
            moved, update.moved = update.moved, {}
            return self.buckets.corrections(moved)

    def _stage_changes(self, update: PendingUpdate, number: int) -> StageChanges:
        """The changes of the stage of that number, computed from the current state and recorded as applied."""
        with self._lock:
            if update.revision != self._revision:
                self._compute(update)
            # The barriers of the first stage also confirm the changes that concurrent updates have sent.
            is_first = number == 0 and any(update.changes)
            names = [name for name in update.changed_keys if name in self._applied] if is_first else []
            stage_changes: StageChanges = {name: [] for name in names}
            for name, found in update.take(number).items():
                if len(found) > 1:
                    found.sort(key=itemgetter(0))
                applied = self._applied[name]
                listed = stage_changes[name] = []
                for _, key, change in found:
                    if key[0] == "meter" and key[1] >= FIRST_METER_ID:
                        change = self.buckets.with_tokens(name, change, applied.get(key))
                        if change.tokens is not None:
                            update.moved.setdefault(name, []).append(change)
                    listed.append(change)
                    if change.kind in DELETES:
                        applied.pop(key, None)
                    else:
                        applied[key] = change.entry
            self._revision += 1
            update.revision = self._revision
            return stage_changes

    def _compute(self, update: PendingUpdate) -> None:
        """Compute the changes of all stages from the difference between intended and applied state."""
        if update.require_all and not update.changed_keys.keys() <= self._applied.keys():
            raise not_in_step(update.changed_keys.keys() - self._applied.keys())
        update.changes = [{} for _ in STAGES]
        update.revision = self._revision
        update.modifies_buckets = False
        for name, keys in update.changed_keys.items():
            intended, applied = self._intended.entries[name], self._applied.get(name)
            if applied is None:
                continue
            for key in keys:
                intended_entry, applied_entry = intended.get(key), applied.get(key)
                if intended_entry == applied_entry:
                    continue
                found = change_for(intended_entry, applied_entry)
                if found is not None:
                    phase, change = found
                    order = 2 * phase + isinstance(change.entry, FlowEntry)
                    update.changes[STAGE_OF[phase]].setdefault(name, []).append((order, key, change))
                    if change.kind == "modify_meter" and key[0] == "meter" and key[1] >= FIRST_METER_ID:
                        update.modifies_buckets = True


def _uses(reservation: Reservation, links: frozenset[str]) -> bool:
    """Whether a path of the reservation uses one of these links, in either direction."""
    return any(is_broken(path, links) for p in reservation.placements for path in (p.path, p.backup_path or ()))


def _set(entries: Entries, key: Key, entry: Entry | None) -> None:
    if entry is None:
        entries.pop(key, None)
    else:
        entries[key] = entry
