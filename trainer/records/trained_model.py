"""The trained model of a run: the user's own module with its weights, and the standardization in front of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from trainer.config.fine_tuning import ALL_TRAINED, FineTuning
from trainer.config.objectives import Objective
from trainer.data.standardization import Standardization, standardize
from trainer.errors import CheckpointError, DataError
from trainer.models.building import user_module
from trainer.models.lora import merge
from trainer.models.objective import classes_second
from trainer.models.values import only_tensor
from trainer.protocol.messages import Prepare

Which = Literal["last", "best"]
FILES: dict[Which, str] = {"last": "model.safetensors", "best": "best.safetensors"}
METADATA = "paceline"
PREDICTION_SAMPLES = 256


class ModelMetadata(BaseModel):
    """What is needed beside the weights to use a trained model."""

    model_config = ConfigDict(extra="ignore")
    model: str
    sample_shape: tuple[int, ...]
    classes: int
    seed: int
    whole_numbers: bool
    standardization: Standardization
    objective: Objective = Objective()
    tuning: FineTuning = ALL_TRAINED
    metric: float | None = None
    accuracy: float | None = None


def metadata_of(recipe: Prepare, metric: float | None) -> dict[str, str]:
    """Return the metadata of a model's file."""
    content = ModelMetadata(model=recipe.model, sample_shape=recipe.sample_shape, classes=recipe.classes,
                            seed=recipe.seed, whole_numbers=recipe.integers is not None,
                            standardization=recipe.standardization, objective=recipe.objective,
                            tuning=recipe.tuning, metric=metric,
                            accuracy=metric if recipe.objective.metric == "accuracy" else None)
    return {METADATA: content.model_dump_json()}


class TrainedModel(nn.Module):
    """Takes inputs (N, ...) as they were in the data; returns the outputs (N, ...) of the trained model.

    `model`: the user's module, or an `nn.Sequential` of the zoo's layers.
    """

    def __init__(self, model: nn.Module, metadata: ModelMetadata) -> None:
        super().__init__()
        self.model = model
        self.metadata = metadata

    def forward(self, inputs: Tensor) -> Tensor:
        """Standardize and compute."""
        values = standardize(inputs, self.metadata.standardization)
        outputs: Tensor = only_tensor(
            self.model(values if self.metadata.whole_numbers else values.to(torch.float32)))
        return outputs

    def as_inputs(self, values: npt.ArrayLike) -> Tensor:
        """Return an array as the inputs that a data file with it would have: uint8, int64 or float32.

        Raises: DataError if it holds no numbers.
        """
        array = np.asarray(values)
        if array.dtype.kind not in "buif":
            raise DataError(f"The inputs are of type {array.dtype}; they must be numbers.")
        whole = array.dtype.kind in "iu" and array.dtype != np.uint8
        kind = array.dtype if array.dtype == np.uint8 else np.int64 if whole else np.float32
        return torch.from_numpy(np.ascontiguousarray(array, dtype=kind))

    def predict(self, inputs: Tensor) -> Tensor:
        """Return the probability of every class, (N, classes, ...), or the values (N, ...); in evaluation mode.

        Of models trained by bce-with-logits the values are the probability of every label.

        Raises: DataError if the samples have another shape than those of the training.
        """
        if tuple(inputs.shape[1:]) != self.metadata.sample_shape or not len(inputs):
            raise DataError(f"The inputs are {tuple(inputs.shape)}; the model takes (N, "
                            f"{', '.join(map(str, self.metadata.sample_shape))}).")
        self.eval()
        with torch.no_grad():
            outputs = torch.cat([self(part) for part in torch.split(inputs, PREDICTION_SAMPLES)])
        objective = self.metadata.objective
        if objective.target_shape is None:
            return classes_second(outputs, objective.class_shape).softmax(dim=1)
        return outputs.sigmoid() if objective.loss == "bce-with-logits" else outputs


def load_model(run: Path | str, which: Which = "last") -> TrainedModel:
    """Return the trained model of a run, in evaluation mode; adapters are merged into its weights.

    Raises: CheckpointError if the run has none or it does not fit, UsageError if the user's module cannot be built.
    """
    model, metadata = load_with_adapters(Path(run), which)
    merge(model)
    return TrainedModel(model, metadata).eval()


def load_with_adapters(run: Path, which: Which = "last") -> tuple[nn.Module, ModelMetadata]:
    """Return the user's module with the weights of a run, and adapters beside them if the run trained some.

    Raises: as `load_run`.
    """
    values, metadata = read_weights(run, which)
    model = user_module(metadata.model, metadata.seed, metadata.sample_shape, metadata.classes, metadata.objective,
                        metadata.tuning)
    try:
        model.load_state_dict(values)
    except RuntimeError as error:
        raise CheckpointError(
            f"{run}: the weights do not fit {metadata.model}, which has changed since: {' '.join(str(error).split())}"
        ) from error
    return model, metadata


def read_weights(run: Path, which: Which = "last") -> tuple[dict[str, Tensor], ModelMetadata]:
    """Return the weights of a run under the names of the user's module, and what is needed beside them.

    Raises: CheckpointError.
    """
    path = run / FILES[which]
    if not path.is_file():
        raise CheckpointError(f"{run} has no {path.name}: it is no run, or nothing was averaged in it yet.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = ModelMetadata.model_validate_json((file.metadata() or {}).get(METADATA, ""))
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, ValidationError, OSError) as error:
        raise CheckpointError(f"{path} is not a model of this version: {' '.join(str(error).split())}.") from error


def export(run: Path, target: Path, which: Which = "last") -> None:
    """Write the trained model of a run as .safetensors or .pt (weights and metadata) or .onnx (with standardization).

    Without a suffix: a directory with the adapters in PEFT's format.

    Raises: CheckpointError, UsageError.
    """
    from trainer.records import model_formats, peft_adapter

    if not target.suffix:
        peft_adapter.write(*load_with_adapters(run, which), target)
        return
    model = load_model(run, which)
    model_formats.WRITERS[target.suffix](model, target)


def to_plain(metadata: ModelMetadata) -> Mapping[str, Any]:
    """Return metadata as JSON values."""
    content: Mapping[str, Any] = json.loads(metadata.model_dump_json())
    return content
