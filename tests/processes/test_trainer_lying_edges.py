"""Edges that lie are excluded with the reason; the others' run ends with the model that they train alone."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.processes.test_trainer_survival import BATCH, STEPS, unsplit_reference
from tests.processes.training import training_processes

LIES = {
    3: ("count", "it sent 1e+06 as its sums for accuracy;"),
    4: ("layers", "holds nan; layers hold finite numbers only"),
    5: ("model", "layer 2 fails. [2J"),
    6: ("segment", "The tensor 'segment' holds NaN"),
}


def test_lying_edges_are_excluded_and_the_honest_ones_train_the_model_of_their_own_average(tmp_path: Path) -> None:
    flags = ("--rounds", "2", "--steps", str(STEPS), "--batch", str(BATCH), "--average-every", "2", "--seed", "5",
             "--optimizer", "sgd", "--learning-rate", "0.01", "--quorum", "2", "--target", "1", "--cuts", "2,2,2,2,2,2")
    with training_processes(tmp_path / "lies", 6) as training:
        training.start_cloud(*flags)
        for number in range(1, 7):
            training.start_edge(number, "--connect-timeout", "3", lie=LIES[number][0] if number in LIES else None)
        assert training.finish() == 0, training.logs()
        summary = training.summary()
        rows = summary["rounds"]
        lost = {entry["edge"]: entry for row in rows for entry in row["lost"]}
        assert sorted(lost) == [f"edge{number}" for number in LIES]
        for number, (_, reason) in LIES.items():
            assert lost[f"edge{number}"]["excluded"]
            assert reason in lost[f"edge{number}"]["reason"]
            assert f"edge{number} was excluded from the run: " in training.logs()
            assert training.finish(f"edge{number}") != 0
        assert [edge["edge"] for edge in rows[1]["edges"]] == ["edge1", "edge2"]
        assert 0 <= summary["accuracy"]["final"] <= 1
        assert all(training.finish(f"edge{number}") == 0 for number in (1, 2))
        reference = unsplit_reference(training, [0, 1], 2)
        for file in ("model", "best"):
            saved = load_file(training.run / f"{file}.safetensors")
            for name, value in reference.items():
                torch.testing.assert_close(saved[name], value, rtol=1e-4, atol=1e-5)
        assert all(math.isfinite(row["loss"]) for row in rows)
        training.resume_cloud("--rounds", "4")
        for number in (1, 2, 3):  # edge3 does not lie any more, and stays excluded
            training.start_edge(number, "--connect-timeout", "3")
        assert training.finish() == 0, training.logs()
        assert [training.finish(f"edge{number}") for number in (1, 2, 3)] == [0, 0, 3]
        assert "edge3 is excluded from this run: it sent 1e+06 as its sums for accuracy;" in training.logs()
        summary = training.summary()
        assert [edge["edge"] for edge in summary["rounds"][3]["edges"]] == ["edge1", "edge2"]
        assert sorted(summary["excluded"]) == sorted(lost)


def test_a_lie_that_leaves_too_few_edges_ends_the_run_at_once_with_its_reason(tmp_path: Path) -> None:
    flags = ("--rounds", "4", "--steps", "1", "--batch", str(BATCH), "--average-every", "1", "--seed", "5",
             "--optimizer", "adamw", "--moments", "keep", "--quorum", "2", "--rejoin-timeout", "100000", "--cuts",
             "2,2")
    with training_processes(tmp_path / "moments", 2) as training:
        training.start_cloud(*flags)
        training.start_edge(1)
        training.start_edge(2, lie="moments")
        assert training.finish() == 4
        summary = training.summary()
        assert "edge2 was excluded: its '" in summary["error"]
        assert "second moments are at least 0. 1 of 2 edges are excluded, 2 are required." in summary["error"]
        assert not (training.run / "model.safetensors").exists()


def test_an_edge_refuses_a_plan_that_would_send_its_raw_inputs(tmp_path: Path) -> None:
    """edge1 said so when it joined; edge2 joins as if it accepted cut 0, as from a cloud that ignores what it said."""
    flags = ("--rounds", "1", "--steps", "1", "--batch", str(BATCH), "--seed", "5", "--quorum", "1", "--min-cut", "0",
             "--cuts", "0,0,2")
    with training_processes(tmp_path / "cuts", 3) as training:
        training.start_cloud(*flags)
        training.start_edge(1, "--connect-timeout", "3")
        training.start_edge(2, lie="min-cut")
        training.start_edge(3, "--min-cut", "2")
        assert training.finish() == 0, training.logs()
        assert [training.finish(f"edge{number}") for number in (2, 3)] == [4, 0]
        logs = training.logs()
        assert ("edge1 was excluded from the run: edge1 accepts cuts from 1 on, and --cuts assigns it 0; start it with "
                "--min-cut 0, if it may send that.") in logs
        assert ("The cloud planned cut 0 for edge2, which would send its raw inputs; the edge requires at least 1. If "
                "you trust the cloud, start the edge with --min-cut 0.") in logs
        assert [edge["edge"] for edge in training.summary()["rounds"][0]["edges"]] == ["edge3"]


def test_a_plausible_lie_does_not_move_the_median_beyond_the_honest_models(tmp_path: Path) -> None:
    flags = ("--rounds", "2", "--steps", str(STEPS), "--batch", str(BATCH), "--average-every", "2", "--seed", "5",
             "--optimizer", "sgd", "--learning-rate", "0.01", "--aggregate", "median", "--cuts", "3,3,3")
    with training_processes(tmp_path / "median", 3) as training:
        training.start_cloud(*flags)
        for number in (1, 2):
            training.start_edge(number)
        training.start_edge(3, lie="scale")
        assert training.finish() == 0, training.logs()
        assert not any(row["lost"] for row in training.summary()["rounds"])
        saved = load_file(training.run / "model.safetensors")
        honest = [unsplit_reference(training, [index], 2) for index in (0, 1)]
        for name, value in saved.items():
            assert (value >= torch.minimum(honest[0][name], honest[1][name]) - 1e-4).all()
            assert (value <= torch.maximum(honest[0][name], honest[1][name]) + 1e-4).all()
