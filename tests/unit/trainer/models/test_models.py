"""The model zoo fits its data; user models are split, or refused with the place."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from trainer.errors import UsageError
from trainer.models.building import build_layers, random_batch
from trainer.models.chain_check import check_layers
from trainer.models.fx_split import split_into_layers
from trainer.models.zoo import MODELS, choose_model
from trainer.profiling.layer_costs import layer_costs, segment_shapes

SHAPES = {
    "signal-cnn": (1, 28, 28), "mlp": (52,), "feature-mlp": (52,), "resnet": (3, 32, 32), "conv1d": (52, 32),
    "transformer": (52, 32),
}  # fmt: skip


class Branching(nn.Module):
    """A stem, a residual unit written out, a dropout as a function, a head and a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.inner, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(128, 3)
        self.bias = nn.Parameter(torch.ones(3))

    def forward(self, values: Tensor) -> Tensor:
        values = torch.relu(self.norm(self.stem(values)))
        values = values + torch.relu(self.inner(values))
        values = torch.max_pool2d(values, 7)
        values = nn.functional.dropout(values, 0.5, self.training)
        outputs: Tensor = self.head(values.view(values.size(0), -1)) + self.bias
        return outputs


class Tied(nn.Module):
    """One linear layer used at both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.tied, self.between = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.last = nn.Linear(6, 3)

    def forward(self, values: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.tied(self.between(self.tied(self.first(values)))))
        return outputs


class Ladder(nn.Module):
    """The input is used by the last operation, so no single tensor is ever live."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, values: Tensor) -> Tensor:
        outputs: Tensor = self.b(self.a(values) * 2) + values[:, :3]
        return outputs


class DataDependent(nn.Module):
    """The control flow depends on the values."""

    def forward(self, values: Tensor) -> Tensor:
        return values if values.sum() > 0 else -values


def batch_of(*sample_shape: int) -> Callable[[int], Tensor]:
    return partial(random_batch, sample_shape=sample_shape)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_of_the_zoo_is_the_same_wherever_it_is_built(name: str) -> None:
    first, second = (nn.Sequential(*build_layers(name, 5, SHAPES[name], 4)) for _ in range(2))
    assert all(value.equal(other) for value, other in zip(first.parameters(), second.parameters(), strict=True))
    assert first(torch.rand(2, *SHAPES[name])).shape == (2, 4)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_no_model_of_the_zoo_has_batch_statistics(name: str) -> None:
    layers = build_layers(name, 1, SHAPES[name], 4)
    modules = [module for layer in layers for module in layer.modules()]
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules)


def test_the_costs_of_a_transformer_are_traced() -> None:
    """Attention of one head group over T tokens of width D: 4 projections of D x D, and 2 products of T x T x D."""
    layers = build_layers("transformer", 1, (52, 32), 22)
    costs = layer_costs(layers, (52, 32))
    tokens, width = 32, 64
    products = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * 2 * width
    assert costs[1].forward_flops == 2 * products
    assert costs[1].backward_flops == 2 * costs[1].forward_flops
    assert costs[1].backward_moved_bytes > costs[1].moved_bytes > 0
    assert segment_shapes(costs, (52, 32)) == [(52, 32), *[(32, 64)] * 5, (64,), (22,)]
    assert costs[-1].parameters == 65 * 22


def test_tracing_leaves_the_model_as_it_is() -> None:
    layer = nn.BatchNorm1d(4)
    layer_costs([layer], (4,))
    assert layer.running_mean is not None
    assert layer.running_mean.equal(torch.zeros(4))


def test_a_traced_model_is_cut_where_one_tensor_is_alive() -> None:
    model = Branching()
    layers = split_into_layers(model, "user:model", batch_of(3, 30, 30))
    assert [sorted(name for name, _ in layer.named_children()) for layer in layers[:2]] == [["norm", "stem"], ["inner"]]
    check_layers(layers, "user:model", batch_of(3, 30, 30), 3)
    samples = torch.rand(4, 3, 30, 30)
    assert nn.Sequential(*layers).eval()(samples).equal(model.eval()(samples))
    assert not nn.Sequential(*layers).train()(samples).equal(model(samples))  # dropout is active again in training mode


def test_a_cut_is_crossed_by_all_values_that_are_needed_later() -> None:
    layers = split_into_layers(Ladder(), "user:model", batch_of(6))
    boundaries = check_layers(layers, "user:model", batch_of(6), 3)
    assert [[spec.shape(4) for spec in boundary.tensors] for boundary in boundaries] == [
        [(4, 6)], [(4, 6), (4, 6)], [(4, 3)]]


def test_everything_between_two_uses_of_a_parameter_is_one_layer() -> None:
    assert [len(list(layer.children())) for layer in split_into_layers(Tied(), "user:model", batch_of(6))] == [1, 2, 1]


@pytest.mark.parametrize(("model", "sentence"), [
    (DataDependent(), "can be traced neither by torch.fx .TraceError"),
    ("text", "returned str"),
    (nn.Bilinear(3, 3, 3), "takes 2 inputs"),
])
def test_a_model_that_cannot_be_split_is_refused_with_the_place(model: object, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        split_into_layers(model, "user:model", batch_of(6))


def test_layers_that_share_a_parameter_are_refused() -> None:
    layer = nn.Linear(3, 3)
    with pytest.raises(UsageError, match="layers 1 and 3 share a parameter"):
        check_layers([layer, nn.ReLU(), layer], "user:model", batch_of(3), 3)


@pytest.mark.parametrize(("layers", "sentence"), [
    ([nn.Linear(4, 3)], r"layer 1 \(Linear\) does not take samples of shape \(3,\)"),
    ([nn.Linear(3, 4)], r"the data has 3 classes, so it must be \(3,\)"),
    ([nn.Linear(3, 3), nn.GRU(3, 3)], r"leaves the last layer as .*, so it must be \(3,\)"),
    ([], "has no layers"),
])
def test_a_chain_that_does_not_fit_the_data_is_refused(layers: list[nn.Module], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        check_layers(layers, "user:model", batch_of(3), 3)


def test_in_place_operations_of_a_layer_are_turned_off() -> None:
    layer = nn.ReLU(inplace=True)
    check_layers([layer], "user:model", batch_of(3), 3)
    assert not layer.inplace


def test_a_user_function_receives_the_arguments_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("user_models")
    module.small = lambda classes: nn.Sequential(nn.Linear(5, classes))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "user_models", module)
    (layer,) = build_layers("user_models:small", 1, (5,), 2)
    assert layer.weight.shape == (2, 5)


@pytest.mark.parametrize(("name", "sentence"), [
    ("alexnet", "There is no model 'alexnet'; there are: conv1d, feature-mlp"),
    ("nowhere.at_all:model", "nowhere.at_all cannot be imported"),
    ("trainer.models.zoo:nothing", "has no function nothing"),
    ("conv1d", r"takes series \(C, T\) with sides of at least 8; the samples are 3 x 32 x 32"),
])
def test_a_model_that_is_not_there_or_does_not_fit_is_refused(name: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        build_layers(name, 1, (3, 32, 32), 3)


def test_the_default_model_depends_on_the_task_or_else_on_the_shape() -> None:
    assert choose_model("traffic-lights", (3, 32, 32))[0] == "signal-cnn"
    assert choose_model("own", (7,))[0] == "mlp"
