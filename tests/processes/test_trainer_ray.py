"""The cloud's workers on a real Ray cluster of two nodes on this machine."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.processes.training import free_ports, training_processes

FLAGS = ("--rounds", "3", "--steps", "2", "--batch", "16", "--micro", "2", "--average-every", "1", "--cuts", "2,7;3,5",
         "--quorum", "2", "--quiet")


@pytest.fixture
def cluster() -> Iterator[str]:
    """A Ray cluster of two nodes with one CPU each; its address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    on_sigterm = signal.getsignal(signal.SIGTERM)  # Ray sets its own, in this process
    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    made: Any = Cluster()
    try:
        add_node(made, {**node, "gcs_server_port": free_ports(1)})
        add_node(made, node)
        yield made.address
    finally:
        made.shutdown()
        signal.signal(signal.SIGTERM, on_sigterm)


def add_node(cluster: Any, node: dict[str, Any]) -> None:
    """Add a node; try again where the machine is so loaded that Ray's own limit of 30 s for its start passes."""
    for attempt in range(3):
        try:
            cluster.add_node(**node)
            return
        except Exception as error:
            if attempt == 2 or "timed out during startup" not in str(error):
                raise


def trained(directory: Path, *flags: str, kill: bool = False) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Train two edges; with `kill` a worker is killed within round 2. Returns the model and the events."""
    with training_processes(directory, 2, cloud_flags=(*FLAGS, *flags)) as run:
        run.start_cloud()
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
