"""A worker of the cloud as an actor of Ray; only this module, `trainer.cloud.ray_workers` and
`trainer.cli.sweep_runs` import Ray.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from trainer.cloud.edge_worker import EdgeWorker
from trainer.cloud.worker_events import CredentialsLoader, WorkerEvent
from trainer.errors import RayUnavailableError
from trainer.models.partial_mean import PartialMean, joined, mean_of, partial_mean
from trainer.protocol import messages

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ModuleNotFoundError as error:
    raise RayUnavailableError("Ray is not installed; install it: pip install 'paceline[ray]'.") from error

__all__ = ["BOOT_ID", "POLL_S", "RayError", "RayTaskError", "WorkerActor", "ray_api"]

ray_api: Any = ray  # its own types are incomplete
POLL_S = 5.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class WorkerActor:
    """A worker in a process of Ray."""

    def __init__(self, addresses: Sequence[str], credentials: CredentialsLoader, device: str) -> None:
        """Listen on the first of these addresses that its machine has, or else on that of its node of Ray."""
        own = (address for address in addresses if _is_own(address))
        self._host = next(own, None) or str(ray_api.util.get_node_ip_address())
        self._worker = EdgeWorker(self._host, credentials(), device)

    def describe(self) -> tuple[str, int, str, int, str]:
        """Return address, machine and process of the worker, and what tells the machine's clock from others."""
        return self._host, self._worker.port, socket.gethostname(), os.getpid(), BOOT_ID.read_text()

    def clock_s(self) -> float:
        """Return the time on its machine."""
        return time.time()

    def prepare(self, recipe: messages.Prepare, keep_bytes: int) -> None:
        """Build the model; `keep_bytes`: memory for kept segments."""
        self._worker.prepare(recipe, keep_bytes)

    def expect(self, edge: str, ticket: int) -> None:
        """Admit one connection of an edge."""
        self._worker.expect(edge, ticket)

    def call(self, edge: str, ticket: int, method: str, *arguments: Any) -> Any:
        """Call a method for an edge; one that is not there any more counts as lost."""
        return self._worker.call(edge, ticket, method, *arguments)

    def partial_mean(self, shares: list[float], *models: Mapping[str, Tensor]) -> PartialMean:
        """Sum models by their shares."""
        return partial_mean(models, shares)

    def joined(self, one: PartialMean, other: PartialMean) -> PartialMean:
        """Join two sums."""
        return joined(one, other)

    def mean_of(self, total: PartialMean) -> dict[str, Tensor]:
        """Make a mean of the sum of all models."""
        return mean_of(total)

    @ray.method(concurrency_group="events")
    def events(self) -> list[tuple[str, int, WorkerEvent]]:
        """Wait for events; return none after POLL_S."""
        return self._worker.events(time.monotonic() + POLL_S)

    def close(self) -> None:
        """Stop listening."""
        self._worker.close()


def _is_own(address: str) -> bool:
    """Whether this machine, or this network namespace, has an address."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
