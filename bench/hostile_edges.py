"""Accuracy when one of five edges is hostile, for every aggregation rule, against no hostile edge and against the mean.

Federated averaging on real images in this process, through the product's own aggregation; split training makes the
same models (`tests/property/trainer/models/test_exactness.py`). The hostile edge reverses its update, enlarges it, or
trains on wrong labels. Accuracy is that of the global model on the held-out samples of the honest edges.

    .venv/bin/python bench/hostile_edges.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from rich.table import Table
from torch import Tensor, nn

from harness.report import Claim, at_least, publish
from trainer.config.partitioning import IID
from trainer.config.settings import Aggregate
from trainer.data.dataset import batch_indices
from trainer.data.load import load_local
from trainer.data.standardization import choose_standardization, standardize, summarize
from trainer.models.aggregation import aggregate
from trainer.models.optimizer import OptimizerConfig
from trainer.models.zoo import build_layers

EDGES, HOSTILE, BATCH, STEPS, AVERAGE_EVERY = 5, 2, 64, 4, 5
DATA, MODEL, SHAPE, CLASSES = "traffic-lights", "signal-cnn", (3, 32, 32), 3
SIGN_FLIP, SCALING = -5.0, 100.0
"""Factors of a hostile update."""
ATTACKS = ("none", "sign flip", "scaling", "label flip")
RULES: tuple[tuple[Aggregate, float | None], ...] = (
    ("mean", None), ("mean", 1.0), ("trimmed-mean", None), ("median", None), ("krum", None))
DROP_LIMIT = 0.05


@dataclass(frozen=True, slots=True)
class Result:
    """Accuracy of one training."""

    rule: str
    attack: str
    seed: int
    accuracy: float


class Edge:
    """An edge with its share of the data and the whole model."""

    def __init__(self, number: int, seed: int, attack: str) -> None:
        self.number, self.seed = number, seed
        self.data = load_local(DATA, IID, f"edge{number + 1}", number, EDGES, seed)
        self.attack = attack if number == HOSTILE else "none"
        self.model = nn.Sequential(*build_layers(MODEL, seed, SHAPE, CLASSES))
        self.optimizer = OptimizerConfig().build(self.model.parameters())
        self.inputs: Tensor

    def train(self, number: int) -> None:
        """Train one round."""
        labels = self.data.train.labels
        if self.attack == "label flip":
            labels = CLASSES - 1 - labels
        for step in range(STEPS):
            place = (number - 1) * STEPS + step
            places = batch_indices(len(labels), BATCH, self.seed * 1009 + self.number, place)
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(self.inputs[places]), labels[places])
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    def update(self, previous: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the model that the edge sends."""
        factor = {"sign flip": SIGN_FLIP, "scaling": SCALING}.get(self.attack, 1.0)
        return {name: previous[name] + factor * (value - previous[name]) if value.is_floating_point() else value
                for name, value in self.model.state_dict().items()}


def train(rule: Aggregate, clip: float | None, attack: str, seed: int, rounds: int) -> float:
    """Return the accuracy after a training."""
    edges = [Edge(number, seed, attack) for number in range(EDGES)]
    how = choose_standardization([summarize(edge.data.train.inputs, edge.data.train.labels, CLASSES) for edge in edges])
    for edge in edges:
        edge.inputs = standardize(edge.data.train.inputs, how)
    previous = {name: value.clone() for name, value in edges[0].model.state_dict().items()}
    for number in range(1, rounds + 1):
        for edge in edges:
            edge.train(number)
        if number % AVERAGE_EVERY == 0:
            weights = [len(edge.data.train) for edge in edges]
            previous = aggregate(rule, [edge.update(previous) for edge in edges], weights, previous, 1, clip)
            for edge in edges:
                edge.model.load_state_dict(previous)
    model = edges[0].model.eval()
    honest = [edge for edge in edges if edge.number != HOSTILE]
    with torch.no_grad():
        correct = sum(int((model(standardize(edge.data.held_out.inputs, how)).argmax(1) == edge.data.held_out.labels)
                          .sum()) for edge in honest)
    return correct / sum(len(edge.data.held_out) for edge in honest)


@click.command()
@click.option("--quick", is_flag=True, help="One seed and fewer rounds; about five minutes.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure every rule under every attack."""
    torch.set_num_threads(1)
    rounds, seeds = (10, (1,)) if quick else (20, (1, 2, 3))
    results = [Result(title(rule, clip), attack, seed, train(rule, clip, attack, seed, rounds))
               for seed in seeds for rule, clip in RULES for attack in ATTACKS]

    def accuracy(rule: str, attack: str) -> float:
        return statistics.fmean(each.accuracy for each in results if (each.rule, each.attack) == (rule, attack))

    names = [title(*rule) for rule in RULES]
    table = Table("rule", *ATTACKS, title=f"Accuracy with 1 of {EDGES} edges hostile, {rounds} rounds")
    for name in names:
        table.add_row(name, *(f"{accuracy(name, attack):.3f}" for attack in ATTACKS))
    undisturbed = accuracy("mean", "none")
    claims = {
        "mean_undisturbed": Claim(undisturbed, ""),
        "mean_worst": Claim(min(accuracy("mean", attack) for attack in ATTACKS), ""),
        **{f"{name.replace(' ', '_').replace('-', '_')}_worst": at_least(
            min(accuracy(name, attack) for attack in ATTACKS), "", round(undisturbed - DROP_LIMIT, 3))
           for name in names if name != "mean"},
    }
    publish("hostile_edges", claims, {"trainings": [asdict(each) for each in results]}, [table], out)


def title(rule: Aggregate, clip: float | None) -> str:
    """Return the name of a rule in tables."""
    return rule if clip is None else f"{rule} clipped"


if __name__ == "__main__":
    main()
