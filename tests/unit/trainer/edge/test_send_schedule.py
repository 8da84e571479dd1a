"""Scheduled sending; timing of a step at edges, flows and cloud."""

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


class SentMessages:
    """Records the messages sent and when."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, float]] = []

    def send(self, message: Message, _tensors: Mapping[str, Tensor]) -> None:
        assert isinstance(message, Gradient)
        self.sent.append((message.micro, time.time()))


def segment(number: int) -> Gradient:
    return Gradient(step=0, micro=number)


def test_a_message_ready_early_is_sent_at_its_scheduled_instant() -> None:
    log, first_s = SentMessages(), time.time() + PERIOD_S
    with SendSchedule(log.send, first_s, PERIOD_S) as schedule:
        for number in range(4):
            schedule.put(segment(number), {})
        schedule.finish()
    assert [number for number, _ in log.sent] == [0, 1, 2, 3]
    for number, sent_s in log.sent:
        assert sent_s >= first_s + number * PERIOD_S


def test_a_late_message_is_sent_immediately_and_the_next_at_its_own_instant() -> None:
    log, first_s = SentMessages(), time.time() - PERIOD_S
    with SendSchedule(log.send, first_s, 3 * PERIOD_S) as schedule:
        schedule.put(segment(0), {})
        schedule.put(segment(1), {})
        late_s = schedule.finish()
    assert late_s >= PERIOD_S
    assert log.sent[1][1] >= first_s + 3 * PERIOD_S


def test_an_aborted_step_sends_nothing_more() -> None:
    log = SentMessages()
    with pytest.raises(RuntimeError), SendSchedule(log.send, time.time() + 60, PERIOD_S) as schedule:
        schedule.put(segment(0), {})
        raise RuntimeError
    assert log.sent == []


def test_a_lost_connection_is_raised_by_finish() -> None:
    def lost(_message: Message, _tensors: Mapping[str, Tensor]) -> None:
        raise ConnectionLostError("gone.")

    with SendSchedule(lost, time.time(), PERIOD_S) as schedule:
        schedule.put(segment(0), {})
        schedule.put(segment(1), {})
        with pytest.raises(ConnectionLostError):
            schedule.finish()


def test_waiting_between_backward_passes_does_not_make_an_edge_look_faster() -> None:
    flow = FlowGuarantee(8_000_000)
    transfers = StepTransfers(0.0, 1448, flow, flow)
    transfers.done = StepDone(step=0, forward_s=0.4, forward_cpu_s=0.1, backward_s=0.25, backward_cpu_s=0.2, late_s=0.0,
                             gradients_received_s=[1.0])
    assert transfers.done.times.slowdown == pytest.approx(4.0)
    assert transfers.busy_s == pytest.approx(0.65)


def test_the_bound_of_a_round_is_the_busiest_of_edges_flows_and_cloud() -> None:
    steps = []
    for number in range(2):
        edges = {}
        for name, busy_s, sent_bytes in (("a", 0.1, 144_800), ("b", 0.3, 14_480)):
            transfers = StepTransfers(0.0, 1448, FlowGuarantee(1_000_000), FlowGuarantee(8_000_000))
            transfers.sent_up, transfers.cloud_s = [SentFrame(0.0, sent_bytes)], 0.25
            transfers.done = StepDone(step=number, forward_s=busy_s, forward_cpu_s=busy_s, backward_s=0.0,
                                     backward_cpu_s=0.0, late_s=0.0, gradients_received_s=[])
            transfers.done_s = 10.0 + busy_s
            edges[name] = transfers
        steps.append(StepResult(number, 1.5, edges))
    bound = RoundBound.from_steps(steps)
    assert bound.edge_s == pytest.approx(0.6)
    assert bound.cloud_s == pytest.approx(1.0)
    assert bound.link_s == pytest.approx(2 * 100 * 1514 * 8 / 1e6)
    assert bound.largest_s == bound.link_s
    assert steps[0].next_ready_s({"a": 0.5, "b": 0.1}) == pytest.approx(10.6)
