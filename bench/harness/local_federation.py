"""Federated averaging on real images in this process; split training makes the same models.

Source of the equality: `tests/property/trainer/models/test_exactness.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.config.partitioning import IID
from trainer.data.dataset import batch_indices
from trainer.data.load import load_local
from trainer.data.standardization import Standardization, choose_standardization, standardize, summarize
from trainer.models.building import build_layers
from trainer.models.optimizer import OptimizerConfig

BATCH, STEPS, AVERAGE_EVERY = 64, 4, 5
DATA, MODEL, SHAPE, CLASSES = "traffic-lights", "signal-cnn", (3, 32, 32), 3


class LocalEdge:
    """One of several edges, with its share of the data and the whole model."""

    def __init__(self, number: int, edges: int, seed: int) -> None:
        self.number, self.seed = number, seed
        self.data = load_local(DATA, IID, f"edge{number + 1}", number, edges, seed)
        self.labels = self.data.train.labels
        self.model = nn.Sequential(*build_layers(MODEL, seed, SHAPE, CLASSES))
        self.optimizer = OptimizerConfig().build(self.model.parameters())
        self.inputs: Tensor

    def train(self, number: int) -> None:
        """Train one round."""
        for step in range(STEPS):
            place = (number - 1) * STEPS + step
            places = batch_indices(len(self.labels), BATCH, self.seed * 1009 + self.number, place)
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(self.inputs[places]), self.labels[places])
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()


def standardize_inputs(edges: Sequence[LocalEdge]) -> Standardization:
    """Standardize the inputs of all edges by their pooled statistics; return how."""
    how = choose_standardization([summarize(edge.data.train.inputs, edge.data.train.labels, CLASSES) for edge in edges])
    for edge in edges:
        edge.inputs = standardize(edge.data.train.inputs, how)
    return how


def accuracy(model: nn.Module, edges: Sequence[LocalEdge], how: Standardization) -> float:
    """Return the accuracy on the held-out samples of these edges."""
    model.eval()
    with torch.no_grad():
        correct = sum(int((model(standardize(edge.data.held_out.inputs, how)).argmax(1)
                           == edge.data.held_out.labels).sum()) for edge in edges)
    return correct / sum(len(edge.data.held_out) for edge in edges)
