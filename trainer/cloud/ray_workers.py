"""The workers of the cloud as actors on a Ray cluster, from the training loop."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast

from torch import Tensor

from trainer.cloud.edge_acceptor import JoinRefusedError
from trainer.cloud.ray_actor import RayError, RayTaskError, WorkerActor
from trainer.cloud.ray_actor import ray_api as ray
from trainer.cloud.ray_worker import CALL_TIMEOUT_S, START_TIMEOUT_S, RayWorker, SharedTensors
from trainer.cloud.remote_edge import ModelsLostError, RemoteConnection, StoredModel
from trainer.cloud.worker_events import CredentialsLoader
from trainer.errors import ConnectionLostError, RayUnavailableError
from trainer.models.averaging import average, shares_of
from trainer.protocol import messages

OBJECT_STORE_BYTES = 256 * 2**20
"""Of a cluster of its own; Ray writes what is more to disk."""
PROBE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class CloudPlace:
    """Where the cloud is: address and node of the training loop, and the map's nodes of the cloud by address.

    `reserves`: bandwidth is reserved to the nodes of the workers.
    """

    host: str
    name: str
    nodes: Mapping[str, str]
    reserves: bool

    def node_of(self, worker: str, address: str) -> str:
        """Return the node of the address on which a worker listens; without reservations an unknown one is the loop's.

        Raises: RayUnavailableError.
        """
        known = {self.host: self.name, **self.nodes}
        if address not in known and self.reserves:
            nodes = ", ".join(f"{name} at {ip}" for ip, name in known.items() if ip != "0.0.0.0")
            raise RayUnavailableError(f"{worker} listens on {address}; reservations go to nodes of the cloud: "
                                      f"{nodes}. Start Ray on these, give --ray local, or --best-effort.")
        return known.get(address, self.name)


class RayWorkers:
    """The workers of a run; a context manager that ends them, and a cluster that was started for it."""

    def __init__(
        self, address: str, workers: int | None, edges: int, credentials: CredentialsLoader, device: str,
        place: CloudPlace, notify: Callable[[str], None],
    ) -> None:
        """Start the workers.

        Raises: RayUnavailableError.
        """
        self._address = address
        self._places: dict[str, RayWorker] = {}
        self._tickets = itertools.count(1)
        self._lock = threading.Lock()
        self._connect()
        try:
            cpus = int(ray.cluster_resources().get("CPU", 1))
            number = workers or max(1, min(cpus, edges))
            nodes = [node for node in ray.nodes() if node["Alive"]]
            addresses = [*place.nodes, *([place.host] if len(nodes) == 1 and place.host != "0.0.0.0" else [])]
            remote = ray.remote(num_cpus=1, num_gpus=1 if device == "cuda" else 0, max_restarts=0,
                                 scheduling_strategy="SPREAD", concurrency_groups={"events": 1})(WorkerActor)
            actors = [remote.remote(addresses, credentials, device) for _ in range(number)]
            ready, _ = ray.wait([actor.describe.remote() for actor in actors], num_returns=number,
                                timeout=START_TIMEOUT_S)
            if len(ready) < number:
                raise RayUnavailableError(f"The Ray cluster {address} has started {len(ready)} of {number} workers "
                                          f"within {START_TIMEOUT_S:g} s; it has {cpus} CPUs. Lower --ray-workers.")
            shared = SharedTensors()
            self.workers = [RayWorker(f"worker{place}", actor, shared) for place, actor in enumerate(actors, 1)]
            for worker in self.workers:
                worker.node = place.node_of(worker.name, worker.address[0])
        except BaseException as error:
            ray.shutdown()
            if isinstance(error, RayError):
                sentence = f"The workers on {address} cannot be started: {_first_line(error)}"
                raise RayUnavailableError(sentence) from error
            raise
        for worker in self.workers:
            notify(f"{worker.name} of the cloud: process {worker.pid} on {worker.machine}, listens on "
                   f"{worker.address[0]}:{worker.address[1]} ({worker.node}).")

    def _connect(self) -> None:
        host, _, port = self._address.removeprefix("ray://").rpartition(":")
        if port.isdigit():  # Ray itself would try for minutes
            try:
                socket.create_connection((host, int(port)), timeout=PROBE_TIMEOUT_S).close()
            except (OSError, OverflowError) as error:
                raise RayUnavailableError(f"No Ray cluster at {self._address}: {error}. Start one: ray start --head; "
                                          "or give --ray local.") from error
        on_sigterm = signal.getsignal(signal.SIGTERM)
        own = {"num_cpus": os.cpu_count(), "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        try:
            ray.init(address=self._address, log_to_driver=False, logging_level="error",
                     **(own if self._address == "local" else {}))
        except Exception as error:  # a node that does not start in time raises nothing more special
            raise RayUnavailableError(f"No Ray cluster at {self._address}: {_first_line(error)} Start one: "
                                      "ray start --head; or give --ray local.") from error
        finally:
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would end this process before it has released

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.close()
        ray.shutdown()

    @property
    def nodes(self) -> dict[str, str]:
        """The node of the cloud on which each worker is."""
        return {worker.name: worker.node for worker in self.workers}

    def place(self, places: Mapping[str, str], recipe: messages.Prepare, keep_bytes: int) -> None:
        """Assign a worker to every edge; all workers build the model and get a part of `keep_bytes`.

        Raises: RayUnavailableError if a worker is lost.
        """
        try:
            share = keep_bytes // len(self.workers)
            ray.get([worker.prepare(recipe, share) for worker in self.workers], timeout=CALL_TIMEOUT_S)
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            raise RayUnavailableError(f"A worker was lost at its start: {_first_line(error)}") from error
        with self._lock:
            by_name = {worker.name: worker for worker in self.workers}
            self._places = {edge: by_name[name] for edge, name in places.items()}

    def mean(self, models: Mapping[str, StoredModel], weights: Sequence[float]) -> dict[str, Tensor]:
        """Average stored models in a tree: every worker sums those of its edges, then sums are joined in pairs.

        Raises: ModelsLostError if a node of the cluster is lost with models.
        """
        of_worker: dict[str, list[tuple[float, Any]]] = {}
        for model, share in zip(models.values(), shares_of(weights), strict=True):
            of_worker.setdefault(model.worker, []).append((share, model.stored))
        sums = [(worker, worker.partial_mean(*zip(*of_worker[worker.name], strict=True)))
                for worker in self.workers if worker.name in of_worker]
        while len(sums) > 1:
            pairs = zip(sums[::2], sums[1::2], strict=False)
            sums = [(worker, worker.joined(one, other)) for (worker, one), (_, other) in pairs] + sums[len(sums) & ~1:]
        ((worker, total),) = sums
        try:
            return cast(dict[str, Tensor], ray.get(worker.mean_of(total), timeout=CALL_TIMEOUT_S))
        except RayError:  # a worker is lost; what it has stored may be left
            return _mean_here(models, weights)

    def nodes_for(self, edge: str) -> list[str]:
        """Return the node of the edge's worker; of all workers that are left if it has none or that one is lost."""
        with self._lock:
            left = [worker for worker in self.workers if not worker.is_lost]
            place = self._places.get(edge)
            return [*dict.fromkeys(worker.node for worker in ([place] if place in left else left) if worker)]

    def expect(self, edge: str) -> RemoteConnection:
        """Have an edge's worker expect it; an edge whose worker is lost gets the one with the fewest edges.

        Raises: JoinRefusedError if no worker is left.
        """
        with self._lock:
            while left := [worker for worker in self.workers if not worker.is_lost]:
                if self._places.get(edge) not in left:
                    served = Counter(worker.name for worker in self._places.values())
                    self._places[edge] = min(left, key=lambda worker: served[worker.name])
                with contextlib.suppress(ConnectionLostError):
                    return self._places[edge].expect(edge, next(self._tickets))
            raise JoinRefusedError("all workers of the cloud are lost.")


def _mean_here(models: Mapping[str, StoredModel], weights: Sequence[float]) -> dict[str, Tensor]:
    """Average stored models in this process.

    Raises: ModelsLostError if some are lost.
    """
    found, lost = [], []
    for edge, model in models.items():
        try:
            found.append(ray.get(model.stored, timeout=CALL_TIMEOUT_S))
        except RayError:
            lost.append(edge)
    if lost:
        raise ModelsLostError(lost)
    return average(found, weights)


def _first_line(error: BaseException) -> str:
    line = str(error).strip().partition("\n")[0]
    return line if line.endswith(".") else f"{line}."
