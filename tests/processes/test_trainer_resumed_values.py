"""A run whose cloud is killed with -9 and resumed ends with the values of the run that was not broken."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.processes.test_trainer_frozen import TIMEOUT_S, own_data, settings_of
from tests.processes.training import training_processes

MODEL = ("--model", "tests.processes.narrow_layers:model")
CUTS = [[2, 4]] * 6
RANKS = (16, 2)
"""The second edge says that it computes slowly, so it keeps the least rank, and the first has time for the greatest."""

pytestmark = pytest.mark.timeout(2 * TIMEOUT_S)


@dataclass(frozen=True)
class Trained:
    """What a run left."""

    model: dict[str, Tensor]
    rounds: list[dict[str, Any]]
    events: list[dict[str, Any]]

    @property
    def ranks(self) -> set[tuple[int, ...]]:
        """The ranks of the edges in all rounds."""
        return {tuple(edge["rank"] for edge in row["edges"]) for row in self.rounds}

    def saved_bytes(self, edge: str) -> list[int]:
        """What an edge did not send in each round, because its segments are kept."""
        return [each.get("saved_bytes", 0) for row in self.rounds for each in row["edges"] if each["edge"] == edge]


def trained(directory: Path, *flags: str, broken: bool = False) -> Trained:
    """Train two edges; `broken`: the cloud is killed with -9 within round 3 and resumed from the end of round 2.

    In a step each edge has one micro-batch, and the cuts differ, so none shares a pass with another.
    """
    data = own_data(directory)
    flags = (*settings_of(data, CUTS, 16), *MODEL, "--micro", "1", "--average-every", "2", "--lora", "auto",
             "--optimizer", "adamw", "--learning-rate", "0.01", "--quiet", *flags)
    with training_processes(directory / "run", 2, flags, ("--data", data, *MODEL)) as run:
        run.start_cloud()
        run.start_edge(1)
        run.start_edge(2, lie="slow")
        if broken:
            run.wait_for("checkpoint", lambda event: event["round"] == 2)
            run.wait_for("step", lambda event: event["round"] == 3)
            run.send("cloud", signal.SIGKILL)
            run.resume_cloud()
        assert run.finish(seconds=TIMEOUT_S) == 0, run.logs()
        events = [json.loads(line) for line in (run.run / "events.jsonl").read_text().splitlines()]
        return Trained(load_file(run.run / "model.safetensors"), run.summary()["rounds"], events)


def made(directory: Path, *flags: str) -> tuple[Trained, Trained]:
    """Train once without a break and once with it."""
    for name in "whole", "broken":
        (directory / name).mkdir()
    whole, broken = trained(directory / "whole", *flags), trained(directory / "broken", *flags, broken=True)
    assert [event["round"] for event in broken.events if event["event"] == "resumed"] == [2]
    assert whole.ranks == broken.ranks == {RANKS}
    assert any("lora" in name for name in whole.model) and broken.model.keys() == whole.model.keys()
    return whole, broken


def test_adapters_of_different_ranks_go_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """To the bit: the same samples in the same order, the same states of the optimizers, the same ranks."""
    whole, broken = made(tmp_path, "--keep-segments", "never")
    assert [row["metric"] for row in broken.rounds] == [row["metric"] for row in whole.rounds]
    for name, value in whole.model.items():
        assert torch.equal(broken.model[name], value), name


def test_kept_segments_go_with_adapters_of_different_ranks_and_are_sent_again_after_a_kill(tmp_path: Path) -> None:
    """The cloud keeps those of edge1 in its memory, so they are lost with it: an epoch is sent once more.

    An edge computes only the rows that are missing, in passes of other sizes after the kill, and products of other
    sizes are rounded differently: by 1e-7 of a value, which 12 steps enlarge. So values are the same up to that.
    """
    whole, broken = made(tmp_path)
    (tmp_path / "anew").mkdir()
    anew = trained(tmp_path / "anew", "--keep-segments", "never")
    assert anew.ranks == {RANKS}
    before, after = whole.saved_bytes("edge1"), broken.saved_bytes("edge1")
    assert after[:2] == before[:2] and after[2] < before[2] and before[-1] > 0
    assert not any(whole.saved_bytes("edge2") + broken.saved_bytes("edge2") + anew.saved_bytes("edge1"))
    for run in whole, broken:
        for name, value in anew.model.items():
            torch.testing.assert_close(run.model[name], value, rtol=1e-4, atol=1e-5)
