"""Segments leave on the beat, late ones at once, and none after a step was given up."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
from torch import Tensor

from trainer.beat import Beat
from trainer.errors import ConnectionLostError
from trainer.messages import Gradient, Message

PERIOD_S = 0.05


class Line:
    """Notes what is sent, and when."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, float]] = []

    def send(self, message: Message, _tensors: Mapping[str, Tensor]) -> None:
        assert isinstance(message, Gradient)
        self.sent.append((message.micro, time.time()))


def segment(number: int) -> Gradient:
    return Gradient(step=0, micro=number)


def test_what_is_ready_early_waits_for_its_beat() -> None:
    line, first_s = Line(), time.time() + PERIOD_S
    with Beat(line.send, first_s, PERIOD_S) as beat:
        for number in range(4):
            beat.put(segment(number), {})
        beat.finish()
    assert [number for number, _ in line.sent] == [0, 1, 2, 3]
    for number, sent_s in line.sent:
        assert sent_s >= first_s + number * PERIOD_S


def test_what_is_late_leaves_at_once_and_the_next_is_due_on_its_own_beat() -> None:
    line, first_s = Line(), time.time() - PERIOD_S
    with Beat(line.send, first_s, 3 * PERIOD_S) as beat:
        beat.put(segment(0), {})
        beat.put(segment(1), {})
        late_s = beat.finish()
    assert late_s >= PERIOD_S
    assert line.sent[1][1] >= first_s + 3 * PERIOD_S


def test_a_step_that_is_given_up_sends_nothing_more() -> None:
    line = Line()
    with pytest.raises(RuntimeError), Beat(line.send, time.time() + 60, PERIOD_S) as beat:
        beat.put(segment(0), {})
        raise RuntimeError
    assert line.sent == []


def test_a_lost_connection_is_told_to_whoever_waits_for_the_end() -> None:
    def lost(_message: Message, _tensors: Mapping[str, Tensor]) -> None:
        raise ConnectionLostError("gone.")

    with Beat(lost, time.time(), PERIOD_S) as beat:
        beat.put(segment(0), {})
        beat.put(segment(1), {})
        with pytest.raises(ConnectionLostError):
            beat.finish()
