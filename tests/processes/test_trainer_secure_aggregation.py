"""Secure aggregation between real processes: exact over the edges that are left, and refused where it would be void."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from tests.processes.test_trainer_survival import BATCH, STEPS, unsplit_reference
from tests.processes.training import training_processes

LIES = {4: "die before its masked layers", 5: "die after them"}


def test_edges_killed_in_a_secure_sum_are_left_out_or_in_and_the_average_is_exact(tmp_path: Path) -> None:
    flags = ("--rounds", "2", "--steps", str(STEPS), "--batch", str(BATCH), "--average-every", "2", "--seed", "5",
             "--optimizer", "sgd", "--learning-rate", "0.01", "--quorum", "3", "--secure-aggregation", "--cuts",
             "3,3,3,3,3;6,6,6,6,6", "--rejoin-timeout", "5")
    with training_processes(tmp_path / "sum", 5, edge_flags=("--secure-aggregation",)) as training:
        training.start_cloud(*flags)
        for number in range(1, 6):
            training.start_edge(number, lie=LIES.get(number))
        assert training.finish() == 0, training.logs()
        [secure_sum] = [event for event in training.events() if event["event"] == "secure_sum"]
        assert secure_sum["edges"] == ["edge1", "edge2", "edge3", "edge5"]
        assert [entry["edge"] for row in training.summary()["rounds"] for entry in row["lost"]] == ["edge4", "edge5"]
        saved = load_file(training.run / "model.safetensors")
        distances = {}
        for edges in ((0, 1, 2, 4), (0, 1, 2), (0, 1, 2, 3, 4)):
            reference = unsplit_reference(training, list(edges), 2)
            distances[edges] = max(float((saved[name] - value).abs().max()) for name, value in reference.items())
        assert distances[0, 1, 2, 4] < 1e-4 < min(distances[0, 1, 2], distances[0, 1, 2, 3, 4])
        training.resume_cloud("--rounds", "4")
        training.start_edges()
        assert training.finish() == 0, training.logs()
        assert {edge["cut"] for row in training.summary()["rounds"][2:] for edge in row["edges"]} == {6}

def test_an_edge_refuses_a_cloud_that_requires_its_layers(tmp_path: Path) -> None:
    with training_processes(tmp_path / "plain", 1) as training:
        training.start_cloud("--rounds", "1", "--steps", "1", "--batch", str(BATCH), "--seed", "5")
        training.start_edge(1, "--secure-aggregation", "--connect-timeout", "3")
        assert training.finish("edge1") == 4
        assert training.finish() != 0
        assert ("The cloud requires the layers of edge1, which sends them in secure sums only; start the cloud with "
                "--secure-aggregation, or the edge without.") in training.logs()
