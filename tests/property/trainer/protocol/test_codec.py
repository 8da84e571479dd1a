"""Codecs: encoded sizes, errors of decoded values, and refusal of invalid tensors."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.errors import DivergedError, ProtocolError
from trainer.protocol import codec as codecs
from trainer.protocol.codec import CODECS, Codec, default_gradient_codec, encode, encoded_bytes
from trainer.protocol.quantization import MAX_MAGNITUDE

EPSILON = torch.finfo(torch.float32).eps


def decode(encoded: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    return codecs.decode("segment", encoded, shape)


@st.composite
def segments(draw: st.DrawFn) -> Tensor:
    """Segments of every shape, with channels of very different scales and locations."""
    shape = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    scale = draw(st.sampled_from([0.0, 1e-45, 1e-30, 1e-3, 1.0, 1e6, 1e30]))
    location = draw(st.sampled_from([0.0, 1.0, -1e4]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    values = torch.randn(shape, generator=generator) * scale + location
    if draw(st.booleans()):
        values = values.relu()
    if len(shape) > 1 and draw(st.booleans()):
        values[:, 0] *= 1000
    return values


@settings(deadline=None, max_examples=50)
@given(segments(), st.sampled_from(CODECS))
def test_the_size_is_known_from_the_shape(values: Tensor, codec: Codec) -> None:
    encoded = encode("segment", values, codec)
    size, most = sum(tensor.nbytes for tensor in encoded.values()), encoded_bytes(tuple(values.shape), codec)
    assert size <= most if codec == "zstd" else size == most


@settings(deadline=None, max_examples=50)
@given(segments())
def test_fp32_is_exact(values: Tensor) -> None:
    assert decode(encode("segment", values, "fp32"), tuple(values.shape)).equal(values)


@settings(deadline=None, max_examples=50)
@given(segments())
def test_bf16_is_off_by_one_part_in_256_at_most(values: Tensor) -> None:
    decoded = decode(encode("segment", values, "bf16"), tuple(values.shape))
    assert ((decoded - values).abs() <= values.abs() * 2**-8 + 1e-38).all()


@settings(deadline=None, max_examples=50)
@given(segments())
def test_int8_is_off_by_half_a_step_of_its_group_at_most(values: Tensor) -> None:
    encoded = encode("segment", values, "int8")
    assert_off_by_half_a_step(encoded, values)
    assert (encoded["segment.groups"][0] <= values).all()


def assert_off_by_half_a_step(encoded: dict[str, Tensor], values: Tensor) -> None:
    least, step = encoded["segment.groups"].double()
    error = (decode(encoded, tuple(values.shape)) - values).double().abs()
    rounding = 2 * EPSILON * (least.abs() + 255 * step)
    assert (error <= step / 2 + rounding + 255 * torch.finfo(torch.float32).tiny).all()


@settings(deadline=None, max_examples=100)
@given(segments())
def test_zstd_is_off_by_half_a_step_of_its_group_at_most_and_keeps_zeros(values: Tensor) -> None:
    values[values < 0] *= 0.3
    values[..., 0] = 0
    encoded = encode("segment", values, "zstd")
    assert_off_by_half_a_step(encoded, values)
    step = encoded["segment.groups"][1]
    assert (decode(encoded, tuple(values.shape))[(values == 0) & (step > 0)] == 0).all()
    again = encode("segment", values.clone(), "zstd")
    assert all(again[name].equal(tensor) for name, tensor in encoded.items())


def test_zstd_has_as_many_levels_as_fit() -> None:
    generator = torch.Generator().manual_seed(1)
    dense = torch.randn(16, 24, 16, 16, generator=generator)
    sparse = dense * (torch.rand(dense.shape, generator=generator) > 0.9)
    steps = [encode("gradient", values, "zstd")["gradient.groups"][1].mean() for values in (dense, sparse)]
    assert steps[1] < steps[0] / 4
    assert sum(tensor.nbytes for tensor in encode("gradient", dense, "zstd").values()) > 0.1 * dense.nbytes


@settings(deadline=None, max_examples=50)
@given(segments())
def test_zeros_of_a_relu_stay_zero(values: Tensor) -> None:
    values = values.relu()
    decoded = decode(encode("segment", values, "int8"), tuple(values.shape))
    group_has_zero = encode("segment", values, "int8")["segment.groups"][0] == 0
    assert (decoded[(values == 0) & group_has_zero] == 0).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=4))
def test_int8_takes_27_and_zstd_12_percent_of_fp32_at_most_in_all_but_tiny_segments(shape: list[int]) -> None:
    if math.prod(shape) >= 128:
        assert encoded_bytes(tuple(shape), "int8") <= 0.27 * encoded_bytes(tuple(shape), "fp32")
        assert encoded_bytes(tuple(shape), "zstd") <= 0.12 * encoded_bytes(tuple(shape), "fp32")


@pytest.mark.parametrize(("shape", "groups"), [
    ((16, 24, 8, 8), (1, 24, 1, 1)),  # channels
    ((16, 384), (16, 1)),  # too few values per channel: by sample
    ((128, 3), (1, 3)),
    ((4, 3), (1, 1)),
])
def test_groups_are_channels_if_these_are_large_enough(shape: tuple[int, ...], groups: tuple[int, ...]) -> None:
    assert encode("segment", torch.rand(shape), "int8")["segment.groups"].shape == (2, *groups)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("bad", "what"), [(math.nan, "NaN"), (math.inf, "values up to inf"),
                                           (-math.inf, "values up to inf"), (-2 * MAX_MAGNITUDE,
                                                                            r"values up to 2e\+38")])
def test_diverged_values_are_reported(codec: Codec, bad: float, what: str) -> None:
    values = torch.zeros(4, 40, 4)
    values[2, 5, 1] = bad
    with pytest.raises(DivergedError, match=f"The gradient holds {what}: training has diverged"):
        encode("gradient", values, codec)


GROUPS = torch.ones(2, 1, 1)


@pytest.mark.parametrize(("tensors", "sentence"), [
    ({}, "'segment' is missing"),
    ({"segment": torch.zeros(2, 2, dtype=torch.int64)}, "arrived as torch.int64"),
    ({"segment": torch.zeros(2, 2, dtype=torch.int8)}, "without its groups"),
    ({"segment": torch.zeros(2, 2, dtype=torch.int8), "segment.groups": torch.ones(2, 2)}, "without its groups"),
    ({"segment": torch.zeros(2, 2, dtype=torch.int8), "segment.groups": GROUPS * math.nan}, "are not numbers"),
])
def test_invalid_encoded_tensors_are_refused(tensors: dict[str, Tensor], sentence: str) -> None:
    with pytest.raises(ProtocolError, match=sentence):
        decode(tensors, (2, 2))


def announcing(size: int) -> bytes:
    """A frame of Zstandard whose header announces that size, with one empty block."""
    return (0xFD2FB528).to_bytes(4, "little") + b"\xe0" + size.to_bytes(8, "little") + b"\x01\0\0"


SHAPE = 2, 128
ZEROS = zstandard.compress(bytes(256), 1)


@pytest.mark.parametrize(("body", "sentence"), [
    (b"", "arrived as 0 bytes"),
    (bytes(200), "arrived as 200 bytes.*sends 1 to 106"),
    (b"\0" + bytes(95), "95 bytes of kind 0"),
    (b"\7" + ZEROS, "of kind 7"),
    (b"\1" + zstandard.compress(bytes(2**30), 1)[:50], "announces 1073741824 values; it has 256"),
    (b"\1" + announcing(2**62), "announces 4611686018427387904 values"),
    (b"\1" + announcing(256), "cannot be decompressed"),
    (b"\1" + ZEROS[:-1], "cannot be decompressed"),
    (b"\1" + ZEROS + b"\0", "cannot be decompressed"),
    (b"\1" + bytes(20), "cannot be decompressed"),
    (b"\1" + zstandard.ZstdCompressor(write_content_size=False).compress(bytes(256)), "announces -1 values"),
], ids=["nothing", "over budget", "packed too short", "unknown kind", "bomb", "announced bomb", "not what is announced",
        "cut off", "more behind it", "no frame", "no size announced"])
def test_what_does_not_decompress_to_the_segment_is_refused(body: bytes, sentence: str) -> None:
    data = torch.tensor(list(body), dtype=torch.uint8)
    with pytest.raises(ProtocolError, match=f"The tensor 'segment' .*{sentence}"):
        decode({"segment": data, "segment.groups": torch.ones(2, 2, 1)}, SHAPE)


@settings(deadline=None, max_examples=200)
@given(st.binary(min_size=1, max_size=40), st.integers(0, 30))
def test_damaged_bytes_decode_to_a_segment_or_are_refused(damage: bytes, place: int) -> None:
    body = bytearray(b"\1" + zstandard.compress(bytes(range(64)) * 4, 1))
    body[place : place + len(damage)] = damage
    groups = torch.ones(2, 2, 1)
    with contextlib.suppress(ProtocolError):
        assert decode({"segment": torch.tensor(list(body), dtype=torch.uint8), "segment.groups": groups},
                      SHAPE).shape == SHAPE


def test_gradients_are_not_sent_in_int8_by_default() -> None:
    assert [default_gradient_codec(codec) for codec in CODECS] == ["fp32", "bf16", "bf16", "zstd"]
