"""Where a flow goes, and where instead when a span of that is down: which links it takes then, and which walk.

A path starts and ends at a host. A protected flow has a backup path from its first switch to its last that shares no
span with the path. When a span fails, the switch before it sends the packets back the way they came to the first
switch, from where they take the backup path; a while later the first switch sends them there at once. A host's own
link has no second: it is not protected.

A single failure is that of a span, or of a duct with all spans that lie in it (a shared risk link group in the terms of
RFC 4202). Backups that no single failure needs together share their capacity ("shared mesh", RFC 4427).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from controller.domain.frozen import frozen
from controller.domain.lightpath import Lightpath
from controller.domain.path import Path, link_names, spans_of

NEVER: frozenset[str] = frozenset()

Ducts = Mapping[str, str]
"""For each span that lies in a duct with others: the duct, by a name that no span has (`duct:...`)."""
DUCT = "duct:"


@frozen
class Route:
    """A path and, of a protected flow that has something to lose, the backup path.

    `lightpaths`, `backup_lightpaths`: on an optical network, what it travels in along them, end to end in order.
    """

    path: Path
    backup: Path | None = None
    lightpaths: tuple[Lightpath, ...] = ()
    backup_lightpaths: tuple[Lightpath, ...] = ()


def failures_of(path: Path, ducts: Ducts) -> tuple[str, ...]:
    """The single failures that cut a path: those of its spans, in order, then those of the ducts it lies in."""
    spans = spans_of(path)
    return (*spans, *dict.fromkeys(ducts[span] for span in spans if span in ducts)) if ducts else spans


def survived(route: Route, ducts: Ducts) -> tuple[str, ...]:
    """The single failures that cut the path and not the backup; none without a backup."""
    if route.backup is None:
        return ()
    fatal = frozenset(failures_of(route.backup, ducts))
    return tuple(failure for failure in failures_of(route.path, ducts) if failure not in fatal)


def fatal_ducts(route: Route, ducts: Ducts) -> tuple[str, ...]:
    """The ducts that both path and backup lie in: a failure of one cuts both."""
    if route.backup is None:
        return ()
    around = frozenset(failures_of(route.backup, ducts))
    return tuple(failure for failure in failures_of(route.path, ducts) if failure in around)


def links_taken(route: Route, ducts: Ducts, dedicated: bool = False) -> tuple[tuple[str, frozenset[str]], ...]:
    """Every directed link on which the flow needs room, and the failures under which; none named: always.

    `dedicated`: also what it needs under failures is taken always.
    """
    always = tuple((link, NEVER) for link in link_names(route.path))
    if route.backup is None:
        return always
    turns = {failure: _turn(route, failure, ducts) for failure in survived(route, ducts)}
    switches = route.path[1:-1]
    # A packet that meets a failure has come over the spans before it, and goes back over them.
    back = tuple(
        (f"{switches[i + 1]}->{switches[i]}", frozenset(failure for failure, turn in turns.items() if turn > i))
        for i in range(len(switches) - 2)
    )
    around = tuple((link, frozenset(turns)) for link in link_names(route.backup[1:-1]))
    aside = (*back, *around)
    return (*always, *(((link, NEVER) for link, _ in aside) if dedicated else aside))


def walk_under(route: Route, failure: str, ducts: Ducts) -> Path:
    """The nodes a packet visits after that failure and before the first switch has been told: to it, back, around.

    Raises: ValueError if the route has no backup or the failure does not cut its path.
    """
    if route.backup is None:
        raise ValueError(f"{route.path} has no backup")
    turn = _turn(route, failure, ducts)
    switches = route.path[1:-1]
    return (route.path[0], *switches[: turn + 1], *reversed(switches[:turn]), *route.backup[2:])


def _turn(route: Route, failure: str, ducts: Ducts) -> int:
    """How many spans of the path lie before the first that the failure cuts."""
    cut = [failure in (span, ducts.get(span)) for span in spans_of(route.path)]
    return cut.index(True)


def both_ways(down: Collection[str]) -> frozenset[str]:
    """The directed links that are of no use when these are down: a span that fails in one direction has failed."""
    if not down:
        return frozenset()
    return frozenset(down) | {f"{b}->{a}" for a, b in (link.split("->") for link in down)}


def is_cut(path: Path, down: Collection[str]) -> bool:
    """Whether a link of the path is among those that are down."""
    return any(link in down for link in link_names(path))
