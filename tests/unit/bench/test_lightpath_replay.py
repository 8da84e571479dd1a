"""The replay of a simulation's log finds what is impossible."""

from __future__ import annotations

import pytest

from harness.lightpath_replay import LogEntry, ReplayError, replay

SPANS = {("a", "b"): 300.0, ("b", "c"): 300.0, ("a", "c"): 700.0}
ASKED = {0: ("a", "c", 100.0), 1: ("a", "b", 100.0), 2: ("b", "c", 100.0)}
LIT = [
    LogEntry("light", 0, 0, ("a", "b", "c"), 0, 3),
    LogEntry("light", 1, 1, ("a", "b"), 3, 3),
    LogEntry("release", 2, 1),
]


def test_what_is_possible_is_counted() -> None:
    moved = [*LIT, LogEntry("move", 2, 0, ("a", "b", "c"), 3, 3), LogEntry("light", 2, 2, ("b", "c"), 0, 3)]
    assert replay(SPANS, ASKED, moved, 1) == {"light": 3, "move": 1, "release": 1}
    rerouted = [*LIT, LogEntry("move", 2, 0, ("a", "c"), 0, 4)]
    assert replay(SPANS, ASKED, rerouted, 1)["move"] == 1


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (LogEntry("move", 2, 0, ("a", "b", "c"), 1, 3), "occupied by lightpath 0"),
        (LogEntry("light", 2, 2, ("b", "c"), 2, 3), "occupied by lightpath 0"),
        (LogEntry("light", 2, 2, ("b", "c"), 3, 2), "need 3 of the slots"),
        (LogEntry("light", 2, 2, ("b", "c"), 98, 3), "need 3 of the slots"),
        (LogEntry("light", 2, 2, ("a", "c"), 10, 4), "not a route from b to c"),
        (LogEntry("light", 2, 0, ("a", "c"), 10, 4), "lit already"),
        (LogEntry("move", 2, 1, ("a", "b"), 10, 3), "not lit"),
        (LogEntry("release", 2, 1), "not lit"),
    ],
)
def test_what_is_impossible_is_told(step: LogEntry, reason: str) -> None:
    with pytest.raises(ReplayError, match=reason):
        replay(SPANS, ASKED, [*LIT, step], 1)


def test_too_many_moves_and_moves_of_pinned_lightpaths_are_told() -> None:
    moves = [LogEntry("move", 2, 0, ("a", "b", "c"), first, 3) for first in (3, 6)]
    with pytest.raises(ReplayError, match="more than 1 moves"):
        replay(SPANS, ASKED, [*LIT, *moves], 1)
    with pytest.raises(ReplayError, match="pinned"):
        replay(SPANS, ASKED, [*LIT, moves[0]], 3, frozenset({0}))
