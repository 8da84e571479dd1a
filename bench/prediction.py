"""Error of the predicted computing time of an edge, for every cut, on a node whose CPU is limited.

A process with a share of a core trains the first layers of a real model. First: each cut is predicted as for the first
round, from the rates of that process, FLOPs and bytes, and what the layers take in this one, which has a whole core.
Offline: each cut is predicted from that and the measurements of all other cuts; the cuts are measured in turns, so that
variations in the machine's speed affect all of them. Online: the cut changes every round, and each round is predicted,
measured and passed to the predictor; then the CPU share is halved and restored repeatedly. For comparison, a prediction
from FLOPs alone. Control groups need root; without it the process has a whole core and no share is halved.

    sudo .venv/bin/python bench/prediction.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import contextlib
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.table import Table
from torch import nn

from harness import report
from harness.edge_worker import CLASSES, FIELDS, SAMPLE_SHAPE
from machine import cgroups as cpushare
from machine.undo_journal import UndoJournal
from trainer.models.building import build_layers
from trainer.processes.malloc import retain_freed_memory
from trainer.profiling.layer_costs import LayerCost, layer_costs
from trainer.profiling.predictor import (
    ComputeProfile,
    ComputeWork,
    CostModel,
    LayerSeconds,
    Predictor,
    backward_work,
    forward_work,
    seconds_on,
)
from trainer.profiling.profiler import benchmark_node, profile_layers
from trainer.profiling.slowdown import StepTimes

MODEL = "signal-cnn"
BATCH, MICRO = 64, 4
STEPS = 8
"""Steps per round, at least; rounds of short steps have more."""
SHARE = 0.5
GOAL_SHARE = 0.05
SEED = 1


@dataclass(frozen=True)
class MeasuredRound:
    """The steps of a round at one cut."""

    cut: int
    steps: list[StepTimes]

    @property
    def total_s(self) -> float:
        """Mean step time; the times of short steps under a CPU limit have two modes."""
        return statistics.fmean(step.forward_s + step.backward_s for step in self.steps)


class Worker:
    """The process that is measured; requests and replies are lines of JSON."""

    def __init__(self, cgroups: Sequence[str]) -> None:
        self.cgroups = tuple(cgroups)
        command = [sys.executable, str(Path(__file__).parent / "harness/edge_worker.py"), MODEL, str(BATCH), str(MICRO)]
        self._process = subprocess.Popen(
            [*command, *cgroups], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._read_reply()

    def benchmark(self) -> ComputeProfile:
        """Return the rates of the process, as an edge measures them before it joins."""
        return ComputeProfile(**self._request({"benchmark": True}))

    def round(self, cut: int, steps: int) -> MeasuredRound:
        """Train `steps` mini-batches with the given cut."""
        reply = self._request({"cut": cut, "steps": steps})
        return MeasuredRound(cut, [StepTimes(*times) for times in zip(*(reply[name] for name in FIELDS), strict=True)])

    def end(self) -> None:
        """End the process."""
        self._process.communicate("")

    def _request(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read_reply()

    def _read_reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException(f"the measured process ended with exit code {self._process.wait()}")
        reply: dict[str, Any] = json.loads(line)
        return reply


@contextlib.contextmanager
def limited_worker() -> Iterator[Worker]:
    """Start a worker with SHARE of a core, or with a whole core without root."""
    directory = Path("/run/paceline-bench")
    try:
        journal = UndoJournal(directory)
    except PermissionError:
        click.echo("No root: the process has a whole core, and its share is not halved.")
        worker = Worker(())
        yield worker
        worker.end()
        return
    cpushare.GROUP = "paceline-bench"
    try:
        worker = Worker(cpushare.create("edge", SHARE, journal))
        try:
            yield worker
        finally:
            worker.end()
    finally:
        journal.undo()
        directory.rmdir()


def first_prediction(layers: Sequence[nn.Module], costs: Sequence[LayerCost], worker: Worker) -> LayerSeconds:
    """Return the seconds of every layer in the worker as a cloud predicts them for the first round."""
    torch.set_num_threads(1)
    retain_freed_memory()
    samples, profile = BATCH // MICRO, worker.benchmark()
    here, layers_s = benchmark_node(), profile_layers(layers, torch.rand(samples, *SAMPLE_SHAPE), micros=MICRO)
    return seconds_on(profile, samples, costs, layers_s, here, samples)


def first_errors(first: LayerSeconds, rounds: Sequence[MeasuredRound]) -> list[float]:
    """Return the relative error of the first prediction for each cut."""
    work_s = list(accumulate(first.work_s, initial=0.0))
    return [abs(MICRO * work_s[cut] / seconds - 1) for cut, seconds in typical_s(rounds).items()]


def offline_errors(
    costs: Sequence[LayerCost], first: LayerSeconds, rounds: Sequence[MeasuredRound]
) -> dict[str, list[float]]:
    """Return the relative errors of each cut predicted from the other cuts.

    `predictor`: the first prediction, corrected by the rounds of all other cuts in order, as in a run; median over the
    rounds of the cut. `costs`: FLOPs + bytes + constant; `flops`: FLOPs alone; both fitted to the rounds of all other
    cuts, and compared with the median of the cut's rounds.
    """
    errors: dict[str, list[float]] = {"predictor": [], "costs": [], "flops": []}
    for cut, true_s in typical_s(rounds).items():
        others = [measured for measured in rounds if measured.cut != cut]
        errors["predictor"].append(abs(statistics.median(_prediction_ratios(first, rounds, cut)) - 1))
        models = [_fit(costs, others, forward) for forward in (True, False)]
        layers = [
            tuple(model.seconds(_work(cost, forward)) for cost in costs)
            for model, forward in zip(models, (True, False), strict=True)
        ]
        flops = [0.0, *accumulate(cost.forward_flops + cost.backward_flops for cost in costs)]
        predicted = {
            "costs": MICRO * sum(layers[0][:cut] + layers[1][:cut]),
            "flops": flops[cut] * statistics.fmean(other.total_s / flops[other.cut] for other in others),
        }
        for name, seconds in predicted.items():
            errors[name].append(abs(seconds / true_s - 1))
    return errors


def _prediction_ratios(first: LayerSeconds, rounds: Sequence[MeasuredRound], cut: int) -> list[float]:
    """Predicted / measured time of every round of that cut; the predictor learns from the other cuts only."""
    predictor, ratios = Predictor(first), []
    for measured in rounds:
        if measured.cut == cut:
            ratios.append(MICRO * (predictor.forward_s()[cut] + predictor.backward_s()[cut]) / measured.total_s)
        else:
            predictor.update(measured.cut, MICRO, measured.steps)
    return ratios


def typical_s(rounds: Sequence[MeasuredRound]) -> dict[int, float]:
    """Return the step time at each cut: the median of its rounds."""
    cuts = sorted({measured.cut for measured in rounds})
    return {cut: statistics.median(measured.total_s for measured in rounds if measured.cut == cut) for cut in cuts}


def _fit(costs: Sequence[LayerCost], rounds: Sequence[MeasuredRound], forward: bool) -> CostModel:
    sums, seconds = [], []
    for measured in rounds:
        works = [_work(cost, forward) for cost in costs[: measured.cut]]
        columns = zip(*((w.flops, w.moved_bytes, w.calls) for w in works), strict=True)
        sums.append(ComputeWork(*(MICRO * sum(values) for values in columns)))
        seconds.append(statistics.fmean(step.forward_s if forward else step.backward_s for step in measured.steps))
    return CostModel.fit(sums, seconds)


def _work(cost: LayerCost, forward: bool) -> ComputeWork:
    return (forward_work if forward else backward_work)(cost, BATCH // MICRO)


def predict_and_learn(
    worker: Worker, predictor: Predictor, cuts: Sequence[int], steps: int
) -> list[tuple[int, float, float]]:
    """Predict, measure and learn from each round; return (cut, predicted_s, measured_s) of each."""
    rows = []
    for cut in cuts:
        predicted_s = MICRO * (predictor.forward_s()[cut] + predictor.backward_s()[cut])
        measured = worker.round(cut, steps)
        predictor.update(cut, MICRO, measured.steps)
        rows.append((cut, predicted_s, measured.total_s))
    return rows


def follow_share(worker: Worker, predictor: Predictor, cuts: Sequence[int], steps: int) -> list[list[float]]:
    """Return the errors of the three rounds after each change of the CPU share; the first is predicted before it."""
    errors: list[list[float]] = []
    while worker.cgroups and len(errors) < len(cuts) // 3:
        number = len(errors)
        cpushare.set_share(worker.cgroups, SHARE / 2 if number % 2 == 0 else SHARE)
        rows = predict_and_learn(worker, predictor, cuts[3 * number : 3 * number + 3], steps)
        errors.append([abs(predicted_s / measured_s - 1) for _, predicted_s, measured_s in rows])
    return errors


def mape(errors: Sequence[float]) -> float:
    """Mean absolute percentage error, as a share."""
    return float(np.mean(errors))


@click.command()
@click.option("--quick", is_flag=True, help="Fewer rounds; about a minute.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Compare the predicted computing time of an edge with the measured one."""
    turns, count, changes = (3, 24, 4) if quick else (9, 80, 12)
    layers = build_layers(MODEL, 1, SAMPLE_SHAPE, CLASSES)
    costs = layer_costs(layers, SAMPLE_SHAPE)
    generator = random.Random(SEED)
    all_cuts = range(1, len(costs))
    with limited_worker() as worker:
        first = first_prediction(layers, costs, worker)
        rounds = [worker.round(cut, STEPS) for _ in range(turns) for cut in generator.sample(all_cuts, len(all_cuts))]
        predictor = Predictor(first)
        rows = predict_and_learn(worker, predictor, generator.choices(all_cuts, k=count), STEPS)
        changed = follow_share(worker, predictor, generator.choices(all_cuts, k=3 * changes), STEPS)
    errors = {"first": first_errors(first, rounds), **offline_errors(costs, first, rounds)}
    online_errors = [abs(predicted_s / measured_s - 1) for _, predicted_s, measured_s in rows]
    claims = {
        "mape_first_round": report.Claim(mape(errors["first"]), ""),
        "mape_offline": report.at_most(mape(errors["predictor"]), "", GOAL_SHARE),
        "mape_online": report.at_most(mape(online_errors[1:]), "", GOAL_SHARE),
        "mape_costs_only": report.Claim(mape(errors["costs"]), ""),
        "mape_flops_only": report.Claim(mape(errors["flops"]), ""),
    }
    if changed:
        after = [second for _, second, _ in changed]
        claims["error_a_round_after_halving"] = report.at_most(statistics.median(after), "", 0.1)
        claims["error_a_round_after_halving_worst"] = report.Claim(max(after), "")
    table = Table("cut", "step ms", "first round", "predictor", "costs only", "FLOPs only",
                  title="offline, each cut left out")
    for number, (cut, seconds) in enumerate(typical_s(rounds).items()):
        table.add_row(str(cut), f"{seconds * 1e3:.1f}",
                      *(f"{errors[name][number]:.1%}" for name in ("first", "predictor", "costs", "flops")))
    samples: dict[str, object] = {"offline": errors, "online": rows, "changed": changed, "share": SHARE}
    report.publish("prediction", claims, samples, [table], out)


if __name__ == "__main__":
    main()
