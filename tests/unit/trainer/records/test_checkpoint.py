"""Checkpoints are read as they were written; incomplete or invalid files are refused. Resumed settings, backoff."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer.config.stragglers import relaxed_cap, step_deadline_s
from trainer.data.standardization import Standardization
from trainer.errors import CheckpointError, UsageError
from trainer.models.optimizer import OptimizerConfig
from trainer.protocol.messages import Prepare
from trainer.records import checkpoint
from trainer.records.atomic_file import replace_durably
from trainer.records.checkpoint import FILE, Checkpoint
from trainer.records.resume import resumed_settings
from trainer.transport.backoff import MAX_S, pauses_s

PREPARE = Prepare(
    model="signal-cnn", sample_shape=(3, 32, 32), classes=3, seed=1, optimizer=OptimizerConfig("adam", 0.1, 0.2),
    standardization=Standardization("normalize", (False,), (0.5,), (1.0,), "why"), batch=4, micro=1, steps=1,
)
AFTER = Checkpoint(
    4, PREPARE, 0.9, {"edge1": 2}, {"edge1": (10, 3)}, {"cloud": {"scales": [1.5, 0.1 + 0.2]}},
    {"0.weight": torch.randn(3, 4).t(), "1.samples": torch.tensor(7)}, {"edge1": {"0.state.0.exp_avg": torch.randn(2)}},
    {"0.weight": {"step": torch.tensor(2.0), "exp_avg": torch.randn(4, 3)}},
)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, AFTER)
    restored = checkpoint.read(tmp_path)
    assert (restored.round, restored.recipe, restored.metric, restored.cuts) == (4, PREPARE, 0.9, {"edge1": 2})
    assert (restored.samples, restored.history) == (AFTER.samples, AFTER.history)
    assert torch.equal(restored.model["0.weight"], AFTER.model["0.weight"])
    assert torch.equal(restored.model["1.samples"], AFTER.model["1.samples"])
    assert torch.equal(restored.states["edge1"]["0.state.0.exp_avg"], AFTER.states["edge1"]["0.state.0.exp_avg"])
    assert restored.states.keys() == {"edge1"}
    assert restored.server["0.weight"].keys() == {"step", "exp_avg"}
    assert torch.equal(restored.server["0.weight"]["exp_avg"], AFTER.server["0.weight"]["exp_avg"])


def test_continued_training_does_not_change_the_checkpoint() -> None:
    layers = AFTER.layers_of("edge1")
    before = AFTER.states["edge1"]["0.state.0.exp_avg"].clone()
    for tensor in layers.values():
        tensor.zero_()
    assert torch.equal(AFTER.states["edge1"]["0.state.0.exp_avg"], before)
    assert AFTER.model["1.samples"].item() == 7


def test_an_interrupted_write_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.write(tmp_path, AFTER)
    content = (tmp_path / FILE).read_bytes()

    def die(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", die)
    with pytest.raises(KeyboardInterrupt):
        replace_durably(tmp_path / FILE, content[:100])
    assert (tmp_path / FILE).read_bytes() == content


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_an_invalid_checkpoint_is_named(tmp_path: Path, damage: bytes | None) -> None:
    if damage is None:
        checkpoint.write(tmp_path, AFTER)
        damage = (tmp_path / FILE).read_bytes()[:-9]
    (tmp_path / FILE).write_bytes(damage)
    with pytest.raises(CheckpointError, match=FILE):
        checkpoint.read(tmp_path)


def test_a_run_that_did_not_start_training_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="did not start training"):
        checkpoint.read(tmp_path)


def test_a_resumed_run_may_be_longer_but_not_train_another_model(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("edges: [edge1]\ncuts: []\nseed: 3\nrounds: 4\n")
    assert resumed_settings(tmp_path, {"rounds": 9}).rounds == 9
    assert resumed_settings(tmp_path, {"seed": 3}).seed == 3
    with pytest.raises(UsageError, match="has seed = 3; it cannot be resumed with 4"):
        resumed_settings(tmp_path, {"seed": 4})


def test_pauses_grow_and_stay_bounded_and_differ_between_edges() -> None:
    pauses = pauses_s("edge1")
    first = [next(pauses) for _ in range(12)]
    assert first[0] <= 0.2
    assert MAX_S / 2 <= first[-1] <= MAX_S
    other_edge = pauses_s("edge2")
    assert first != [next(other_edge) for _ in range(12)]


def test_a_cap_is_relaxed_layer_by_layer_until_it_limits_nothing() -> None:
    assert relaxed_cap(4, was_late=True, layers=8) == 4
    assert relaxed_cap(4, was_late=False, layers=8) == 5
    assert relaxed_cap(7, was_late=False, layers=8) is None
    assert relaxed_cap(None, was_late=False, layers=8) is None
    assert step_deadline_s(0.01, 4) == 1.0
    assert step_deadline_s(2.0, 4) == 8.0
