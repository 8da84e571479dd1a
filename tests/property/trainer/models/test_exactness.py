"""Exactness: split training with moving cuts equals unsplit federated averaging.

In double precision, so that rounding stays below the tolerance. The reference shares with the split implementation
only the blocks of the models, the order of the data and the random numbers of dropout: it runs whole models with one
optimiser each, and has its own averaging.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.config.fine_tuning import FineTuning, Lora
from trainer.data.dataset import batch_indices
from trainer.errors import ProtocolError
from trainer.models.averaging import average
from trainer.models.blocks import (
    MeanPooling,
    PatchEmbedding,
    ResidualBlock,
    convolution,
    convolution_1d,
    encoder_layer,
    perceptron,
)
from trainer.models.boundary import find_boundaries, has_gradients
from trainer.models.building import build_layers
from trainer.models.lora import adapters, tune
from trainer.models.optimizer import OptimizerConfig, OptimizerName
from trainer.models.rng import RandomStream
from trainer.models.server_optimizer import ServerOptimizerConfig, parameter_names, server_step
from trainer.models.split_model import ClientModel, MiddleModel, ServerModel
from trainer.models.stage import Stage, split_evenly
from trainer.models.zoo import MODELS

torch.set_num_threads(1)  # as cloud and edges do; for models this small, threads only wait for each other

EDGES, CLASSES, STEPS, AVERAGE_EVERY = 2, 3, 2, 2
TOLERANCE = 1e-9
FEDAVG = ServerOptimizerConfig()


class _Shift(nn.Module):
    """A parameter and a buffer that counts samples: buffers move and are averaged, too."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("samples", torch.zeros(()))
        self.samples: Tensor

    def forward(self, values: Tensor) -> Tensor:
        """Shift every channel."""
        if self.training:
            self.samples += len(values)
        return values + self.shift


@dataclass(frozen=True)
class Model:
    """A small relative of a model of the zoo; `whole`: a micro-batch computes what its batch would."""

    sample_shape: tuple[int, ...]
    build: Callable[[], list[nn.Module]]
    whole: bool = True

    def layers(self) -> list[nn.Module]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return [layer.double() for layer in self.build()]


SMALL = {
    "mlp": Model((2, 3), lambda: [nn.Flatten(), perceptron(6, 8), perceptron(8, 5), nn.Linear(5, CLASSES)]),
    "cnn": Model((2, 4, 4), lambda: [
        convolution(2, 8), nn.MaxPool2d(2), _Shift(8), convolution(8, 4), nn.Flatten(), nn.Linear(16, CLASSES)]),
    "resnet": Model((2, 4, 4), lambda: [
        convolution(2, 4), ResidualBlock(4, 4), ResidualBlock(4, 8, stride=2), nn.Flatten(), nn.Linear(32, CLASSES)]),
    "conv1d": Model((3, 6), lambda: [
        convolution_1d(3, 8), nn.MaxPool1d(2), convolution_1d(8, 4), nn.Flatten(), nn.Linear(12, CLASSES)]),
    "transformer": Model((2, 5), lambda: [
        PatchEmbedding((2, 5), 8, 1), encoder_layer(8, 2, 0.0), encoder_layer(8, 2, 0.0), MeanPooling(8),
        nn.Linear(8, CLASSES)]),
    "dropout": Model((2, 5), lambda: [
        PatchEmbedding((2, 5), 8, 1), nn.Dropout(0.3), encoder_layer(8, 2, 0.2), nn.Flatten(), nn.Dropout(0.5),
        nn.Linear(40, CLASSES)], whole=False),
    "batch-norm": Model((2, 4, 4), lambda: [
        nn.BatchNorm2d(2, affine=False),
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()), nn.MaxPool2d(2),
        nn.Dropout(0.2), nn.Flatten(), nn.Linear(16, CLASSES)], whole=False),
}


@dataclass(frozen=True)
class Run:
    """A training run; `cuts` per round and edge; the layers from `tail` on stay on the edge, with the labels.

    `frozen`: numbers of the parameters that ask for no gradient; `rank`: of adapters, beside which only the
    output layer is trained.
    """

    model: Model
    cuts: list[list[int]]
    optimizer: OptimizerConfig
    sizes: list[int]
    batch: int
    micro: int
    tail: int | None = None
    server: ServerOptimizerConfig = FEDAVG
    frozen: frozenset[int] = frozenset()
    rank: int | None = None

    def layers(self) -> list[nn.Module]:
        layers = self.model.layers()
        if self.rank is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(4)
                tune(nn.Sequential(*layers), FineTuning(lora=Lora(self.rank)), "model")
                for module in adapters(nn.Sequential(*layers)).values():
                    nn.init.normal_(module.get_parameter("lora_B"))
            return layers
        for number, parameter in enumerate(parameter for layer in layers for parameter in layer.parameters()):
            parameter.requires_grad_(number not in self.frozen)
        return layers

    def data(self, edge: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(edge)
        inputs = torch.randn(self.sizes[edge], *self.model.sample_shape, generator=generator, dtype=torch.float64)
        return inputs, torch.randint(0, CLASSES, (self.sizes[edge],), generator=generator)

    def batches(self, edge: int, number: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The steps of a round: its number, the inputs and labels of a mini-batch."""
        inputs, labels = self.data(edge)
        batch = min(self.batch, len(labels))
        for step in range(STEPS):
            places = batch_indices(len(labels), batch, edge, (number - 1) * STEPS + step)
            yield step, inputs[places], labels[places]

    def averages(self, number: int) -> bool:
        return number % AVERAGE_EVERY == 0 or number == len(self.cuts)


class Pair:
    """One edge and the cloud's side of it: what the training loops do, without sockets."""

    def __init__(self, run: Run, edge: int) -> None:
        layers, cut = run.layers(), run.cuts[0][edge]
        self.tail = run.tail
        self.boundaries = find_boundaries(
            layers, lambda samples: torch.zeros(samples, *run.model.sample_shape, dtype=torch.float64))
        edge_layers, cloud_layers = copy.deepcopy(layers), copy.deepcopy(layers)
        self.count, self.name = len(layers), f"edge{edge}"
        self.edge = ClientModel(Stage(edge_layers, 0, cut, run.optimizer), run.tail)
        last = len(layers) if run.tail is None else run.tail
        stage = Stage(cloud_layers, cut, last, run.optimizer)
        self.cloud: ServerModel | MiddleModel = ServerModel(stage) if run.tail is None else MiddleModel(stage)

    def move(self, cut: int) -> None:
        to_edge = copy.deepcopy(self.cloud.layers_to_send(cut))
        to_cloud = self.edge.move_cut(cut, to_edge)
        frozen = {name.replace(".", ".value.", 1) for name in self.edge.stage.unchanging_values()}
        assert not frozen & {*to_edge, *to_cloud}
        self.cloud.move_cut(cut, copy.deepcopy(to_cloud))

    def step(self, number: int, step: int, inputs: Tensor, labels: Tensor, micro: int) -> None:
        pieces = split_evenly(len(labels), micro)
        streams = [RandomStream(7, self.name, number, step, micro) for micro in range(len(pieces))]
        segments = [self.edge.forward(inputs[piece], stream) for piece, stream in zip(pieces, streams, strict=True)]
        needed = self.boundaries[self.edge.cut].needs_gradient
        gradient: list[Tensor | None] = []
        for micro, (piece, stream) in enumerate(zip(pieces, streams, strict=True)):
            if isinstance(self.cloud, ServerModel):
                gradient, _ = self.cloud.train(segments[micro], labels[piece], len(labels), stream, needed)
            else:
                assert self.edge.tail is not None
                outputs = self.cloud.forward(micro, segments[micro], stream, needed)
                at_tail = self.boundaries[self.edge.tail.cut]
                back, _ = self.edge.tail.train(outputs, labels[piece], len(labels), stream, at_tail.needs_gradient)
                if at_tail.trained:
                    gradient = self.cloud.backward(micro, back)
            if has_gradients(self.boundaries, self.edge.cut, self.tail):
                self.edge.backward(micro, gradient)
        self.edge.step()
        self.cloud.step()

    def values(self) -> dict[str, Tensor]:
        tail = self.edge.tail.stage.state_dict(self.edge.tail.cut, self.count) if self.edge.tail else {}
        middle = self.cloud.stage.state_dict(self.cloud.cut, self.cloud.stage.last)
        return self.edge.stage.state_dict(0, self.edge.cut) | middle | tail

    def load(self, values: dict[str, Tensor]) -> None:
        self.edge.stage.load_state_dict(values)
        self.cloud.stage.load_state_dict(values)


def train_split(run: Run) -> dict[str, Tensor]:
    pairs = [Pair(run, edge) for edge in range(EDGES)]
    model = {name: value.clone() for name, value in pairs[0].values().items()}
    names, state = parameter_names(pairs[0].edge.stage.layers), dict[str, dict[str, Tensor]]()
    for number, row in enumerate(run.cuts, start=1):
        for edge, (pair, cut) in enumerate(zip(pairs, row, strict=True)):
            pair.move(cut)
            for step, inputs, labels in run.batches(edge, number):
                pair.step(number, step, inputs, labels, run.micro)
        if run.averages(number):
            mean = average([pair.values() for pair in pairs], run.sizes)
            model, state = server_step(run.server, model, mean, names, state)
            for pair in pairs:
                pair.load(model)
    assert not model.keys() & pairs[0].edge.stage.unchanging_values().keys()
    return model | pairs[0].edge.stage.unchanging_values()


def train_whole(run: Run) -> dict[str, Tensor]:
    """Federated averaging of whole models. Where micro-batches compute what their batch would, in whole batches."""
    replicas = [nn.Sequential(*run.layers()) for _ in range(EDGES)]
    optimizers = [run.optimizer.build(replica.parameters()) for replica in replicas]
    model = copy.deepcopy(replicas[0].state_dict())
    names = [name for name, _ in replicas[0].named_parameters()]
    server = ReferenceServer(run.server)
    for number in range(1, len(run.cuts) + 1):
        for edge, (replica, optimizer) in enumerate(zip(replicas, optimizers, strict=True)):
            train_replica(run, replica, optimizer, edge, number, model)
        if run.averages(number):
            states = [replica.state_dict() for replica in replicas]
            mean = {name: mean_of([state[name] for state in states], run.sizes) for name in states[0]}
            model = {**mean, **{name: server.step(name, model[name], mean[name]) for name in names}}
            for replica in replicas:
                replica.load_state_dict(model)
            if run.optimizer.reset:
                optimizers = [run.optimizer.build(replica.parameters()) for replica in replicas]
    return model


def train_replica(
    run: Run, replica: nn.Sequential, optimizer: torch.optim.Optimizer, edge: int, number: int,
    anchor: dict[str, Tensor],
) -> None:
    """Train a whole model for round `number`; the proximal term draws its parameters to those of `anchor`."""
    for step, inputs, labels in run.batches(edge, number):
        optimizer.zero_grad()
        for micro, piece in enumerate(split_evenly(len(labels), 1 if run.model.whole else run.micro)):
            outputs = inputs[piece]
            for place, layer in enumerate(replica):
                RandomStream(7, f"edge{edge}", number, step, micro).seed_layer(place, outputs.device)
                outputs = layer(outputs)
            loss = nn.functional.cross_entropy(outputs, labels[piece]) * len(outputs) / len(labels)
            torch.autograd.backward(loss)
        torch.autograd.backward(torch.stack([proximal_loss(run.optimizer.proximal, parameter, anchor[name])
                                             for name, parameter in replica.named_parameters()]).sum())
        optimizer.step()


def proximal_loss(weight: float, value: Tensor, anchor: Tensor) -> Tensor:
    return weight / 2 * (value - anchor).square().sum()


class ReferenceServer:
    """The equations of FedAvgM and of FedAdam with corrected bias, one parameter at a time."""

    def __init__(self, config: ServerOptimizerConfig) -> None:
        self.name, self.rate = config.name, config.learning_rate
        self.moments: dict[str, tuple[Tensor, Tensor, int]] = {}

    def step(self, name: str, before: Tensor, mean: Tensor) -> Tensor:
        if self.rate is None:
            return mean
        gradient = before - mean
        first, second, number = self.moments.get(name, (torch.zeros_like(before), torch.zeros_like(before), 0))
        if self.name == "fedavgm":
            first = 0.9 * first + gradient
            self.moments[name] = first, second, number
            return before - self.rate * first
        first, second, number = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2, number + 1
        self.moments[name] = first, second, number
        root = (second / (1 - 0.99**number)).sqrt() + 1e-3
        return before - self.rate * first / (1 - 0.9**number) / root


def mean_of(values: list[Tensor], sizes: list[int]) -> Tensor:
    mean = sum((size * value.double() for size, value in zip(sizes, values, strict=True)), torch.tensor(0.0))
    mean = torch.as_tensor(mean) / sum(sizes)
    return mean if values[0].is_floating_point() else mean.round()


def assert_same(split: dict[str, Tensor], whole: dict[str, Tensor]) -> None:
    assert split.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(determined(name, split[name]), determined(name, value), rtol=TOLERANCE,
                                   atol=TOLERANCE, check_dtype=False, msg=partial("{}: {}".format, name))


def determined(name: str, value: Tensor) -> Tensor:
    """A value without what training does not determine.

    A bias of attention's keys changes nothing that comes out. Its gradient is a rounding error, which differs with
    the order of a sum even where nothing is cut, and which Adam divides by its own size.
    """
    if not name.endswith("in_proj_bias"):
        return value
    query, _, values = value.chunk(3)
    return torch.cat([query, values])


def differ(split: dict[str, Tensor], whole: dict[str, Tensor]) -> bool:
    return any(not torch.allclose(split[name].double(), value.double(), rtol=TOLERANCE, atol=TOLERANCE)
               for name, value in whole.items())


@st.composite
def runs(draw: st.DrawFn) -> Run:
    model = SMALL[draw(st.sampled_from(sorted(SMALL)))]
    layers = len(model.layers())
    parameters = sum(len(list(layer.parameters())) for layer in model.layers())
    front = draw(st.integers(0, parameters - 1))
    some = draw(st.sets(st.integers(0, parameters - 2), max_size=4))
    tail = draw(st.none() | st.integers(0, layers))
    cut = st.integers(0, layers if tail is None else tail)
    optimizer_name: OptimizerName = draw(st.sampled_from(["sgd", "momentum", "adam", "adamw"]))
    return Run(
        model=model,
        cuts=draw(st.lists(st.lists(cut, min_size=EDGES, max_size=EDGES), min_size=1, max_size=4)),
        optimizer=OptimizerConfig(optimizer_name, learning_rate=0.02, weight_decay=draw(st.sampled_from([0.0, 0.05])),
                                  proximal=draw(st.sampled_from([0.0, 0.3])), reset=draw(st.booleans())),
        sizes=draw(st.lists(st.integers(2, 17), min_size=EDGES, max_size=EDGES)),
        batch=draw(st.integers(1, 9)),
        micro=draw(st.integers(1, 4)),
        tail=tail,
        server=draw(st.sampled_from([ServerOptimizerConfig(), ServerOptimizerConfig("fedavgm", 0.5),
                                     ServerOptimizerConfig("fedadam", 0.05)])),
        frozen=draw(st.sampled_from([frozenset(), frozenset(range(front)), frozenset(some)])),
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs(), st.integers(1, 3))
def test_split_training_of_adapters_equals_their_unsplit_federated_averaging(run: Run, rank: int) -> None:
    run = replace(run, rank=rank, frozen=frozenset())
    split = train_split(run)
    assert_same(split, train_whole(run))
    assert any(name.endswith("lora_A") for name in split)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs())
def test_split_training_equals_unsplit_federated_averaging(run: Run) -> None:
    assert_same(train_split(run), train_whole(run))


MOMENTUM = OptimizerConfig("momentum", learning_rate=0.02)


@pytest.mark.parametrize("protected", [False, True], ids=["labels-travel", "labels-protected"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_of_the_zoo_is_trained_exactly(name: str, protected: bool) -> None:
    shape = (3, 8, 8) if 3 in MODELS[name].dimensions else (3, 8)
    has_dropout = name in ("transformer", "feature-mlp")
    model = Model(shape, lambda: build_layers(name, 1, shape, CLASSES), whole=not has_dropout)
    last = len(model.layers()) - protected
    tail = last if protected else None
    assert_same(*(train(Run(model, [[1, last - 1], [last, 0]], MOMENTUM, [4, 6], 4, 2, tail))
                  for train in (train_split, train_whole)))


def test_forgetting_the_optimizer_state_at_a_move_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(SMALL["cnn"], [[1, 1], [3, 3], [1, 1]], MOMENTUM, [8, 8], 4, 2)
    export = Stage.export_layers

    def without_state(self: Stage, first: int, last: int) -> dict[str, Tensor]:
        return {name: value for name, value in export(self, first, last).items() if ".state." not in name}

    monkeypatch.setattr(Stage, "export_layers", without_state)
    assert differ(train_split(run), train_whole(run))


PROTECTED = Run(SMALL["cnn"], [[1, 1]], replace(MOMENTUM, reset=False), [8, 8], 4, 2, tail=5)


def test_a_tail_that_forgot_its_optimizer_state_at_a_restore_would_be_noticed() -> None:
    inputs, labels = PROTECTED.data(0)

    def trained(between: Callable[[dict[str, Tensor]], dict[str, Tensor] | None]) -> dict[str, Tensor]:
        pair = Pair(PROTECTED, 0)
        pair.step(1, 0, inputs, labels, 2)
        kept = between(copy.deepcopy(pair.edge.stage.export_layers(0, pair.count)))
        if kept is not None:
            pair.edge.restore(pair.edge.cut, kept)
        pair.step(1, 1, inputs, labels, 2)
        return pair.values()

    undisturbed = trained(lambda _: None)
    assert not differ(trained(lambda kept: kept), undisturbed)
    assert differ(trained(lambda kept: {n: v for n, v in kept.items() if not n.startswith("5.state.")}), undisturbed)


@pytest.mark.parametrize("reset", [False, True])
def test_an_edge_exports_for_averaging_what_it_trains_and_moments_that_are_kept(reset: bool) -> None:
    pair = Pair(replace(PROTECTED, optimizer=replace(MOMENTUM, reset=reset)), 0)
    pair.step(1, 0, *PROTECTED.data(0), micro=2)
    exported = pair.edge.export_layers()
    assert {int(name.split(".")[0]) for name in exported} == {0, 5}
    assert any(name.startswith("5.state.") for name in exported) != reset


def test_a_cut_reaches_up_to_the_tail_and_not_into_it() -> None:
    pair = Pair(PROTECTED, 0)
    pair.move(5)
    with pytest.raises(ProtocolError, match="Cut 6 was planned; it lies between 0 and 5"):
        pair.edge.move_cut(6, {})


@pytest.mark.parametrize("name", ["dropout", "batch-norm"])
def test_micro_batches_differ_from_their_batch_where_layers_use_batch_statistics_or_random_numbers(name: str) -> None:
    """As docs/decisions.md states for such models."""
    run = Run(SMALL[name], [[1, 1]], MOMENTUM, [8, 8], 8, 4)
    assert differ(train_split(run), train_whole(replace(run, model=replace(run.model, whole=True))))


def test_random_numbers_depend_on_edge_round_step_micro_batch_and_layer_alone() -> None:
    def draw(stream: RandomStream, layer: int) -> float:
        stream.seed_layer(layer, torch.device("cpu"))
        return torch.rand(()).item()

    stream = RandomStream(1, "edge1", 1, 0, 0)
    others = [replace(stream, seed=2), replace(stream, edge="edge2"), replace(stream, round=2), replace(stream, step=1),
              replace(stream, micro=1)]
    assert draw(stream, 3) == draw(stream, 3)
    assert len({draw(stream, 3), draw(stream, 4), *(draw(other, 3) for other in others)}) == 7


def test_an_aborted_mini_batch_leaves_no_state() -> None:
    run = Run(SMALL["cnn"], [[3, 3]], MOMENTUM, [8, 8], 4, 2)
    aborted, donor = Pair(run, 0), Pair(run, 0)
    assert isinstance(donor.cloud, ServerModel)
    inputs, labels = run.data(0)
    aborted.edge.forward(inputs[:2], stream := RandomStream(7, "edge0", 1, 0, 0))
    gradient, _ = donor.cloud.train(aborted.edge.forward(inputs[2:4], stream), labels[2:4], 4, stream)
    aborted.edge.backward(1, gradient)
    aborted.edge.abort_batch()
    untouched = Pair(run, 0)
    for pair in (aborted, untouched):
        pair.step(1, 0, inputs[4:], labels[4:], 2)
    assert_same({n: v for n, v in aborted.values().items() if "samples" not in n},
                {n: v for n, v in untouched.values().items() if "samples" not in n})


def test_the_penalty_of_layers_on_the_edge_is_not_lost() -> None:
    """With a zero gradient, the update is the L2 penalty alone."""
    layer = nn.Linear(4, 3).double()
    before = layer.weight.detach().clone()
    client = ClientModel(Stage([layer], 0, 1, OptimizerConfig("sgd", learning_rate=0.1, weight_decay=0.5)))
    segment = client.forward(torch.ones(2, 4, dtype=torch.float64), RandomStream(1, "edge1", 1, 0, 0))
    client.backward(0, [torch.zeros_like(segment)])
    client.step()
    torch.testing.assert_close(layer.weight.detach(), before * (1 - 0.1 * 0.5))
    assert not math.isclose(before.abs().max().item(), 0)
