"""Accuracy with differential privacy of the averages (`--dp`) by several budgets and numbers of edges.

    .venv/bin/python bench/private_averages.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from rich.table import Table

from harness.local_federation import AVERAGE_EVERY, LocalEdge, accuracy, standardize_inputs
from harness.report import Claim, publish
from trainer.cloud.private_averaging import PrivateNoise, private_mean
from trainer.config.privacy_budget import DEFAULT_DELTA, averagings
from trainer.models.averaging import average
from trainer.privacy.gaussian import noise_multiplier

EDGES = (5, 20)
EPSILONS: tuple[float | None, ...] = (None, 1000.0, 100.0, 10.0)
CLIP = 1.0
NO_NOISE = "no --dp"


@dataclass(frozen=True, slots=True)
class Result:
    """Accuracy of one training; `noise_norm`: the L2 norm that the noise of one averaging has in the mean."""

    edges: int
    epsilon: float | None
    seed: int
    accuracy: float
    noise_norm: float


def train(number_of_edges: int, epsilon: float | None, seed: int, rounds: int) -> Result:
    """Train once."""
    edges = [LocalEdge(number, number_of_edges, seed) for number in range(number_of_edges)]
    how = standardize_inputs(edges)
    weights = [len(edge.data.train) for edge in edges]
    names = [name for name, _ in edges[0].model.named_parameters()]
    previous = {name: value.clone() for name, value in edges[0].model.state_dict().items()}
    std = 0.0
    if epsilon is not None:
        noise = PrivateNoise(CLIP, noise_multiplier(epsilon, DEFAULT_DELTA, averagings(rounds, AVERAGE_EVERY)))
        std = noise.std(weights)
    for number in range(1, rounds + 1):
        for edge in edges:
            edge.train(number)
        if number % AVERAGE_EVERY == 0:
            models = [edge.model.state_dict() for edge in edges]
            mean = (average(models, weights) if epsilon is None
                    else private_mean(models, weights, previous, names, CLIP, std))
            previous = {name: tensor.clone() for name, tensor in {**previous, **mean}.items()}
            for edge in edges:
                edge.model.load_state_dict(previous)
    parameters = sum(previous[name].numel() for name in names)
    return Result(number_of_edges, epsilon, seed, accuracy(edges[0].model, edges, how), std * parameters**0.5)


@click.command()
@click.option("--quick", is_flag=True, help="One seed and fewer rounds; about five minutes.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure every budget with every number of edges."""
    torch.set_num_threads(1)
    rounds, seeds = (10, (1,)) if quick else (20, (1, 2, 3))
    results = [train(edges, epsilon, seed, rounds) for seed in seeds for edges in EDGES for epsilon in EPSILONS]

    def mean(edges: int, epsilon: float | None, what: str) -> float:
        return statistics.fmean(getattr(each, what) for each in results
                                if (each.edges, each.epsilon) == (edges, epsilon))

    table = Table("epsilon", *(f"{edges} edges: {what}" for edges in EDGES for what in ("accuracy", "noise norm")),
                  title=f"Accuracy after {rounds} rounds, updates clipped to {CLIP:g}, delta {DEFAULT_DELTA:g}")
    for epsilon in EPSILONS:
        table.add_row(NO_NOISE if epsilon is None else f"{epsilon:g}", *(
            f"{mean(edges, epsilon, what):.3f}" for edges in EDGES for what in ("accuracy", "noise_norm")))
    claims = {f"accuracy_{edges}_edges_{'no_dp' if epsilon is None else f'epsilon_{epsilon:g}'}": Claim(
        mean(edges, epsilon, "accuracy"), "") for edges in EDGES for epsilon in EPSILONS}
    publish("private_averages", claims, {"trainings": [asdict(each) for each in results]}, [table], out)


if __name__ == "__main__":
    main()
