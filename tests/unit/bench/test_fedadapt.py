"""The adaptive cuts of a peer: by cluster, and by the bandwidth that was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.fedadapt import RUNS_VARIABLE, policy
from trainer.planning.plan import EdgeForecast, Option


def forecast(edge: str, slowness: float) -> EdgeForecast:
    """An edge that takes `slowness` times 0.1 s for each layer; of later layers the outputs are smaller."""
    options = tuple(Option(cut, "fp32", 0.1 * slowness * cut, 0.1 * slowness * cut, 0.02 * (4 - cut), bits, bits)
                    for cut, bits in ((1, 8e6), (2, 2e6), (3, 1e4)))
    return EdgeForecast(edge, options, (0.0,) * 4)


def test_the_edges_of_a_cluster_share_a_cut_and_little_bandwidth_keeps_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edges = [forecast("slow", 5.0), forecast("slower", 5.5), forecast("fast", 0.1), forecast("far", 5.0)]
    monkeypatch.setenv(RUNS_VARIABLE, str(tmp_path))
    assert policy(1, edges, 1) == {"slow": 3, "slower": 3, "fast": 3, "far": 3}
    rates = {"slow": 1e8, "slower": 1e8, "fast": 1e8, "far": 1e6}
    transfers = [{"edge": edge, "bytes": rate / 8 / 1e3, "measured_ms": 1.0} for edge, rate in rates.items()]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "rounds.jsonl").write_text(json.dumps({"round": 1, "transfers": transfers}) + "\n")
    assert policy(2, edges, 1) == {"slow": 1, "slower": 1, "fast": 3, "far": 3}
