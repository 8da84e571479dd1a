"""Writers of a trained model, by the suffix of the file."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from trainer.data.standardization import Standardization
from trainer.errors import UsageError
from trainer.plugins import describe_error
from trainer.records.atomic_file import replace_durably
from trainer.records.trained_model import METADATA, ModelMetadata, TrainedModel, to_plain

ONNX_OPSET = 17


def write_safetensors(model: TrainedModel, target: Path) -> None:
    """Write the weights under the names of the user's module, with the metadata as JSON."""
    values = {name: value.detach().contiguous().clone() for name, value in model.model.state_dict().items()}
    replace_durably(target, save(values, {METADATA: model.metadata.model_dump_json()}))


def write_pt(model: TrainedModel, target: Path) -> None:
    """Write a dictionary of plain values that `torch.load` reads: `state_dict` and the metadata."""
    content = io.BytesIO()
    torch.save({"state_dict": model.model.state_dict(), **to_plain(model.metadata)}, content)
    replace_durably(target, content.getvalue())


def write_onnx(model: TrainedModel, target: Path) -> None:
    """Write a graph that takes inputs as they were in the data, any number of samples, in single precision.

    Raises: UsageError if the package onnx is missing or the model cannot be exported.
    """
    if importlib.util.find_spec("onnx") is None:
        raise UsageError("Exporting to ONNX needs the package onnx, which is not installed; install it: pip install "
                         "onnx")
    metadata = model.metadata
    dtype = torch.int64 if metadata.whole_numbers else torch.float32
    sample = torch.zeros(1, *metadata.sample_shape, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = io.BytesIO()
        try:
            torch.onnx.export(
                OnnxModel(model.model, metadata), (sample,), content, input_names=["inputs"], output_names=["outputs"],  # type: ignore[arg-type]
                dynamic_axes={"inputs": {0: "samples"}, "outputs": {0: "samples"}}, opset_version=ONNX_OPSET,
                dynamo=False,
            )
        except Exception as error:
            raise UsageError(f"{metadata.model} cannot be exported to ONNX: {describe_error(error)[:300]}.") from error
    replace_durably(target, content.getvalue())


class OnnxModel(nn.Module):
    """The model with its standardization as operations of a graph."""

    def __init__(self, model: nn.Module, metadata: ModelMetadata) -> None:
        super().__init__()
        self.model, self.method = model.eval(), metadata.standardization.method
        shape = (1, -1, *[1] * (len(metadata.sample_shape) - 1))
        how: Standardization = metadata.standardization
        self.any_logged = any(how.logged)
        for name, values in (("logged", how.logged), ("mean", how.mean), ("deviation", how.deviation)):
            dtype = torch.bool if name == "logged" else torch.float64
            self.register_buffer(name, torch.tensor(values, dtype=dtype).view(shape))
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """Standardize as `trainer.data.standardization.standardize`."""
        values = inputs
        if self.method == "unit-norm":
            wide = inputs.double()
            norms = wide.flatten(1).pow(2).sum(1).sqrt().view(-1, *[1] * (inputs.dim() - 1))
            values = (wide / torch.where(norms > 0, norms, torch.ones_like(norms))).float()
        elif self.method != "none":
            wide = inputs.double()
            if self.any_logged:
                logarithm = wide.sign() * (wide.abs() + 1).log()
                wide = torch.where(self.get_buffer("logged"), logarithm, wide)
            values = ((wide - self.get_buffer("mean")) / self.get_buffer("deviation")).float()
        outputs: Tensor = self.model(values)
        return outputs


WRITERS: dict[str, Callable[[TrainedModel, Path], None]] = {
    ".safetensors": write_safetensors, ".pt": write_pt, ".onnx": write_onnx,
}
