"""A switch connection handles replies to our messages in order and passes all others on to Ryu."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.openflow.connection import CONFIRMING, SwitchConnection
from controller.openflow.encoder import BARRIER_REPLY, ERROR, HEADER, VERSION

PACKET_IN, OUR_XID = 10, 7
MESSAGES = st.lists(
    st.tuples(
        st.sampled_from([PACKET_IN, BARRIER_REPLY, ERROR]), st.sampled_from([OUR_XID, 8]), st.binary(max_size=40)
    ),
    max_size=20,
)


class ReplaySocket:
    """A socket that returns these pieces in order."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)

    def recv(self, _size: int) -> bytes:
        return next(self._pieces, b"")


def message(kind: int, xid: int, body: bytes) -> bytes:
    return HEADER.pack(VERSION, kind, HEADER.size + len(body), xid) + body


@given(MESSAGES, st.lists(st.integers(1, 30), min_size=1))
def test_our_replies_are_handled_in_order_and_the_others_are_passed_on_whole(
    messages: list[tuple[int, int, bytes]], sizes: list[int]
) -> None:
    stream = b"".join(message(*fields) for fields in messages)
    pieces: list[bytes] = []
    at = 0
    while at < len(stream):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(stream[at : at + size])
        at += size
    connection, handled = SwitchConnection(ReplaySocket(pieces)), []

    def handle(kind: int, xid: int, body: bytes) -> bool:
        if xid == OUR_XID:
            handled.append((kind, xid, body))
        return xid == OUR_XID

    connection.on_confirmation = handle
    passed_on = b""
    while read := connection.recv(8):
        passed_on += read
    ours = [(kind, xid, body) for kind, xid, body in messages if kind in CONFIRMING and xid == OUR_XID]
    assert handled == ours
    assert passed_on == b"".join(message(*fields) for fields in messages if fields not in ours)
