"""Regression and multi-label data over real connections: the model of unsplit training."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import lr_scheduler

from tests.processes.training import training_processes
from trainer.config.partitioning import IID
from trainer.data import dataset, standardization
from trainer.data.load import load_local
from trainer.models.averaging import average
from trainer.models.building import build_layers
from trainer.models.optimizer import OptimizerConfig

EDGES, ROUNDS, STEPS, BATCH, SEED = 2, 3, 2, 16, 5
CUTS = [[1, 4], [3, 2], [4, 1]]
TIMEOUT_S = 200

pytestmark = pytest.mark.timeout(2 * TIMEOUT_S)


@dataclass(frozen=True)
class Case:
    """A data set of the user, the flags of a run, and what PyTorch computes for it."""

    targets: Callable[[np.ndarray], np.ndarray]
    outputs: int
    flags: tuple[str, ...]
    loss: Callable[[Tensor, Tensor], Tensor]
    scheduler: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]
    metric: tuple[str, str, str]
    value: Callable[[Tensor, Tensor], float]
    protected: bool


def f1_micro(outputs: Tensor, targets: Tensor) -> float:
    predicted, present = outputs > 0, targets > 0
    return (2 * (predicted & present).sum() / (predicted.sum() + present.sum())).item()


CASES = {
    "regression": Case(
        lambda inputs: inputs[:, 0] * inputs[:, 1] + 3, 1,
        ("--schedule", "cosine", "--loss", "huber", "--target", "100"),
        nn.functional.huber_loss, lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, ROUNDS * STEPS),
        ("huber", "mean-absolute-error", "lower"), lambda outputs, y: (outputs - y).abs().mean().item(), False),
    "multi-label": Case(
        lambda inputs: inputs[:, :3] > 0.3, 3, ("--schedule", "step:1:0.5", "--protect-labels", "--target", "1"),
        nn.functional.binary_cross_entropy_with_logits,
        lambda optimizer: lr_scheduler.StepLR(optimizer, STEPS, 0.5),
        ("bce-with-logits", "f1-micro", "higher"), f1_micro, True),
}


def unsplit(case: Case, data: str, decay: float) -> tuple[dict[str, Tensor], float]:
    """Federated averaging of unsplit models: the model, and its metric on all held-out samples together."""
    shares = [load_local(data, IID, f"edge{index + 1}", index, EDGES, SEED) for index in range(EDGES)]
    how = standardization.choose_standardization(
        [standardization.summarize(share.train.inputs, share.train.labels, case.outputs) for share in shares])
    replicas = [nn.Sequential(*build_layers("mlp", SEED, (6,), case.outputs)) for _ in shares]
    for index, (replica, share) in enumerate(zip(replicas, shares, strict=True)):
        optimizer = OptimizerConfig("momentum", 0.05, decay).build(replica.parameters())
        scheduler = case.scheduler(optimizer)
        inputs = standardization.standardize(share.train.inputs, how)
        for step in range(ROUNDS * STEPS):
            rows = dataset.batch_indices(len(inputs), BATCH, SEED * 1009 + index, step)
            optimizer.zero_grad()
            case.loss(replica(inputs[rows]), share.train.labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
    model = average([replica.state_dict() for replica in replicas], [len(share.train) for share in shares])
    replicas[0].load_state_dict(model)
    held_out = [torch.cat(parts) for parts in zip(*((share.held_out.inputs, share.held_out.labels) for share in shares),
                                                  strict=True)]
    with torch.no_grad():
        return model, case.value(replicas[0](standardization.standardize(held_out[0], how)), held_out[1])


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_run_trains_the_model_of_unsplit_training_and_names_its_metric(tmp_path: Path, name: str) -> None:
    case, data = CASES[name], str(tmp_path / "own.npz")
    inputs = np.random.default_rng(3).normal(size=(150, 6))
    np.savez(data, X=inputs, y=case.targets(inputs))
    flags = ("--data", data, *case.flags, "--rounds", str(ROUNDS), "--steps", str(STEPS), "--batch", str(BATCH),
             "--seed", str(SEED), "--micro", "3", "--optimizer", "momentum", "--learning-rate", "0.05",
             "--average-every", str(ROUNDS), "--ask-timeout", str(TIMEOUT_S),
             "--cuts", ";".join(",".join(map(str, row)) for row in CUTS))
    edge_flags = ("--data", data, *["--protect-labels"][: case.protected])
    with training_processes(tmp_path / "run", EDGES, flags, edge_flags) as training:
        training.start_cloud()
        training.start_edges()
        assert training.finish(seconds=TIMEOUT_S) == 0, training.logs()
        summary: dict[str, Any] = training.summary()
        saved = load_file(training.run / "model.safetensors")
        log = training.logs()
    model, value = unsplit(case, data, summary["preparation"]["regularization"]["weight_decay"])
    assert saved.keys() == model.keys()
    for key, expected in model.items():
        torch.testing.assert_close(saved[key], expected, rtol=1e-4, atol=1e-5)
    metric = summary["metric"]
    assert (metric["loss"], metric["name"], metric["better"]) == case.metric
    assert metric["final"] == metric["best"] == summary["rounds"][-1]["metric"] == pytest.approx(value, rel=1e-3)
    assert metric["reached_round"] == (ROUNDS if case.metric[2] == "lower" else None)
    assert summary["accuracy"]["final"] is None
    assert summary["preparation"]["class_counts"] is None
    assert f"global {case.metric[1]} {value:.3f}"[:-1] in log
    assert json.loads((training.run / "rounds.jsonl").read_text().splitlines()[-1])["accuracy"] is None
