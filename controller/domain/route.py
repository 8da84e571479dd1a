"""A flow's route: working and backup path, and the links it uses under each single failure.

A path starts and ends at a host. The backup path of a protected flow leads from its first switch to its last and shares
no span with the path. When a span fails, the switch before it returns the packets along the path to the first switch,
which forwards them on the backup path; later the first switch forwards onto the backup path directly. A host's access
link has no alternative and is not protected.

A single failure is that of a span, or of a duct with all spans in it: a shared risk link group (SRLG, RFC 4202).
Backups that no single failure requires together share their capacity ("shared mesh", RFC 4427).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from controller.domain.frozen import frozen
from controller.domain.lightpath import Lightpath
from controller.domain.path import Path, link_names, node_positions, reverse_link, spans_of

NO_FAILURES: frozenset[str] = frozenset()

SrlgBySpan = Mapping[str, str]
"""The SRLG of each span that shares a duct with others, named `duct:...` so that no span has the same name."""
DUCT_PREFIX = "duct:"


@frozen
class Route:
    """A working path and the backup path, if protected and longer than one switch.

    `seamless`: every packet takes both paths at the same time, whatever fails. `lightpaths`, `backup_lightpaths`: on an
    optical network, those along each path, end to end in order.
    """

    path: Path
    backup: Path | None = None
    lightpaths: tuple[Lightpath, ...] = ()
    backup_lightpaths: tuple[Lightpath, ...] = ()
    seamless: bool = False


def failures_of(path: Path, srlgs: SrlgBySpan) -> tuple[str, ...]:
    """Return the single failures that cut a path: its spans, in order, then its SRLGs."""
    spans = spans_of(path)
    return (*spans, *dict.fromkeys(srlgs[span] for span in spans if span in srlgs)) if srlgs else spans


def survivable_failures(route: Route, srlgs: SrlgBySpan) -> tuple[str, ...]:
    """Return the single failures for which the flow moves to its backup: those that cut the path and not the backup."""
    if route.backup is None or route.seamless:
        return ()
    backup_failures = frozenset(failures_of(route.backup, srlgs))
    return tuple(failure for failure in failures_of(route.path, srlgs) if failure not in backup_failures)


def shared_srlgs(route: Route, srlgs: SrlgBySpan) -> tuple[str, ...]:
    """Return the SRLGs that path and backup have in common: a failure of one cuts both."""
    if route.backup is None:
        return ()
    backup_failures = frozenset(failures_of(route.backup, srlgs))
    return tuple(failure for failure in failures_of(route.path, srlgs) if failure in backup_failures)


def link_usage(route: Route, srlgs: SrlgBySpan, dedicated: bool = False) -> tuple[tuple[str, frozenset[str]], ...]:
    """Return every directed link on which the flow needs bandwidth, and the failures under which; empty: always.

    The last link of a seamless flow, which both copies of a packet cross, is there twice.
    `dedicated`: the bandwidth needed under failures is also reserved always.
    """
    always = tuple((link, NO_FAILURES) for link in link_names(route.path))
    if route.backup is None:
        return always
    if route.seamless:
        return (*always, *((link, NO_FAILURES) for link in link_names(route.backup[1:])))
    spans_before = {
        failure: _spans_before_failure(route, failure, srlgs) for failure in survivable_failures(route, srlgs)
    }
    # A packet that reaches the failure returns over the spans before it.
    return_links = tuple(
        (reverse_link(link), frozenset(failure for failure, hops in spans_before.items() if hops > i))
        for i, link in enumerate(link_names(route.path)[1:-2])
    )
    backup_links = tuple((link, frozenset(spans_before)) for link in link_names(route.backup[1:-1]))
    protection_links = (*return_links, *backup_links)
    return (*always, *(((link, NO_FAILURES) for link, _ in protection_links) if dedicated else protection_links))


def path_under_failure(route: Route, failure: str, srlgs: SrlgBySpan) -> Path:
    """Return the nodes a packet visits after the failure, before the first switch is updated: out, back, around.

    Raises: ValueError if the route has no backup or the failure does not cut its path.
    """
    if route.backup is None:
        raise ValueError(f"{route.path} has no backup")
    last = node_positions(route.path)[1 + _spans_before_failure(route, failure, srlgs)]
    return (*route.path[: last + 1], *reversed(route.path[1:last]), *route.backup[2:])


def _spans_before_failure(route: Route, failure: str, srlgs: SrlgBySpan) -> int:
    """Return how many spans of the path precede the first that the failure cuts."""
    cuts = [failure in (span, srlgs.get(span)) for span in spans_of(route.path)]
    return cuts.index(True)


def with_reverse_links(down: Collection[str]) -> frozenset[str]:
    """Return these links and their opposite directions: a span that fails in one direction is unusable in both."""
    if not down:
        return frozenset()
    return frozenset(down) | {reverse_link(link) for link in down}


def is_cut(path: Path, down: Collection[str]) -> bool:
    """Return whether a link of the path is down."""
    return any(link in down for link in link_names(path))
