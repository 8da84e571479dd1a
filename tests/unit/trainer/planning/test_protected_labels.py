"""Protected labels before anything is sent: what is reserved for them, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.cloud.preparation import tail_of
from trainer.errors import UsageError
from trainer.models.split_model import hides_labels
from trainer.models.stage import split_evenly
from trainer.models.zoo import build_layers
from trainer.planning.codec_selection import CodecSelector
from trainer.planning.forecasts import StepForecaster
from trainer.profiling.layer_costs import layer_costs, segment_shapes
from trainer.profiling.predictor import LayerSeconds
from trainer.protocol import codec, framing, messages
from trainer.transport.pacing import transfer_bits

SHAPE, CLASSES, BATCH, MICRO, MSS = (3, 32, 32), 3, 50, 4, 8948
LAYERS = build_layers("signal-cnn", 1, SHAPE, CLASSES)
SHAPES = segment_shapes(layer_costs(LAYERS, SHAPE), SHAPE)
TAIL = len(LAYERS) - 1
MicroBatch = messages.Segment | messages.Gradient | messages.TailInput | messages.TailGradient
SECONDS = LayerSeconds(tuple(1e-3 * (1 + n) for n in range(len(LAYERS))), tuple(2e-3 for _ in LAYERS))


def outlook(tail: int | None, how: str = "fp32") -> StepForecaster:
    return StepForecaster(
        {"e": SECONDS}, SECONDS, SHAPES, {"e": BATCH}, MICRO, [0] * len(LAYERS), CodecSelector(how), tail
    )


def sent_bytes(kind: type[MicroBatch], name: str, layer: int, how: codec.Codec) -> int:
    """The frames of a mini-batch, from prefix to padding, with the largest numbers a header may hold."""
    total = 0
    for number, piece in enumerate(split_evenly(BATCH, MICRO)):
        values = torch.randn(piece.stop - piece.start, *SHAPES[layer])
        step, micro = 10**9, 10**9 - number
        message = (kind(step=step, micro=micro, batch_samples=BATCH) if issubclass(kind, messages.Segment)
                   else kind(step=step, micro=micro))
        _, header, buffers = framing.encode(message, codec.encode(name, values, how))
        total += framing.PREFIX.size + len(header) + sum(map(len, buffers))
    return total


@pytest.mark.parametrize("how", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("cut", [1, 6, 11, TAIL])
def test_what_is_reserved_carries_both_crossings_with_all_their_frames(cut: int, how: codec.Codec) -> None:
    (forecast,) = outlook(TAIL, how).forecasts({"e": MSS}, {"e": [cut]})
    (option,) = forecast.options
    back = codec.gradient_codec(how)
    up = sent_bytes(messages.Segment, "segment", cut, how)
    up += sent_bytes(messages.TailGradient, "tail_gradient", TAIL, back)
    down = sent_bytes(messages.TailInput, "tail_input", TAIL, how)
    down += sent_bytes(messages.Gradient, "gradient", cut, back)
    for reserved, sent in ((option.up_bits, up), (option.down_bits, down)):
        assert transfer_bits(sent, MSS) <= MICRO * reserved <= 1.1 * transfer_bits(sent + MICRO * 800, MSS)


def test_without_protection_a_forecast_is_what_it_would_be_without_a_tail() -> None:
    cuts = {"e": range(TAIL + 1)}
    (without,) = outlook(TAIL).forecasts({"e": MSS}, cuts, unprotected=True)
    (plain,) = outlook(None).forecasts({"e": MSS}, cuts)
    assert without.tail_s == plain.tail_s == 0.0
    for one, other in zip(without.options, plain.options, strict=True):
        assert (one.cut, one.codec, one.forward_s, one.backward_s) == (
            other.cut, other.codec, other.forward_s, other.backward_s)
        assert (one.up_bits, one.down_bits, one.cloud_s) == pytest.approx(
            (other.up_bits, other.down_bits, other.cloud_s), rel=1e-3)


def test_a_tail_is_the_edges_work_and_not_the_clouds() -> None:
    (with_tail,) = outlook(TAIL).forecasts({"e": MSS}, {"e": [TAIL]})
    assert with_tail.options[0].cloud_s == 0.0
    assert with_tail.tail_s == pytest.approx(SECONDS.work_s[TAIL])


def test_a_tail_is_as_long_as_it_was_asked_to_be_and_begins_nowhere_else() -> None:
    assert tail_of(LAYERS, False, 1) is None
    assert tail_of(LAYERS, True, 1) == TAIL
    assert tail_of(LAYERS, True, 3) == TAIL - 2
    for beyond in (0, len(LAYERS), 99):
        with pytest.raises(UsageError, match=f"--tail-layers is {beyond}"):
            tail_of(LAYERS, True, beyond)


def test_a_tail_without_parameters_would_tell_the_labels_and_is_refused() -> None:
    layers = [nn.Linear(2, 3), nn.Dropout(0.1), nn.Flatten()]
    with pytest.raises(UsageError, match="The last 2 layers of the model have no parameters"):
        tail_of(layers, True, 2)
    assert not hides_labels(layers, 1)
    assert not hides_labels(layers, 3)
    assert hides_labels(layers, 0)
