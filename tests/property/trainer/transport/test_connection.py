"""Whatever arrives on a connection: each frame once, or a protocol error, within the memory limit."""

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
    return framing.pack_prefix(kind, header, buffers, 1.0, number) + header + b"".join(buffers)


@contextmanager
def receiving(data: bytes, pieces: list[int]) -> Iterator[Connection]:
    """A connection that receives `data` in pieces of these sizes and is then closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        sock, _ = listener.accept()

    def send() -> None:
        offset = 0
        with sender:
            try:
                for size in [*pieces, len(data)]:
                    sender.sendall(data[offset : offset + size])
                    offset += size
            except OSError:
                return  # closed by the receiver

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
    """Return the frames received and the error that ends the connection."""
    received = []
    with receiving(data, pieces) as connection:
        while True:
            try:
                received.append(connection.receive().frame)
            except (ProtocolError, ConnectionLostError) as error:
                return received, error


@few
@given(st.lists(st.integers(1, 40), max_size=20), st.integers(0, 3), st.integers(0, 3))
def test_each_frame_arrives_once_however_fragmented_or_repeated(
    pieces: list[int], repeated: int, copies: int
) -> None:
    whole = [pack(Segment(step=1, micro=n, batch_samples=8), n + 1, {"segment": torch.full((3,), n)}) for n in range(4)]
    data = b"".join([*whole[: repeated + 1], *[whole[repeated]] * copies, *whole[repeated + 1 :]])
    received, error = frames(data, pieces)
    assert [frame.number for frame in received] == [1, 2, 3, 4]
    assert [int(frame.tensors["segment"][0]) for frame in received] == [0, 1, 2, 3]
    assert isinstance(error, ConnectionLostError)


def test_a_missing_frame_is_detected() -> None:
    received, error = frames(pack(Ping(number=0), 1) + pack(Ping(number=2), 3), [])
    assert len(received) == 1
    assert isinstance(error, ProtocolError)
    assert "frame 2 is missing" in str(error)


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
def test_arbitrary_headers_raise_a_protocol_error_at_worst(kind: int, header: object, payload: bytes) -> None:
    text = json.dumps(header).encode()
    data = framing.pack_prefix(kind, text, [memoryview(payload)], 0.0, 1) + text + payload
    received, _ = frames(data, [])
    for frame in received:
        assert sum(tensor.nbytes for tensor in frame.tensors.values()) <= len(payload)


@few
@given(st.binary(max_size=400), st.lists(st.integers(1, 50), max_size=8))
def test_arbitrary_bytes_on_a_socket_raise_a_protocol_error_at_worst(data: bytes, pieces: list[int]) -> None:
    start = pack(ModelUpdate(), 1, {"t": torch.zeros(4)})
    received, _ = frames(start + data, pieces)
    assert len(received) == 1


@pytest.mark.parametrize(
    ("header_bytes", "payload_bytes"), [(2**32 - 1, 0), (4097, 0), (0, 2**64 - 1), (10, 65_537)]
)
def test_sizes_announced_by_a_prefix_allocate_no_memory(header_bytes: int, payload_bytes: int) -> None:
    data = framing.PREFIX.pack(framing.MAGIC, framing.VERSION, Ping.kind, 0, header_bytes, payload_bytes, 0.0, 1)
    tracemalloc.start()
    try:
        received, error = frames(data + bytes(100), [])
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert received == []
    assert isinstance(error, ProtocolError)
    assert peak_bytes < 1_000_000


def test_deeply_nested_headers_are_refused() -> None:
    text = b'{"message":' + b"[" * 1800 + b"]" * 1800 + b',"tensors":[]}'
    received, error = frames(framing.pack_prefix(Ping.kind, text, [], 0.0, 1) + text, [])
    assert received == []
    assert isinstance(error, ProtocolError)
