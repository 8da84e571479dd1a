"""Hard to stop: clouds and edges are killed, stopped and started again, and the training comes to its end."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.processes.training import Stage, stage
from trainer.config.partitioning import IID
from trainer.data import dataset, standardization
from trainer.data.load import load_local
from trainer.models.averaging import average
from trainer.models.optimizer import OptimizerConfig
from trainer.models.zoo import build_layers

ROUNDS, STEPS, BATCH = 6, 2, 16
RECIPE = ("--rounds", str(ROUNDS), "--steps", str(STEPS), "--batch", str(BATCH), "--micro", "2", "--average-every", "2",
          "--seed", "5", "--optimizer", "adamw", "--cuts", "2,7;11,4;3,5;8,1;1,9;6,6")
STOPPED_EARLY = "2,2,2"


def model_of(one: Stage) -> dict[str, Tensor]:
    assert one.summary()["status"] == "done", one.logs()
    return load_file(one.run / "model.safetensors")


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The model of a run that nobody disturbs."""
    with stage(tmp_path_factory.mktemp("undisturbed"), 2) as one:
        one.start_cloud(*RECIPE)
        one.start_edges()
        assert one.finish() == 0, one.logs()
        return model_of(one)


def test_a_cloud_killed_three_times_ends_with_the_model_of_an_undisturbed_run(
    tmp_path: Path, undisturbed: dict[str, Tensor]
) -> None:
    with stage(tmp_path / "killed", 2) as one:
        one.start_cloud(*RECIPE)
        one.start_edges()
        for event, number in (("plan", 1), ("averaging", 4), ("checkpointing", 4)):
            one.wait_for(event, lambda event, number=number: event["round"] == number)  # type: ignore[misc]
            one.send("cloud", signal.SIGKILL)
            one.resume_cloud()
        assert one.finish() == 0, one.logs()
        resumed = [event["round"] for event in one.events() if event["event"] == "resumed"]
        assert resumed[:2] == [0, 2]
        assert resumed[2] in (2, 4)
        assert [row["round"] for row in one.summary()["rounds"]] == list(range(1, ROUNDS + 1))
        assert equal(model_of(one), undisturbed)
        assert all(one.finish(f"edge{number}") == 0 for number in (1, 2))


def test_below_the_quorum_the_run_pauses_and_goes_on_exactly_when_the_edge_is_back(
    tmp_path: Path, undisturbed: dict[str, Tensor]
) -> None:
    with stage(tmp_path / "paused", 2) as one:
        one.start_cloud(*RECIPE, "--quorum", "2")
        one.start_edges()
        one.wait_for("plan", lambda event: event["round"] == 4)
        one.send("edge2", signal.SIGKILL)
        paused = one.wait_for("paused")
        assert "edge2 was lost" in paused["reason"]
        assert "1 of 2 edges are left, 2 are required" in paused["reason"]
        one.start_edge(2)
        assert one.wait_for("continued")["joined"] == ["edge2"]
        assert one.finish() == 0, one.logs()
        assert equal(model_of(one), undisturbed)
        assert one.summary()["redone_rounds"] == 1


def test_when_nobody_comes_back_the_run_ends_with_its_model_saved(tmp_path: Path) -> None:
    with stage(tmp_path / "ended", 2) as one:
        one.start_cloud(*RECIPE, "--quorum", "2", "--rejoin-timeout", "0.5")
        one.start_edges()
        one.wait_for("plan", lambda event: event["round"] == 3)
        one.send("edge1", signal.SIGKILL)
        assert one.finish() == 4
        summary = one.summary()
        assert summary["status"] == "failed"
        assert "No edge rejoined within 0.5 s" in summary["error"]
        assert "The model of round 2 is saved" in summary["error"]
        assert (one.run / "model.safetensors").exists()
        assert (one.run / "best.safetensors").exists()
        assert one.finish("edge2") == 4  # it was told, and does not wait for ever


def unsplit_reference(one: Stage, members: list[int], rounds: int) -> dict[str, Tensor]:
    """Federated averaging of whole models over some of the edges, standardized as the run was."""
    chosen = one.summary()["preparation"]
    data = [load_local("traffic-lights", IID, "edge", index, one.edges, 5).train for index in range(one.edges)]
    how = standardization.choose_standardization([standardization.summarize(d.inputs, d.labels, 3) for d in data])
    recipe = OptimizerConfig("sgd", 0.01, chosen["regularization"]["weight_decay"])
    replicas = [nn.Sequential(*build_layers("signal-cnn", 5, (3, 32, 32), 3)) for _ in members]
    for index, replica in zip(members, replicas, strict=True):
        optimizer = recipe.build(replica.parameters())
        inputs = standardization.standardize(data[index].inputs, how)
        for step in range(rounds * STEPS):
            places = dataset.batch_indices(len(data[index]), BATCH, 5 * 1009 + index, step)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(replica(inputs[places]), data[index].labels[places])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return average([replica.state_dict() for replica in replicas], [len(data[index]) for index in members])


def test_an_edge_killed_in_a_round_is_left_out_of_the_average_and_comes_back_at_the_next(tmp_path: Path) -> None:
    flags = ("--rounds", "4", "--steps", str(STEPS), "--batch", str(BATCH), "--average-every", "2", "--seed", "5",
             "--optimizer", "sgd", "--learning-rate", "0.01", "--cuts", STOPPED_EARLY)
    with stage(tmp_path / "killed", 3) as one:
        one.start_cloud(*flags)
        one.start_edges()
        one.wait_for("plan", lambda event: event["round"] == 1)
        one.send("edge3", signal.SIGKILL)
        assert one.wait_for("lost")["edge"] == "edge3"
        one.wait_for("checkpoint", lambda event: event["round"] == 2)
        after_two = load_file(one.run / "model.safetensors")
        one.start_edge(3)
        assert one.finish() == 0, one.logs()
        rows = one.summary()["rounds"]
        assert [edge["edge"] for edge in rows[1]["edges"]] == ["edge1", "edge2"]
        assert [left["edge"] for row in rows for left in row["lost"]] == ["edge3"]
        reference = unsplit_reference(one, [0, 1], 2)
        for name, value in reference.items():
            torch.testing.assert_close(after_two[name], value, rtol=1e-4, atol=1e-5)


SLOW = ("--rounds", "60", "--steps", "12", "--batch", str(BATCH), "--average-every", "2", "--seed", "5")


def stop_in_a_step(one: Stage, edge: str) -> None:
    """Its kernel goes on acknowledging what comes: only a timer can notice."""
    one.wait_for("step", lambda event: event["round"] == 3)
    one.send(edge, signal.SIGSTOP)


def test_a_stopped_edge_is_dropped_when_it_is_late_and_rejoins_when_it_goes_on(tmp_path: Path) -> None:
    with stage(tmp_path / "stopped", 2) as one:
        one.start_cloud(*SLOW, "--late", "drop", "--late-after", "1")
        one.start_edges()
        stop_in_a_step(one, "edge2")
        lost = one.wait_for("lost")
        assert (lost["edge"], lost["left"]) == ("edge2", 1)
        assert "late" in lost["reason"]
        one.wait_for("round_done")
        one.send("edge2", signal.SIGCONT)
        assert one.wait_for("joined")["edge"] == "edge2"
        done = one.wait_for("round_done")
        assert set(done["cuts"]) == {"edge1", "edge2"}


def test_the_cut_of_a_late_edge_shrinks_and_one_that_stays_silent_is_dropped_in_the_end(tmp_path: Path) -> None:
    with stage(tmp_path / "shrunk", 2) as one:
        one.start_cloud(*SLOW, "--late", "shrink", "--late-after", "1", "--step-timeout", "4")
        one.start_edges()
        stop_in_a_step(one, "edge2")
        assert one.wait_for("late")["edge"] == "edge2"
        one.send("edge2", signal.SIGCONT)
        before = one.wait_for("round_done")["cuts"]["edge2"]
        after = one.wait_for("plan")["cuts"]["edge2"]
        assert after <= max(1, before // 2)
        one.wait_for("step")
        one.send("edge2", signal.SIGSTOP)
        lost = one.wait_for("lost")
        assert lost["edge"] == "edge2"
        assert "within 4 s" in lost["reason"]
        one.wait_for("round_done")
        left = [row for row in one.summary()["unfinished"] if row["edge"] == "edge2"]
        assert left
        assert all(row["ideal_ms"] > 0 for row in left)
        assert max(row["age_ms"] for row in left) > 1000 > max(row["ideal_ms"] for row in left)
