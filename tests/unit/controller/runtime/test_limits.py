"""Limits of the process: the option, the descriptors, and repeated lines of the log."""

from __future__ import annotations

import logging

import click
import pytest

from controller.api.limits import RestLimits
from controller.openflow.limits import OpenFlowLimits
from controller.runtime.limits import LimitType, limits_from
from controller.runtime.logging_setup import BURST, RepeatLimit


def test_a_limit_is_changed_by_name() -> None:
    chosen = [LimitType()("rest.header_bytes=100"), LimitType()("openflow.handshake_s=0.5")]
    limits = limits_from(chosen)
    assert (limits.rest.header_bytes, limits.openflow.handshake_s) == (100, 0.5)
    assert limits.openflow.handshakes == OpenFlowLimits().handshakes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rest.speed=1", "there is no limit 'rest.speed'; the limits are rest.connections, "),
        ("rest.header_bytes", "is a whole number above 0, for example rest.header_bytes=16384"),
        ("rest.header_bytes=1.5", "whole number above 0"),
        ("rest.header_s=0", "a number above 0"),
        ("rest.header_s=nan", "a number above 0"),
        ("openflow.handshake_s=-1", "a number above 0"),
    ],
)
def test_a_wrong_limit_is_refused_with_what_would_be_right(text: str, words: str) -> None:
    with pytest.raises(click.BadParameter, match=words):
        LimitType()(text)


def test_connections_stay_within_the_descriptors() -> None:
    few = RestLimits().within(1024)
    assert few.connections == 576
    assert few.connections_per_address == 288
    assert RestLimits().within(65_536) == RestLimits()
    assert RestLimits().within(10).connections == 1


def test_repeated_lines_are_limited_and_counted() -> None:
    now_s = 0.0
    limit = RepeatLimit(lambda: now_s)

    def passed(text: str, count: int) -> list[str]:
        records = [logging.LogRecord("x", logging.WARNING, "", 0, text, (number,), None) for number in range(count)]
        return [record.getMessage() for record in records if limit.filter(record)]

    assert len(passed("refused %d", BURST + 50)) == BURST
    assert passed("other %d", 1) == ["other 0"]
    now_s = 1.0
    assert passed("refused %d", 5) == ["refused 0 (50 such lines left out)"]
