"""The cloud's part of the model for one edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.cloud.edge_session import EdgeSession
from trainer.errors import ProtocolError
from trainer.models.boundary import Boundary
from trainer.models.split_model import MiddleModel, ServerModel
from trainer.models.stage import Stage, split_evenly
from trainer.models.zoo import build_model
from trainer.protocol.messages import Prepare
from trainer.records.checkpoint import Checkpoint


@dataclass
class EdgeReplica:
    """The cloud's model for one edge. `batch`: samples per mini-batch; `max_cut`: limit after the edge was late."""

    session: EdgeSession
    model: ServerModel | MiddleModel
    batch: int
    micro_batches: int
    device: torch.device
    boundaries: Sequence[Boundary]
    classes: int
    max_cut: int | None = None

    @property
    def name(self) -> str:
        """The edge's name."""
        return self.session.name

    @property
    def boundary(self) -> Boundary:
        """What its segments consist of at the present cut."""
        return self.boundaries[self.cut]

    def samples_of(self, micro: int) -> int:
        """Return the number of samples of a micro-batch."""
        part = split_evenly(self.batch, self.micro_batches)[micro]
        return int(part.stop - part.start)

    @property
    def cut(self) -> int:
        """The first layer that runs in the cloud."""
        return self.model.cut

    def initial_values(self) -> dict[str, Tensor]:
        """Return copies of the initial values of the whole model, named `<layer>.<name>`."""
        part = self.model.stage
        return {name: value.cpu().clone() for name, value in part.state_dict(0, len(part.layers)).items()}

    def merged_layers(self, from_edge: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Merge the layers of edge and cloud: values as `<layer>.<name>`, and copies of the optimizer state.

        Raises: ProtocolError if the tensors from the edge are not its layers.
        """
        part = self.model.stage
        values, states = {}, {}
        for name, tensor in {**from_edge, **part.export_layers(part.first, part.last)}.items():
            if ".state." in name:
                states[name] = tensor.cpu().clone()
            else:
                values[name.replace(".value.", ".", 1)] = tensor.cpu()
        expected = part.state_dict(0, len(part.layers))
        if values.keys() != expected.keys() or any(values[n].shape != expected[n].shape for n in expected):
            raise ProtocolError(f"it sent other layers than those it trains at cut {self.cut}.")
        return values, states

    def layers_to_restore(self, layers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the whole model with the optimizer state of only those layers that the edge trains."""
        in_cloud = range(self.model.stage.first, self.model.stage.last)
        return {name: tensor for name, tensor in layers.items()
                if ".value." in name or int(name.split(".", 1)[0]) not in in_cloud}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state after an averaging."""
        part = self.model.stage
        part.import_layers(0, len(part.layers), checkpoint.layers_of(self.name))
        part.first = checkpoint.cuts.get(self.name, 0)


def build_replica(session: EdgeSession, recipe: Prepare, device: torch.device) -> EdgeReplica:
    """Build the replica of an edge with the model that every node builds."""
    built = build_model(recipe.model, recipe.seed, recipe.sample_shape, recipe.classes, recipe.integers)
    layers = [layer.to(device) for layer in built.layers]
    batch = min(recipe.batch, session.request.samples)
    part = Stage(layers, 0, len(layers) if recipe.tail is None else recipe.tail, recipe.optimizer)
    model = ServerModel(part) if recipe.tail is None else MiddleModel(part)
    return EdgeReplica(session, model, batch, len(split_evenly(batch, recipe.micro)), device, built.boundaries,
                       recipe.classes)
