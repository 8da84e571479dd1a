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
from torch import Tensor

from harness.local_federation import AVERAGE_EVERY, CLASSES, LocalEdge, accuracy, standardize_inputs
from harness.report import Claim, at_least, publish
from trainer.config.settings import Aggregate
from trainer.models.aggregation import aggregate

EDGES, HOSTILE = 5, 2
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


class Edge(LocalEdge):
    """An edge that may be hostile."""

    def __init__(self, number: int, seed: int, attack: str) -> None:
        super().__init__(number, EDGES, seed)
        self.attack = attack if number == HOSTILE else "none"
        if self.attack == "label flip":
            self.labels = CLASSES - 1 - self.labels

    def update(self, previous: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the model that the edge sends."""
        factor = {"sign flip": SIGN_FLIP, "scaling": SCALING}.get(self.attack, 1.0)
        return {name: previous[name] + factor * (value - previous[name]) if value.is_floating_point() else value
                for name, value in self.model.state_dict().items()}


def train(rule: Aggregate, clip: float | None, attack: str, seed: int, rounds: int) -> float:
    """Return the accuracy after a training."""
    edges = [Edge(number, seed, attack) for number in range(EDGES)]
    how = standardize_inputs(edges)
    previous = {name: value.clone() for name, value in edges[0].model.state_dict().items()}
    for number in range(1, rounds + 1):
        for edge in edges:
            edge.train(number)
        if number % AVERAGE_EVERY == 0:
            weights = [len(edge.data.train) for edge in edges]
            previous = aggregate(rule, [edge.update(previous) for edge in edges], weights, previous, 1, clip)
            for edge in edges:
                edge.model.load_state_dict(previous)
    return accuracy(edges[0].model, [edge for edge in edges if edge.number != HOSTILE], how)


@click.command()
@click.option("--quick", is_flag=True, help="One seed and fewer rounds; about five minutes.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure every rule under every attack."""
    torch.set_num_threads(1)
    rounds, seeds = (10, (1,)) if quick else (20, (1, 2, 3))
    results = [Result(title(rule, clip), attack, seed, train(rule, clip, attack, seed, rounds))
               for seed in seeds for rule, clip in RULES for attack in ATTACKS]

    def mean_accuracy(rule: str, attack: str) -> float:
        return statistics.fmean(each.accuracy for each in results if (each.rule, each.attack) == (rule, attack))

    names = [title(*rule) for rule in RULES]
    table = Table("rule", *ATTACKS, title=f"Accuracy with 1 of {EDGES} edges hostile, {rounds} rounds")
    for name in names:
        table.add_row(name, *(f"{mean_accuracy(name, attack):.3f}" for attack in ATTACKS))
    undisturbed = mean_accuracy("mean", "none")
    claims = {
        "mean_undisturbed": Claim(undisturbed, ""),
        "mean_worst": Claim(min(mean_accuracy("mean", attack) for attack in ATTACKS), ""),
        **{f"{name.replace(' ', '_').replace('-', '_')}_worst": at_least(
            min(mean_accuracy(name, attack) for attack in ATTACKS), "", round(undisturbed - DROP_LIMIT, 3))
           for name in names if name != "mean"},
    }
    publish("hostile_edges", claims, {"trainings": [asdict(each) for each in results]}, [table], out)


def title(rule: Aggregate, clip: float | None) -> str:
    """Return the name of a rule in tables."""
    return rule if clip is None else f"{rule} clipped"


if __name__ == "__main__":
    main()
