"""Planning with protected labels: what is reserved, which tails are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.cloud.preparation import tail_of
from trainer.errors import UsageError
from trainer.models.boundary import Boundary
from trainer.models.building import build_layers
from trainer.models.split_model import tail_protects_labels
from trainer.models.stage import split_evenly
from trainer.planning.codec_selection import CodecSelector
from trainer.planning.forecasts import StepForecaster
from trainer.profiling.layer_costs import layer_costs, segment_shapes
from trainer.profiling.predictor import LayerSeconds
from trainer.protocol import codec, framing, messages
from trainer.transport.pacing import transfer_bits

SHAPE, CLASSES, BATCH, MICRO, MSS = (3, 32, 32), 3, 50, 4, 8948
LAYERS = build_layers("signal-cnn", 1, SHAPE, CLASSES)
SHAPES = segment_shapes(layer_costs(LAYERS, SHAPE), SHAPE)
BOUNDARIES = [Boundary.of_shape(*shape) for shape in SHAPES]
TAIL = len(LAYERS) - 1
MicroBatch = messages.Segment | messages.Gradient | messages.TailInput | messages.TailGradient
SECONDS = LayerSeconds(tuple(1e-3 * (1 + n) for n in range(len(LAYERS))), tuple(2e-3 for _ in LAYERS))


def forecaster(tail: int | None, codec_name: str = "fp32") -> StepForecaster:
    return StepForecaster(
        {"e": SECONDS}, SECONDS, BOUNDARIES, {"e": BATCH}, MICRO, [0] * len(LAYERS), CodecSelector(codec_name), tail
    )


def sent_bytes(kind: type[MicroBatch], name: str, layer: int, codec_name: codec.Codec) -> int:
    """Return the bytes of all frames of a mini-batch with the largest numbers a header may hold."""
    total = 0
    for number, part in enumerate(split_evenly(BATCH, MICRO)):
        values = torch.randn(part.stop - part.start, *SHAPES[layer])
        step, micro = 10**9, 10**9 - number
        message = (kind(step=step, micro=micro, batch_samples=BATCH) if issubclass(kind, messages.Segment)
                   else kind(step=step, micro=micro))
        _, header, buffers = framing.encode(message, codec.encode(name, values, codec_name))
        total += framing.PREFIX.size + len(header) + sum(map(len, buffers))
    return total


@pytest.mark.parametrize("codec_name", ["fp32", "bf16", "int8", "zstd"])
@pytest.mark.parametrize("cut", [1, 6, 11, TAIL])
def test_reserved_bits_cover_both_crossings_with_all_frames(cut: int, codec_name: codec.Codec) -> None:
    (forecast,) = forecaster(TAIL, codec_name).forecasts({"e": MSS}, {"e": [cut]})
    (option,) = forecast.options
    gradient_codec = codec.default_gradient_codec(codec_name)
    up = sent_bytes(messages.Segment, "segment", cut, codec_name)
    up += sent_bytes(messages.TailGradient, "tail_gradient", TAIL, gradient_codec)
    down = sent_bytes(messages.TailInput, "tail_input", TAIL, codec_name)
    down += sent_bytes(messages.Gradient, "gradient", cut, gradient_codec)
    for reserved, sent in ((option.up_bits, up), (option.down_bits, down)):
        assert transfer_bits(sent, MSS) <= MICRO * reserved <= 1.1 * transfer_bits(sent + MICRO * 800, MSS)


def test_an_unprotected_forecast_equals_one_without_a_tail() -> None:
    cuts = {"e": range(TAIL + 1)}
    (unprotected,) = forecaster(TAIL).forecasts({"e": MSS}, cuts, unprotected=True)
    (plain,) = forecaster(None).forecasts({"e": MSS}, cuts)
    assert unprotected.tail_s == plain.tail_s == 0.0
    for option, other in zip(unprotected.options, plain.options, strict=True):
        assert (option.cut, option.codec, option.forward_s, option.backward_s) == (
            other.cut, other.codec, other.forward_s, other.backward_s)
        assert (option.up_bits, option.down_bits, option.cloud_s) == pytest.approx(
            (other.up_bits, other.down_bits, other.cloud_s), rel=1e-3)


def test_the_tail_is_computed_by_the_edge_not_the_cloud() -> None:
    (with_tail,) = forecaster(TAIL).forecasts({"e": MSS}, {"e": [TAIL]})
    assert with_tail.options[0].cloud_s == 0.0
    assert with_tail.tail_s == pytest.approx(SECONDS.work_s[TAIL])


def test_the_tail_has_the_configured_length() -> None:
    assert tail_of(LAYERS, False, 1) is None
    assert tail_of(LAYERS, True, 1) == TAIL
    assert tail_of(LAYERS, True, 3) == TAIL - 2
    for beyond in (0, len(LAYERS), 99):
        with pytest.raises(UsageError, match=f"--tail-layers is {beyond}"):
            tail_of(LAYERS, True, beyond)


def test_a_tail_without_parameters_would_reveal_the_labels_and_is_refused() -> None:
    layers = [nn.Linear(2, 3), nn.Dropout(0.1), nn.Flatten()]
    with pytest.raises(UsageError, match="The last 2 layers of the model have no parameters"):
        tail_of(layers, True, 2)
    assert not tail_protects_labels(layers, 1)
    assert not tail_protects_labels(layers, 3)
    assert tail_protects_labels(layers, 0)
