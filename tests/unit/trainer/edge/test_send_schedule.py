"""Segments leave on the beat, late ones at once; what a step shows of edges, flows and cloud."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
from torch import Tensor

from trainer.cloud.step_timing import RoundBound, StepResult, StepTransfers
from trainer.edge.send_schedule import SendSchedule
from trainer.errors import ConnectionLostError
from trainer.protocol.messages import Gradient, Message, StepDone
from trainer.reservation.bandwidth import FlowGuarantee
from trainer.transport.pacing import SentFrame

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
    with SendSchedule(line.send, first_s, PERIOD_S) as beat:
        for number in range(4):
            beat.put(segment(number), {})
        beat.finish()
    assert [number for number, _ in line.sent] == [0, 1, 2, 3]
    for number, sent_s in line.sent:
        assert sent_s >= first_s + number * PERIOD_S


def test_what_is_late_leaves_at_once_and_the_next_is_due_on_its_own_beat() -> None:
    line, first_s = Line(), time.time() - PERIOD_S
    with SendSchedule(line.send, first_s, 3 * PERIOD_S) as beat:
        beat.put(segment(0), {})
        beat.put(segment(1), {})
        late_s = beat.finish()
    assert late_s >= PERIOD_S
    assert line.sent[1][1] >= first_s + 3 * PERIOD_S


def test_a_step_that_is_given_up_sends_nothing_more() -> None:
    line = Line()
    with pytest.raises(RuntimeError), SendSchedule(line.send, time.time() + 60, PERIOD_S) as beat:
        beat.put(segment(0), {})
        raise RuntimeError
    assert line.sent == []


def test_a_lost_connection_is_told_to_whoever_waits_for_the_end() -> None:
    def lost(_message: Message, _tensors: Mapping[str, Tensor]) -> None:
        raise ConnectionLostError("gone.")

    with SendSchedule(lost, time.time(), PERIOD_S) as beat:
        beat.put(segment(0), {})
        beat.put(segment(1), {})
        with pytest.raises(ConnectionLostError):
            beat.finish()


def test_an_edge_that_waits_between_backward_passes_does_not_look_faster_than_it_is() -> None:
    promise = FlowGuarantee(8_000_000)
    exchange = StepTransfers(0.0, 1448, promise, promise)
    exchange.done = StepDone(step=0, forward_s=0.4, forward_cpu_s=0.1, backward_s=0.25, backward_cpu_s=0.2, late_s=0.0,
                             gradients_received_s=[1.0])
    assert exchange.done.times.stretch == pytest.approx(4.0)
    assert exchange.busy_s == pytest.approx(0.65)


def test_a_rounds_bound_is_the_busiest_of_edges_flows_and_cloud() -> None:
    steps = []
    for number in range(2):
        edges = {}
        for name, busy_s, sent_bytes in (("a", 0.1, 144_800), ("b", 0.3, 14_480)):
            exchange = StepTransfers(0.0, 1448, FlowGuarantee(1_000_000), FlowGuarantee(8_000_000))
            exchange.sent_up, exchange.cloud_s = [SentFrame(0.0, sent_bytes)], 0.25
            exchange.done = StepDone(step=number, forward_s=busy_s, forward_cpu_s=busy_s, backward_s=0.0,
                                     backward_cpu_s=0.0, late_s=0.0, gradients_received_s=[])
            exchange.done_s = 10.0 + busy_s
            edges[name] = exchange
        steps.append(StepResult(number, 1.5, edges))
    bound = RoundBound.of(steps)
    assert bound.edge_s == pytest.approx(0.6)
    assert bound.cloud_s == pytest.approx(1.0)
    assert bound.link_s == pytest.approx(2 * 100 * 1514 * 8 / 1e6)
    assert bound.largest_s == bound.link_s
    assert steps[0].next_ready_s({"a": 0.5, "b": 0.1}) == pytest.approx(10.6)
