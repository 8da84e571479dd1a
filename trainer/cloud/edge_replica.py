"""The cloud's part of the model for one edge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from trainer.cloud import edge_checks
from trainer.cloud.edge_session import EdgeSession
from trainer.cloud.kept_segments import KeepingSpace, KeptElsewhere, KeptSegments
from trainer.config.objectives import Objective
from trainer.data.dataset import batch_indices
from trainer.errors import DivergedError
from trainer.models.boundary import Boundary, has_gradients
from trainer.models.building import BuiltModel, build_model, random_batch
from trainer.models.frozen import copy_sharing
from trainer.models.layer_checks import check_layers
from trainer.models.lora_ranks import set_rank, widened
from trainer.models.objective import build_loss, confusion_counts, metric_sums
from trainer.models.rng import draws_random
from trainer.models.shared_trunk import joint_layers
from trainer.models.split_model import MiddleModel, ServerModel
from trainer.models.stage import Stage, split_evenly
from trainer.models.values import to_device
from trainer.protocol import messages, segments
from trainer.protocol.codec import Codec
from trainer.protocol.messages import Prepare
from trainer.records.checkpoint import Checkpoint

EVALUATION_SAMPLES = 256
"""Held-out samples that are counted at once; bounds the memory of the activations."""


@dataclass
class EdgeReplica:
    """The cloud's model for one edge. `batch`: samples per mini-batch; `max_cut`: limit after the edge was late.

    `joint`: of every layer whether it can run on the rows of several edges at once. `kept`: segments that the edge need
    not send again; `held_out`: those of its held-out samples. `rank`: how many rows of its adapters it trains; None:
    all.
    """

    session: EdgeSession
    model: ServerModel | MiddleModel
    batch: int
    micro_batches: int
    device: torch.device
    boundaries: Sequence[Boundary]
    classes: int
    objective: Objective
    joint: Sequence[bool] = ()
    integers: tuple[int, int] | None = None
    max_cut: int | None = None
    kept: KeptSegments | KeptElsewhere | None = None
    held_out: KeptSegments | KeptElsewhere | None = None
    rank: int | None = None

    @property
    def name(self) -> str:
        """The edge's name."""
        return self.session.name

    @property
    def boundary(self) -> Boundary:
        """What its segments consist of at the present cut."""
        return self.boundaries[self.cut]

    @property
    def has_gradients(self) -> bool:
        """Whether gradients of its segments are sent to the edge: some of the edge's layers are trained."""
        return has_gradients(self.boundaries, self.cut, self._tail)

    @property
    def has_tail_gradients(self) -> bool:
        """Whether the edge sends the gradients of its tail's inputs: some layer before its tail is trained."""
        return self._tail is not None and bool(self.boundaries[self._tail].trained)

    @property
    def has_held_out(self) -> bool:
        """Whether the segments of all its held-out samples are kept, as those in training are."""
        kept, held_out = self.kept, self.held_out
        return (kept is not None and held_out is not None and (held_out.cut, held_out.codec) == (kept.cut, kept.codec)
                and held_out.sent.count == self.session.held_out)

    @property
    def shares_trunk(self) -> bool:
        """Whether some of its layers can run on the rows of several edges at once.

        With protected labels none does: the gradients of the tails arrive one after the other.
        """
        return isinstance(self.model, ServerModel) and any(self.joint[self.cut :])

    @property
    def _tail(self) -> int | None:
        return self.model.stage.last if isinstance(self.model, MiddleModel) else None

    def samples_of(self, micro: int) -> int:
        """Return the number of samples of a micro-batch."""
        part = split_evenly(self.batch, self.micro_batches)[micro]
        return int(part.stop - part.start)

    def micro_batches_of(self, number: int) -> list[Tensor]:
        """Return the edge's samples in every micro-batch of mini-batch `number` of the run."""
        samples = batch_indices(self.session.request.samples, self.batch, self.session.data_order, number)
        return [samples[part] for part in split_evenly(self.batch, self.micro_batches)]

    @property
    def cut(self) -> int:
        """The first layer that runs in the cloud."""
        return self.model.cut

    def initial_values(self) -> dict[str, Tensor]:
        """Return copies of the initial values of all that is trained, named `<layer>.<name>`."""
        part = self.model.stage
        return {name: value.cpu().clone() for name, value in part.state_dict(0, len(part.layers)).items()}

    def merged_layers(
        self, from_edge: Mapping[str, Tensor], max_steps: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Merge the layers of edge and cloud: copies of values as `<layer>.<name>`, and of the optimizer state.

        Raises: ProtocolError if the tensors from the edge are not its layers after at most `max_steps` steps.
        """
        part, from_edge = self.model.stage, widened(from_edge, self.rank)
        check_layers(part, [*range(part.first), *range(part.last, len(part.layers))], from_edge, max_steps,
                     with_state=not part.optimizer.reset)
        return self._sorted(from_edge)

    def own_layers(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return what `merged_layers` returns, of the cloud's layers only."""
        return self._sorted({})

    def _sorted(self, from_edge: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        part = self.model.stage
        values, states = {}, {}
        for name, tensor in {**from_edge, **part.export_layers(part.first, part.last, for_averaging=True)}.items():
            if ".state." in name:
                states[name] = tensor.cpu().clone()
            else:
                values[name.replace(".value.", ".", 1)] = tensor.cpu().clone()
        return values, states

    def start_at(self, cut: int) -> None:
        """Set the first cut; both sides have built the same model, so no layers are sent."""
        self.model.stage.first = cut

    def set_rank(self, rank: int | None) -> None:
        """Train only so many rows of its adapters; None: all."""
        self.rank = rank
        set_rank(self.model.stage.layers, rank)

    def layers_to_send(self, cut: int) -> dict[str, Tensor]:
        """Return the layers, with their optimizer state, that move to the edge for a new `cut`."""
        return self.model.layers_to_send(cut)

    def load_model(self, model: Mapping[str, Tensor]) -> None:
        """Continue from the global model."""
        self.model.stage.load_state_dict(model)

    def move_cut(self, cut: int, arriving: Mapping[str, Tensor], max_steps: int) -> None:
        """Move the cut and load the layers that arrive from the edge; arguments as in `merged_layers`.

        Raises: ProtocolError.
        """
        check_layers(self.model.stage, range(min(self.cut, cut), self.cut), arriving, max_steps)
        self.model.move_cut(cut, arriving)

    def keeping_room_bytes(self, space: KeepingSpace) -> int:
        """Return how many bytes of segments can be kept further."""
        return space.room_bytes

    def keep(self, cut: int, used: Codec, space: KeepingSpace) -> None:
        """Keep the segments at a cut in a codec from now on.

        Raises: OSError, RuntimeError if there is no space for them.
        """
        self.kept = KeptSegments(cut, self.boundaries[cut], used, self.session.request.samples, space)

    def drop_kept(self) -> None:
        """Keep no segments any more."""
        if self.kept is not None:
            self.kept.release()
            self.kept = None

    def keep_held_out(self, space: KeepingSpace) -> None:
        """Make room for the segments of the held-out samples, as those in training are kept.

        Raises: OSError, RuntimeError if there is no space for them.
        """
        if self.held_out is not None:
            self.held_out.release()
            self.held_out = None
        assert self.kept is not None
        self.held_out = KeptSegments(self.cut, self.boundary, self.kept.codec, self.session.held_out, space)

    def add_held_out(self, rows: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Keep segments of held-out samples that have arrived.

        Raises: ProtocolError.
        """
        kept = self.held_out
        assert isinstance(kept, KeptSegments)
        values = segments.decode_segment("segment", tensors, self.boundary, len(rows), kept.codec)
        edge_checks.check_names(tensors, [*segments.segment_names("segment", self.boundary, kept.codec), "labels"])
        edge_checks.check_values(values, self.integers if self.cut == 0 else None)
        kept.add(rows, tensors, edge_checks.labels_of(tensors, len(rows), self.classes, self.objective))
        kept.sent.take([rows])

    def evaluate_held_out(self) -> messages.Evaluated:
        """Return what the edge would count with the layers of its replica.

        Raises: DivergedError if the metric is not finite.
        """
        kept, objective, classes = self.held_out, self.objective, self.classes
        assert isinstance(kept, KeptSegments)
        rows = torch.arange(self.session.held_out)
        outputs = torch.cat([self.model.stage.evaluate(to_device(kept.values(part), self.device), self.cut).cpu()
                             for part in torch.split(rows, EVALUATION_SAMPLES)])
        targets = kept.targets(rows)
        sums = metric_sums(objective, outputs, targets)
        if not all(map(math.isfinite, sums)):
            raise DivergedError(f"The {objective.metric} of the global model is not finite: training has diverged. "
                                "Lower --learning-rate.")
        shown = objective.target_shape is None and classes <= messages.MAX_CONFUSION_CLASSES
        confusion = confusion_counts(outputs, targets, classes) if shown else []
        return messages.Evaluated(sums=tuple(sums), total=len(rows), confusion=tuple(confusion))

    def layers_to_restore(self, layers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the whole model with the optimizer state of only those layers that the edge trains."""
        in_cloud = range(self.model.stage.first, self.model.stage.last)
        return {name: tensor for name, tensor in layers.items()
                if ".value." in name or int(name.split(".", 1)[0]) not in in_cloud}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state after an averaging."""
        self.restore_layers(checkpoint.layers_of(self.name), checkpoint.cuts.get(self.name, 0))

    def restore_layers(self, layers: Mapping[str, Tensor], cut: int) -> None:
        """Restore all layers and the cut."""
        part = self.model.stage
        part.import_layers(0, len(part.layers), layers)
        part.set_anchors()
        part.first = cut


def build_shared(recipe: Prepare, device: torch.device) -> BuiltModel:
    """Build the model that every node builds, on a device; the replicas of all edges are copies of it."""
    built = build_model(recipe.model, recipe.seed, recipe.sample_shape, recipe.classes, recipe.integers,
                        objective=recipe.objective, tuning=recipe.tuning)
    batch = partial(random_batch, sample_shape=recipe.sample_shape, integers=recipe.integers)
    trial = copy_sharing(built.layers, built.unchanging)
    built = replace(built, joint=joint_layers(built.layers, built.boundaries, built.unchanging, batch),
                    draws_random=draws_random(trial, batch(2)))
    for layer in built.layers:
        layer.to(device)
    return built


def build_replica(
    session: EdgeSession, recipe: Prepare, device: torch.device, built: BuiltModel | None = None,
    kind: type[EdgeReplica] = EdgeReplica, shares_layers: bool = False,
) -> EdgeReplica:
    """Build the replica of an edge; its frozen values are those of `built`, one copy for all edges.

    `shares_layers`: all other layers are those of `built`, too, for a replica that is never trained here.
    """
    built = build_shared(recipe, device) if built is None else built
    layers = built.layers if shares_layers else copy_sharing(built.layers, built.unchanging)
    batch = min(recipe.batch, session.request.samples)
    part = Stage(layers, 0, len(layers) if recipe.tail is None else recipe.tail, recipe.optimizer, built.unchanging)
    model = ServerModel(part, build_loss(recipe.objective.loss)) if recipe.tail is None else MiddleModel(part)
    return kind(session, model, batch, len(split_evenly(batch, recipe.micro)), device, built.boundaries,
                recipe.classes, recipe.objective, built.joint, recipe.integers)
