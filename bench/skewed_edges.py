"""Accuracy and its falls when the edges have different classes, for optimizers of the edges and of the server.

Federated averaging on real images in this process, through the product's own stages, aggregation and server
optimizers; split training makes the same models (`tests/property/trainer/models/test_exactness.py`). The classes are
divided by Dirichlet distributions; the smaller alpha, the more the edges differ. An accuracy is that of the global
model after an averaging on the held-out samples of all edges; a fall is a loss of more than 0.1 from one averaging to
the next.

    .venv/bin/python bench/skewed_edges.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import click
import torch
from rich.table import Table
from torch import Tensor, nn

from harness.report import Claim, at_least, at_most, publish
from trainer.config.partitioning import Partitioning
from trainer.data.builtin import load_traffic_lights
from trainer.data.dataset import DataSet, Samples, batch_indices, local_share
from trainer.data.standardization import choose_standardization, class_skew, standardize, summarize
from trainer.models.averaging import average
from trainer.models.building import build_layers
from trainer.models.optimizer import OptimizerConfig
from trainer.models.rng import RandomStream
from trainer.models.server_optimizer import ServerOptimizerConfig, ServerState, parameter_names, server_step
from trainer.models.stage import Stage

EDGES, BATCH, ROUNDS, STEPS, AVERAGE_EVERY = 4, 64, 20, 4, 5
MODEL, SIDE_PIXELS = "signal-cnn", 16
FALL = 0.1


@dataclass(frozen=True, slots=True)
class Method:
    """Optimizers of edges and server."""

    title: str
    edge: OptimizerConfig
    server: ServerOptimizerConfig


ADAMW, SGD = OptimizerConfig(), OptimizerConfig("sgd", 0.02)
FEDAVG = ServerOptimizerConfig()
METHODS = (
    Method("AdamW (default)", ADAMW, FEDAVG),
    Method("AdamW, --moments keep", OptimizerConfig(reset=False), FEDAVG),
    Method("AdamW, --proximal 0.1", OptimizerConfig(proximal=0.1), FEDAVG),
    Method("AdamW, fedavgm", ADAMW, ServerOptimizerConfig("fedavgm")),
    Method("AdamW, fedadam", ADAMW, ServerOptimizerConfig("fedadam")),
    Method("SGD 0.02", SGD, FEDAVG),
    Method("SGD 0.02, fedadam", SGD, ServerOptimizerConfig("fedadam")),
)


@dataclass(frozen=True, slots=True)
class Result:
    """Accuracies of one training after each averaging."""

    alpha: float
    method: str
    seed: int
    skew: float
    accuracies: tuple[float, ...]

    @property
    def falls(self) -> int:
        """Averagings after which the accuracy was lower by more than FALL."""
        return sum(later < earlier - FALL for earlier, later in pairwise(self.accuracies))


def load() -> DataSet:
    """Return the traffic lights, smaller: red against the others."""
    whole = load_traffic_lights()

    def part(samples: Samples) -> Samples:
        inputs = nn.functional.adaptive_avg_pool2d(samples.inputs.float(), SIDE_PIXELS).to(torch.uint8)
        return Samples(inputs, (samples.labels != 0).long())

    return DataSet(part(whole.train), part(whole.held_out), 2)


class Training:
    """A federated training of whole models."""

    def __init__(self, data: DataSet, alpha: float, method: Method, seed: int) -> None:
        self.seed, self.method = seed, method
        self.shares = [local_share(data, Partitioning("dirichlet", alpha), edge, EDGES, seed) for edge in range(EDGES)]
        summaries = [summarize(share.train.inputs, share.train.labels, data.classes) for share in self.shares]
        how = choose_standardization(summaries)
        self.skew = class_skew([summary.class_counts for summary in summaries])
        self.inputs = [standardize(share.train.inputs, how) for share in self.shares]
        self.held_out = standardize(torch.cat([share.held_out.inputs for share in self.shares]), how)
        self.labels = torch.cat([share.held_out.labels for share in self.shares])
        shape = (3, SIDE_PIXELS, SIDE_PIXELS)
        layers = [build_layers(MODEL, seed, shape, data.classes) for _ in range(EDGES)]
        self.stages = [Stage(each, 0, len(each), method.edge) for each in layers]
        self.names, self.server = parameter_names(layers[0]), dict[str, dict[str, Tensor]]()
        self.model = self.values(self.stages[0])

    @staticmethod
    def values(stage: Stage) -> dict[str, Tensor]:
        """Return copies of a stage's values."""
        return {name: value.clone() for name, value in stage.state_dict(0, len(stage.layers)).items()}

    def round(self, number: int) -> None:
        """Train every edge for a round."""
        for edge, (stage, share, inputs) in enumerate(zip(self.stages, self.shares, self.inputs, strict=True)):
            labels = share.train.labels
            for step in range(STEPS):
                place = (number - 1) * STEPS + step
                places = batch_indices(len(labels), min(BATCH, len(labels)), self.seed * 1009 + edge, place)
                outputs = stage.forward(inputs[places], RandomStream(self.seed, f"edge{edge + 1}", number, step, 0))
                assert isinstance(outputs, Tensor)
                torch.autograd.backward(nn.functional.cross_entropy(outputs, labels[places]))
                stage.step(place)

    def average(self) -> float:
        """Make one model of all edges' models; return its accuracy."""
        mean = average([self.values(stage) for stage in self.stages], [len(share.train) for share in self.shares])
        server: ServerState = self.server
        self.model, self.server = server_step(self.method.server, self.model, mean, self.names, server)
        for stage in self.stages:
            stage.load_state_dict(self.model)
        outputs = self.stages[0].evaluate(self.held_out)
        assert isinstance(outputs, Tensor)
        return float((outputs.argmax(dim=1) == self.labels).float().mean())


def train(data: DataSet, alpha: float, method: Method, seed: int, rounds: int) -> Result:
    """Train and return the accuracies."""
    training = Training(data, alpha, method, seed)
    accuracies = []
    for number in range(1, rounds + 1):
        training.round(number)
        if number % AVERAGE_EVERY == 0:
            accuracies.append(training.average())
    return Result(alpha, method.title, seed, training.skew, tuple(accuracies))


@click.command()
@click.option("--quick", is_flag=True, help="Two seeds at one concentration; about three minutes.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure every method at every concentration."""
    torch.set_num_threads(1)
    seeds, alphas = ((4, 5), (0.1,)) if quick else ((1, 4, 5), (0.1, 0.3, 1.0))
    data = load()
    results = [train(data, alpha, method, seed, ROUNDS) for alpha in alphas for seed in seeds for method in METHODS]
    default, keep = ([each for each in results if each.method == method.title] for method in METHODS[:2])
    claims = {
        "default_falls": at_most(sum(each.falls for each in default), "averagings", 0),
        "keep_falls": Claim(sum(each.falls for each in keep), "averagings"),
        "default_accuracy": at_least(statistics.fmean(each.accuracies[-1] for each in default), "", 0.9),
    }
    publish("skewed_edges", claims, {"trainings": [asdict(each) for each in results]}, [_table(results, alphas)], out)


def _table(results: Sequence[Result], alphas: Sequence[float]) -> Table:
    table = Table("method", *(f"alpha {alpha:g}" for alpha in alphas),
                  title=f"least and mean accuracy after {ROUNDS} rounds, falls by more than {FALL:g}")
    for method in METHODS:
        cells = []
        for alpha in alphas:
            found = [each for each in results if (each.alpha, each.method) == (alpha, method.title)]
            last = [each.accuracies[-1] for each in found]
            cells.append(f"{min(last):.3f} {statistics.fmean(last):.3f} {sum(each.falls for each in found)}")
        table.add_row(method.title, *cells)
    return table


if __name__ == "__main__":
    main()
