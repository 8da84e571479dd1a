"""The examples of docs/extending.md work as documented."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.processes.training import free_ports

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
FILES = {match[1]: match[2] for match in re.finditer(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL)}
COMMANDS = [shlex.split(line[2:]) for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
            for line in block.splitlines()]


def run(arguments: list[str], directory: Path) -> tuple[int, str]:
    """Run a command of the page; a training gets free ports, and writes its record to `runs`."""
    if arguments[0] == "paceline":
        arguments = ["-m", "trainer.cli.main", *arguments[1:], "--port", str(free_ports(3)), "--runs-dir", "runs"]
    else:
        arguments = arguments[1:]
    done = subprocess.run([sys.executable, *arguments], cwd=directory, capture_output=True, text=True, timeout=240,
                          env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def summaries(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Write the page's files, run its commands in order; return the summaries of the trainings."""
    directory = tmp_path_factory.mktemp("mine")
    for name, text in FILES.items():
        (directory / name).write_text(text)
    for command in COMMANDS:
        code, output = run(command, directory)
        assert code == 0, output
    return [json.loads((path / "summary.json").read_text()) for path in sorted((directory / "runs").iterdir())]


def test_the_page_has_the_expected_examples() -> None:
    assert FILES.keys() == {"mine.py", "traced.py", "plant.py", "save.py", "sensor.py", "tank.py", "smallest.py"}
    assert [command[0] for command in COMMANDS] == ["paceline"] * 2 + ["python"] + ["paceline"] * 4


def test_a_custom_model_learns_from_custom_data(summaries: list[dict[str, Any]]) -> None:
    first = summaries[0]
    assert (first["status"], first["model"], first["data"]["task"]) == ("done", "mine:model", "own")
    assert first["accuracy"]["final"] >= 0.9
    samples = [edge["samples"] + edge["held_out"] for edge in first["data"]["edges"].values()]
    assert samples == [300, 300]
    assert {edge["codec"] for row in first["rounds"] for edge in row["edges"]} == {"int8"}


def test_a_traced_model_is_trained_in_four_layers(summaries: list[dict[str, Any]]) -> None:
    assert summaries[1]["status"] == "done"
    assert {edge["cut"] for row in summaries[1]["rounds"] for edge in row["edges"]} <= {1, 2, 3}


def test_a_file_chooses_its_model_by_its_shape_and_each_feature_is_explained(summaries: list[dict[str, Any]]) -> None:
    assert summaries[2]["model"] == "mlp"
    assert summaries[2]["preparation"]["model_reason"] == "the samples are vectors (F)"
    features = summaries[2]["preparation"]["features"]
    assert [feature["feature"] for feature in features] == list(range(8))
    assert features[0].keys() >= {"logged", "skewness", "skewness_logged"}


def test_edges_collect_from_an_iterator(summaries: list[dict[str, Any]]) -> None:
    collected = summaries[3]
    assert collected["status"] == "done"
    counts = [[edge["local_samples"] for edge in row["edges"]] for row in collected["rounds"]]
    assert min(counts[0]) >= 40
    assert all(later > first for first, later in zip(counts[0], counts[-1], strict=True))


def test_a_custom_loss_and_metric_are_named_and_trained_with(summaries: list[dict[str, Any]]) -> None:
    assert summaries[4]["status"] == "done"
    metric = summaries[4]["metric"]
    assert (metric["loss"], metric["name"], metric["better"]) == ("tank:loss", "tank:within", "higher")
    assert 0 < metric["final"] < 1
    losses = [row["loss"] for row in summaries[4]["rounds"]]
    assert losses[-1] < losses[0]


def test_a_custom_policy_chooses_the_cuts(summaries: list[dict[str, Any]]) -> None:
    """Of 1024, 512, 1024 and 128 values the fewest are sent at cut 4."""
    assert summaries[5]["status"] == "done"
    assert [edge["cut"] for row in summaries[5]["rounds"] for edge in row["edges"]] == [4] * 4


@pytest.mark.parametrize(
    ("policy", "why"),
    [("bad:far", "bad:far chose cut 99 for edge1; its possible cuts are 1, 2"), ("bad:none", "has no function none")],
)
def test_an_invalid_policy_ends_the_run_with_its_name_and_the_reason(tmp_path: Path, policy: str, why: str) -> None:
    (tmp_path / "bad.py").write_text("def far():\n    return {'edge1': 99, 'edge2': 1}\n")
    (tmp_path / "plant.py").write_text(FILES["plant.py"])
    code, output = run(["paceline", "train", "--local", "--edges", "2", "--data", "plant:data", "--policy", policy],
                     tmp_path)
    assert code != 0
    assert why in " ".join(output.split())


def test_data_with_nan_ends_the_run_with_the_edge_the_row_and_the_feature(tmp_path: Path) -> None:
    (tmp_path / "hole.py").write_text(
        "import numpy as np\n\n"
        "def data():\n    X = np.ones((40, 3)); X[7, 1] = np.nan\n    return X, np.arange(40) % 2\n"
    )
    code, output = run(["paceline", "train", "--local", "--edges", "2", "--data", "hole:data"], tmp_path)
    assert code != 0
    assert re.search(r"edge[12]: X of hole:data holds 1 values that are NaN.*row 7, feature 1", output, re.DOTALL)


USERS = """
import numpy as np
from torch import nn


class Squeezing(nn.Module):
    def forward(self, values):
        return values.unsqueeze(2).squeeze()


class Worn(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.calls = nn.Linear(3, 3), 0

    def forward(self, values):
        self.calls += 1
        if self.calls > 60:
            raise RuntimeError("worn out")
        return self.inner(values)


def squeezing(classes):
    return nn.Sequential(nn.Linear(3, 8), nn.Linear(8, classes), Squeezing())


def worn(classes):
    return nn.Sequential(Worn(), nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, classes))


def whole(classes):
    return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(3, classes)))


def broken(classes):
    raise FileNotFoundError("weights.pt")


def data():
    return np.ones((40, 3)), np.arange(40) % 2
"""


@pytest.mark.parametrize(("flags", "code", "why"), [
    (["--model", "users:squeezing"], 2,
     r"Error: users:squeezing: layer 3 \(Squeezing\) makes \(2,\) of 1 sample; it must make \(1, 2\)"),
    (["--model", "users:whole"], 2, "Error: The model users:whole has one layer, so there is nothing to cut"),
    (["--model", "users:broken"], 2, r"Error: users:broken failed: FileNotFoundError: weights.pt \(users.py, line"),
    (["--cuts", "99,1"], 2, "Error: --cuts contains cut 99: the model mlp has 5 layers"),
    (["--model", "users:worn", "--rounds", "100"], 4,
     r"Error: (edge[12]: )?layer 1 \(Worn\) of the model fails .*RuntimeError: worn out \(users.py, line \d+\)"),
])
def test_what_cannot_run_is_told_in_one_sentence(tmp_path: Path, flags: list[str], code: int, why: str) -> None:
    """The last model fails in training: that ends the run, and no edge counts as lost."""
    (tmp_path / "users.py").write_text(USERS)
    ended, output = run(["paceline", "train", "--local", "--edges", "2", "--rounds", "1", "--data", "users:data",
                         *flags], tmp_path)
    assert ended == code, output
    assert re.search(why, output), output
    assert "Traceback" not in output
    assert "was lost" not in output


TOKENS = """
import numpy as np
from torch import nn


class Tagger(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.table, self.inner, self.head = nn.Embedding(20, 16), nn.Linear(16, 16), nn.Linear(16, classes)

    def forward(self, ids):
        return self.head(self.inner(self.table(ids)).relu())


def model(classes):
    return Tagger(classes)


def data(seed):
    ids = np.random.default_rng(seed).integers(0, 20, (240, 6))
    return ids, ids % 4
"""


def test_every_token_has_a_class(tmp_path: Path) -> None:
    (tmp_path / "tokens.py").write_text(TOKENS)
    code, output = run(["paceline", "train", "--local", "--edges", "2", "--rounds", "8", "--average-every", "2",
                        "--learning-rate", "0.02", "--data", "tokens:data", "--model", "tokens:model"], tmp_path)
    assert code == 0, output
    record = next((tmp_path / "runs").iterdir())
    summary = json.loads((record / "summary.json").read_text())
    edges = summary["data"]["edges"].values()
    assert sum(summary["preparation"]["class_counts"]) == 6 * sum(edge["samples"] for edge in edges)
    assert sum(map(sum, summary["confusion"]["counts"])) == 6 * sum(edge["held_out"] for edge in edges)
    assert summary["accuracy"]["final"] > 0.9
    np.save(tmp_path / "asked.npy", np.array([[0, 1, 2, 3, 4, 5]]))
    asked = ["python", "-m", "trainer.cli.main", "predict", str(record), "asked.npy"]
    assert run(asked, tmp_path) == (0, "0  classes [0, 1, 2, 3, 0, 1]\n")


def test_an_edge_imports_no_model_on_request_of_a_cloud(tmp_path: Path) -> None:
    """The cloud uses a model with which the edge was not started."""
    (tmp_path / "mine.py").write_text(FILES["mine.py"])
    port = free_ports(2)
    cloud = subprocess.Popen(
        [sys.executable, "-m", "trainer.cli.main", "cloud", "--bind", f"127.0.0.1:{port}", "--edge", "edge1", "--model",
         "mine:model", "--data", "tennessee-eastman", "--runs-dir", "runs"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        edge = subprocess.run(
            [sys.executable, "-m", "trainer.cli.main", "edge", "--name", "edge1", "--cloud", f"127.0.0.1:{port}",
             "--index", "0", "--of", "1", "--data", "tennessee-eastman"],
            cwd=tmp_path, capture_output=True, text=True, check=False)
        _, cloud_output = cloud.communicate()  # limited by pytest-timeout
    finally:
        cloud.kill()
    assert edge.returncode != 0
    refusal = "requires edge1 to import mine:model; if you trust it, start the edge with --model mine:model"
    for output in (edge.stderr, cloud_output):
        assert refusal in " ".join(output.split())
