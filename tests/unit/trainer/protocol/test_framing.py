"""Frames are decoded as they were encoded; invalid ones are refused before memory is allocated."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer.errors import ProtocolError
from trainer.protocol import framing
from trainer.protocol.messages import Message, ModelUpdate, Ping, Segment


def pack(message: Message, tensors: dict[str, Tensor] | None = None) -> bytes:
    kind, header, buffers = framing.encode(message, tensors)
    return framing.pack_prefix(kind, header, buffers, 12.5, 1) + header + b"".join(buffers)


def unpack(data: bytes, limits: framing.FrameLimits = framing.FrameLimits()) -> framing.Frame:  # noqa: B008
    size = framing.PREFIX.size
    start = framing.parse_prefix(data[:size], limits)
    header = data[size : size + start.header_bytes]
    return framing.decode(start, header, bytearray(data[size + start.header_bytes :]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8, torch.int64])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 5), (2, 3, 5)])
def test_tensors_are_decoded_as_they_were_encoded(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.ones(shape).mul(7).to(dtype)
    frame = unpack(pack(ModelUpdate(), {"a": tensor, "b": tensor}))
    for name in ("a", "b"):
        assert frame.tensors[name].dtype == dtype
        assert torch.equal(frame.tensors[name], tensor)


def test_a_tensor_that_is_not_contiguous_is_decoded_correctly() -> None:
    tensor = torch.arange(12, dtype=torch.float32).view(3, 4).t()
    assert torch.equal(unpack(pack(ModelUpdate(), {"t": tensor})).tensors["t"], tensor)


def test_message_and_time_of_sending_are_decoded() -> None:
    message = Segment(step=3, micro=1, batch_samples=64)
    frame = unpack(pack(message, {"segment": torch.zeros(4)}))
    assert frame.message == message
    assert frame.sent_s == 12.5
    assert frame.size_bytes == len(pack(message, {"segment": torch.zeros(4)}))


@given(st.binary(min_size=framing.PREFIX.size, max_size=200))
def test_arbitrary_bytes_raise_a_protocol_error_at_worst(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack(data)


@given(st.data())
def test_a_damaged_frame_is_a_frame_or_a_protocol_error(data: st.DataObject) -> None:
    frame = bytearray(pack(Segment(step=1, micro=0, batch_samples=8), {"segment": torch.zeros(5)}))
    for offset in data.draw(st.lists(st.integers(0, len(frame) - 1), min_size=1, max_size=4)):
        frame[offset] = data.draw(st.integers(0, 255))
    try:
        unpack(bytes(frame))
    except ProtocolError:
        return


def test_a_frame_larger_than_allowed_is_refused_by_its_prefix_alone() -> None:
    data = pack(ModelUpdate(), {"t": torch.zeros(1000)})[: framing.PREFIX.size]
    with pytest.raises(ProtocolError, match="larger than"):
        framing.parse_prefix(data, framing.FrameLimits(payload_bytes=3999))


def test_another_version_is_named() -> None:
    data = bytearray(pack(Ping(number=1)))
    data[4] = framing.VERSION + 1
    with pytest.raises(ProtocolError, match=f"version {framing.VERSION + 1}"):
        unpack(bytes(data))


@pytest.mark.parametrize(
    "header",
    [b"{", b"[]", b'{"message":{"number":-1},"tensors":[]}', b'{"message":{"number":1,"x":2},"tensors":[]}',
     b'{"message":{"number":1},"tensors":[{"name":"t","dtype":"f32","shape":[1000000]}]}',
     b'{"message":{"number":1},"tensors":[{"name":"t","dtype":"f32","shape":[-4]}]}',
     b'{"message":{"number":1},"tensors":[{"name":"t","dtype":"obj","shape":[1]}]}'],
)
def test_a_malformed_header_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack(framing.pack_prefix(Ping.kind, header, [], 0.0, 1) + header)
