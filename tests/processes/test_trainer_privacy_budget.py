"""Differential privacy alone, between real processes: noise in the average, and a budget that ends the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.processes.training import training_processes

FLAGS = ("--data", "tennessee-eastman-features", "--rounds", "2", "--steps", "1", "--batch", "16", "--average-every",
         "1", "--seed", "5", "--cuts", "1,1")
EDGE_FLAGS = ("--data", "tennessee-eastman-features",)


def test_averages_get_noise_of_the_budget_and_the_record_has_what_is_spent(tmp_path: Path) -> None:
    models = []
    for name, flags in (("private", ("--dp", "50,1e-4", "--dp-clip", "0.5")), ("plain", ())):
        with training_processes(tmp_path / name, 2, (*FLAGS, *flags), EDGE_FLAGS) as training:
            training.start_cloud()
            training.start_edges()
            assert training.finish() == 0, training.logs()
            summary, log = training.summary(), training.logs()
            models.append(load_file(training.run / "model.safetensors"))
            rows = (training.run / "rounds.jsonl").read_text().splitlines()
            spent = [json.loads(row)["epsilon_spent"] for row in rows]
        if name == "plain":
            assert summary["privacy"]["dp"] is None
            assert spent == [None, None]
            continue
        guarantee = summary["privacy"]["dp"]
        assert (guarantee["epsilon"], guarantee["delta"], guarantee["clip"]) == (50, 1e-4, 0.5)
        assert (guarantee["averagings_planned"], guarantee["averagings"]) == (2, 2)
        assert 0 < spent[0] < spent[1] == guarantee["epsilon_spent"] == pytest.approx(50, rel=1e-3)
        assert not summary["privacy"]["secure_aggregation"]
        assert "Differential privacy: the 2 averagings together reveal at most epsilon 50" in log
    private, plain = models
    weights = [key for key in plain if key.endswith("weight")]
    deviation = max(float((private[key] - plain[key]).std()) for key in weights)
    # The mean of two edges' updates, of which each may move it by half the clip, gets z times that as noise, twice.
    noise = guarantee["noise_multiplier"] * guarantee["clip"] / 2 * 2**0.5
    assert 0.3 * noise < deviation < 5 * noise
