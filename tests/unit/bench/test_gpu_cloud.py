"""The benchmark of the cloud's half on a GPU: on the CPU the whole script runs and agrees with itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from gpu_cloud import EXIT_NO_DEVICE, main


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute in one thread: two that wait for each other are slow beside other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_on_the_cpu_all_ways_have_the_gradients_of_the_plain_one(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = CliRunner().invoke(main, ["--device", "cpu", "--quick", "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    report = json.loads(out.read_text())
    assert [name for name, claim in report["claims"].items() if claim["holds"] is False] == []
    assert 1e-3 < report["samples"]["errors"]["bf16"] < 0.3  # it is computed in bfloat16
    assert set(report["samples"]["seconds"]) == {"cpu", "fp32", "stacked", "in_turn", "streams", "bf16", "stacked_bf16"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_one_sentence_says_so() -> None:
    done = CliRunner().invoke(main, [])
    assert done.exit_code == EXIT_NO_DEVICE
    assert done.output.count("\n") == 1
    assert "no CUDA device here" in done.output
