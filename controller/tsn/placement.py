"""Places frames of streams into what ports and queues have left: the state of a schedule while it is made.

A frame has its port to itself while its gate is open, and its queue from when it may be there until its gate closes. So
no frame can leave in the window of another, even if that one is missing, and every frame is sent at the same instant of
every interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from controller.tsn.occupancy import Frame, Occupancy, Window, rotated
from controller.tsn.routes import TimedRoute
from controller.tsn.streams import Hop, ScheduledFrame, TsnStream

MAX_OFFSETS = 512
"""Offsets, over the interval, at which a frame that waits is tried."""

SCHEDULED_QUEUES = (7, 6, 5)
"""The queues of scheduled frames, in the order in which they are filled."""


@dataclass(frozen=True, slots=True)
class Place:
    """A frame in ticks: start and queue at every step of its route, and from when it may be there."""

    period: int
    route: TimedRoute
    starts: tuple[int, ...]
    readies: tuple[int, ...]
    queues: tuple[int, ...]


class Placement:
    """Places by frame; windows by port and by queue."""

    def __init__(self, tick_ns: int) -> None:
        self.tick_ns = tick_ns
        self.places: dict[Frame, Place] = {}
        self.ports: dict[str, Occupancy] = {}
        self._queues: dict[tuple[str, int], Occupancy] = {}
        self._held_longer: Counter[tuple[str, int]] = Counter()
        """By queue, how many frames are in it before their gates open."""

    def put(self, frame: Frame, place: Place) -> None:
        """Take the windows of a frame."""
        self.places[frame] = place
        self._held_longer.update(_queues_waited_in(place))
        for occupancy, window in self._windows(place):
            occupancy.add(frame, window)

    def take(self, frame: Frame, link: str, queue: int, times: tuple[int, int, int, int]) -> None:
        """Take the windows at one port of a frame that stays: when it is ready there, starts, its length and period."""
        ready, start, length, period = times
        self.port(link).add(frame, Window(start, length, period))
        self._queue(link, queue).add(frame, Window(ready, start + length - ready, period))
        if ready < start:
            self._held_longer[link, queue] += 1

    def take_out(self, frame: Frame) -> None:
        """Free the windows of a frame."""
        place = self.places.pop(frame)
        self._held_longer.subtract(_queues_waited_in(place))
        for occupancy, _ in self._windows(place):
            occupancy.remove(frame)

    def met_by(self, place: Place) -> set[str]:
        """Return the streams that a place would meet."""
        return {name for occupancy, window in self._windows(place) for name, _ in occupancy.met(window)}

    def _windows(self, place: Place) -> Iterable[tuple[Occupancy, Window]]:
        for step, start, ready, queue in zip(place.route.steps, place.starts, place.readies, place.queues, strict=True):
            yield self.port(step.link.name), Window(start, step.length, place.period)
            yield self._queue(step.link.name, queue), Window(ready, start + step.length - ready, place.period)

    def port(self, link: str) -> Occupancy:
        """The windows of a port."""
        return self.ports.setdefault(link, Occupancy())

    def _queue(self, link: str, queue: int) -> Occupancy:
        return self._queues.setdefault((link, queue), Occupancy())

    def find(self, route: TimedRoute, period: int, offsets: tuple[int, int]) -> Place | None:
        """Return the earliest place at which a frame waits nowhere, sent between two offsets."""
        blocked, everything = ~_bits_between(*offsets) & ((1 << period) - 1), (1 << period) - 1
        for step, start in zip(route.steps, route.starts, strict=True):
            if step.lead + step.length > period:
                return None
            taken = self.port(step.link.name).blocked(step.length, period, wraps=False)
            blocked |= rotated(taken, start, period)
            if step.lead or self._held_longer[step.link.name, SCHEDULED_QUEUES[0]]:
                queue = self._queue(step.link.name, SCHEDULED_QUEUES[0])
                held = queue.blocked(step.lead + step.length, period, wraps=True)
                blocked |= rotated(held, start - step.lead, period)
            if blocked == everything:
                return None
        free = blocked ^ everything
        return self.place_at(route, period, _lowest(free)) if free else None

    def place_at(self, route: TimedRoute, period: int, offset: int) -> Place:
        """Return the place of a frame that is sent at an offset and waits nowhere."""
        starts = tuple(offset + start for start in route.starts)
        readies = tuple(start - step.lead for start, step in zip(starts, route.steps, strict=True))
        return Place(period, route, starts, readies, (SCHEDULED_QUEUES[0],) * len(starts))

    def find_waiting(self, route: TimedRoute, period: int, offsets: tuple[int, int], slack: int) -> Place | None:
        """Return a place at which a frame waits up to `slack` ticks altogether, in each queue as short as it can."""
        first = route.steps[0]
        free = ~self.port(first.link.name).blocked(first.length, period, wraps=False) & _bits_between(*offsets)
        while free:
            offset = _lowest(free)
            place = self._waiting_at(route, period, offset, slack)
            if place is not None:
                return place
            free &= -1 << offset + 1 + period // MAX_OFFSETS
        return None

    def _waiting_at(self, route: TimedRoute, period: int, offset: int, slack: int) -> Place | None:
        starts: list[int] = []
        readies, queues = [], []
        for step, least in zip(route.steps, route.starts, strict=True):
            ready = starts[step.parent] + step.after if step.parent >= 0 else offset
            latest = offset + least + slack if step.parent >= 0 else offset
            found = self._next_start(step.link.name, step.length, period, (ready - step.lead, ready, latest))
            if found is None:
                return None
            readies.append(ready - step.lead)
            starts.append(found[0])
            queues.append(found[1])
        return Place(period, route, tuple(starts), tuple(readies), tuple(queues))

    def _next_start(self, link: str, length: int, period: int, limits: tuple[int, int, int]) -> tuple[int, int] | None:
        """Return start and queue of a frame: limits are when it is at the port, may start, and must have started."""
        there, ready, latest = limits
        free = ~rotated(self.port(link).blocked(length, period, wraps=False), ready, period) & ((1 << period) - 1)
        if not free:
            return None
        start = ready + _lowest(free)
        if start > latest or start + length - there > period:
            return None
        for queue in SCHEDULED_QUEUES:
            held = rotated(self._queue(link, queue).blocked(1, period, wraps=True), there, period)
            if not held or _lowest(held) >= start + length - there:
                return start, queue
        return None

    def scheduled(self, stream: TsnStream, number: int) -> ScheduledFrame:
        """Return a placed frame in ns."""
        place = self.places[(stream.name, number)]
        hops = tuple(
            Hop(step.link, ready * self.tick_ns, start * self.tick_ns, step.length * self.tick_ns, queue)
            for step, ready, start, queue in zip(
                place.route.steps, place.readies, place.starts, place.queues, strict=True
            )
        )
        return ScheduledFrame(stream.name, number, stream.interval_ns, hops)

    def latency_ns(self, stream: TsnStream, number: int) -> dict[str, int]:
        """Return the worst latency of a placed frame by listener."""
        place = self.places[(stream.name, number)]
        waits_ns = {
            step.link.destination: (start - place.starts[0] - least) * self.tick_ns
            for step, start, least in zip(place.route.steps, place.starts, place.route.starts, strict=True)
        }
        return {listener: base + waits_ns[listener] for listener, base in place.route.latency_ns.items()}


def _queues_waited_in(place: Place) -> list[tuple[str, int]]:
    """Return the queues in which a frame can be before its gate opens; of others the port has all windows."""
    hops = zip(place.route.steps, place.starts, place.readies, place.queues, strict=True)
    return [(step.link.name, queue) for step, start, ready, queue in hops if ready < start]


def _bits_between(first: int, last: int) -> int:
    return ((1 << max(0, last + 1 - first)) - 1) << first


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1
