"""Streams that no schedule can carry, each with a proof in a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from math import gcd, lcm

from controller.tsn.network import TsnLink, TsnNetwork
from controller.tsn.routes import best_case_ns
from controller.tsn.streams import FailureCode, Refusal, ScheduledFrame, TsnStream

MAX_TICKS = 1 << 23
"""Most ticks of an interval: a bitmap has 1 MiB."""

MAX_WINDOWS = 50_000
"""Most windows of a port before its list repeats."""


def impossible(network: TsnNetwork, streams: Sequence[TsnStream]) -> list[Refusal]:
    """Return the streams that cannot be scheduled even alone, or one that overloads the link of its end station."""
    alone = [refusal for stream in streams for refusal in _alone(network, stream)]
    return alone or list(_overloads(network, streams))


def too_fine(streams: Iterable[TsnStream], tick_ns: int) -> list[Refusal]:
    """Return the streams whose interval has more than MAX_TICKS of the time that all times have in common."""
    return [
        Refusal(
            stream.name,
            FailureCode.INSUFFICIENT_BRIDGE_RESOURCES,
            f"stream {stream.name}: its interval of {stream.interval_ns} ns and the times of all streams have only "
            f"{tick_ns} ns in common; give intervals that divide each other",
        )
        for stream in streams
        if stream.interval_ns // tick_ns > MAX_TICKS
    ]


def too_many_windows(frames: Sequence[ScheduledFrame], streams: Iterable[TsnStream]) -> list[Refusal]:
    """Return one of the streams at a port that would open more than MAX_WINDOWS times before its intervals repeat."""
    names = {stream.name for stream in streams}
    last = {hop.link.name: frame.stream for frame in frames if frame.stream in names for hop in frame.hops}
    intervals_ns: dict[str, list[int]] = {name: [] for name in last}
    for frame in frames:
        for hop in frame.hops:
            if hop.link.name in last:
                intervals_ns[hop.link.name].append(frame.interval_ns)
    for port, name in last.items():
        cycle_ns = lcm(*intervals_ns[port])
        count = sum(cycle_ns // interval_ns for interval_ns in intervals_ns[port])
        if count > MAX_WINDOWS:
            reason = (
                f"stream {name}: the intervals at the port of {port} repeat together only every {cycle_ns} ns, with "
                f"{count} windows; a list may have {MAX_WINDOWS}"
            )
            return [Refusal(name, FailureCode.INSUFFICIENT_BRIDGE_RESOURCES, reason)]
    return []


def _alone(network: TsnNetwork, stream: TsnStream) -> Iterator[Refusal]:
    for listener in stream.listeners:
        if stream.talker not in network.hops_to(listener):
            reason = f"stream {stream.name}: there is no path from {stream.talker} to {listener}"
            yield Refusal(stream.name, FailureCode.INSUFFICIENT_BANDWIDTH, reason)
            return
        best_ns = best_case_ns(network, stream, listener)
        if best_ns > stream.max_latency_ns:
            reason = (
                f"stream {stream.name}: a frame of {stream.frame_bytes} bytes takes at least {best_ns} ns from "
                f"{stream.talker} to {listener}, more than its largest latency of {stream.max_latency_ns} ns"
            )
            yield Refusal(stream.name, FailureCode.MAX_LATENCY_EXCEEDED, reason)
            return


def _overloads(network: TsnNetwork, streams: Sequence[TsnStream]) -> Iterator[Refusal]:
    """Yield the first stream for which a link that all streams of an end station must take has no time left."""
    into: dict[str, list[TsnLink]] = {node: [] for node in network.nodes}
    for link in network.links.values():
        into[link.destination].append(link)
    taken: dict[str, list[tuple[int, int]]] = {}
    load: dict[str, Fraction] = {}
    for stream in streams:
        only = [network.outgoing[stream.talker], *(tuple(into[listener]) for listener in stream.listeners)]
        for links in only:
            if len(links) == 1:
                windows = taken.setdefault(links[0].name, [])
                window = links[0].transmission_ns(stream.frame_bytes), stream.interval_ns
                windows.append(window)
                share = Fraction(stream.frames * window[0], window[1])
                load[links[0].name] = load.get(links[0].name, Fraction(0)) + share
                refusal = _overload(stream, links[0].name, load[links[0].name], windows)
                if refusal is not None:
                    yield refusal
                    return


def _overload(stream: TsnStream, link: str, load: Fraction, windows: list[tuple[int, int]]) -> Refusal | None:
    """Return why windows (length and interval in ns) do not fit on a link; the last is that of the stream."""
    new = windows[-1]
    if load > 1:
        reason = f"stream {stream.name}: with it, the link {link} would be more than full"
        return Refusal(stream.name, FailureCode.INSUFFICIENT_BANDWIDTH, reason)
    for length_ns, interval_ns in windows:
        common_ns = gcd(interval_ns, new[1])
        if interval_ns != new[1] and length_ns + new[0] > common_ns:
            reason = (
                f"stream {stream.name}: its frames of {new[0]} ns every {new[1]} ns would meet those of {length_ns} ns "
                f"every {interval_ns} ns on the link {link}: the intervals have only {common_ns} ns in common"
            )
            return Refusal(stream.name, FailureCode.INSUFFICIENT_BANDWIDTH_FOR_TRAFFIC_CLASS, reason)
    return None
