"""The workers of the cloud as actors on a Ray cluster, from the training loop."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from trainer.cloud.edge_acceptor import JoinRefusedError
from trainer.cloud.ray_actor import BOOT_ID, POLL_S, RayError, RayTaskError, WorkerActor
from trainer.cloud.ray_actor import ray_api as ray
from trainer.cloud.remote_edge import RemoteConnection
from trainer.cloud.worker_events import CredentialsLoader
from trainer.errors import ConnectionLostError, RayUnavailableError
from trainer.protocol import messages
from trainer.transport.clock_sync import PingTimes, best_offset_s
from trainer.transport.connection import Disconnected

log = logging.getLogger(__name__)

START_TIMEOUT_S = 180.0
"""Time for all workers to start: each imports torch."""
CALL_TIMEOUT_S = 120.0
OBJECT_STORE_BYTES = 256 * 2**20
"""Of a cluster of its own; Ray writes what is more to disk."""
PROBE_TIMEOUT_S = 5.0
PINGS = 8


class SharedTensors:
    """Tensors in the object store; what is used by several calls in a row is stored once."""

    def __init__(self) -> None:
        self._last: tuple[Mapping[str, Tensor], Any] | None = None
        self._lock = threading.Lock()

    def reference(self, tensors: Mapping[str, Tensor]) -> Any:
        """Return a reference to these tensors; the same for the same mapping as last time."""
        with self._lock:
            if self._last is None or self._last[0] is not tensors:
                self._last = tensors, ray.put(dict(tensors))
            return self._last[1]


class RayWorker:
    """One worker; implements `WorkerHandle`. `is_lost`: its process has ended."""

    def __init__(self, name: str, actor: Any, shared: SharedTensors) -> None:
        self.name = name
        self.node = ""
        self._actor = actor
        host, port, machine, self.pid, boot_id = ray.get(actor.describe.remote(), timeout=START_TIMEOUT_S)
        self.address = host, port
        self.machine = machine
        self.offset_s = 0.0 if boot_id == BOOT_ID.read_text() else self._measure_offset_s()
        self.is_lost = False
        self.links: dict[tuple[str, int], RemoteConnection] = {}
        self.shared = shared.reference
        threading.Thread(target=self._receive, daemon=True).start()

    def _measure_offset_s(self) -> float:
        times = []
        for _ in range(PINGS):
            sent_s = time.time()
            worker_s = ray.get(self._actor.clock_s.remote(), timeout=CALL_TIMEOUT_S)
            times.append(PingTimes(sent_s, worker_s, worker_s, time.time()))
        return best_offset_s(times)

    def expect(self, edge: str, ticket: int) -> RemoteConnection:
        """Have the worker admit an edge from now on; return its connection.

        Raises: ConnectionLostError if the worker is lost.
        """
        link = RemoteConnection(self, edge, ticket)
        self.links = {key: other for key, other in self.links.items() if key[0] != edge} | {(edge, ticket): link}
        try:
            ray.get(self._actor.expect.remote(edge, ticket), timeout=CALL_TIMEOUT_S)
        except RayError as error:
            self.is_lost = True
            raise ConnectionLostError(f"{self.name} of the cloud was lost.") from error
        return link

    def prepare(self, recipe: messages.Prepare, keep_bytes: int) -> Any:
        """Build the model; returns what `ray.get` waits for. `keep_bytes`: for kept segments."""
        return self._actor.prepare.remote(recipe, keep_bytes)

    def tell(self, edge: str, ticket: int, method: str, *arguments: Any) -> None:
        """Call a method for an edge without waiting; calls are carried out in order."""
        self._actor.call.remote(edge, ticket, method, *arguments)

    def ask(self, edge: str, ticket: int, method: str, *arguments: Any) -> Any:
        """Call a method for an edge and return its result.

        Raises: ConnectionLostError if the worker is lost, what the method raises.
        """
        try:
            return ray.get(self._actor.call.remote(edge, ticket, method, *arguments), timeout=CALL_TIMEOUT_S)
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            raise ConnectionLostError(f"{self.name} of the cloud was lost.") from error

    def close(self) -> None:
        """End the worker after it has carried out all calls."""
        if not self.is_lost:
            with contextlib.suppress(RayError):
                ray.get(self._actor.close.remote(), timeout=POLL_S)
        self.is_lost = True
        ray.kill(self._actor)

    def _receive(self) -> None:
        """Pass on events until the worker ends."""
        while not self.is_lost:
            try:
                events = ray.get(self._actor.events.remote())
            except Exception as error:  # noqa: BLE001 - whatever it is, the worker cannot be used any more
                if not self.is_lost:
                    log.warning("worker=%s lost=%r", self.name, str(error).partition("\n")[0])
                    self.is_lost = True
                    for link in list(self.links.values()):
                        link.handle(Disconnected(f"{self.name} of the cloud (process {self.pid} on {self.machine}) "
                                                 "was lost.", None))
                return
            for edge, ticket, event in events:
                if (addressed := self.links.get((edge, ticket))) is not None:
                    addressed.handle(event)


@dataclass(frozen=True, slots=True)
class CloudPlace:
    """Where the cloud is: address and node of the training loop, and the map's nodes of the cloud by address.

    `reserves`: bandwidth is reserved to the nodes of the workers.
    """

    host: str
    name: str
    nodes: Mapping[str, str]
    reserves: bool

    def node_of(self, worker: RayWorker) -> str:
        """Return the node on which a worker is; without reservations one outside the map counts as at the loop's.

        Raises: RayUnavailableError.
        """
        address = worker.address[0]
        known = {self.host: self.name, **self.nodes}
        if address not in known and self.reserves:
            nodes = ", ".join(f"{name} at {ip}" for ip, name in known.items() if ip != "0.0.0.0")
            raise RayUnavailableError(f"{worker.name} listens on {address}; reservations go to nodes of the cloud: "
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
                worker.node = place.node_of(worker)
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


def _first_line(error: BaseException) -> str:
    line = str(error).strip().partition("\n")[0]
    return line if line.endswith(".") else f"{line}."
