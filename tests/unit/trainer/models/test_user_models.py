"""A user's model computes, cut into layers, what it computes whole; otherwise it is refused with the place."""

from __future__ import annotations

import copy
import random
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

from tests.unit.trainer.models import unusual, without_gradients
from tests.unit.trainer.models.encoders import Encoder
from trainer.errors import ModelFailedError, TrainerError, UsageError, UserCodeError
from trainer.models.averaging import average
from trainer.models.boundary import Boundary
from trainer.models.building import BuiltModel, build_model
from trainer.models.frozen import initial_digest
from trainer.models.optimizer import OptimizerConfig
from trainer.models.rng import RandomStream
from trainer.models.split_model import ClientModel, ServerModel
from trainer.models.stage import Stage
from trainer.models.value_checks import SENT_TYPES
from trainer.protocol import framing, messages, segments

Build = Callable[..., BuiltModel]
STREAM = RandomStream(1, "edge1", 1, 0, 0)


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Build:
    """Build a user's model and compare it with its layers, as at the start of a run."""
    module = types.ModuleType("users")
    monkeypatch.setitem(sys.modules, "users", module)

    def make(model: Callable[[], Any], *sample_shape: int, integers: tuple[int, int] | None = None) -> BuiltModel:
        module.model = model  # type: ignore[attr-defined]
        return build_model("users:model", 1, sample_shape or (8,), 3, integers, verify=True)

    return make


class Net(nn.Module):
    """A forward pass given as a function of the module and its input; the other arguments are its modules."""

    def __init__(self, function: Callable[[Any, Any], Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.function = function

    def forward(self, values: Tensor) -> Any:
        """Call the function."""
        return self.function(self, values)


def linear(inputs: int = 8, outputs: int = 8) -> nn.Linear:
    return nn.Linear(inputs, outputs)


def sides(boundaries: list[Boundary]) -> list[list[tuple[int, ...]]]:
    """Return the shapes at every cut, for four samples."""
    return [[spec.shape(4) for spec in boundary.tensors] for boundary in boundaries]


def test_a_module_used_twice_is_two_layers(build: Build) -> None:
    act = nn.ReLU()
    assert len(build(lambda: nn.Sequential(linear(), act, linear(), act, linear(8, 3))).layers) == 5


@pytest.mark.parametrize("repeated", [linear(), nn.BatchNorm1d(8, affine=False)])
def test_a_module_with_values_used_twice_is_refused(build: Build, repeated: nn.Module) -> None:
    with pytest.raises(UsageError, match="layers 1 and 2 share a parameter or buffer"):
        build(lambda: nn.Sequential(*[repeated] * 3, linear(8, 3)))
    with pytest.raises(UsageError, match="layers 2 and 4 share a parameter or buffer"):
        build(lambda: nn.Sequential(linear(), repeated, nn.ReLU(), repeated, linear(8, 3)))


def test_parameters_without_a_shape_are_refused_with_their_layer(build: Build) -> None:
    with pytest.raises(UsageError, match=r"layer 2 \(LazyLinear\) has parameters without a shape until it has seen"):
        build(lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), linear(8, 3)))


def test_parameters_that_share_their_memory_are_refused(build: Build) -> None:
    def tied() -> nn.Module:
        first, last = linear(), linear()
        last.weight.data = first.weight.data
        return nn.Sequential(first, nn.ReLU(), last, linear(8, 3))

    with pytest.raises(UsageError, match="layers 1 and 3 share"):
        build(tied)


class Switching(nn.Module):
    """Operations of one mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = linear(), linear(), linear(8, 3)

    def forward(self, values: Tensor) -> Tensor:
        """Add noise in training, scale otherwise."""
        values = self.a(values)
        if self.training:
            values = values + 0.1 * torch.randn_like(values)
        values = self.b(values).relu()
        if not self.training:
            values = values * 2
        outputs: Tensor = self.c(values)
        return outputs


class Frozen(nn.Module):
    """Normalization that stays in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = linear(), nn.BatchNorm1d(8), linear(8, 3)

    def train(self, mode: bool = True) -> Frozen:
        """Set the mode of all but the normalization."""
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, values: Tensor) -> Tensor:
        """Normalize with the stored statistics."""
        outputs: Tensor = self.b(self.norm(self.a(values)))
        return outputs


class FunctionalNorm(nn.Module):
    """Batch normalization as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(), linear(8, 3)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("variance", torch.ones(8))

    def forward(self, values: Tensor) -> Tensor:
        """Normalize by the batch in training."""
        mean, variance = self.get_buffer("mean"), self.get_buffer("variance")
        values = functional.batch_norm(self.a(values), mean, variance, training=self.training)
        outputs: Tensor = self.b(values)
        return outputs


class Attention(nn.Module):
    """Attention with dropout in training."""

    def __init__(self) -> None:
        super().__init__()
        self.projection, self.out, self.head = linear(8, 24), linear(), linear(40, 3)

    def forward(self, values: Tensor) -> Tensor:
        """Attend over the tokens."""
        query, key, value = self.projection(values.transpose(1, 2)).chunk(3, -1)
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=0.3 if self.training else 0.0)
        outputs: Tensor = self.head(self.out(mixed).flatten(1))
        return outputs


def by_function(name: str) -> nn.Module:
    return Net(lambda net, values: net.b(getattr(functional, name)(net.a(values), training=net.training)),
               a=linear(), b=linear(8, 3))


def spatial(name: str, convolution: type[nn.Module], features: int) -> nn.Module:
    function = getattr(functional, name)
    return Net(lambda net, values: net.b(function(net.a(values), 0.5, training=net.training).flatten(1)),
               a=convolution(8, 4, 3, padding=1), b=linear(features, 3))


MODES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{name: (lambda name=name: by_function(name), (8,))  # type: ignore[misc]
       for name in ("dropout", "alpha_dropout", "feature_alpha_dropout", "rrelu")},
    "dropout1d": (lambda: spatial("dropout1d", nn.Conv1d, 24), (8, 6)),
    "dropout2d": (lambda: spatial("dropout2d", nn.Conv2d, 144), (8, 6, 6)),
    "if training": (Switching, (8,)),
    "attention": (Attention, (8, 5)),
    "batch norm": (FunctionalNorm, (8,)),
    "frozen": (Frozen, (8,)),
}


@pytest.mark.parametrize("kind", MODES)
def test_the_mode_is_not_frozen_by_tracing(build: Build, kind: str) -> None:
    model, shape = MODES[kind]
    torch.manual_seed(3)
    own = model()
    built = build(lambda: own, *shape)
    assert len(built.layers) > 1
    samples = torch.randn(4, *shape)
    stage = Stage(built.layers, 0, len(built.layers), OptimizerConfig())
    first, second = stage.evaluate(samples), stage.evaluate(samples)
    assert first.equal(second)
    torch.testing.assert_close(first, own.eval()(samples))
    own.train()
    assert all(layer.training for layer in built.layers)
    torch.manual_seed(5)
    expected = own(samples)
    torch.manual_seed(5)
    values = samples
    for layer in built.layers:
        values = layer(values)
    torch.testing.assert_close(values, expected)


class OwnNoise(nn.Module):
    """Random numbers that do not depend on the input: torch.fx would draw them once, when it traces."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(), linear(8, 3)

    def forward(self, values: Tensor) -> Tensor:
        """Add noise."""
        outputs: Tensor = self.b(self.a(values) + torch.randn(8))
        return outputs


def test_layers_that_compute_something_else_are_refused_with_layer_and_mode(build: Build) -> None:
    with pytest.raises(UsageError, match=r"layer \d \(Linear\) makes other values when the model is cut into layers "
                                         r"than in the model itself \(in training mode, of 2 samples\)"):
        build(unusual.Autocast)


def numpys_noise(net: Any, values: Tensor) -> Tensor:
    made: Tensor = net.b(net.a(values) * (1 + float(np.random.rand())))
    return made


def deciding(net: Any, values: Tensor) -> Tensor:
    made: Tensor = net.b(values if torch.rand(()).item() < 0.5 else net.a(values))
    return made


def test_random_numbers_are_not_drawn_once_when_the_model_is_traced(build: Build) -> None:
    layers = build(OwnNoise).layers
    hidden = [layers[0](torch.ones(1, 8)) for _ in range(2)]
    assert not hidden[0].equal(hidden[1])
    for function in (numpys_noise, deciding):
        with pytest.raises(UsageError, match=r"traced neither by torch.fx .*its forward pass draws random numbers that "
                                             "do not depend on its input"):
            build(lambda function=function: Net(function, a=linear(), b=linear(8, 3)))


MISFITS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "counter": (lambda: nn.Sequential(linear(), unusual.Counting(), linear(8, 3)), "keeps something between calls"),
    "memory": (unusual.Remembering, r"makes other values of the same samples when it is called again: .*\(in training"),
    "own generator": (lambda: nn.Sequential(linear(), unusual.OwnGenerator(), linear(8, 3)), "random generator of its"),
    "gradient hook": (unusual.with_gradient_hook, r"0 \(Linear\) has 0.weight, whose gradient has a hook"),
    "sparse buffer": (lambda: unusual.with_buffer(torch.eye(8).to_sparse()), r"0 \(Linear\) has 0.extra, a sparse"),
    "float8": (lambda: unusual.with_buffer(torch.ones(8).to(torch.float8_e4m3fn)), "of type float8_e4m3fn, which can"),
    "meta": (lambda: unusual.with_buffer(torch.ones(8, device="meta")), r"which has no values \(device meta\)"),
    "inference": (unusual.made_for_inference, r"0 \(Linear\) has 0.weight, which was made in torch.infer"),
    "generator": (lambda: unusual.with_attribute(each for each in ""), "users:model cannot be copied: TypeError"),
    "sparse gradient": (lambda: nn.Sequential(nn.Embedding(90, 8, sparse=True), nn.Flatten(), linear(96, 3)),
                        r"layer 1 \(Embedding\) makes a sparse gradient of 0.weight"),
    "mapping at the end": (lambda: nn.Sequential(linear(), unusual.TwoLast()), r"layer 2 \(TwoLast\) returns 1 tensor"),
    "lazy": (lambda: Net(lambda net, values: net.b(net.a(values)), a=nn.LazyLinear(8), b=linear(8, 3)),
             r"a \(LazyLinear\) has parameters without a shape until it has seen a sample"),
    "packed between layers": (lambda: nn.Sequential(Net(lambda _, values: pack_padded_sequence(
        values, torch.full((len(values),), 7), batch_first=True)), nn.LSTM(5, 8),
        Net(lambda _, made: made[1][0][-1]), linear(8, 3)),
        r"layer 1 \(Net\) makes a PackedSequence; between layers there may be tensors and numbers"),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_what_cannot_be_trained_in_parts_is_refused_in_one_sentence(build: Build, kind: str) -> None:
    model, sentence = MISFITS[kind]
    shape = {"sparse gradient": (12,), "packed between layers": (7, 5)}.get(kind, (8,))
    with pytest.raises(UsageError, match=sentence) as caught:
        build(model, *shape, integers=(0, 89) if kind == "sparse gradient" else None)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_modules_that_are_quantized_are_refused(build: Build) -> None:
    quantize: Callable[..., nn.Module] = torch.ao.quantization.quantize_dynamic
    with pytest.raises(UsageError, match=r"0._packed_params .*has dtype in its state, which is no tensor"):
        build(lambda: quantize(nn.Sequential(linear(8, 3)), {nn.Linear}))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_compiled_forward_pass_is_undone(build: Build) -> None:
    class Compiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = linear(), linear(8, 3)

        @torch.compile
        def forward(self, values: Tensor) -> Tensor:
            outputs: Tensor = self.b(self.a(values))
            return outputs

    assert len(build(Compiled).layers) == 2


def test_types_that_can_be_sent_are_those_of_frames() -> None:
    assert set(framing._DTYPES.values()) == SENT_TYPES


class Squeezing(nn.Module):
    """Loses the dimension of the samples if there is one sample."""

    def __init__(self) -> None:
        super().__init__()
        self.head = linear(8, 3)

    def forward(self, values: Tensor) -> Tensor:
        """Squeeze all."""
        outputs: Tensor = self.head(values).unsqueeze(2).squeeze()
        return outputs


def test_a_shape_that_depends_on_the_batch_is_refused_with_the_layer(build: Build) -> None:
    with pytest.raises(UsageError, match=r"layer 3 \(Squeezing\) makes \(3,\) of 1 sample; it must make \(1, 3\)"):
        build(lambda: nn.Sequential(linear(), nn.ReLU(), Squeezing()))
    with pytest.raises(UsageError, match=r"layer 2 \(Linear\) makes \(3,\) of 1 sample"):
        build(lambda: Net(lambda net, values: net.b(net.a(values)).squeeze(), a=linear(), b=linear(8, 3)))


def test_batch_normalization_is_not_asked_for_one_sample_in_training(build: Build) -> None:
    assert len(build(lambda: nn.Sequential(linear(), nn.BatchNorm1d(8), linear(8, 3))).layers) == 3


class Shift(nn.Module):
    """Modifies its input in place."""

    def forward(self, values: Tensor) -> Tensor:
        """Shift and rectify."""
        values += 1.0
        return values.relu_()


class ToDouble(nn.Module):
    """Changes the type."""

    def forward(self, values: Tensor) -> Tensor:
        """Convert."""
        return values.double()


class Odd(nn.Module):
    """Buffers and parameters of unusual types, one of them counting."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(), linear(8, 3)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int32))
        self.register_buffer("flag", torch.tensor([True, False]))
        self.register_buffer("phase", torch.full((8,), 1 + 2j, dtype=torch.complex64))
        self.low = nn.Parameter(torch.ones(8, dtype=torch.float16))
        self.wave = nn.Parameter(torch.ones(8, dtype=torch.complex64))
        self.wide = nn.Parameter(torch.ones(8, dtype=torch.float64))

    def forward(self, values: Tensor) -> Tensor:
        """Use all of them."""
        self.steps += 1  # type: ignore[operator, assignment]
        scale = self.low.float() * (self.wave * self.phase).real * self.wide.float()  # type: ignore[operator]
        outputs: Tensor = self.b(self.a(values) * scale)
        return outputs


class Optional(nn.Module):
    """Optional arguments keep their defaults."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(), linear(8, 3)

    def forward(self, values: Tensor, mask: Tensor | None = None, *, scale: float = 2.0) -> Tensor:
        """Scale."""
        values = self.a(values)
        if mask is not None:
            values = values * mask
        outputs: Tensor = self.b(values) * scale
        return outputs


class Checkpointed(nn.Module):
    """Recomputes activations in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.inner, self.reentrant = nn.Sequential(linear(), nn.Tanh(), nn.Dropout(0.5)), reentrant

    def forward(self, values: Tensor) -> Any:
        """Run through a checkpoint."""
        return checkpoint(self.inner, values, use_reentrant=self.reentrant)


class Residual(nn.Module):
    """A mask, a skip connection and the number of samples cross the cuts."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = linear(), linear(), linear(8, 3)

    def forward(self, values: Tensor) -> Tensor:
        """Choose by a mask."""
        samples, _ = values.shape
        hidden = self.a(values)
        mask = hidden > 0
        outputs: Tensor = self.c(torch.where(mask, self.b(hidden.relu()), hidden).reshape(samples, -1))
        return outputs


class States(nn.Module):
    """The states of one recurrent layer begin the next."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = (nn.LSTM(5, 8, batch_first=True), nn.LSTM(8, 8, batch_first=True), linear(8, 3))

    def forward(self, values: Tensor) -> Tensor:
        """Run both."""
        hidden, states = self.a(values.transpose(1, 2))
        hidden, _ = self.b(hidden, states)
        outputs: Tensor = self.head(hidden[:, -1])
        return outputs


class Packed(nn.Module):
    """Packs sequences by their lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 8, batch_first=True), linear(8, 3)

    def forward(self, values: Tensor) -> Tensor:
        """Run up to the last step that is not zero."""
        values = values.transpose(1, 2)
        lengths = (values.abs().sum(-1) > 0).sum(1).clamp(min=1).cpu()
        _, (hidden, _) = self.lstm(pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False))
        outputs: Tensor = self.head(hidden[-1])
        return outputs


class Exported(nn.Module):
    """Python on the shape: torch.fx cannot trace it, torch.export can."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.drop, self.b = linear(), nn.BatchNorm1d(8), nn.Dropout(0.5), linear(8, 3)

    def forward(self, values: Tensor) -> Tensor:
        """Repeat by a dimension."""
        values = self.a(values)
        for number in range(values.shape[1] // 4):
            values = values + number
        outputs: Tensor = self.b(self.drop(self.norm(values)))
        return outputs


class Network(nn.Module):
    """A U-net of two levels."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, 4, 3, padding=1)
        self.head = linear(256, 3)

    def forward(self, values: Tensor) -> Tensor:
        """Concatenate both levels."""
        top = functional.relu(self.down(values))
        deep = functional.relu(self.deep(functional.max_pool2d(top, 2)))
        outputs: Tensor = self.head(self.out(torch.cat([top, self.up(deep)], 1)).flatten(1))
        return outputs


class Tokens(nn.Module):
    """An embedding of token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(90, 8)

    def forward(self, values: Tensor) -> Tensor:
        """Look up."""
        outputs: Tensor = self.table(values).flatten(1)
        return outputs


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, int] | None]] = {
    "in place": (lambda: nn.Sequential(linear(), Shift(), linear(8, 3)), (8,), None),
    "double": (lambda: nn.Sequential(ToDouble(), linear().double(), nn.ReLU(), linear(8, 3).double()), (8,), None),
    "odd types": (Odd, (8,), None),
    "odd types inside": (lambda: Net(lambda net, values: net.b(net.a(values).relu()), a=Odd(), b=linear(3, 3)), (8,),
                         None),
    "optional arguments": (Optional, (8,), None),
    "checkpoint": (lambda: nn.Sequential(linear(), Checkpointed(False), linear(8, 3)), (8,), None),
    "re-entrant checkpoint": (lambda: nn.Sequential(linear(), Checkpointed(True), linear(8, 3)), (8,), None),
    "mask": (Residual, (8,), None),
    "states": (States, (5, 7), None),
    "tuple": (lambda: nn.Sequential(nn.GRU(5, 8, batch_first=True), Net(lambda _, pair: pair[0][:, -1]), linear(8, 3)),
              (7, 5), None),
    "packed": (Packed, (5, 7), None),
    "exported": (Exported, (8,), None),
    "u-net": (Network, (3, 8, 8), None),
    "encoder": (Encoder, (12,), (0, 89)),
    "exported encoder": (lambda: Encoder(by_length=True), (12,), (0, 89)),
    "encoder of one layer": (lambda: Encoder(shared=True), (12,), (0, 89)),
    "autograd function": (unusual.StraightThrough, (8,), None),
    "autograd function inside": (lambda: unusual.StraightThrough(unusual.StraightThrough()), (8,), None),
    "named tuple": (unusual.Named, (8,), None),
    "mapping": (lambda: unusual.Named(as_mapping=True), (8,), None),
    "complex": (unusual.Fourier, (8,), None),
    "computed weights": (unusual.Normed, (8,), None),
    "hard mixture": (unusual.HardMixture, (8,), None),
    "random depth": (unusual.Deep, (8,), None),
    "tied": (unusual.Tied, (12,), (0, 89)),
    "unpooling": (unusual.Unpooled, (3, 8, 8), None),
    "expanded buffer": (unusual.Expanded, (8,), None),
    "moving mean": (without_gradients.Centred, (8,), None),
    "moving codes": (without_gradients.Quantized, (8,), None),
    "constant norm": (without_gradients.Scaled, (8,), None),
    "part without gradients": (without_gradients.FrozenPart, (8,), None),
    "tokens": (lambda: nn.Sequential(Tokens(), linear(96, 8), nn.ReLU(), linear(8, 3)), (12,), (0, 89)),
}


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")  # weight_norm
@pytest.mark.parametrize("kind", KINDS)
def test_training_cut_anywhere_equals_training_uncut(build: Build, kind: str) -> None:
    """One step at every cut, over encoded frames, gives the values of a step with all layers in the cloud."""
    model, shape, integers = KINDS[kind]
    torch.manual_seed(2)
    inputs = torch.randn(4, *shape) if integers is None else torch.randint(0, 90, (4, *shape))
    labels = torch.tensor([0, 1, 2, 0])

    edge, cloud = build(model, *shape, integers=integers), build(model, *shape, integers=integers)
    count, optimizer = len(edge.layers), OptimizerConfig("momentum", 0.1)

    def step(cut: int) -> dict[str, Tensor]:
        client = ClientModel(Stage(copy.deepcopy(edge.layers), 0, cut, optimizer))
        server = ServerModel(Stage(copy.deepcopy(cloud.layers), cut, count, optimizer))
        boundary = edge.boundaries[cut]
        sent = segments.encode_segment("segment", client.forward(inputs, STREAM), boundary, 4, "fp32")
        assert sum(tensor.nbytes for tensor in sent.values()) == segments.segment_bytes(boundary, 4, "fp32")
        arrived = segments.decode_segment("segment", transferred(sent), boundary, 4)
        gradients, _ = server.train(arrived, labels, 4, STREAM)
        returned = segments.encode_gradients("gradient", gradients, boundary, "fp32")
        assert sum(tensor.nbytes for tensor in returned.values()) == segments.gradient_bytes(boundary, 4, "fp32")
        client.backward(0, segments.decode_gradients("gradient", transferred(returned), boundary, 4))
        client.step()
        server.step()
        return client.stage.state_dict(0, cut) | server.stage.state_dict(cut, count)

    expected = step(0)
    for cut in range(1, count + 1):
        torch.testing.assert_close(step(cut), expected, equal_nan=True)


def transferred(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors after their way through a frame."""
    kind, header, buffers = framing.encode(messages.ModelUpdate(), tensors)
    prefix = framing.pack_prefix(kind, header, buffers, 0.0, 1)
    parsed = framing.parse_prefix(prefix, framing.FrameLimits())
    return dict(framing.decode(parsed, header, bytearray(b"".join(buffers))).tensors)


def test_a_cut_is_crossed_by_skip_connections_masks_and_states(build: Build) -> None:
    assert sides(build(Residual).boundaries)[1] == [(4, 8), (4, 8), (4, 8)]
    assert [spec.dtype for spec in build(Residual).boundaries[1].tensors].count(torch.bool) == 1
    assert sides(build(States, 5, 7).boundaries)[2] == [(4, 7, 8), (1, 4, 8), (1, 4, 8)]
    assert [(4, 4, 8, 8), (4, 8, 4, 4)] in sides(build(Network, 3, 8, 8).boundaries)


def test_an_encoder_is_cut_between_its_layers_and_its_mask_crosses_the_cuts(build: Build) -> None:
    for by_length in (False, True):
        built = build(lambda by_length=by_length: Encoder(by_length=by_length), 12, integers=(0, 89))
        assert len(built.layers) > 12
        crossing = [shapes for shapes in sides(built.boundaries) if (4, 12, 8) in shapes and (4, 1, 1, 12) in shapes]
        assert len(crossing) > 6
        names = list(built.names.values())
        assert len(names) == len(set(names))  # no value is part of two layers
    assert len(build(lambda: Encoder(shared=True), 12, integers=(0, 89)).layers) < 10  # both uses of the layer are one


def test_all_types_travel_are_averaged_and_stay(build: Build) -> None:
    stage = Stage(build(Odd).layers, 0, 1, OptimizerConfig())
    values = stage.state_dict(0, len(stage.layers))
    assert {value.dtype for value in values.values()} >= {
        torch.bool, torch.int32, torch.complex64, torch.float16, torch.float64}
    arrived = transferred(values)
    assert all(arrived[name].equal(value) and arrived[name].dtype == value.dtype for name, value in values.items())
    mean = average([{"z": torch.tensor([1 + 1j]), "n": torch.tensor(2**60 + 1), "f": torch.tensor([True, False])},
                    {"z": torch.tensor([3 - 3j]), "n": torch.tensor(2**60 + 1), "f": torch.tensor([True, True])}],
                   [1, 3])
    assert mean["z"].tolist() == [2.5 - 2j]
    assert mean["n"].item() == 2**60 + 1
    assert mean["f"].tolist() == [True, True]


@pytest.mark.parametrize(("model", "error", "sentence"), [
    (lambda: Net(lambda net, values: net.a(values).nothing(), a=linear(8, 3)), UserCodeError,
     r"users:model does not take samples of shape \(8,\): AttributeError: .* \(test_user_models.py, line \d+\)"),
    (lambda: nn.Sequential(linear(), Net(lambda _, values: values.nothing())), UserCodeError,
     r"layer 2 \(Net\) does not take .*AttributeError: .* \(test_user_models.py, line \d+\)"),
    (lambda: 1 / 0, UserCodeError, r"users:model failed: ZeroDivisionError: .* \(test_user_models.py, line \d+\)"),
    (lambda: sys.exit("no weights"), UserCodeError, r"users:model failed: SystemExit: no weights"),
    (lambda: Net(lambda net, values: net.a(values) * (2 if values.sum() > 0 else 3), a=linear(8, 3)), UsageError,
     r"neither by torch.fx \(TraceError: .*line \d+\)\) nor by torch.export"),
    (lambda: Net(lambda net, values: (net.a(values), values), a=linear(8, 3)), UsageError, "it must return one tensor"),
    (lambda: nn.Sequential(linear(), nn.ReLU(), nn.Dropout(0.5, inplace=True), linear(8, 3)), UserCodeError,
     "the model fails in its backward pass: RuntimeError: one of the variables needed for gradient"),
    (lambda: nn.Sequential(linear(), torch.jit.script(linear(8, 3))), UsageError, "users:model: 1 is a TorchScript"),
    (lambda: torch.jit.script(linear(8, 3)), UsageError, "users:model: the model is a TorchScript module"),
])
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_an_error_of_the_users_code_is_one_sentence_with_its_place(
    build: Build, model: Callable[[], Any], error: type[TrainerError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence) as caught:
        build(model)
    assert "\n" not in str(caught.value)


def test_a_layer_that_fails_later_is_named_and_is_no_fault_of_the_edge(build: Build) -> None:
    built = build(lambda: nn.Sequential(Tokens(), linear(96, 3)), 12, integers=(0, 89))
    stage = Stage(built.layers, 0, 2, OptimizerConfig())
    with pytest.raises(ModelFailedError, match=r"layer 1 \(Tokens\) of the model fails on samples of shape int64 "
                                               r"\(12,\): IndexError"):
        stage.forward(torch.full((2, 12), 90), STREAM)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_what_is_compiled_is_cut_as_it_was_before(build: Build) -> None:
    def compiled() -> nn.Module:
        first, part = linear(), torch.compile(nn.Sequential(linear(), nn.Tanh()))
        first.compile()
        assert isinstance(part, nn.Module)
        whole = torch.compile(nn.Sequential(first, part, linear(8, 3)))
        assert isinstance(whole, nn.Module)
        return whole

    built = build(compiled)
    assert [type(layer) for layer in built.layers] == [nn.Linear, nn.Sequential, nn.Linear]
    assert set(built.names.values()) == {f"{path}.{kind}" for path in ("0", "1.0", "2") for kind in ("weight", "bias")}


@pytest.mark.parametrize("draw", [lambda: np.random.normal(), random.random, lambda: torch.rand(()).item()])
def test_initial_values_depend_on_the_seed_alone(build: Build, draw: Callable[[], float]) -> None:
    def model() -> nn.Module:
        layer = linear(8, 3)
        nn.init.constant_(layer.weight, draw())
        return nn.Sequential(linear(), layer)

    first = build(model)
    drawn = []
    for built_between in (False, True):
        random.seed(9)
        np.random.seed(9)
        torch.manual_seed(9)
        if built_between:
            second = build(model)
        drawn.append(draw())
    assert initial_digest(first.layers, first.unchanging) == initial_digest(second.layers, second.unchanging)
    assert drawn[0] == drawn[1]  # building leaves the generators of the process as they are


def test_values_have_the_names_of_the_users_module(build: Build) -> None:
    own = Residual()
    names = build(lambda: own).names
    assert names["0.a.weight"] == "a.weight"
    for model in (own, Odd()):
        assert set(build(lambda model=model: model).names.values()) == set(model.state_dict())
