"""Low-rank adapters: their formula, which modules have one, merging and PEFT's format."""

from __future__ import annotations

import copy
import json
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from trainer.config.fine_tuning import FineTuning, Lora, parse_fine_tuning
from trainer.data.standardization import Standardization
from trainer.errors import UsageError
from trainer.models.blocks import encoder_layer
from trainer.models.building import build_model, user_module
from trainer.models.lora import adapters, merge, tune
from trainer.models.zoo import MODELS
from trainer.records import trained_model
from trainer.records.trained_model import ModelMetadata, load_model

LORA = FineTuning(lora=Lora(2))


def disturbed(model: nn.Module) -> nn.Module:
    """Give the adapters values that change something."""
    generator = torch.Generator().manual_seed(5)
    for module in adapters(model).values():
        second = module.get_parameter("lora_B")
        with torch.no_grad():
            second.copy_(torch.randn(second.shape, generator=generator))
    return model


def test_an_adapter_adds_its_scaled_product_to_the_weight() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    tune(model, LORA, "model")
    disturbed(model)
    values, (first, second) = torch.randn(7, 5), list(model)
    effective = first.weight + 2 * first.get_parameter("lora_B") @ first.get_parameter("lora_A")  # type: ignore[operator]
    torch.testing.assert_close(model(values), second(functional.linear(values, effective, first.bias)))  # type: ignore[arg-type]
    assert [name for name, value in model.named_parameters() if value.requires_grad] == [
        "0.lora_A", "0.lora_B", "1.weight", "1.bias"]


@pytest.mark.parametrize(("layer", "shape"), [
    (nn.Linear(6, 4), (3, 6)), (nn.Conv1d(2, 4, 3, padding=1, stride=2), (2, 9)),
    (nn.Conv2d(2, 4, 3, padding="same", padding_mode="circular", dilation=2), (2, 8, 8)),
], ids=["linear", "series", "images"])
def test_merging_changes_no_output_and_restores_modules_and_names(layer: nn.Module, shape: tuple[int, ...]) -> None:
    model = nn.Sequential(layer, nn.Linear(1, 1))
    names, kinds = list(model.state_dict()), [type(part) for part in model]
    tune(model, LORA, "model")
    fresh = copy.deepcopy(model)
    disturbed(model)
    values = torch.randn(4, *shape)
    expected = model[0](values)
    assert not torch.allclose(expected, fresh[0](values))
    merge(model)
    torch.testing.assert_close(model[0](values), expected, rtol=1e-4, atol=1e-5)
    assert (list(model.state_dict()), [type(part) for part in model]) == (names, kinds)


def test_a_model_begins_as_it_was_without_adapters() -> None:
    for name, spec in MODELS.items():
        shape = (3, 16, 16) if 3 in spec.dimensions else (3, 16)
        plain = build_model(name, 1, shape, 4)
        tuned = build_model(name, 1, shape, 4, tuning=LORA)
        values = torch.randn(2, *shape)
        outputs = [nn.Sequential(*built.layers).eval()(values) for built in (plain, tuned)]
        torch.testing.assert_close(outputs[0], outputs[1])
        sent = sum(value.numel() for layer, fixed in zip(tuned.layers, tuned.unchanging, strict=True)
                   for key, value in layer.state_dict().items() if key not in fixed)
        assert sent < 0.7 * sum(value.numel() for layer in plain.layers for value in layer.state_dict().values())


def test_the_fused_encoder_layer_does_not_leave_adapters_out_in_evaluation_mode() -> None:
    model = nn.Sequential(encoder_layer(8, 2, 0.0), nn.Linear(8, 2))
    tune(model, LORA, "model")
    disturbed(model)
    values = torch.randn(2, 5, 8)
    trained = model(values)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(values), trained)


@pytest.mark.parametrize(("lora", "freeze", "expected"), [
    ("1", None, {"0.query", "0.value"}),
    ("1:query", None, {"0.query"}),
    ("1:0.*", None, {"0.query", "0.value"}),
    ("1:1,value", None, {"0.value", "1"}),
    ("1", "0.query", {"0.value"}),
])
def test_patterns_name_the_modules_with_an_adapter(lora: str, freeze: str | None, expected: set[str]) -> None:
    block = nn.Sequential()
    block.add_module("query", nn.Linear(2, 2))
    block.add_module("grouped", nn.Conv1d(2, 2, 1, groups=2))
    block.add_module("value", nn.Linear(2, 2))
    model = nn.Sequential(block, nn.Linear(2, 2))
    tune(model, parse_fine_tuning(freeze, lora), "model")
    assert set(adapters(model)) == expected
    assert not block.query.weight.requires_grad  # type: ignore[union-attr]


@pytest.mark.parametrize(("text", "sentence"), [
    ("0", "--lora is '0'; it must be a rank from 1 to 4096"), ("many", "--lora is 'many'; it must be a rank"),
    ("8:nothing", "--lora finds no module of mlp for an adapter; its linear layers and convolutions are: 0.1, "),
])
def test_what_is_no_rank_or_names_no_module_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)):
        build_model("mlp", 1, (6,), 3, tuning=parse_fine_tuning(None, text))


class Residual(nn.Module):
    """A module that is traced: two values cross the cut in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, values: Tensor) -> Tensor:
        """Add what two layers make."""
        outputs: Tensor = self.head(values + torch.relu(self.second(torch.tanh(self.first(values)))))
        return outputs


def test_adapters_of_a_traced_module_stay_in_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("users")
    module.model = lambda **_: Residual()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "users", module)
    built = build_model("users:model", 1, (6,), 3, verify=True, tuning=LORA)
    assert len(built.layers) == 3
    assert {built.names[f"{number}.{key}"] for number, layer in enumerate(built.layers) for key in layer.state_dict()
            if key not in built.unchanging[number]} == {
        *(f"{name}.lora_{part}" for name in ("first", "second") for part in "AB"), "head.weight", "head.bias"}
    whole = disturbed(user_module("users:model", 1, (6,), 3, tuning=LORA))
    for number, layer in enumerate(built.layers):
        layer.load_state_dict({key: whole.state_dict()[built.names[f"{number}.{key}"]] for key in layer.state_dict()})
    outputs = values = torch.randn(4, 6)
    for layer in built.layers:
        outputs = layer(outputs)
    torch.testing.assert_close(outputs, whole(values))


def saved_run(directory: Path, tuning: FineTuning) -> nn.Module:
    """Write the model of a run that trained adapters; return it."""
    metadata = ModelMetadata(model="mlp", sample_shape=(6,), classes=3, seed=1, whole_numbers=False,
                             standardization=Standardization("none", (), (), (), "a test"), tuning=tuning)
    built = build_model("mlp", 1, (6,), 3, tuning=tuning)
    model = disturbed(nn.Sequential(*built.layers))
    save_file(model.state_dict(), directory / "model.safetensors",
              {trained_model.METADATA: metadata.model_dump_json()})
    return model.eval()


def test_a_run_with_adapters_is_loaded_merged_and_written_for_peft(tmp_path: Path) -> None:
    model = saved_run(tmp_path, LORA)
    values = torch.randn(5, 6)
    loaded = load_model(tmp_path)
    torch.testing.assert_close(loaded.model(values), model(values))
    assert not any("lora" in name for name in loaded.model.state_dict())
    trained_model.export(tmp_path, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["modules_to_save"]) == (2, 4, ["4"])
    targets = [path for path, _ in model.named_modules() if re.fullmatch(config["target_modules"], path)]
    assert targets == list(adapters(model))
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert set(tensors) == {*(f"base_model.model.{path}.lora_{part}.weight" for path in targets for part in "AB"),
                            "base_model.model.4.weight", "base_model.model.4.bias"}


def test_a_run_without_adapters_has_none_to_write(tmp_path: Path) -> None:
    saved_run(tmp_path, FineTuning())
    with pytest.raises(UsageError, match="only a run with --lora has adapters"):
        trained_model.export(tmp_path, tmp_path / "adapter")
