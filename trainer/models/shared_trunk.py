"""Micro-batches of several edges in one pass through the frozen layers that their replicas share.

A layer in which nothing changes but adapters runs once, on the rows of all edges one below the other; what each edge's
adapters add is computed for its own rows. Any other layer is run by each replica on its rows. Gradients reach each
edge's own parameters, so the result is that of one pass after the other up to rounding.
Source: Menos (Middleware 2024) and Symbiosis (2025): the adapters of all clients share one base model in a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import ModelFailedError, ProtocolError
from trainer.models.boundary import Boundary, call_layer
from trainer.models.frozen import Unchanging, copy_sharing
from trainer.models.lora import PARTS, AdapterRows, adapters
from trainer.models.rng import RandomStream
from trainer.models.split_model import ServerModel, backpropagate
from trainer.models.values import Values, detached, gradients_of, is_differentiable, new_leaves, tensors_of

FEW, MORE = 2, 3
"""Samples of two edges in the trial."""
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-4, 1e-5
TRIAL_DEVIATION = 0.1
"""Standard deviation of the adapters' second factors in the trial; at first they are 0."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A micro-batch of one edge's replica; the other fields are the arguments of `ServerModel.train`."""

    model: ServerModel
    segment: Values
    targets: Tensor
    batch_samples: int
    stream: RandomStream

    def train(self, needs_gradient: Sequence[bool]) -> tuple[list[Tensor | None], float]:
        """Train it alone."""
        return self.model.train(self.segment, self.targets, self.batch_samples, self.stream, needs_gradient)


def train_together(
    batches: Sequence[MicroBatch], boundaries: Sequence[Boundary], joint: Sequence[bool]
) -> list[tuple[list[Tensor | None], float]]:
    """Train replicas with one cut on a micro-batch each, or several; return of each what `ServerModel.train` returns.

    `boundaries`: of every cut; `joint`: as from `joint_layers`.

    Raises: ModelFailedError.
    """
    first, last = batches[0].model.cut, batches[0].model.stage.last
    samples = [len(batch.targets) for batch in batches]
    leaves, parts = map(list, zip(*(new_leaves(batch.segment, boundaries[first].needs_gradient) for batch in batches),
                                  strict=True))
    whole: Values = None
    for number in range(first, last):
        if joint[number]:
            if whole is None:
                whole = _joined(boundaries[number], parts, samples)
            with _adapters_by_rows([batch.model.stage.layers[number] for batch in batches], samples):
                whole = call_layer(batches[0].model.stage.layers, number, whole)
            continue
        if whole is not None:
            parts, whole = _apart(boundaries[number], whole, samples), None
        for place, batch in enumerate(batches):
            batch.stream.seed_layer(number, tensors_of(parts[place])[0].device)
            parts[place] = call_layer(batch.model.stage.layers, number, parts[place])
    if whole is not None:
        parts = _apart(boundaries[last], whole, samples)
    losses = [batch.model.loss(outputs, batch.targets, batch.batch_samples)
              for batch, outputs in zip(batches, parts, strict=True)]
    backpropagate(losses, [torch.ones_like(loss) for loss in losses])
    return [(gradients_of(own), loss.item()) for own, loss in zip(leaves, losses, strict=True)]


def joint_layers(
    layers: Sequence[nn.Module], boundaries: Sequence[Boundary], unchanging: Unchanging, batch: Callable[[int], Tensor]
) -> tuple[bool, ...]:
    """Return of every layer whether it can run on the rows of several edges at once; does not change the layers.

    Nothing changes in it but adapters, it draws no random numbers, and it treats every sample alone: tried on copies
    with other adapters for each of two edges. None can where no layer that could has frozen values. `batch` returns the
    input of that many samples.
    """
    if not any(unchanging):
        return (False,) * len(layers)
    joint: list[bool] = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(1)
        parts: list[Values] = [batch(FEW), batch(MORE)]
        for number, layer in enumerate(layers):
            changing = [name for name in layer.state_dict() if name not in unchanging[number]]
            able = all(name.rsplit(".", 1)[-1] in PARTS for name in changing)
            able = able and all(_can_be_joined(boundary) for boundary in boundaries[number : number + 2])
            own = [copy_sharing([layer], (unchanging[number],))[0].train() for _ in parts]
            for module in (module for each in own for module in adapters(each).values()):
                nn.init.normal_(module.lora_B, std=TRIAL_DEVIATION)
            whole = _joined(boundaries[number], copy.deepcopy(parts), [FEW, MORE]) if able else None
            state = torch.default_generator.get_state()
            parts = [detached(each(values)) for each, values in zip(own, parts, strict=True)]
            able = able and torch.equal(state, torch.default_generator.get_state())
            joint.append(able and _same(own, boundaries[number + 1], whole, parts))
    is_worth = any(able and names for able, names in zip(joint, unchanging, strict=True))
    return tuple(joint) if is_worth else (False,) * len(joint)


def _same(own: Sequence[nn.Module], after: Boundary, whole: Values, parts: Sequence[Values]) -> bool:
    """Return whether a layer makes the same of the rows of both edges at once."""
    try:
        with _adapters_by_rows(own, [FEW, MORE]):
            together = _apart(after, detached(call_layer(own[:1], 0, whole)), [FEW, MORE])
    except (ModelFailedError, ProtocolError):
        return False
    pairs = zip(tensors_of(together), tensors_of(list(parts)), strict=True)
    return all(torch.allclose(one, other, RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE) if is_differentiable(one)
               else torch.equal(one, other) for one, other in pairs)


def _can_be_joined(boundary: Boundary) -> bool:
    """Return whether of every tensor the first dimension counts rows of samples, or none does."""
    return all(all(side.per_sample == 0 for side in spec.sides[1:])
               and (not spec.sides or spec.sides[0].constant == 0 or spec.sides[0].per_sample == 0)
               for spec in boundary.tensors)


def _rows(boundary: Boundary) -> list[int]:
    """Return how many rows a sample has in each tensor; 0 of a tensor that does not depend on the samples."""
    return [spec.sides[0].per_sample if spec.sides else 0 for spec in boundary.tensors]


def _joined(boundary: Boundary, parts: Sequence[Values], samples: Sequence[int]) -> Values:
    """Return the values of all edges, one below the other."""
    columns = zip(_rows(boundary), zip(*map(tensors_of, parts), strict=True), strict=True)
    return boundary.join([torch.cat(column) if rows else column[0] for rows, column in columns], sum(samples))


def _apart(boundary: Boundary, whole: Values, samples: Sequence[int]) -> list[Values]:
    """Return the values of each edge."""
    columns: list[Sequence[Any]] = [
        torch.split(tensor, [rows * count for count in samples]) if rows else [tensor] * len(samples)
        for rows, tensor in zip(_rows(boundary), tensors_of(whole), strict=True)]
    return [boundary.join(tensors, count) for tensors, count in zip(zip(*columns, strict=True), samples, strict=True)]


@contextmanager
def _adapters_by_rows(layers: Sequence[nn.Module], samples: Sequence[int]) -> Iterator[None]:
    """Let the first of these copies of a layer apply each copy's adapters to the rows of its samples."""
    peers = [adapters(layer) for layer in layers]
    leading = peers[0]
    for path, module in leading.items():
        module.__dict__["adapter_rows"] = AdapterRows([own[path] for own in peers], samples)
    try:
        yield
    finally:
        for module in leading.values():
            del module.__dict__["adapter_rows"]
