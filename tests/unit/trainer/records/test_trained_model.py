"""A trained model is the user's: its own module with its own names, and inputs as they were in the data."""

from __future__ import annotations

import sys
import types
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainer.cli.export import predict
from trainer.data.standardization import choose_standardization, standardize, summarize
from trainer.errors import CheckpointError, DataError
from trainer.models.building import build_model, user_module
from trainer.models.optimizer import OptimizerConfig
from trainer.models.stage import Stage
from trainer.protocol.messages import Prepare
from trainer.records.trained_model import export, load_model, metadata_of, read_weights


class Net(nn.Module):
    """Traced into two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.norm, self.head = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, values: Tensor) -> Tensor:
        """Normalize between both."""
        outputs: Tensor = self.head(self.norm(self.c(values)).relu())
        return outputs


def named_children() -> nn.Module:
    return nn.Sequential(OrderedDict(first=nn.Linear(4, 6), act=nn.ReLU(), last=nn.Linear(6, 3)))


INPUTS = torch.rand(20, 4, generator=torch.Generator().manual_seed(1)) * 50


@pytest.fixture(params=["traced", "children", "zoo"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, nn.Module]:
    """A run directory with a model whose values were changed, and the module that has these values."""
    module = types.ModuleType("users")
    module.traced, module.children = Net, named_children  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "users", module)
    name = "mlp" if request.param == "zoo" else f"users:{request.param}"
    built = build_model(name, 3, (4,), 3)
    stage = Stage(built.layers, 0, len(built.layers), OptimizerConfig())
    values = {built.names[key]: value + 0.5 if value.is_floating_point() else value
              for key, value in stage.state_dict(0, len(built.layers)).items()}
    how = choose_standardization([summarize(INPUTS, torch.zeros(20, dtype=torch.int64), 3)])
    recipe = Prepare(model=name, sample_shape=(4,), classes=3, seed=3, optimizer=OptimizerConfig(), standardization=how,
                     batch=4, micro=1, steps=1)
    save_file(values, tmp_path / "model.safetensors", metadata_of(recipe, 0.5))
    own = user_module(name, 99, (4,), 3)
    own.load_state_dict(values)
    return tmp_path, own


def outputs_of(own: nn.Module, run: Path) -> Tensor:
    with torch.no_grad():
        outputs: Tensor = own.eval()(standardize(INPUTS, load_model(run).metadata.standardization))
    return outputs


def test_the_file_loads_into_the_users_own_module(run: tuple[Path, nn.Module]) -> None:
    directory, own = run
    assert load_file(directory / "model.safetensors").keys() == own.state_dict().keys()
    torch.testing.assert_close(load_model(directory)(INPUTS), outputs_of(own, directory))
    torch.testing.assert_close(load_model(directory).predict(INPUTS), outputs_of(own, directory).softmax(1))


def test_exported_files_load_as_documented(run: tuple[Path, nn.Module], tmp_path: Path) -> None:
    directory, own = run
    export(directory, tmp_path / "copy.safetensors")
    assert {k: v.tolist() for k, v in load_file(tmp_path / "copy.safetensors").items()} == {
        k: v.tolist() for k, v in own.state_dict().items()}
    export(directory, tmp_path / "copy.pt")
    content = torch.load(tmp_path / "copy.pt", weights_only=True)
    own.load_state_dict(content["state_dict"])
    assert content["standardization"]["method"] == "normalize"
    assert (content["sample_shape"], content["classes"]) == ([4], 3)


def test_samples_are_predicted_from_a_file(run: tuple[Path, nn.Module], tmp_path: Path) -> None:
    import numpy as np

    directory, own = run
    np.savez(tmp_path / "samples.npz", X=INPUTS.numpy())
    done = CliRunner().invoke(predict, [str(directory), str(tmp_path / "samples.npz")])
    assert done.exit_code == 0, done.output
    chosen = [int(line.split()[2]) for line in done.output.splitlines()]
    assert chosen == outputs_of(own, directory).argmax(1).tolist()


@pytest.mark.parametrize("wanted", ["auto", "minmax", "log", "unit-norm", "none"])
def test_onnx_runtime_gives_the_same_answers(run: tuple[Path, nn.Module], tmp_path: Path, wanted: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    directory, _ = run
    values, metadata = read_weights(directory)
    how = choose_standardization([summarize(INPUTS, torch.zeros(20, dtype=torch.int64), 3)], wanted)
    content = metadata.model_copy(update={"standardization": how}).model_dump_json()
    save_file(values, directory / "model.safetensors", {"paceline": content})
    export(directory, tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    for samples in (20, 1):
        (outputs,) = session.run(None, {"inputs": INPUTS[:samples].numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(outputs), load_model(directory)(INPUTS[:samples]))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no model.safetensors: it is no run"):
        load_model(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is not a model of this version"):
        load_model(tmp_path)


def test_samples_of_another_shape_are_refused(run: tuple[Path, nn.Module]) -> None:
    with pytest.raises(DataError, match=r"The inputs are \(20, 3\); the model takes \(N, 4\)"):
        load_model(run[0]).predict(INPUTS[:, :3])
