"""Fault tolerance of training: killed, stopped and restarted clouds and edges, and the run still completes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.processes.training import TrainingProcesses, training_processes
from trainer.config.partitioning import IID
from trainer.data import dataset, standardization
from trainer.data.load import load_local
from trainer.models.averaging import average
from trainer.models.building import build_layers
from trainer.models.optimizer import OptimizerConfig

ROUNDS, STEPS, BATCH = 6, 2, 16
RECIPE = ("--rounds", str(ROUNDS), "--steps", str(STEPS), "--batch", str(BATCH), "--micro", "2", "--average-every", "2",
          "--seed", "5", "--optimizer", "adamw", "--cuts", "2,7;11,4;3,5;8,1;1,9;6,6", "--server-optimizer", "fedadam",
          "--proximal", "0.1", "--codec", "zstd")
STOPPED_EARLY = "2,2,2"


def model_of(training: TrainingProcesses) -> dict[str, Tensor]:
    assert training.summary()["status"] == "done", training.logs()
    return load_file(training.run / "model.safetensors")


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The model of an undisturbed run."""
    with training_processes(tmp_path_factory.mktemp("undisturbed"), 2) as training:
        training.start_cloud(*RECIPE)
        training.start_edges()
        assert training.finish() == 0, training.logs()
        return model_of(training)


def test_a_cloud_killed_three_times_ends_with_the_model_of_an_undisturbed_run(
    tmp_path: Path, undisturbed: dict[str, Tensor]
) -> None:
    with training_processes(tmp_path / "killed", 2) as training:
        training.start_cloud(*RECIPE)
        training.start_edges()
        for event, number in (("plan", 1), ("averaging", 4), ("checkpointing", 4)):
            training.wait_for(event, lambda event, number=number: event["round"] == number)  # type: ignore[misc]
            training.send("cloud", signal.SIGKILL)
            training.resume_cloud()
        assert training.finish() == 0, training.logs()
        resumed = [event["round"] for event in training.events() if event["event"] == "resumed"]
        assert resumed[:2] == [0, 2]
        assert resumed[2] in (2, 4)
        assert [row["round"] for row in training.summary()["rounds"]] == list(range(1, ROUNDS + 1))
        assert equal(model_of(training), undisturbed)
        assert all(training.finish(f"edge{number}") == 0 for number in (1, 2))


def test_below_the_quorum_the_run_pauses_until_the_edge_rejoins_and_ends_with_the_same_model(
    tmp_path: Path, undisturbed: dict[str, Tensor]
) -> None:
    with training_processes(tmp_path / "paused", 2) as training:
        training.start_cloud(*RECIPE, "--quorum", "2")
        training.start_edges()
        training.wait_for("plan", lambda event: event["round"] == 4)
        training.send("edge2", signal.SIGKILL)
        paused = training.wait_for("paused")
        assert "edge2 was lost" in paused["reason"]
        assert "1 of 2 edges are left, 2 are required" in paused["reason"]
        training.start_edge(2)
        assert training.wait_for("continued")["joined"] == ["edge2"]
        assert training.finish() == 0, training.logs()
        assert equal(model_of(training), undisturbed)
        assert training.summary()["redone_rounds"] == 1


def test_without_a_rejoining_edge_the_run_fails_with_its_model_saved(tmp_path: Path) -> None:
    with training_processes(tmp_path / "ended", 2) as training:
        training.start_cloud(*RECIPE, "--quorum", "2", "--rejoin-timeout", "0.5")
        training.start_edges()
        training.wait_for("plan", lambda event: event["round"] == 3)
        training.send("edge1", signal.SIGKILL)
        assert training.finish() == 4
        summary = training.summary()
        assert summary["status"] == "failed"
        assert "No edge rejoined within 0.5 s" in summary["error"]
        assert "The model of round 2 is saved" in summary["error"]
        assert (training.run / "model.safetensors").exists()
        assert (training.run / "best.safetensors").exists()
        assert training.finish("edge2") == 4  # the cloud notified it; it does not wait for ever


def unsplit_reference(training: TrainingProcesses, edges: list[int], rounds: int) -> dict[str, Tensor]:
    """Federated averaging of unsplit models over some of the edges, standardized as in the run."""
    preparation = training.summary()["preparation"]
    data = [
        load_local("traffic-lights", IID, "edge", index, training.edges, 5).train for index in range(training.edges)
    ]
    how = standardization.choose_standardization([standardization.summarize(d.inputs, d.labels, 3) for d in data])
    optimizer_config = OptimizerConfig("sgd", 0.01, preparation["regularization"]["weight_decay"])
    replicas = [nn.Sequential(*build_layers("signal-cnn", 5, (3, 32, 32), 3)) for _ in edges]
    for index, replica in zip(edges, replicas, strict=True):
        optimizer = optimizer_config.build(replica.parameters())
        inputs = standardization.standardize(data[index].inputs, how)
        for step in range(rounds * STEPS):
            indices = dataset.batch_indices(len(data[index]), BATCH, 5 * 1009 + index, step)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(replica(inputs[indices]), data[index].labels[indices])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return average([replica.state_dict() for replica in replicas], [len(data[index]) for index in edges])


def test_an_edge_killed_in_a_round_is_left_out_of_the_average_and_can_rejoin(tmp_path: Path) -> None:
    flags = ("--rounds", "4", "--steps", str(STEPS), "--batch", str(BATCH), "--average-every", "2", "--seed", "5",
             "--optimizer", "sgd", "--learning-rate", "0.01", "--cuts", STOPPED_EARLY)
    with training_processes(tmp_path / "killed", 3) as training:
        training.start_cloud(*flags)
        training.start_edges()
        training.wait_for("plan", lambda event: event["round"] == 1)
        training.send("edge3", signal.SIGKILL)
        assert training.wait_for("lost")["edge"] == "edge3"
        training.wait_for("checkpoint", lambda event: event["round"] == 2)
        after_two = load_file(training.run / "model.safetensors")
        training.start_edge(3)
        assert training.finish() == 0, training.logs()
        rows = training.summary()["rounds"]
        assert [edge["edge"] for edge in rows[1]["edges"]] == ["edge1", "edge2"]
        assert [left["edge"] for row in rows for left in row["lost"]] == ["edge3"]
        reference = unsplit_reference(training, [0, 1], 2)
        for name, value in reference.items():
            torch.testing.assert_close(after_two[name], value, rtol=1e-4, atol=1e-5)


SLOW = ("--rounds", "60", "--steps", "12", "--batch", str(BATCH), "--average-every", "2", "--seed", "5")


def stop_in_a_step(training: TrainingProcesses, edge: str) -> None:
    """Stop an edge during a step; its kernel still acknowledges data, so only a timer detects it."""
    training.wait_for("step", lambda event: event["round"] == 3)
    training.send(edge, signal.SIGSTOP)


def test_a_stopped_edge_is_dropped_after_its_deadline_and_rejoins_when_it_continues(tmp_path: Path) -> None:
    with training_processes(tmp_path / "stopped", 2) as training:
        training.start_cloud(*SLOW, "--late", "drop", "--late-after", "1")
        training.start_edges()
        stop_in_a_step(training, "edge2")
        lost = training.wait_for("lost")
        assert (lost["edge"], lost["left"]) == ("edge2", 1)
        assert "exceeded its deadline" in lost["reason"]
        training.wait_for("round_done")
        training.send("edge2", signal.SIGCONT)
        assert training.wait_for("joined")["edge"] == "edge2"
        done = training.wait_for("round_done")
        assert set(done["cuts"]) == {"edge1", "edge2"}


def test_the_cut_of_a_late_edge_shrinks_and_a_silent_edge_is_dropped_after_the_step_timeout(tmp_path: Path) -> None:
    with training_processes(tmp_path / "shrunk", 2) as training:
        training.start_cloud(*SLOW, "--late", "shrink", "--late-after", "1", "--step-timeout", "4")
        training.start_edges()
        stop_in_a_step(training, "edge2")
        assert training.wait_for("late")["edge"] == "edge2"
        training.send("edge2", signal.SIGCONT)
        before = training.wait_for("round_done")["cuts"]["edge2"]
        after = training.wait_for("plan")["cuts"]["edge2"]
        assert after <= max(1, before // 2)
        training.wait_for("step")
        training.send("edge2", signal.SIGSTOP)
        lost = training.wait_for("lost")
        assert lost["edge"] == "edge2"
        assert "within 4 s" in lost["reason"]
        training.wait_for("round_done")
        left = [row for row in training.summary()["unfinished"] if row["edge"] == "edge2"]
        assert left
        assert all(row["ideal_ms"] is None for row in left), "the rate is assumed: nothing is judged by it"
        assert max(row["age_ms"] for row in left) > 1000
