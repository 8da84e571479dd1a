"""The cloud's workers on a real Ray cluster of two nodes on this machine."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.processes.test_trainer_frozen import own_data, settings_of
from tests.processes.training import free_ports, training_processes

FLAGS = ("--rounds", "3", "--steps", "2", "--batch", "16", "--micro", "2", "--average-every", "1", "--cuts", "2,7;3,5",
         "--quorum", "2", "--quiet")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray cluster that several tests use; its address."""
    with two_nodes() as address:
        yield address


@contextlib.contextmanager
def two_nodes() -> Iterator[str]:
    """Within the block there is a Ray cluster of two nodes with one CPU each; its address."""
    command = [sys.executable, "-m", "tests.processes.ray_cluster", str(free_ports(1))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nodes:
        assert nodes.stdout is not None
        address = next((line.split()[1] for line in nodes.stdout if line.startswith("address ")), None)
        assert address is not None
        yield address
        nodes.communicate()  # its stdin ends, so it stops the nodes


def trained(
    directory: Path, *flags: str, kill: bool = False, program: str = "paceline"
) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Train two edges; with `kill` a worker is killed within round 2. Returns the model and the events.

    `program`: that of the cloud.
    """
    with training_processes(directory, 2, cloud_flags=(*FLAGS, *flags)) as run:
        run.start_cloud(program=program)
        run.start_edges()
        if kill:
            said = run.wait_for("said", lambda event: "worker2 of the cloud: process" in event["sentence"])
            found = re.search(r"process (\d+)", said["sentence"])
            assert found is not None
            run.wait_for("step", lambda event: event["round"] == 2)
            os.kill(int(found[1]), signal.SIGKILL)
        assert run.finish() == 0, run.logs()
        return load_file(run.run / "model.safetensors"), run.events()


def test_two_workers_of_which_one_is_killed_train_the_model_of_one_process(tmp_path: Path, cluster: str) -> None:
    alone, _ = trained(tmp_path / "alone")
    model, events = trained(tmp_path / "workers", "--ray", cluster, "--ray-workers", "2", kill=True)
    (lost,) = [event for event in events if event["event"] == "lost"]
    assert re.fullmatch(r"(worker2 of the cloud \(process \d+ on .+\) was lost|.* closed the connection)\.",
                        lost["reason"]), lost
    (continued,) = [event for event in events if event["event"] == "continued"]
    assert continued["round"] == 2 and continued["joined"] == [lost["edge"]]
    assert model.keys() == alone.keys()
    for name, value in alone.items():
        assert torch.equal(model[name], value), name


def test_models_that_are_lost_with_a_node_before_their_averaging_are_made_again(tmp_path: Path) -> None:
    """Node and worker are killed with -9 when the models of round 1 are stored: only the edge of that node is lost."""
    alone, _ = trained(tmp_path / "alone")
    with two_nodes() as cluster:
        model, events = trained(tmp_path / "workers", "--ray", cluster, "--ray-workers", "2", program="dying node")
    (lost,) = [event for event in events if event["event"] == "lost"]
    assert lost["reason"] == f"The machine with the models of {lost['edge']} was lost."
    assert lost["excluded"] is False and lost["left"] == 1
    (continued,) = [event for event in events if event["event"] == "continued"]
    assert continued["round"] == 1 and continued["joined"] == [lost["edge"]]
    assert model.keys() == alone.keys()
    for name, value in alone.items():
        assert torch.equal(model[name], value), name


def test_workers_make_secure_sums_of_edges_with_tokens_and_a_killed_run_goes_on_with_fewer(
    tmp_path: Path, cluster: str
) -> None:
    token = tmp_path / "token"
    token.write_text("a secret of cloud, workers and edges\n")
    flags = ("--secure-aggregation", "--token-file", str(token))
    common = ("--rounds", "3", "--steps", "1", "--batch", "16", "--micro", "2", "--average-every", "1", "--cuts",
              "1,1,1", "--model", "mlp", "--quiet", *flags)
    models = []
    for name, workers in ("alone", ()), ("workers", ("--ray", cluster, "--ray-workers", "2")):
        with training_processes(tmp_path / name, 3, common + workers, edge_flags=(*flags, "--model", "mlp")) as run:
            run.start_cloud()
            run.start_edges()
            if workers:
                run.wait_for("checkpoint", lambda event: event["round"] == 1)
                run.send("cloud", signal.SIGKILL)
                run.finish()
                run.resume_cloud("--ray-workers", "1")
            assert run.finish() == 0, run.logs()
            models.append(load_file(run.run / "model.safetensors"))
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_segments_that_workers_keep_are_sent_once(tmp_path: Path, cluster: str) -> None:
    """As are those of held-out samples, on which the workers evaluate; model and metric are those of one process.

    The values are not compared to the bit: which kept micro-batches are in one pass depends on what is ready, products
    of other sizes are rounded differently, by 1e-7 of a value, and 12 steps with momentum enlarge that. The tolerance
    is that of the comparisons with unsplit training (`test_trainer_frozen`).
    """
    data = own_data(tmp_path)
    flags = (*settings_of(data, [[2, 1]] * 6, 16), "--average-every", "2", "--quiet")
    models, summaries = [], []
    for name, workers in ("alone", ()), ("workers", ("--ray", cluster, "--ray-workers", "2")):
        with training_processes(tmp_path / name, 2, (*flags, *workers), edge_flags=("--data", data)) as run:
            run.start_cloud()
            run.start_edges()
            assert run.finish() == 0, run.logs()
            models.append(load_file(run.run / "model.safetensors"))
            summaries.append(run.summary())
            assert [event["edges"] for event in run.events() if event["event"] == "held_out_kept"] == [
                ["edge1", "edge2"]]
    alone, by_workers = [[[(edge["edge"], edge["saved_bytes"]) for edge in row["edges"]] for row in summary["rounds"]]
                         for summary in summaries]
    assert by_workers == alone
    assert all(saved_bytes > 0 for _, saved_bytes in by_workers[-1])
    assert [row["metric"] for row in summaries[1]["rounds"]] == [row["metric"] for row in summaries[0]["rounds"]]
    assert summaries[1]["confusion"] == summaries[0]["confusion"]
    for name, value in models[0].items():
        torch.testing.assert_close(models[1][name], value, rtol=1e-4, atol=1e-5)
