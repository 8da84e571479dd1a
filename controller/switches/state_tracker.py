"""What every switch holds against what it should, and the steps from one to the other. Thread-safe.

What a switch holds is known from a reading and from what it was told since; it is forgotten when anything goes wrong.
The steps are worked out one at a time, each from how things stand when its turn comes: several requests may be on their
way at once, and whoever comes to a shared meter last tells it what all of them need.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from controller.booking.gate_schedule import next_change_us, windows_of
from controller.dataplane.entries import (
    Entries,
    Entry,
    FlowEntry,
    Key,
    SwitchState,
    cookie_of,
    describe,
    entries_of,
    key_of,
)
from controller.dataplane.intended_state import ChangedKeys, IntendedState, merge_keys
from controller.dataplane.pipeline import classifier, contribution_of
from controller.dataplane.southbound import Pause, Reading
from controller.dataplane.update_order import DELETES, STAGE_OF, STAGES, Change, Phase, Stage, change_for
from controller.domain.network import Network
from controller.domain.reservation import Reservation, Window
from controller.domain.route import with_reverse_links
from controller.errors import SwitchDown
from controller.failpoints import FailPoint, failpoint

STEP_OF: Mapping[Stage, FailPoint] = {
    Stage.LAY: FailPoint.LAID,
    Stage.TURN: FailPoint.TURNED,
    Stage.OPEN: FailPoint.OPENED,
    Stage.CLOSE: FailPoint.CLOSED,
    Stage.CLEAR: FailPoint.CLEARED,
}


Told = dict[str, list[Change]]
"""By switch."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What is not as it should be on one switch."""

    missing: tuple[str, ...]
    wrong: tuple[str, ...]
    foreign: tuple[str, ...]


class SwitchStateTracker:
    """The switches' entries: what should be there and what is."""

    def __init__(self, network: Network, clock: Callable[[], float] = time.time) -> None:
        self._network = network
        self._clock = clock
        self._lock = threading.Lock()
        self._target = IntendedState(network)
        self._held: dict[str, Entries] = {}
        self._down: frozenset[str] = frozenset()
        self._aimed: dict[str, Reservation] = {}
        self._windows: dict[str, tuple[Window, ...]] = {}
        """Of the reservations that have any."""
        self._changes = 0
        """How often what should be or what is has changed."""

    # What should be -------------------------------------------------------------------------------------------------

    def set_intended(self, changed: Mapping[str, Reservation | None]) -> ChangedKeys:
        """From now on these reservations should be installed as they are here; None: not at all."""
        with self._lock:
            for name, reservation in changed.items():
                self._aimed.pop(name, None)
                self._windows.pop(name, None)
                if reservation is not None:
                    self._aimed[name] = reservation
                    if windows := windows_of(reservation.carried_placements):
                        self._windows[name] = windows
            return self._put(changed)

    def set_links_down(self, down: frozenset[str]) -> ChangedKeys:
        """From now on these links are down: best effort keeps off them, and reservations are where that leaves them."""
        with self._lock:
            changed = self._down ^ down
            self._down = down
            concerned = [name for name, each in self._aimed.items() if _uses(each, changed)]
            return merge_keys(self._target.set_base(down), self._put(concerned))

    def apply_gates(self) -> ChangedKeys:
        """From now on gates should stand as this moment wants them."""
        with self._lock:
            return self._put(self._windows)

    @property
    def has_windows(self) -> bool:
        """Whether any gate ever opens or closes."""
        return bool(self._windows)

    def next_gate_us(self) -> int | None:
        """When the next gate opens or closes, in Unix time; None if none ever does."""
        with self._lock:
            return next_change_us({window for each in self._windows.values() for window in each}, self._now_us())

    def _put(self, names: Iterable[str]) -> ChangedKeys:
        self._changes += 1
        now_us = self._now_us()
        parts = {name: self._aimed.get(name) for name in names}
        changed = [
            self._target.set_contribution(
                name, None if each is None else contribution_of(self._network, each, self._down, now_us)
            )
            for name, each in parts.items()
        ]
        return changed[0] if len(changed) == 1 else merge_keys(*changed)

    def _now_us(self) -> int:
        return int(self._clock() * 1e6)

    # What is --------------------------------------------------------------------------------------------------------

    def known(self) -> frozenset[str]:
        """The switches of which it is known what they hold."""
        return frozenset(tuple(self._held))

    def forget(self, switches: Iterable[str]) -> None:
        """What these hold is not known any more."""
        with self._lock:
            self._changes += 1
            for name in switches:
                self._held.pop(name, None)

    def learn(self, switch: str, state: SwitchState) -> ChangedKeys:
        """A switch that was read holds this; where it differs from what it should hold."""
        with self._lock:
            self._changes += 1
            held = self._held[switch] = entries_of(state)
            wanted = self._target.entries[switch]
            return {switch: {key for key in held.keys() | wanted.keys() if held.get(key) != wanted.get(key)}}

    def expected(self, switch: str) -> Entries:
        """What a switch holds by all that is known; empty if nothing is."""
        with self._lock:
            return dict(self._held.get(switch, {}))

    def drift_of(self, switch: str, reading: Reading, touched: ChangedKeys) -> Difference:
        """What a switch that was just learned held otherwise than it should."""
        with self._lock:
            wanted = self._target.entries[switch]
            read = entries_of(reading.state)
            keys = touched.get(switch, set())
            missing = tuple(describe(wanted[key]) for key in keys if key not in read and key in wanted)
            return Difference(missing, tuple(describe(read[key]) for key in keys if key in read), reading.foreign)

    def drift_since(self, reading: Reading, expected: Entries) -> tuple[Difference, dict[Key, Entry | None]]:
        """A reading against what was expected at that moment: the difference, and what is expected where it differs."""
        read = entries_of(reading.state)
        missing = [key for key in expected if key not in read]
        wrong = [key for key, entry in read.items() if expected.get(key) != entry]
        lines = (tuple(describe(expected[k]) for k in missing), tuple(describe(read[k]) for k in wrong))
        return Difference(*lines, reading.foreign), {key: expected.get(key) for key in (*missing, *wrong)}

    def accept_reading(self, switch: str, reading: Reading, differs: Mapping[Key, Entry | None]) -> ChangedKeys:
        """It is true: the switch holds there what was read. What must be put right."""
        read = entries_of(reading.state)
        with self._lock:
            self._changes += 1
            held = self._held.get(switch, {})
            keys = {key for key, expected in differs.items() if held.get(key) == expected}
            for key in keys:
                _set(held, key, read.get(key))
        return {switch: keys} if keys else {}

    def may_forward(self, reservation: Reservation) -> bool:
        """Whether a switch lets packets of this reservation in, or may: it is not known what it holds."""
        with self._lock:
            for placement in reservation.carried_placements:
                cookie = cookie_of(reservation.number, placement.version)
                name, door = classifier(self._network, placement, cookie, late=False)
                held = self._held.get(name)
                if held is None or held.get(key_of(door)) == door:
                    return True
        return False

    # From one to the other ------------------------------------------------------------------------------------------

    def update_stages(self, touched: ChangedKeys, all_of_them: bool, drain_s: float = 0.0) -> Iterator[Told | Pause]:
        """What to tell the switches at these keys, step by step; each must be confirmed before the next is asked for.

        `all_of_them`: a switch of which nothing is known is an error; else it is passed over.
        `drain_s`: how long packets may be on an old way.

        Raises: SwitchDown.
        """
        errand = _PendingUpdate(touched, all_of_them)
        for number, stage in enumerate(STAGES):
            if number and not errand.due[number]:
                continue  # what others want of these switches meanwhile, they tell them
            if stage is Stage.CLEAR and drain_s:
                yield Pause(drain_s)
            told = self._told(errand, number)
            if told:
                yield told
                failpoint(STEP_OF[stage])

    def _told(self, errand: _PendingUpdate, number: int) -> Told:
        """What to tell in the stage of that number, from how things stand now."""
        with self._lock:
            if errand.seen_at != self._changes:
                self._look(errand)
            # What others have told these switches is confirmed with the first stage's barriers.
            is_first = number == 0 and any(errand.due)
            told: Told = {name: [] for name in errand.touched if name in self._held} if is_first else {}
            for name, found in errand.due[number].items():
                if len(found) > 1:
                    found.sort(key=_before)
                told[name] = [change for _, _, change in found]
                held = self._held[name]
                for key, _, change in found:
                    if change.kind in DELETES:
                        held.pop(key, None)
                    else:
                        held[key] = change.entry
            errand.due[number] = {}
            self._changes += 1
            errand.seen_at = self._changes
            return told

    def _look(self, errand: _PendingUpdate) -> None:
        """Where the switches that are known do not hold what they should, by the stage in which to tell them."""
        if errand.all_of_them and not errand.touched.keys() <= self._held.keys():
            unknown = sorted(errand.touched.keys() - self._held.keys())
            sentence = f"Not connected or not yet in step: {', '.join(unknown)}; nothing was changed."
            raise SwitchDown(sentence, switches=unknown)
        errand.due = [{} for _ in STAGES]
        for name, keys in errand.touched.items():
            wanted, held = self._target.entries[name], self._held.get(name)
            if held is None:
                continue
            for key in keys:
                wanted_there, held_there = wanted.get(key), held.get(key)
                if wanted_there == held_there:
                    continue
                found = change_for(wanted_there, held_there)
                if found is not None:
                    phase, change = found
                    errand.due[STAGE_OF[phase]].setdefault(name, []).append((key, phase, change))


Found = tuple[Key, Phase, Change]


class _PendingUpdate:
    """One way from what some switches hold to what they should; `due`: what is to be told, by stage, as last seen."""

    def __init__(self, touched: ChangedKeys, all_of_them: bool) -> None:
        self.touched = touched
        self.all_of_them = all_of_them
        self.due: list[dict[str, list[Found]]] = []
        self.seen_at: int | None = None


def _before(found: Found) -> tuple[Phase, bool]:
    """By phase, and what an entry refers to before it."""
    return found[1], isinstance(found[2].entry, FlowEntry)


def _uses(reservation: Reservation, links: Collection[str]) -> bool:
    """Whether one of these links, in either direction, is on a path of it."""
    both = with_reverse_links(links)
    paths = [path for each in reservation.placements for path in (each.path, each.backup_path) if path is not None]
    return any(f"{a}->{b}" in both for path in paths for a, b in pairwise(path))


def _set(entries: Entries, key: Key, entry: Entry | None) -> None:
    if entry is None:
        entries.pop(key, None)
    else:
        entries[key] = entry
