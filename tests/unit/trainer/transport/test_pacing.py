"""Reserved bits, latency bounds of transfers, clock offsets, and pacing on a real socket."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from trainer.protocol import messages
from trainer.transport.clock_sync import PingTimes, best_offset_s
from trainer.transport.connection import Connection, ReceivedFrame, connect
from trainer.transport.pacing import (
    SentFrame,
    assess_transfer,
    pace_bytes_per_s,
    transfer_bits,
    virtual_finishes_s,
    wire_bits,
)
from trainer.transport.sockets import listen


def test_reserved_bits_and_pace_agree() -> None:
    rate_bps = wire_bits(1_000_000, 8948) / 0.5
    assert 1_000_000 / pace_bytes_per_s(rate_bps, 8948) == pytest.approx(0.5)


def test_the_first_two_packets_of_a_transfer_are_not_paced() -> None:
    rate_bps = transfer_bits(100_000, 8948) / 0.1
    assert (100_000 - 2 * 8948) / pace_bytes_per_s(rate_bps, 8948) == pytest.approx(0.1)
    assert transfer_bits(1000, 8948) == pytest.approx(0.75 * wire_bits(1000, 8948))


def test_frames_sent_at_once_queue_up_and_late_ones_do_not() -> None:
    assert virtual_finishes_s([SentFrame(10.0, 100), SentFrame(10.0, 100)], 100) == pytest.approx([11.0, 12.0])
    assert virtual_finishes_s([SentFrame(10.0, 100), SentFrame(15.0, 100)], 100) == pytest.approx([11.0, 16.0])


def test_a_transfer_is_kept_up_to_its_bound_and_not_beyond() -> None:
    frames = [SentFrame(0.0, 1_000_000)]
    bound_s = assess_transfer(frames, [0.5], 16e6, 8948, 2000.0).bound_s
    assert bound_s is not None
    assert bound_s == pytest.approx(0.5 / 0.985 * (8948 + 66) / 8948 + 0.002)
    assert assess_transfer(frames, [bound_s - 1e-6], 16e6, 8948, 2000.0).kept
    assert not assess_transfer(frames, [bound_s + 1e-6], 16e6, 8948, 2000.0).kept


def test_without_a_reservation_there_is_no_bound() -> None:
    verdict = assess_transfer([SentFrame(0.0, 1000)], [5.0], 8e6, 1448, None)
    assert verdict.bound_s is None
    assert verdict.kept is None
    assert verdict.ideal_s == pytest.approx(0.001)


def test_by_an_assumed_rate_nothing_is_judged() -> None:
    verdict = assess_transfer([SentFrame(0.0, 1000)], [5.0], 8e6, 1448, None, rate_is_assumed=True)
    assert (verdict.ideal_s, verdict.bound_s, verdict.kept) == (None, None, None)
    assert verdict.measured_s == 5.0


def test_waiting_between_frames_is_not_transfer_time() -> None:
    frames = [SentFrame(0.0, 100_000), SentFrame(1.0, 100_000), SentFrame(1.05, 100_000)]
    verdict = assess_transfer(frames, [0.1, 1.1, 1.2], 8e6, 8948, 1000.0)
    assert verdict.measured_s == pytest.approx(0.3)
    assert verdict.span_s == pytest.approx(1.2)
    assert verdict.ideal_s == pytest.approx(0.3)
    assert verdict.bound_s == pytest.approx(0.3 / 0.985 * 9014 / 8948 + 2 * 0.001)
    assert verdict.kept


def test_one_late_frame_breaks_a_promise_that_all_together_would_keep() -> None:
    frames = [SentFrame(0.0, 1000), SentFrame(1.0, 1000), SentFrame(2.0, 1000)]
    verdict = assess_transfer(frames, [0.001, 1.04, 2.001], 8e6, 8948, 20_000.0)
    assert verdict.bound_s is not None and verdict.margin_s is not None
    assert verdict.measured_s < verdict.bound_s
    assert verdict.margin_s < 0
    assert verdict.kept is False


def test_the_ping_with_the_shortest_round_trip_determines_the_offset() -> None:
    slow = PingTimes(0.0, 5.9, 5.9, 1.0)
    quick = PingTimes(2.0, 7.001, 7.5, 2.501)
    assert quick.round_trip_s == pytest.approx(0.002)
    assert best_offset_s([slow, quick]) == pytest.approx(5.0)


@pytest.fixture
def pair() -> Iterator[tuple[Connection, Connection]]:
    listener = listen(("127.0.0.1", 0))
    client = connect(listener.getsockname()[:2], None, 5)
    server, _ = listener.accept()
    listener.close()
    server_side = Connection(server)
    yield client, server_side
    client.close()
    server_side.close()


def receive_in_thread(connection: Connection, count: int) -> tuple[threading.Thread, list[ReceivedFrame]]:
    received: list[ReceivedFrame] = []
    thread = threading.Thread(target=lambda: received.extend(connection.receive() for _ in range(count)))
    thread.start()
    return thread, received


def test_a_paced_sender_takes_the_time_its_rate_implies(pair: tuple[Connection, Connection]) -> None:
    client, server = pair
    thread, received = receive_in_thread(server, 22)
    for number in range(20):  # the kernel does not pace a connection's first ten packets
        client.send(messages.Ping(number=number))
    client.pace(2e6)
    tensor = torch.zeros(200_000)
    first = client.send(messages.ModelUpdate(), {"a": tensor})
    client.send(messages.ModelUpdate(), {"a": tensor})
    thread.join()
    assert received[-1].arrival_s - first.send_s == pytest.approx(0.8, rel=0.15)


def test_the_arrival_time_is_the_kernels_not_the_readers(pair: tuple[Connection, Connection]) -> None:
    client, server = pair
    sent = client.send(messages.Ping(number=1))
    threading.Event().wait(0.3)  # the reader is busy
    received = server.receive()
    assert received.arrival_s - sent.send_s < 0.2
    assert received.frame.sent_s == sent.send_s
