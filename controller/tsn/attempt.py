"""One attempt at a schedule: what is placed, on which route, and what found no place."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from controller.tsn.network import TsnNetwork
from controller.tsn.occupancy import Frame
from controller.tsn.placement import Place, Placement
from controller.tsn.routes import TimedRoute, routes, timely
from controller.tsn.streams import ScheduledFrame, TsnStream


class Attempt:
    """Places, the load of every port, and the streams without a place."""

    def __init__(self, network: TsnNetwork, tick_ns: int, routes_by_stream: dict[str, list[TimedRoute]]) -> None:
        """`routes_by_stream`: those found by earlier attempts with the same tick; others are added."""
        self.network = network
        self.placement = Placement(tick_ns)
        self._load: dict[str, float] = {}
        self._routes = routes_by_stream
        self.unplaced: list[TsnStream] = []

    def restore(self, frames: Iterable[ScheduledFrame], links: Collection[str]) -> None:
        """Take the windows that frames which are scheduled already have on these links."""
        tick_ns = self.placement.tick_ns
        for frame in frames:
            period = frame.interval_ns // tick_ns
            for hop in frame.hops:
                if hop.link.name not in links:
                    continue
                length = hop.duration_ns // tick_ns
                times = hop.ready_ns // tick_ns, hop.start_ns // tick_ns, length, period
                self.placement.take((frame.stream, frame.number), hop.link.name, hop.queue, times)
                self._load[hop.link.name] = self._load.get(hop.link.name, 0.0) + length / period

    def place_all(self, streams: Iterable[TsnStream], waiting: bool = False) -> None:
        """Place streams one after the other; remember those that find no place."""
        self.unplaced += [stream for stream in streams if not self.place(stream, waiting)]

    def place(self, stream: TsnStream, waiting: bool = False) -> bool:
        """Place all frames of a stream where they wait nowhere, or in queues for as long as they may."""
        return any(self._place_frames(stream, route, waiting) for route in self.candidates(stream))

    def candidates(self, stream: TsnStream) -> list[TimedRoute]:
        """Return the routes on which the stream can be in time, those with the least loaded ports first."""
        if stream.name not in self._routes:
            paths = routes(self.network, stream)
            self._routes[stream.name] = timely(self.network, stream, paths, self.placement.tick_ns)
        return sorted(
            self._routes[stream.name],
            key=lambda route: (max(self._load.get(step.link.name, 0.0) for step in route.steps), len(route.steps)),
        )

    def _place_frames(self, stream: TsnStream, route: TimedRoute, waiting: bool) -> bool:
        tick_ns = self.placement.tick_ns
        placed: list[Frame] = []
        period = stream.interval_ns // tick_ns
        first, last = self.offsets(stream, tick_ns, period)
        slack = (stream.max_latency_ns - max(route.latency_ns.values())) // tick_ns
        for number in range(stream.frames):
            offsets = first, last
            place = (
                self.placement.find_waiting(route, period, offsets, slack)
                if waiting
                else self.placement.find(route, period, offsets)
            )
            if place is None:
                for frame in placed:
                    self.take_out(frame)
                return False
            placed.append((stream.name, number))
            self._put(placed[-1], place)
            first = place.starts[0] + 1
        return True

    @staticmethod
    def offsets(stream: TsnStream, tick_ns: int, period: int) -> tuple[int, int]:
        """Return the first and the last tick at which a talker may be told to begin."""
        last_ns = stream.interval_ns - 1 if stream.latest_ns is None else stream.latest_ns - stream.jitter_ns
        return -(-max(0, stream.earliest_ns - stream.jitter_ns) // tick_ns), min(last_ns // tick_ns, period - 1)

    def _put(self, frame: Frame, place: Place) -> None:
        self.placement.put(frame, place)
        for step in place.route.steps:
            self._load[step.link.name] = self._load.get(step.link.name, 0.0) + step.length / place.period

    def take_out(self, frame: Frame) -> None:
        """Free the windows of a frame."""
        place = self.placement.places[frame]
        self.placement.take_out(frame)
        for step in place.route.steps:
            self._load[step.link.name] -= step.length / place.period

    def eject(self, name: str) -> None:
        """Free the windows of all frames of a stream, which then has no place."""
        for frame in [frame for frame in self.placement.places if frame[0] == name]:
            self.take_out(frame)

    def put_at(self, stream: TsnStream, number: int, route: TimedRoute, offset: int) -> None:
        """Take the windows of a frame that is sent at an offset and waits nowhere; they are free."""
        period = stream.interval_ns // self.placement.tick_ns
        self._put((stream.name, number), self.placement.place_at(route, period, offset))

    def latency_ns(self, stream: TsnStream, number: int) -> dict[str, int]:
        """Return the worst latency of a placed frame by listener."""
        return self.placement.latency_ns(stream, number)

    def scheduled(self, stream: TsnStream, number: int) -> ScheduledFrame:
        """Return a placed frame in ns."""
        return self.placement.scheduled(stream, number)
