"""Checkpoints: the complete state of a run after an averaging, from which a restarted cloud continues exactly.

One safetensors file: the global model, every edge's optimiser state, and a JSON document in its metadata with the rest.
The order of the data needs no state: it follows from seed, round and step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from trainer.errors import CheckpointError
from trainer.protocol.messages import Name, Prepare
from trainer.records.atomic_file import replace_durably

FILE = "checkpoint.safetensors"
FORMAT = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state after round `round`.

    `model`: `<layer>.<name>`; `states` by edge: `<layer>.state.<parameter>.<name>`; `samples` by edge: training and
    held-out; `history`: the state of the predictors. `server`: state of the server optimizer, by parameter.
    """

    round: int
    recipe: Prepare
    metric: float | None
    cuts: Mapping[str, int]
    samples: Mapping[str, tuple[int, int]]
    history: Mapping[str, Any]
    model: Mapping[str, Tensor]
    states: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    server: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def layers_of(self, edge: str) -> dict[str, Tensor]:
        """Return copies of the whole model with that edge's optimiser state, for `Stage.import_layers`."""
        values = {}
        for name, value in self.model.items():
            layer, rest = name.split(".", 1)
            values[f"{layer}.value.{rest}"] = value.clone()
        return {**values, **{name: state.clone() for name, state in self.states.get(edge, {}).items()}}


class _Metadata(BaseModel):
    model_config = ConfigDict(extra="forbid")
    format: int
    round: int
    recipe: Prepare
    metric: float | None
    cuts: dict[Name, int]
    samples: dict[Name, tuple[int, int]]
    history: dict[str, Any]


def write(directory: Path, checkpoint: Checkpoint) -> None:
    """Replace the run's checkpoint atomically."""
    metadata = _Metadata(
        format=FORMAT, round=checkpoint.round, recipe=checkpoint.recipe, metric=checkpoint.metric,
        cuts=dict(checkpoint.cuts), samples=dict(checkpoint.samples), history=dict(checkpoint.history),
    )
    tensors = {f"model/{name}": value.contiguous() for name, value in checkpoint.model.items()}
    for edge, states in checkpoint.states.items():
        tensors |= {f"edge/{edge}/{name}": value.contiguous() for name, value in states.items()}
    for parameter, state in checkpoint.server.items():
        tensors |= {f"server/{parameter}/{name}": value.contiguous() for name, value in state.items()}
    replace_durably(directory / FILE, save(tensors, {"paceline": metadata.model_dump_json()}))


def read(directory: Path) -> Checkpoint:
    """Read the run's checkpoint.

    Raises: CheckpointError if there is none or it cannot be read.
    """
    path = directory / FILE
    if not path.is_file():
        raise CheckpointError(f"{directory} has no {FILE}: the run did not start training, or it is no run directory.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = _Metadata.model_validate_json((file.metadata() or {}).get("paceline", ""))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValidationError, OSError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of this version: {error}.") from error
    if metadata.format != FORMAT:
        raise CheckpointError(f"{path} has format {metadata.format}; this version reads format {FORMAT}.")
    model, states, server = _sort(tensors)
    return Checkpoint(metadata.round, metadata.recipe, metadata.metric, metadata.cuts, metadata.samples,
                      metadata.history, model, states, server)


def _sort(
    tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]], dict[str, dict[str, Tensor]]]:
    model: dict[str, Tensor] = {}
    states: dict[str, dict[str, Tensor]] = {}
    server: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, rest = name.split("/", 1)
        if kind == "model":
            model[rest] = tensor
        elif kind == "server":
            parameter, name = rest.rsplit("/", 1)
            server.setdefault(parameter, {})[name] = tensor
        else:
            edge, state = rest.split("/", 1)
            states.setdefault(edge, {})[state] = tensor
    return model, states, server
