"""Frozen parameters: chosen by pattern, never sent, without gradients, planned without a flow back."""

from __future__ import annotations

import copy
import sys
import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from trainer.config.fine_tuning import parse_fine_tuning
from trainer.errors import UsageError
from trainer.models.building import BuiltModel, build_model
from trainer.models.frozen import backward_layers, copy_sharing, digest, freeze
from trainer.models.optimizer import OptimizerConfig
from trainer.models.rng import RandomStream
from trainer.models.split_model import ServerModel
from trainer.models.stage import Stage
from trainer.planning.codec_selection import CodecSelector
from trainer.planning.forecasts import StepForecaster
from trainer.planning.plan import Offer
from trainer.planning.planner import plan_round
from trainer.profiling.layer_costs import layer_costs
from trainer.profiling.profiler import profile_layers
from trainer.protocol import segments

SHAPE, CLASSES = (3, 16, 16), 3
Build = Callable[[Callable[[], nn.Module], str | None], BuiltModel]


def zoo(patterns: str | None) -> BuiltModel:
    return build_model("signal-cnn", 1, SHAPE, CLASSES, tuning=parse_fine_tuning(patterns))


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Build:
    module = types.ModuleType("users")
    monkeypatch.setitem(sys.modules, "users", module)

    def make(model: Callable[[], nn.Module], patterns: str | None = None) -> BuiltModel:
        module.model = lambda **_: model()  # type: ignore[attr-defined]
        return build_model("users:model", 1, (6,), CLASSES, (0, 9), verify=True, tuning=parse_fine_tuning(patterns))

    return make


class Masked(nn.Module):
    """Token ids to classes: two tensors cross the cuts inside, one of them a mask of very negative numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.register_buffer("scale", torch.ones(()))
        self.scale: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        """Average over the tokens that are not 0."""
        mask = (ids == 0).float()[:, :, None] * torch.finfo(torch.float32).min
        values = torch.tanh(self.first(self.embedding(ids))) * self.scale
        values = torch.tanh(self.second(values))
        weights = torch.softmax(mask + torch.zeros_like(values), dim=1)
        hidden: Tensor = self.head((values * weights).sum(dim=1))
        return hidden


def test_a_pattern_names_parameters_or_modules() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2), nn.Linear(2, 2))
    freeze(model, ["0.1", "1.bias", "2.w*"], "model")
    assert [name for name, value in model.named_parameters() if not value.requires_grad] == [
        "0.1.weight", "0.1.bias", "1.bias", "2.weight"]
    assert backward_layers(list(model)) == [True, True, True]


def test_a_pattern_without_a_parameter_and_a_model_without_a_trained_one_are_refused() -> None:
    with pytest.raises(UsageError, match=r"encoder names no parameter of signal-cnn; its first ones are 0\.0\.w"):
        zoo("encoder")
    with pytest.raises(UsageError, match="signal-cnn has no trained parameter: all are frozen"):
        zoo("*")


def test_frozen_normalization_keeps_its_statistics_in_training_mode_and_in_copies(build: Build) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Embedding(10, 4), nn.BatchNorm1d(6), nn.Flatten(), nn.BatchNorm1d(24),
                             nn.Linear(24, CLASSES))

    built = build(model, "0,1")
    layers = nn.Sequential(*copy.deepcopy(built.layers)).train()
    before = copy.deepcopy(layers.state_dict())
    layers(torch.arange(24).view(4, 6) % 10)
    changed = {name for name, value in layers.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"3.running_mean", "3.running_var", "3.num_batches_tracked"}
    assert built.unchanging[1] == set(built.layers[1].state_dict())


def test_normalization_that_the_user_froze_alone_goes_on_counting_and_its_buffers_travel(build: Build) -> None:
    def model() -> nn.Module:
        made = nn.Sequential(nn.Embedding(10, 4), nn.BatchNorm1d(6), nn.Flatten(), nn.Linear(24, CLASSES))
        for parameter in made[1].parameters():
            parameter.requires_grad_(False)
        return made

    built = build(model, None)
    assert built.unchanging[1] == {"weight", "bias"}
    stage = Stage(built.layers, 0, 4, OptimizerConfig(), built.unchanging)
    assert set(stage.export_layers(1, 2)) == {
        "1.value.running_mean", "1.value.running_var", "1.value.num_batches_tracked"}


def test_frozen_values_are_neither_exported_nor_required_and_their_digest_tells_them_apart() -> None:
    built, other = zoo("0,2"), zoo("0,2")
    stage = Stage(built.layers, 0, len(built.layers), OptimizerConfig(), built.unchanging)
    assert not any(name.startswith(("0.", "2.")) for name in stage.export_layers(0, len(built.layers)))
    assert {name.split(".")[0] for name in stage.unchanging_values()} == {"0", "2"}
    stage.import_layers(0, len(built.layers), stage.export_layers(0, len(built.layers)))
    stage.load_state_dict(stage.state_dict(0, len(built.layers)))
    assert digest(built.layers, built.unchanging) == digest(other.layers, other.unchanging)
    with torch.no_grad():
        other.layers[2][0].weight[0, 0, 0, 0] += 1e-6  # type: ignore[index]
    assert digest(built.layers, built.unchanging) != digest(other.layers, other.unchanging)
    assert digest(zoo(None).layers, zoo(None).unchanging) is None


def test_no_gradient_is_computed_before_the_first_trained_layer() -> None:
    built = zoo("0,2,4")
    seen: list[bool] = []
    for layer in built.layers:
        layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output.requires_grad))
    server = ServerModel(Stage(built.layers, 1, len(built.layers), OptimizerConfig(), built.unchanging))
    boundary = built.boundaries[1]
    gradients, _ = server.train(torch.randn(2, *boundary.tensors[0].shape(2)[1:]), torch.tensor([0, 1]), 2,
                                RandomStream(1, "edge1", 1, 0, 0), boundary.needs_gradient)
    assert gradients == [None]
    assert seen == [False] * 5 + [True] * (len(built.layers) - 6)
    assert [bool(place.trained) for place in built.boundaries] == [False] * 7 + [True] * (len(built.boundaries) - 7)


def test_costs_and_measured_times_have_no_backward_pass_of_frozen_front_layers() -> None:
    built = zoo("0,2,4")
    costs = layer_costs(built.layers, SHAPE, unchanging=built.unchanging)
    whole = layer_costs(zoo(None).layers, SHAPE)
    assert [cost.backward_flops for cost in costs[:6]] == [0.0] * 6
    assert 0 < costs[6].backward_flops < whole[6].backward_flops  # no gradient of its input
    assert costs[8].backward_flops == whole[8].backward_flops
    assert costs[0].sent_bytes == costs[0].trained_parameters == 0 < costs[0].parameters
    seconds = profile_layers(built.layers, torch.randn(4, *SHAPE), seconds=0.02)
    assert seconds.backward_s[:6] == (0.0,) * 6
    assert min(seconds.forward_s) > 0 < min(seconds.backward_s[6:])


def test_codecs_apply_to_what_frozen_layers_make_and_not_to_masks(build: Build) -> None:
    built = build(Masked, "embedding,first")
    crossings = [boundary for boundary in built.boundaries[1:-1] if boundary.tensors[0].dtype == torch.float32]
    assert [len(boundary.tensors) for boundary in crossings] == [2, 2, 2, 1]
    for boundary in crossings:
        assert sum(spec.coded for spec in boundary.tensors) == 1
    frozen = next(boundary for boundary in crossings if not boundary.trained)
    assert segments.gradient_bytes(frozen, 4, "fp32") == 0
    assert segments.segment_bytes(frozen, 4, "int8") < segments.segment_bytes(frozen, 4, "fp32")


def test_buffers_beside_frozen_parameters_travel_only_if_training_changes_them(build: Build) -> None:
    built = build(Masked, "embedding,first")
    names = {built.names[f"{number}.{name}"] for number, fixed in enumerate(built.unchanging) for name in fixed}
    assert names >= {"embedding.weight", "first.weight", "first.bias"}
    assert not names & {"second.weight", "head.weight"}


def test_nothing_is_reserved_for_what_does_not_come_back() -> None:
    built = zoo("0,2,4")
    seconds = profile_layers(built.layers, torch.randn(4, *SHAPE), seconds=0.02)
    forecaster = StepForecaster({"a": seconds, "b": seconds}, seconds, built.boundaries, {"a": 8, "b": 8}, 2,
                                [0] * len(built.layers), CodecSelector("fp32"))
    forecasts = forecaster.forecasts({"a": 1448, "b": 1448}, {"a": [4], "b": [8]})
    assert forecasts[0].options[0].down_bits == 0 < forecasts[1].options[0].down_bits
    assert forecasts[0].options[0].backward_s == 0
    links = {"a": ("down",), "b": ("down",)}
    plan = plan_round(forecasts, Offer({"a": ("up",), "b": ("up",)}, links, {"up": 8e6, "down": 3e6}, 2e6), 2)
    assert [edge.down_bps for edge in plan.edges] == [0, 3_000_000]
    assert plan.edges[0].up_bps > 0


def test_replicas_of_all_edges_share_the_frozen_values_and_nothing_else() -> None:
    built = build_model("mlp", 1, (2000,), CLASSES, tuning=parse_fine_tuning(None, "1"))
    first, *others = [copy_sharing(built.layers, built.unchanging) for _ in range(16)]

    def stored_bytes(replicas: list[list[nn.Module]]) -> int:
        values = {value.data_ptr(): value.nbytes for layers in replicas for layer in layers
                  for value in layer.state_dict().values()}
        return sum(values.values())

    def trained(layers: list[nn.Module]) -> list[Tensor]:
        return [value for layer in layers for value in layer.parameters() if value.requires_grad]

    assert stored_bytes([first, *others]) < 1.5 * stored_bytes([first])
    assert not {value.data_ptr() for value in trained(first)} & {value.data_ptr() for value in trained(others[0])}
    assert all(torch.equal(*pair) for pair in zip(trained(first), trained(others[0]), strict=True))
