"""Frozen layers over real connections: nothing comes back to a frozen part; the model is that of unsplit training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.processes.training import training_processes
from trainer.config.partitioning import IID
from trainer.data import dataset, standardization
from trainer.data.load import load_local
from trainer.models.averaging import average
from trainer.models.building import build_layers
from trainer.models.optimizer import OptimizerConfig
from trainer.records import checkpoint

EDGES, STEPS, BATCH, SEED = 2, 2, 16, 5
CUTS = [[1, 4], [2, 3], [4, 1]]
FROZEN = ("0", "1")
TIMEOUT_S = 200

pytestmark = pytest.mark.timeout(2 * TIMEOUT_S)


def unsplit(data: str, decay: float, rounds: int, batch: int) -> dict[str, Tensor]:
    """Federated averaging of unsplit models whose first two layers ask for no gradient."""
    shares = [load_local(data, IID, f"edge{index + 1}", index, EDGES, SEED) for index in range(EDGES)]
    how = standardization.choose_standardization(
        [standardization.summarize(share.train.inputs, share.train.labels, 3) for share in shares])
    replicas = [nn.Sequential(*build_layers("mlp", SEED, (6,), 3)) for _ in shares]
    for index, (replica, share) in enumerate(zip(replicas, shares, strict=True)):
        replica[0].requires_grad_(False)
        replica[1].requires_grad_(False)
        optimizer = OptimizerConfig("momentum", 0.05, decay).build(replica.parameters())
        inputs = standardization.standardize(share.train.inputs, how)
        for step in range(rounds * STEPS):
            rows = dataset.batch_indices(len(inputs), batch, SEED * 1009 + index, step)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(replica(inputs[rows]), share.train.labels[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return average([replica.state_dict() for replica in replicas], [len(share.train) for share in shares])


@dataclass(frozen=True)
class Trained:
    """What a run left: its record, its model and the names in its checkpoint."""

    summary: dict[str, Any]
    model: dict[str, Tensor]
    kept_names: set[str]
    data: str


def own_data(directory: Path) -> str:
    """Write samples of three classes; return the path."""
    data = str(directory / "own.npz")
    inputs = np.random.default_rng(3).normal(size=(150, 6))
    np.savez(data, X=inputs, y=(inputs[:, 0] > 0).astype(int) + (inputs[:, 1] > 0))
    return data


def settings_of(data: str, cuts: list[list[int]], batch: int) -> tuple[str, ...]:
    return ("--data", data, "--rounds", str(len(cuts)), "--steps", str(STEPS), "--batch", str(batch),
            "--seed", str(SEED), "--micro", "3", "--optimizer", "momentum", "--learning-rate", "0.05",
            "--average-every", str(len(cuts)), "--ask-timeout", str(TIMEOUT_S), "--freeze", ",".join(FROZEN),
            "--cuts", ";".join(",".join(map(str, row)) for row in cuts))


def train(
    directory: Path, cuts: list[list[int]], *flags: str, edge_flags: tuple[str, ...] = (), batch: int = BATCH
) -> Trained:
    data = own_data(directory)
    flags = (*settings_of(data, cuts, batch), *flags)
    with training_processes(directory / "run", EDGES, flags, ("--data", data, *edge_flags)) as run:
        run.start_cloud()
        run.start_edges()
        assert run.finish(seconds=TIMEOUT_S) == 0, run.logs()
        saved = load_file(run.run / "model.safetensors")
        return Trained(run.summary(), saved, set(checkpoint.read(run.run).model), data)


def assert_trained_as_unsplit(trained: Trained, rounds: int, batch: int = BATCH) -> None:
    model = unsplit(trained.data, trained.summary["preparation"]["regularization"]["weight_decay"], rounds, batch)
    assert trained.model.keys() == model.keys()
    for key, expected in model.items():
        torch.testing.assert_close(trained.model[key], expected, rtol=1e-4, atol=1e-5)


def transfers(row: dict[str, Any], edge: str, direction: str) -> list[dict[str, Any]]:
    return [move for move in row["transfers"] if (move["edge"], move["direction"]) == (edge, direction)]


@pytest.mark.parametrize("protected", [False, True], ids=["labels-travel", "labels-protected"])
def test_a_frozen_part_receives_no_gradients_and_its_values_are_never_sent(tmp_path: Path, protected: bool) -> None:
    flags = ("--protect-labels",) if protected else ()
    trained = train(tmp_path, CUTS, *flags, edge_flags=flags)
    assert_trained_as_unsplit(trained, len(CUTS))
    assert {name.split(".")[0] for name in trained.kept_names} == {"2", "3", "4"}
    preparation = trained.summary["preparation"]
    count = sum(value.numel() for key, value in trained.model.items() if key.split(".")[0] not in FROZEN)
    assert (preparation["frozen"]["layers"], preparation["frozen"]["trained"]) == (2, count)
    assert preparation["regularization"]["reason"].startswith(f"{count} parameters")
    for row, cuts in zip(trained.summary["rounds"], CUTS, strict=True):
        for edge, cut in zip(row["edges"], cuts, strict=True):
            has_down = protected or cut > len(FROZEN)
            assert len(transfers(row, edge["edge"], "down")) == (STEPS if has_down else 0)
            assert (edge["downlink_ms"]["measured"] is not None) == has_down


@pytest.mark.parametrize("batch", [16, 24], ids=["once-in-a-step", "twice-in-a-step"])
def test_segments_of_a_frozen_part_are_sent_in_the_first_epoch_only(tmp_path: Path, batch: int) -> None:
    cuts = [[2, 1]] * 5
    trained = train(tmp_path, cuts, batch=batch)
    assert_trained_as_unsplit(trained, len(cuts), batch)
    edges = trained.summary["data"]["edges"]
    for name, held in edges.items():
        sent = [len(transfers(row, name, "up")) for row in trained.summary["rounds"]]
        epoch = -(-held["samples"] // batch)
        assert sum(sent) == epoch < STEPS * len(cuts)
        assert sent[-1] == 0
        rows = [edge for row in trained.summary["rounds"] for edge in row["edges"] if edge["edge"] == name]
        visits = STEPS * len(cuts) * batch
        value_bytes = rows[0]["segment_bytes"] / batch
        assert sum(row["saved_bytes"] for row in rows) == (visits - held["samples"]) * value_bytes
        assert rows[-1]["uplink_ms"]["measured"] is None


def test_held_out_samples_of_kept_segments_are_evaluated_in_the_cloud(tmp_path: Path) -> None:
    """The segments are sent once; metric, confusion and model are those of evaluations on the edges."""
    runs = []
    for number, flags in enumerate(((), ("--keep-segments", "never"))):
        directory = tmp_path / str(number)
        directory.mkdir()
        runs.append(train(directory, [[2, 1]] * 6, "--average-every", "2", *flags))
    kept, anew = runs
    assert [row["metric"] for row in kept.summary["rounds"]] == [row["metric"] for row in anew.summary["rounds"]]
    assert kept.summary["confusion"] == anew.summary["confusion"]
    for name, value in anew.model.items():
        torch.testing.assert_close(kept.model[name], value, rtol=1e-4, atol=1e-5)
    lines = [(tmp_path / number / "run" / "run" / "events.jsonl").read_text().splitlines() for number in ("0", "1")]
    events = [list(map(json.loads, found)) for found in lines]
    assert [[event["edges"] for event in found if event["event"] == "held_out_kept"] for found in events] == [
        [["edge1", "edge2"]], []]


def test_an_edge_whose_held_out_segments_are_not_possible_is_excluded(tmp_path: Path) -> None:
    data = own_data(tmp_path)
    flags = (*settings_of(data, [[2, 2]] * 5, BATCH), "--quorum", "1")
    with training_processes(tmp_path / "run", EDGES, flags, ("--data", data)) as run:
        run.start_cloud()
        run.start_edge(1)
        run.start_edge(2, lie="held out")
        assert run.finish(seconds=TIMEOUT_S) == 0, run.logs()
        assert run.summary()["excluded"] == {
            "edge2": "it sent a HeldOut that is not possible: its labels reach 200; there are 3 classes."}
