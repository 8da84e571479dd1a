"""Whatever comes over a connection: a frame once, or a protocol error; never more memory than is allowed."""

from __future__ import annotations

import json
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.errors import ConnectionLostError, ProtocolError
from trainer.protocol import framing
from trainer.protocol.messages import MESSAGES, Message, ModelUpdate, Ping, Segment
from trainer.transport.connection import Connection

LIMITS = framing.FrameLimits(header_bytes=4096, payload_bytes=65_536)
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def pack(message: Message, number: int, tensors: dict[str, torch.Tensor] | None = None) -> bytes:
    kind, header, buffers = framing.encode(message, tensors)
    return framing.prefix(kind, header, buffers, 1.0, number) + header + b"".join(buffers)


@contextmanager
def receiving(data: bytes, pieces: list[int]) -> Iterator[Connection]:
    """A connection on which `data` comes in pieces of these sizes, and then nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        sock, _ = listener.accept()

    def send() -> None:
        place = 0
        with sender:
            try:
                for size in [*pieces, len(data)]:
                    sender.sendall(data[place : place + size])
                    place += size
            except OSError:
                return  # the other side had enough

    thread = threading.Thread(target=send)
    thread.start()
    connection = Connection(sock)
    connection.limits = LIMITS
    try:
        yield connection
    finally:
        connection.close()
        thread.join()


def frames(data: bytes, pieces: list[int]) -> tuple[list[framing.Frame], Exception]:
    """What is received of it, and how it ends."""
    got = []
    with receiving(data, pieces) as connection:
        while True:
            try:
                got.append(connection.receive().frame)
            except (ProtocolError, ConnectionLostError) as error:
                return got, error


@few
@given(st.lists(st.integers(1, 40), max_size=20), st.integers(0, 3), st.integers(0, 3))
def test_frames_arrive_once_each_however_they_are_cut_up_and_repeated(
    pieces: list[int], repeated: int, again: int
) -> None:
    whole = [pack(Segment(step=1, micro=n, batch_samples=8), n + 1, {"segment": torch.full((3,), n)}) for n in range(4)]
    data = b"".join([*whole[: repeated + 1], *[whole[repeated]] * again, *whole[repeated + 1 :]])
    got, end = frames(data, pieces)
    assert [frame.number for frame in got] == [1, 2, 3, 4]
    assert [int(frame.tensors["segment"][0]) for frame in got] == [0, 1, 2, 3]
    assert isinstance(end, ConnectionLostError)


def test_a_frame_that_never_came_is_noticed() -> None:
    got, end = frames(pack(Ping(number=0), 1) + pack(Ping(number=2), 3), [])
    assert len(got) == 1
    assert isinstance(end, ProtocolError)
    assert "frame 2 never came" in str(end)


scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)
notes = st.fixed_dictionaries({
    "name": st.text(max_size=10) | scalars,
    "dtype": st.sampled_from(["f32", "u8", "i64", "bf16", "obj", ""]) | scalars,
    "shape": st.lists(st.integers(-2, 2**66), max_size=9) | scalars,
})
headers = st.fixed_dictionaries({"message": documents, "tensors": st.lists(notes, max_size=6) | documents})


@settings(few, max_examples=30)
@given(st.sampled_from(sorted(MESSAGES)), headers | documents, st.binary(max_size=300))
def test_no_header_does_worse_than_a_protocol_error(kind: int, header: object, payload: bytes) -> None:
    text = json.dumps(header).encode()
    data = framing.prefix(kind, text, [memoryview(payload)], 0.0, 1) + text + payload
    got, _ = frames(data, [])
    for frame in got:
        assert sum(tensor.nbytes for tensor in frame.tensors.values()) <= len(payload)


@few
@given(st.binary(max_size=400), st.lists(st.integers(1, 50), max_size=8))
def test_no_bytes_on_a_socket_do_worse_than_a_protocol_error(data: bytes, pieces: list[int]) -> None:
    start = pack(ModelUpdate(), 1, {"t": torch.zeros(4)})
    got, _ = frames(start + data, pieces)
    assert len(got) == 1


@pytest.mark.parametrize(
    ("header_bytes", "payload_bytes"), [(2**32 - 1, 0), (4097, 0), (0, 2**64 - 1), (10, 65_537)]
)
def test_what_a_prefix_promises_takes_no_memory(header_bytes: int, payload_bytes: int) -> None:
    data = framing.PREFIX.pack(framing.MAGIC, framing.VERSION, Ping.kind, 0, header_bytes, payload_bytes, 0.0, 1)
    tracemalloc.start()
    try:
        got, end = frames(data + bytes(100), [])
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert got == []
    assert isinstance(end, ProtocolError)
    assert peak_bytes < 1_000_000


def test_deeply_nested_headers_are_refused() -> None:
    text = b'{"message":' + b"[" * 1800 + b"]" * 1800 + b',"tensors":[]}'
    got, end = frames(framing.prefix(Ping.kind, text, [], 0.0, 1) + text, [])
    assert got == []
    assert isinstance(end, ProtocolError)
