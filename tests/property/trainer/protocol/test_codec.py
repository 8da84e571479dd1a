"""Codecs: encoded sizes, errors of decoded values, and refusal of invalid tensors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.errors import DivergedError, ProtocolError
from trainer.protocol.codec import MAX_MAGNITUDE, Codec, decode, default_gradient_codec, encode, encoded_bytes

CODECS: list[Codec] = ["fp32", "bf16", "int8"]
EPSILON = torch.finfo(torch.float32).eps


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
    assert sum(tensor.nbytes for tensor in encoded.values()) == encoded_bytes(tuple(values.shape), codec)


@settings(deadline=None, max_examples=50)
@given(segments())
def test_fp32_is_exact(values: Tensor) -> None:
    assert decode("segment", encode("segment", values, "fp32")).equal(values)


@settings(deadline=None, max_examples=50)
@given(segments())
def test_bf16_is_off_by_one_part_in_256_at_most(values: Tensor) -> None:
    decoded = decode("segment", encode("segment", values, "bf16"))
    assert ((decoded - values).abs() <= values.abs() * 2**-8 + 1e-38).all()


@settings(deadline=None, max_examples=50)
@given(segments())
def test_int8_is_off_by_half_a_step_of_its_group_at_most(values: Tensor) -> None:
    encoded = encode("segment", values, "int8")
    least, step = encoded["segment.groups"]
    error = (decode("segment", encoded) - values).double().abs()
    rounding = 2 * EPSILON * (least.double().abs() + 255 * step.double())
    assert (error <= step.double() / 2 + rounding + 255 * torch.finfo(torch.float32).tiny).all()
    assert (least <= values).all()


@settings(deadline=None, max_examples=50)
@given(segments())
def test_zeros_of_a_relu_stay_zero(values: Tensor) -> None:
    values = values.relu()
    decoded = decode("segment", encode("segment", values, "int8"))
    group_has_zero = encode("segment", values, "int8")["segment.groups"][0] == 0
    assert (decoded[(values == 0) & group_has_zero] == 0).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=4))
def test_int8_takes_at_most_27_percent_of_fp32_in_all_but_tiny_segments(shape: list[int]) -> None:
    if math.prod(shape) >= 128:
        assert encoded_bytes(tuple(shape), "int8") <= 0.27 * encoded_bytes(tuple(shape), "fp32")


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
        decode("segment", tensors)


def test_gradients_are_sent_in_bf16_at_least() -> None:
    assert [default_gradient_codec(codec) for codec in CODECS] == ["fp32", "bf16", "bf16"]
