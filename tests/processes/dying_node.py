"""`paceline cloud` on Ray, of which the node of one worker is killed once, when all models wait for their averaging."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.cli.main import run_command_line


def run(arguments: Sequence[str]) -> object:
    """Run `paceline`; before the first averaging kill -9 ends a worker and its raylet, but not the one of this process.

    With the raylet what the node has stored is gone.
    """
    import ray

    from trainer.cloud.ray_workers import RayWorkers

    original, killed = RayWorkers.mean, list[int]()

    def mean(self: RayWorkers, models: Mapping[str, Any], weights: Sequence[float]) -> dict[str, Any]:
        if not killed:
            here: Any = ray
            own = here.get_runtime_context().get_node_id()
            (socket,) = (node["RayletSocketName"] for node in here.nodes() if node["NodeID"] == own)
            raylets = {worker.pid: _parent(worker.pid) for worker in self.workers}
            pid, raylet = next((pid, raylet) for pid, raylet in raylets.items() if f"--raylet_socket_name={socket}"
                               not in Path(f"/proc/{raylet}/cmdline").read_text().split("\0"))
            killed.append(raylet)
            for process in raylet, pid:
                os.kill(process, signal.SIGKILL)
        return original(self, models, weights)

    setattr(RayWorkers, "mean", mean)  # noqa: B010 - mypy allows no assignment to a method
    return run_command_line(list(arguments))


def _parent(pid: int) -> int:
    """The fourth field of /proc/PID/stat (proc(5))."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
