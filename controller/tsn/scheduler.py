"""Schedules streams: first fit without waiting in several orders, then by ejecting what is in the way, then waiting.

No-wait first fit: streams are placed one after the other, each at the earliest offset at which its frame finds every
port of its route free when it gets there. If a stream finds none in any order, it takes the offset at which the streams
in its way are the least weighty; these are placed anew, and what was ejected often weighs more (guided local search:
Voudouris and Tsang, European Journal of Operational Research 113, 1999). Then frames may wait in queues.

No-wait scheduling: Dürr and Nayak, "No-wait Packet Scheduling for IEEE Time-sensitive Networks", RTNS 2016.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from math import gcd, isqrt

from controller.tsn.attempt import Attempt
from controller.tsn.ejection import eject
from controller.tsn.feasibility import impossible, too_fine, too_many_windows
from controller.tsn.network import TsnNetwork
from controller.tsn.routes import TimedRoute, routes, timely
from controller.tsn.streams import FailureCode, Refusal, Schedule, ScheduledFrame, TsnStream

USUAL_TICKS, MANY_TICKS = 1 << 16, 1 << 20
"""Ticks in an interval, if the intervals have a divisor that allows it: many only where a tick is above FINE_NS."""

FINE_NS = 100

Order = Callable[[TsnStream, int], tuple[float, ...]]
"""A key of a stream and the number of links of its shortest route; streams are placed by rising keys."""

ORDERS: tuple[Order, ...] = (
    lambda stream, hops: (stream.interval_ns, -hops * stream.frame_bytes * stream.frames),
    lambda stream, hops: (-hops * stream.frame_bytes * stream.frames / stream.interval_ns,),
    lambda stream, hops: (-hops, stream.interval_ns),
    lambda stream, hops: (stream.max_latency_ns, -hops),
)


def schedule(
    network: TsnNetwork, streams: Sequence[TsnStream], keep_on: Callable[[], bool] = lambda: True, seed: int = 0
) -> Schedule:
    """Return the schedule of all streams, or one that names those for which there is none.

    Impossible streams are refused before any is placed. `keep_on`: asked between attempts whether time is left.
    """
    refused = impossible(network, streams)
    if refused:
        return Schedule(refused=tuple(refused))
    tick_ns = tick_of(network, streams)
    refused = too_fine(streams, tick_ns)
    if refused:
        return Schedule(refused=tuple(refused))
    best: Attempt | None = None
    routes_by_stream: dict[str, list[TimedRoute]] = {}
    for order in ORDERS:
        attempt = Attempt(network, tick_ns, routes_by_stream)
        attempt.place_all(_in_order(network, streams, order))
        if best is None or len(attempt.unplaced) < len(best.unplaced):
            best = attempt
        if not best.unplaced or not keep_on():
            break
    assert best is not None
    if best.unplaced:
        eject(best, {stream.name: stream for stream in streams}, random.Random(seed), keep_on)
        left, best.unplaced = best.unplaced, []
        best.place_all(left, waiting=True)
    return _checked(_result(best, streams), streams)


def add_stream(network: TsnNetwork, existing: Schedule, stream: TsnStream) -> Schedule:
    """Return the schedule with one more stream, all others where they were; or refused, if there is no place for it."""
    if stream.name in existing.streams:
        reason = f"stream {stream.name} is scheduled already"
        return Schedule(refused=(Refusal(stream.name, FailureCode.STREAM_ID_IN_USE, reason),))
    refused = impossible(network, [stream])
    if refused:
        return Schedule(refused=tuple(refused))
    paths = list(routes(network, stream))
    links = {link.name for path in paths for link in path}
    tick_ns = gcd(_tick_of_frames(existing.frames, links), tick_of(network, [stream]))
    refused = too_fine([stream], tick_ns)
    if refused:
        return Schedule(refused=tuple(refused))
    attempt = Attempt(network, tick_ns, {stream.name: timely(network, stream, paths, tick_ns)})
    attempt.restore(existing.frames, links)
    attempt.place_all([stream])
    left, attempt.unplaced = attempt.unplaced, []
    attempt.place_all(left, waiting=True)
    added = _result(attempt, [stream])
    if added.refused:
        return added
    more = Schedule(
        {**existing.streams, stream.name: stream},
        (*existing.frames, *added.frames),
        {**existing.latency_ns, **added.latency_ns},
    )
    return _checked(more, [stream])


def _checked(made: Schedule, new: Sequence[TsnStream]) -> Schedule:
    """Return the schedule, or why its lists would be too long."""
    refused = too_many_windows(made.frames, new)
    return Schedule(refused=tuple(refused)) if refused else made


def without_stream(existing: Schedule, name: str) -> Schedule:
    """Return the schedule without a stream, all others where they were."""
    return Schedule(
        {key: stream for key, stream in existing.streams.items() if key != name},
        tuple(frame for frame in existing.frames if frame.stream != name),
        {key: latency for key, latency in existing.latency_ns.items() if key != name},
    )


def tick_of(network: TsnNetwork, streams: Iterable[TsnStream]) -> int:
    """Return the unit of time in ns: what divides all intervals and times of frames, or what divides the intervals.

    The first loses nothing: a schedule can be moved to multiples of it. With the second, times are rounded up.
    """
    intervals_ns, exact = 0, 0
    sizes, longest = set(), 1
    for stream in streams:
        intervals_ns = gcd(intervals_ns, stream.interval_ns)
        longest = max(longest, stream.interval_ns)
        sizes.add(stream.frame_bytes)
        exact = gcd(exact, 2 * stream.jitter_ns, stream.earliest_ns)
    for rate_bps, constant_ns in {
        (link.rate_bps, link.propagation_ns + link.processing_ns) for link in network.links.values()
    }:
        exact = gcd(exact, constant_ns, *(-(-size * 8_000_000_000 // rate_bps) for size in sizes))
    exact = gcd(exact, intervals_ns, 2 * network.sync_error_ns)
    if longest // exact <= USUAL_TICKS:
        return exact
    return _divisor_near(intervals_ns, max(-(-longest // MANY_TICKS), min(-(-longest // USUAL_TICKS), FINE_NS)))


def _divisor_near(number: int, least: int) -> int:
    """Return the least divisor from `least` on; or if that is far above, the greatest one below."""
    divisors = {
        part for small in range(1, isqrt(number) + 1) if number % small == 0 for part in (small, number // small)
    }
    above = min((divisor for divisor in divisors if divisor >= least), default=number)
    return above if above <= 16 * least else max(divisor for divisor in divisors if divisor <= least)


def _tick_of_frames(frames: Iterable[ScheduledFrame], links: Collection[str]) -> int:
    """What divides all times of frames on these links."""
    tick_ns = 0
    for frame in frames:
        for hop in frame.hops:
            if hop.link.name in links:
                tick_ns = gcd(tick_ns, frame.interval_ns, hop.ready_ns, hop.start_ns, hop.duration_ns)
    return tick_ns


def _in_order(network: TsnNetwork, streams: Sequence[TsnStream], order: Order) -> list[TsnStream]:
    return sorted(
        streams, key=lambda stream: order(stream, max(network.hops_to(end)[stream.talker] for end in stream.listeners))
    )


def _result(attempt: Attempt, streams: Sequence[TsnStream]) -> Schedule:
    """Return what an attempt has placed, or which streams it has not."""
    if attempt.unplaced:
        code = FailureCode.INSUFFICIENT_BANDWIDTH_FOR_TRAFFIC_CLASS
        return Schedule(refused=tuple(Refusal(stream.name, code, _no_place(stream)) for stream in attempt.unplaced))
    latency_ns = {
        stream.name: {
            listener: max(attempt.latency_ns(stream, number)[listener] for number in range(stream.frames))
            for listener in stream.listeners
        }
        for stream in streams
    }
    frames = [attempt.scheduled(stream, number) for stream in streams for number in range(stream.frames)]
    return Schedule({stream.name: stream for stream in streams}, tuple(frames), latency_ns)


def _no_place(stream: TsnStream) -> str:
    return (
        f"stream {stream.name}: no time was found in which the ports between {stream.talker} and "
        f"{', '.join(stream.listeners)} are free for it within {stream.max_latency_ns} ns"
    )
