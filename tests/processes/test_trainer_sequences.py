"""A causal model learns Python's own documentation strings, split: from nothing, with protected labels, with LoRA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trainer.api import train
from trainer.models.objective import classes_second
from trainer.records.run_reader import Run

TIMEOUT_S = 500
pytestmark = pytest.mark.timeout(TIMEOUT_S)

MODULE = '''
import ast
import importlib.util
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from trainer.data.packing import pack

WIDTH, TOKENS, BYTES = 32, 32, 128


def documents(modules):
    for name in modules:
        tree = ast.parse(Path(importlib.util.find_spec(name).origin).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                yield ast.get_docstring(node).encode("ascii", "replace")


def rows(train, test):
    parts = [pack(documents(modules), TOKENS, 0) for modules in (train, test)]
    return {"X": np.concatenate(parts), "split": np.repeat(["train", "test"], [len(part) for part in parts])}


def data(seed):
    """The documentation of modules that compute; held out: that of others."""
    return rows(("statistics", "random", "fractions", "decimal", "functools", "heapq"), ("collections", "bisect"))


def other(seed):
    """The documentation of modules for text and files."""
    return rows(("textwrap", "shutil", "tempfile", "csv"), ("glob", "fileinput"))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.mixed = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, values):
        parts = self.attention(self.norm(values)).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        values = values + self.mixed(seen.transpose(1, 2).flatten(2))
        return values + self.narrow(functional.gelu(self.wide(self.between(values))))


class Embedding(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.tokens, self.places = nn.Embedding(classes, WIDTH), nn.Embedding(TOKENS, WIDTH)

    def forward(self, ids):
        return self.tokens(ids) + self.places.weight[: ids.shape[1]]


def model(sample_shape, classes, **_):
    """A model of all bytes, of which only the ids that occur are outputs."""
    return nn.Sequential(Embedding(BYTES), Block(), Block(), Outputs(classes))


class Outputs(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.linear, self.classes = nn.Linear(WIDTH, BYTES), classes

    def forward(self, values):
        return self.linear(values)[..., : self.classes]


def pretrained(sample_shape, classes, **_):
    made = model(sample_shape, classes)
    values = load_file(Path(__file__).with_name("pretrained.safetensors"))
    made.load_state_dict(values)
    return made


def seeing(sample_shape, classes, **_):
    made = model(sample_shape, classes)
    made.insert(2, Ahead())
    return made


class Ahead(nn.Module):
    def forward(self, values):
        return values + values.roll(-1, 1)
'''
COMMON = {"edges": 2, "loss": "next-token", "metric": "perplexity", "steps": 6, "batch": 32, "micro": 2, "seed": 5,
          "average_every": 2, "optimizer": "adamw", "learning_rate": 0.01}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the user's module, which the processes of a run can import."""
    made = tmp_path_factory.mktemp("sequences")
    (made / "sequences_of_user.py").write_text(MODULE)
    return made


def run(directory: Path, model: str, data: str, **settings: object) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(directory))
        return train(f"sequences_of_user:{data}", model=f"sequences_of_user:{model}", runs_dir=directory / "runs",
                     **{**COMMON, **settings})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def first(directory: Path) -> Run:
    """A run from nothing."""
    return run(directory, "model", "data", rounds=6, cuts="1,2;2,1")


def perplexities(trained: Run) -> list[float]:
    return [row["metric"] for row in trained.summary["rounds"] if row["metric"] is not None]


def test_a_causal_model_learns_from_nothing(first: Run) -> None:
    assert first.summary["metric"]["name"] == "perplexity"
    assert first.summary["metric"]["loss"] == "next-token"
    found = perplexities(first)
    assert found == sorted(found, reverse=True)
    assert found[-1] < 22 < 100  # of a text in which every character is as frequent as any other: about 100
    assert first.summary["preparation"]["class_counts"] is None


def test_the_perplexity_is_that_of_the_trained_model(first: Run, directory: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(directory))
        import sequences_of_user  # type: ignore[import-not-found]

        rows = sequences_of_user.data(5)
        ids = torch.from_numpy(rows["X"][rows["split"] == "test"])
        with torch.no_grad():
            outputs = first.model()(ids[:, :-1])
    loss = torch.nn.functional.cross_entropy(classes_second(outputs, ids[:, 1:].shape[1:]), ids[:, 1:])
    assert loss.exp().item() == pytest.approx(perplexities(first)[-1], rel=1e-4)


def test_protected_labels_change_nothing_and_do_not_travel(first: Run, directory: Path) -> None:
    protected = run(directory, "model", "data", rounds=2, cuts="1,2;2,1", protect_labels=True)
    plain = first.summary["rounds"][:2]
    losses = [[row["loss"] for row in rows] for rows in (protected.summary["rounds"], plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert perplexities(protected)[-1] == pytest.approx(perplexities(first)[0], rel=1e-3)


def test_what_was_trained_is_fine_tuned_with_adapters_on_other_documents(first: Run, directory: Path) -> None:
    (directory / "pretrained.safetensors").write_bytes((first.directory / "model.safetensors").read_bytes())
    tuned = run(directory, "pretrained", "other", rounds=4, lora="4:attention,mixed,wide,narrow,linear", freeze="0,1",
                cuts="2,2", learning_rate=0.003)
    values = load_file(tuned.directory / "model.safetensors")
    assert {name for name in values if "lora" in name} == {
        f"{path}.lora_{part}" for path in ("2.attention", "2.mixed", "2.wide", "2.narrow", "3.linear") for part in "AB"}
    assert perplexities(tuned)[-1] < perplexities(tuned)[0]
    assert all(edge["downlink_ms"]["measured"] is None for row in tuned.summary["rounds"] for edge in row["edges"])


def test_a_model_that_sees_the_tokens_it_predicts_is_refused(directory: Path) -> None:
    from trainer.errors import UsageError

    with pytest.raises(UsageError, match="is not causal: what it makes of a token changes with a later one"):
        run(directory, "seeing", "data", rounds=1)
