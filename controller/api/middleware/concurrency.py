"""Not more at once than can be done well: who comes when the queue is full is told so at once, and when to return."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread

from controller.errors import Overloaded, TooManyRequests

RETRY_AFTER_S = 1

Result = TypeVar("Result")
RunInThread = Callable[..., Awaitable[Any]]
"""Has work done run_in_thread the event loop: `await run_in_thread(function, *arguments)`."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """`at_once` are worked on, `waiting` more may wait; of one tenant `per_tenant` at most, waiting or not."""

    running: int
    queued: int
    per_tenant: int


READS = QueueLimits(running=8, queued=120, per_tenant=96)
WRITES = QueueLimits(running=32, queued=64, per_tenant=64)
"""Reads and changes never wait for each other. A tenant alone cannot fill a queue. As many changes at once as the
service takes: most of them wait for switches, and one that is slow must not hold up changes elsewhere."""

STREAMS = QueueLimits(running=64, queued=0, per_tenant=32)
REQUESTS = QueueLimits(running=512, queued=0, per_tenant=512)
"""Everything that is not answered yet, bodies that are still coming in and streams among it."""


class ConcurrencyLimit:
    """Counts who is in it. Thread-safe."""

    def __init__(self, name: str, limits: QueueLimits) -> None:
        self.name = name
        self.limits = limits
        self._lock = threading.Lock()
        self._inside: Counter[str] = Counter()

    @contextlib.contextmanager
    def admit(self, tenant: str) -> Iterator[None]:
        """A place in the lane for as long as this lasts.

        Raises: TooManyRequests if the tenant has too many, Overloaded if there are too many in all.
        """
        self._enter(tenant)
        try:
            yield
        finally:
            with self._lock:
                self._inside[tenant] -= 1
                if not self._inside[tenant]:
                    del self._inside[tenant]

    @property
    def in_flight(self) -> int:
        """How many there are, waiting or not."""
        with self._lock:
            return self._inside.total()

    def _enter(self, tenant: str) -> None:
        most = self.limits.running + self.limits.queued
        with self._lock:
            if self._inside.total() >= most:
                sentence = f"{most} {self.name} are being answered or wait already; try again later."
                raise Overloaded(sentence, retry_after_s=RETRY_AFTER_S)
            if self._inside[tenant] >= self.limits.per_tenant:
                sentence = f"Tenant {tenant} has {self.limits.per_tenant} {self.name} unanswered; wait for an answer."
                raise TooManyRequests(sentence, retry_after_s=RETRY_AFTER_S)
            self._inside[tenant] += 1


def thread_pool(threads: int) -> RunInThread:
    """So many threads of an event loop's."""
    limiter = CapacityLimiter(threads)

    async def run_in_thread(work: Callable[..., Result], *arguments: Any) -> Result:
        return await to_thread.run_sync(partial(work, *arguments), limiter=limiter)

    return run_in_thread


class RequestExecutor:
    """Where requests wait for their turn. `run_in_thread`: how work is done where there is no event loop."""

    def __init__(self, run_in_thread: RunInThread | None = None) -> None:
        self.reads, self.writes, self.streams = (
            ConcurrencyLimit("reads", READS),
            ConcurrencyLimit("changes", WRITES),
            ConcurrencyLimit("streams", STREAMS),
        )
        self.has_loop = run_in_thread is None
        self._run_reads = run_in_thread or thread_pool(READS.running)
        self._run_writes = run_in_thread or thread_pool(WRITES.running)
        self.run_in_thread = run_in_thread or thread_pool(4)

    async def read(self, tenant: str, work: Callable[..., Result], *arguments: Any) -> Result:
        """Have a read done.

        Raises: TooManyRequests, Overloaded.
        """
        with self.reads.admit(tenant):
            result: Result = await self._run_reads(work, *arguments)
            return result

    async def change(self, tenant: str, work: Callable[..., Result], *arguments: Any) -> Result:
        """Have a change made.

        Raises: TooManyRequests, Overloaded.
        """
        with self.writes.admit(tenant):
            result: Result = await self._run_writes(work, *arguments)
            return result

    async def submit(self, tenant: str, ask: Callable[..., Future[Result]], *arguments: Any) -> Result:
        """Have a change made by somebody who says when it is done.

        Raises: TooManyRequests, Overloaded.
        """
        with self.writes.admit(tenant):
            promised = ask(*arguments)
            return await asyncio.wrap_future(promised) if self.has_loop else promised.result()
