"""What a switch may send: the queue of its events, the rate of its messages, the size of its replies."""

from __future__ import annotations

import pytest

from control_plane.raw_switch import FLOW, flow_stats, message, multipart_part, port_status
from controller.dataplane.southbound import PortChanged, SwitchConnected, SwitchDisconnected
from controller.openflow.encoder import HEADER
from controller.openflow.event_queue import SwitchEventQueue
from controller.openflow.incoming import BadMessageError, IncomingMessages
from controller.openflow.limits import OpenFlowLimits
from controller.openflow.listener import AddressRates

LIMITS = OpenFlowLimits(reply_bytes=1000, reply_parts=4, messages_per_s=10, ports=10)


class Clock:
    """A clock that the test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def accepted(incoming: IncomingMessages, sent: bytes) -> bool:
    version, kind, length, xid = HEADER.unpack_from(sent)
    return incoming.is_wanted(version, kind, length, xid, bytearray(b"before" + sent), len(b"before"))


def established(clock: Clock | None = None) -> IncomingMessages:
    incoming = IncomingMessages(LIMITS, clock or Clock())
    incoming.on_established({1, 2}, is_known=True)
    return incoming


def test_events_that_supersede_each_other_are_kept_once_in_the_order_of_the_last() -> None:
    queue = SwitchEventQueue()
    for number in range(1000):
        queue.put(None)
        queue.put(PortChanged(1, number % 2, "", bool(number & 2)))
    queue.put(SwitchDisconnected(1))
    queue.put(SwitchConnected(1, {}))
    queue.put(PortChanged(1, 0, "", None))
    kept = [queue.get_nowait() for _ in range(queue.qsize())]
    assert kept == [
        None, PortChanged(1, 1, "", True), SwitchDisconnected(1), SwitchConnected(1, {}), PortChanged(1, 0, "", None),
    ]  # fmt: skip


def test_replies_are_limited_in_bytes_parts_and_number() -> None:
    part = multipart_part(7, FLOW, flow_stats(1) * 3, more=True)
    incoming = established()
    for _ in range(4):
        assert accepted(incoming, part)
    with pytest.raises(BadMessageError, match="larger than 1000 bytes and 4 parts"):
        accepted(incoming, part)
    incoming = established()
    with pytest.raises(BadMessageError, match="larger than 1000 bytes"):
        accepted(incoming, multipart_part(7, FLOW, flow_stats(1) * 20, more=False))
    incoming = established()
    for xid in range(1000):  # complete ones leave nothing behind
        assert accepted(incoming, multipart_part(xid, FLOW, b"", more=False))
    with pytest.raises(BadMessageError, match="more than 64 multipart replies are incomplete"):
        for xid in range(65):
            accepted(incoming, multipart_part(xid, FLOW, b"", more=True))


MALFORMED = (message(12, b"\2"), b"\4\x0c\0\7\0\0\0\0", message(19, b"\0"), message(12, bytes(100)))


@pytest.mark.parametrize("sent", MALFORMED)
def test_malformed_messages_are_found_before_they_are_parsed(sent: bytes) -> None:
    with pytest.raises(BadMessageError):
        accepted(established(), sent)


def test_the_status_of_other_ports_is_ignored() -> None:
    incoming = established()
    numbers = [number for number in (1, 2, 3, 4_000_000_000) if accepted(incoming, port_status(number))]
    assert numbers == [1, 2]


def test_a_fast_switch_is_read_at_its_rate_and_an_unknown_one_slower() -> None:
    clock = Clock()
    incoming = established(clock)
    for _ in range(10):
        incoming.count_unasked()
    assert incoming.pause_s() == 0
    for _ in range(20):
        incoming.count_unasked()
    assert incoming.pause_s() == pytest.approx(2.0)
    assert incoming.is_fast
    clock.now_s = 2.0
    assert incoming.pause_s() == pytest.approx(0.0)
    incoming.on_established({1}, is_known=False)
    incoming.count_unasked()
    assert incoming.pause_s() == pytest.approx(2.0)


def test_new_connections_of_an_address_are_limited_in_rate() -> None:
    clock = Clock()
    rates = AddressRates(3, 10, clock)
    assert [rates.passes("a") for _ in range(5)] == [True, True, True, False, False]
    assert rates.passes("b")
    clock.now_s = 0.1
    assert [rates.passes("a") for _ in range(2)] == [True, False]
