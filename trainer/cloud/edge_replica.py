"""What the cloud holds for one edge: its half of the model, and how many samples a mini-batch has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.cloud.edge_session import EdgeSession
from trainer.errors import ProtocolError
from trainer.models.split_model import MiddleModel, ServerModel
from trainer.models.stage import Stage, split_evenly
from trainer.models.zoo import build_layers
from trainer.protocol.messages import Prepare
from trainer.records.checkpoint import Checkpoint


@dataclass
class EdgeReplica:
    """One edge in training. `cap`: its cut may be no larger for now, because it was late."""

    member: EdgeSession
    half: ServerModel | MiddleModel
    batch: int
    micros: int
    device: torch.device
    cap: int | None = None

    @property
    def name(self) -> str:
        """The edge's name."""
        return self.member.name

    @property
    def cut(self) -> int:
        """The first layer that runs here."""
        return self.half.cut

    def initial_values(self) -> dict[str, Tensor]:
        """The model as it was built: `<layer>.<name>`; copies."""
        part = self.half.stage
        return {name: value.cpu().clone() for name, value in part.state_dict(0, len(part.layers)).items()}

    def whole(self, from_edge: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The edge's layers and ours: values as `<layer>.<name>`, and copies of the optimiser state.

        Raises: ProtocolError if what came from the edge is not its layers.
        """
        part = self.half.stage
        values, states = {}, {}
        for name, tensor in {**from_edge, **part.export_layers(part.first, part.last)}.items():
            if ".state." in name:
                states[name] = tensor.cpu().clone()
            else:
                values[name.replace(".value.", ".", 1)] = tensor.cpu()
        wanted = part.state_dict(0, len(part.layers))
        if values.keys() != wanted.keys() or any(values[n].shape != wanted[n].shape for n in wanted):
            raise ProtocolError(f"it sent layers that are not those it has to train at cut {self.cut}.")
        return values, states

    def of_the_edge(self, layers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The whole model for the edge, with the optimiser state of those layers alone that it trains."""
        mine = range(self.half.stage.first, self.half.stage.last)
        return {name: tensor for name, tensor in layers.items()
                if ".value." in name or int(name.split(".", 1)[0]) not in mine}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to the state after an averaging."""
        part = self.half.stage
        part.import_layers(0, len(part.layers), checkpoint.layers_of(self.name))
        part.first = checkpoint.cuts.get(self.name, 0)


def apprentice_of(member: EdgeSession, recipe: Prepare, device: torch.device) -> EdgeReplica:
    """A new one, with the model as all sides build it."""
    built = build_layers(recipe.model, recipe.seed, recipe.sample_shape, recipe.classes)
    layers = [layer.to(device) for layer in built]
    batch = min(recipe.batch, member.ask.samples)
    part = Stage(layers, 0, len(layers) if recipe.tail is None else recipe.tail, recipe.optimizer)
    half = ServerModel(part) if recipe.tail is None else MiddleModel(part)
    return EdgeReplica(member, half, batch, len(split_evenly(batch, recipe.micro)), device)
