"""A Ray cluster of two nodes on this machine: `python -m tests.processes.ray_cluster PORT`, until its stdin ends.

It is a process of its own because Ray forks: libraries that another test has imported warn of that.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def main(port: int) -> None:
    """Start the nodes, print the cluster's address and stop the nodes when stdin ends."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:
        # Ray's Cluster writes its address below this directory even where temp_dir names another, and makes neither.
        os.environ["RAY_TMPDIR"] = directory
        Path(directory, "ray").mkdir()
        from ray.cluster_utils import Cluster

        made: Any = Cluster()
        node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
        try:
            add_node(made, {**node, "gcs_server_port": port})
            add_node(made, node)
            print(f"address {made.address}", flush=True)
            sys.stdin.read()
        finally:
            made.shutdown()


def add_node(cluster: Any, node: dict[str, Any]) -> None:
    """Add a node; try again where the machine is so loaded that Ray's own limit of 30 s for its start passes."""
    for attempt in range(3):
        try:
            cluster.add_node(**node)
            return
        except Exception as error:
            if attempt == 2 or "timed out during startup" not in str(error):
                raise


if __name__ == "__main__":
    main(int(sys.argv[1]))
