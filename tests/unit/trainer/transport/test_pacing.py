"""From bytes to reserved bits, to promises, and on to a real paced socket."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from trainer.protocol import messages
from trainer.transport.clock_sync import PingTimes, best_offset_s
from trainer.transport.connection import Connection, Received, connect
from trainer.transport.pacing import SentFrame, judge, pace_bytes_per_s, transfer_bits, virtual_finish_s, wire_bits
from trainer.transport.sockets import listen


def test_the_bits_asked_for_and_the_pace_given_agree() -> None:
    rate_bps = wire_bits(1_000_000, 8948) / 0.5
    assert 1_000_000 / pace_bytes_per_s(rate_bps, 8948) == pytest.approx(0.5)


def test_a_transfers_first_two_packets_need_no_time_of_their_own() -> None:
    rate_bps = transfer_bits(100_000, 8948) / 0.1
    assert (100_000 - 2 * 8948) / pace_bytes_per_s(rate_bps, 8948) == pytest.approx(0.1)
    assert transfer_bits(1000, 8948) == pytest.approx(0.75 * wire_bits(1000, 8948))


def test_frames_sent_at_once_queue_up_and_late_ones_do_not() -> None:
    assert virtual_finish_s([SentFrame(10.0, 100), SentFrame(10.0, 100)], 100) == pytest.approx(12.0)
    assert virtual_finish_s([SentFrame(10.0, 100), SentFrame(15.0, 100)], 100) == pytest.approx(16.0)


def test_a_promise_is_kept_up_to_its_bound_and_not_beyond() -> None:
    frames = [SentFrame(0.0, 1_000_000)]
    bound_s = judge(frames, 0.5, 16e6, 8948, 2000.0).bound_s
    assert bound_s is not None
    assert bound_s == pytest.approx(0.5 / 0.985 * (8948 + 66) / 8948 + 0.002)
    assert judge(frames, bound_s - 1e-6, 16e6, 8948, 2000.0).kept
    assert not judge(frames, bound_s + 1e-6, 16e6, 8948, 2000.0).kept


def test_without_a_reservation_nothing_is_promised() -> None:
    judgement = judge([SentFrame(0.0, 1000)], 5.0, 8e6, 1448, None)
    assert judgement.bound_s is None
    assert judgement.kept is None
    assert judgement.ideal_s == pytest.approx(0.001)


def test_the_ping_with_the_shortest_way_tells_the_offset() -> None:
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
    there = Connection(server)
    yield client, there
    client.close()
    there.close()


def receive_in_thread(connection: Connection, count: int) -> tuple[threading.Thread, list[Received]]:
    got: list[Received] = []
    thread = threading.Thread(target=lambda: got.extend(connection.receive() for _ in range(count)))
    thread.start()
    return thread, got


def test_a_paced_sender_takes_the_time_its_rate_implies(pair: tuple[Connection, Connection]) -> None:
    client, server = pair
    thread, got = receive_in_thread(server, 22)
    for number in range(20):  # the kernel does not pace a connection's first ten packets
        client.send(messages.Ping(number=number))
    client.pace(2e6)
    tensor = torch.zeros(200_000)
    first = client.send(messages.ModelUpdate(), {"a": tensor})
    client.send(messages.ModelUpdate(), {"a": tensor})
    thread.join()
    assert got[-1].arrival_s - first.send_s == pytest.approx(0.8, rel=0.15)


def test_the_stamp_is_the_kernels_not_the_readers(pair: tuple[Connection, Connection]) -> None:
    client, server = pair
    sent = client.send(messages.Ping(number=1))
    threading.Event().wait(0.3)  # the reader is busy elsewhere
    received = server.receive()
    assert received.arrival_s - sent.send_s < 0.2
    assert received.frame.sent_s == sent.send_s
