"""A switch's line hears what answers our messages, in order and at once, and leaves everything else to Ryu."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.openflow.connection import CONFIRMING, SwitchConnection
from controller.openflow.encoder import BARRIER_REPLY, ERROR, HEADER, VERSION

PACKET_IN, OURS = 10, 7
MESSAGES = st.lists(
    st.tuples(st.sampled_from([PACKET_IN, BARRIER_REPLY, ERROR]), st.sampled_from([OURS, 8]), st.binary(max_size=40)),
    max_size=20,
)


class Connection:
    """A socket on which these pieces come in."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)

    def recv(self, _size: int) -> bytes:
        return next(self._pieces, b"")


def message(kind: int, xid: int, body: bytes) -> bytes:
    return HEADER.pack(VERSION, kind, HEADER.size + len(body), xid) + body


@given(MESSAGES, st.lists(st.integers(1, 30), min_size=1))
def test_ours_are_heard_in_order_and_the_others_come_out_whole(
    messages: list[tuple[int, int, bytes]], sizes: list[int]
) -> None:
    stream = b"".join(message(*each) for each in messages)
    pieces: list[bytes] = []
    at = 0
    while at < len(stream):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(stream[at : at + size])
        at += size
    line, heard = SwitchConnection(Connection(pieces)), []

    def hear(kind: int, xid: int, body: bytes) -> bool:
        if xid == OURS:
            heard.append((kind, xid, body))
        return xid == OURS

    line.hear = hear
    others = b""
    while read := line.recv(8):
        others += read
    ours = [each for each in messages if each[0] in CONFIRMING and each[1] == OURS]
    assert heard == ours
    assert others == b"".join(message(*each) for each in messages if each not in ours)
