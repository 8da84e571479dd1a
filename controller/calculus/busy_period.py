"""How long one server makes its streams wait at most, when not all of them are there at all times.

Only streams that can be in one busy period of the server delay each other. Two activities that do not overlap can
still meet in one: the second comes while the server is busy with what came after the first. So every activity is
extended by `reach_us`: the longest busy period, how late a packet can come to this server after it has entered the
network, and how far clocks and gates may be off. Streams with a packet each in one busy period then overlap pairwise,
and intervals that overlap pairwise have a moment in common; the sets of streams that share a moment are therefore all
that need be looked at. The reach depends on the busy period and this on the sets, so the smallest reach that explains
itself is looked for from below.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from controller.booking.peak_load import ALWAYS, Activity, concurrent_lifetimes, concurrent_windows
from controller.calculus.curves import Group, InputLink, Server, longest_busy_us, longest_wait_us
from controller.domain.reservation import Window

HOPELESS_US = 60_000_000.0
REACH_HEADROOM = 1.05
"""A reach is chosen a little longer than needed, so that small changes do not change who meets whom."""


FEW = 8
QUIET_SHARE = 0.5


def tells_apart(mixed: int, rate_bps: float, server: Server) -> bool:
    """Whether to look who meets whom at a server that so many streams cross which are not always there.

    With few it costs little, and in a busy server it matters. Else all are taken to be always there, which is a bound
    too: the promised rates of a whole calendar come to less than half of what the server can do.
    """
    return 0 < mixed <= FEW or (mixed > FEW and rate_bps > QUIET_SHARE * server.rate_bps)


@dataclass(frozen=True, slots=True)
class CrossFlow:
    """A stream at a server: its bucket there, the line it comes over, how late it can be there."""

    activity: Activity
    group: str
    line: InputLink | None
    burst_bits: float
    rate_bps: float
    lateness_us: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """The answer. With `burst_room_bits` more in bursts and `lateness_room_us` more lateness, spread in any way, the
    same streams meet: then the wait grows by at most the bits over the rate.
    """

    wait_us: float
    reach_us: float = 0.0
    burst_room_bits: float = float("inf")
    lateness_room_us: float = float("inf")


class Overbooked(Exception):  # noqa: N818 - an answer, not an error
    """More can come in for ever than the server serves, or it can be busy for longer than HOPELESS_US."""


def waiting(server: Server, crossings: Sequence[CrossFlow], clock_us: float = 0.0) -> Waiting:
    """The longest wait at the server. `clock_us`: how far the beginnings and ends of activities may be off.

    Raises: Overbooked
    """
    if all(crossing.activity is ALWAYS for crossing in crossings):
        return Waiting(_wait_us(server, crossings))
    lateness_us = max(crossing.lateness_us for crossing in crossings) + clock_us
    reach_us = lateness_us
    while reach_us <= HOPELESS_US:
        sets = list(_sets(crossings, reach_us)) or [[]]
        busy_us = max(_busy_us(server, members) for members in sets)
        if busy_us + lateness_us <= reach_us:
            return _worst_of(server, sets, reach_us, reach_us - busy_us - lateness_us)
        reach_us = (busy_us + lateness_us) * REACH_HEADROOM
    return Waiting(_wait_us(server, crossings), HOPELESS_US)


def _worst_of(server: Server, sets: list[list[CrossFlow]], reach_us: float, room_us: float) -> Waiting:
    """The set that waits longest; one whose bursts alone could not take as long as the worst so far is passed over."""
    sets.sort(key=_burst_bits, reverse=True)
    worst_us = 0.0
    for members in sets:
        if _burst_bits(members) / server.rate_bps * 1e6 + server.latency_us <= worst_us:
            break
        worst_us = max(worst_us, _wait_us(server, members))
    spare_bps = server.rate_bps - max(_rate_bps(members) for members in sets)
    return Waiting(worst_us, reach_us, room_us / 2 * spare_bps / 1e6, room_us / 2)


def _wait_us(server: Server, crossings: Iterable[CrossFlow]) -> float:
    groups: dict[str, Group] = {}
    rate_bps = 0.0
    for crossing in crossings:
        line, group_bits, group_bps = groups.get(crossing.group, (crossing.line, 0.0, 0.0))
        groups[crossing.group] = line, group_bits + crossing.burst_bits, group_bps + crossing.rate_bps
        rate_bps += crossing.rate_bps
    if rate_bps >= server.rate_bps:
        raise Overbooked
    return longest_wait_us(server, list(groups.values()))


def _busy_us(server: Server, crossings: Sequence[CrossFlow]) -> float:
    return longest_busy_us(server, _burst_bits(crossings), _rate_bps(crossings))


def _burst_bits(crossings: Sequence[CrossFlow]) -> float:
    return sum(crossing.burst_bits for crossing in crossings)


def _rate_bps(crossings: Sequence[CrossFlow]) -> float:
    return sum(crossing.rate_bps for crossing in crossings)


def _sets(crossings: Sequence[CrossFlow], reach_us: float) -> Iterator[list[CrossFlow]]:
    """The sets of streams that can be in one busy period; with every such set, one that contains it."""
    activities = [_extended(crossing.activity, reach_us) for crossing in crossings]
    for alive in concurrent_lifetimes(activities):
        for opened in concurrent_windows([activities[i] for i in alive]):
            together = [crossings[alive[i]] for i in opened]
            always = [crossing for crossing in together if not crossing.activity.failures]
            failures = {failure for crossing in together for failure in crossing.activity.failures}
            if not failures:
                yield always
            for failure in sorted(failures):
                yield always + [crossing for crossing in together if failure in crossing.activity.failures]


def _extended(activity: Activity, reach_us: float) -> Activity:
    window = activity.window
    if window is not None:
        length_us = window.length_us + ceil(reach_us)
        window = Window(window.period_us, window.offset_us, length_us) if length_us < window.period_us else None
    return replace(activity, end_s=activity.end_s + reach_us / 1e6, window=window)
