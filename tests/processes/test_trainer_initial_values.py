"""A model whose first values differ from process to process: all begin with the cloud's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from tests.processes.training import free_ports

MODULE = """
import os

import numpy as np
from torch import nn


def model(sample_shape, classes):
    layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, classes))
    value = int.from_bytes(os.urandom(2), "big")
    nn.init.constant_(layers[0].weight, value)
    with open("values", "a") as file:
        print(value, file=file)
    return layers


def data(seed):
    numbers = np.random.default_rng(seed)
    return numbers.normal(size=(60, 6)), numbers.integers(0, 3, 60)
"""


def test_all_edges_begin_with_the_values_of_the_cloud(tmp_path: Path) -> None:
    (tmp_path / "unseeded.py").write_text(MODULE)
    done = subprocess.run(
        [sys.executable, "-m", "trainer.cli.main", "train", "--local", "--edges", "2", "--data", "unseeded:data",
         "--model", "unseeded:model", "--rounds", "1", "--steps", "1", "--average-every", "1",
         "--learning-rate", "1e-30", "--optimizer", "sgd", "--cuts", "1,2",
         "--port", str(free_ports(3)), "--runs-dir", "runs"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (tmp_path / "runs").glob("20*")
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    (said,) = (event["sentence"] for event in events if "began with" in event.get("sentence", ""))
    assert said.startswith("edge1, edge2 began with other values than the cloud: unseeded:model takes some from")
    (value,) = set(load_file(run / "model.safetensors")["0.weight"].flatten().tolist())
    assert value in [float(line) for line in (tmp_path / "values").read_text().splitlines()]  # and not their mean
