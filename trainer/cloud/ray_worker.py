"""A worker of the cloud on a Ray cluster, from the training loop."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from trainer.cloud.ray_actor import BOOT_ID, POLL_S, RayError, RayTaskError
from trainer.cloud.ray_actor import ray_api as ray
from trainer.cloud.remote_edge import RemoteConnection
from trainer.errors import ConnectionLostError
from trainer.protocol import messages
from trainer.transport.clock_sync import PingTimes, best_offset_s
from trainer.transport.connection import Disconnected

log = logging.getLogger(__name__)

START_TIMEOUT_S = 180.0
"""Time for all workers to start: each imports torch."""
CALL_TIMEOUT_S = 120.0
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
        return self._result(self._actor.call.remote(edge, ticket, method, *arguments))

    def ask_stored(self, edge: str, ticket: int, method: str, *arguments: Any) -> tuple[Any, Any]:
        """Call a method that returns two results; the first stays in the object store, and its reference is returned.

        Raises: as `ask`.
        """
        stored, result = self._actor.call.options(num_returns=2).remote(edge, ticket, method, *arguments)
        return stored, self._result(result)

    def _result(self, reference: Any) -> Any:
        try:
            return ray.get(reference, timeout=CALL_TIMEOUT_S)
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            raise ConnectionLostError(f"{self.name} of the cloud was lost.") from error

    def partial_mean(self, shares: Sequence[float], models: Sequence[Any]) -> Any:
        """Sum stored models by their shares; returns what stands for the sum."""
        return self._actor.partial_mean.remote(list(shares), *models)

    def joined(self, one: Any, other: Any) -> Any:
        """Join two sums; returns what stands for the sum."""
        return self._actor.joined.remote(one, other)

    def mean_of(self, total: Any) -> Any:
        """Make a mean of the sum of all models; returns what stands for it."""
        return self._actor.mean_of.remote(total)

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
