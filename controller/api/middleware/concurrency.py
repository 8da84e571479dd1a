"""Limits on concurrent requests: a full queue answers 503 or 429 with `Retry-After` at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

from anyio import CapacityLimiter, to_thread

from controller.errors import Overloaded, TooManyRequests
from controller.security.access import Caller, Scope

RETRY_AFTER_S = 1

Result = TypeVar("Result")
RunInThread = Callable[..., Awaitable[Any]]
"""Runs a blocking function outside the event loop: `await run_in_thread(function, *arguments)`."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """At most `running` requests run and `queued` more wait; at most `per_lane` of both are of one lane.

    `for_operators`: how many of them only operators may take.
    """

    running: int
    queued: int
    per_lane: int
    for_operators: int = 0


class Lane(NamedTuple):
    """Whose requests are counted together: those of a tenant, or of a client address where there are no tokens."""

    name: str
    is_operator: bool = False


def lane_of(caller: Caller) -> Lane:
    """The lane of a caller."""
    if caller.token is None:
        return Lane(f"Address {caller.address}")
    return Lane(f"Tenant {caller.tenant}", caller.has_scope(Scope.OPERATE))


READS = QueueLimits(running=8, queued=120, per_lane=48, for_operators=16)
WRITES = QueueLimits(running=32, queued=64, per_lane=48, for_operators=8)
"""Reads and changes have queues of their own, and one tenant cannot fill a queue. The service takes all running changes
at once: most of them wait for switches, and a slow switch must not delay changes on others."""

RENEWALS = QueueLimits(running=8, queued=120, per_lane=64, for_operators=8)
"""Of leases: they wait for no switch, and bandwidth is lost where one is too late."""

STREAMS = QueueLimits(running=64, queued=0, per_lane=16, for_operators=8)


class ConcurrencyLimit:
    """Counts requests in flight, by lane. Thread-safe."""

    def __init__(self, name: str, limits: QueueLimits) -> None:
        self.name = name
        self.limits = limits
        self._lock = threading.Lock()
        self._in_flight: dict[Lane, int] = {}
        self._total = 0

    def admit(self, lane: Lane) -> Admission:
        """Return a context in which a request of this lane is counted.

        Entering it raises TooManyRequests if the lane has too many requests, Overloaded if there are too many in total.
        """
        return Admission(self, lane)

    @property
    def in_flight(self) -> int:
        """Number of requests, running and queued."""
        return self._total

    def count(self, lane: Lane) -> None:
        """Count a request until `discount`.

        Raises: TooManyRequests, Overloaded.
        """
        limits = self.limits
        limit = limits.running + limits.queued - (0 if lane.is_operator else limits.for_operators)
        with self._lock:
            count = self._in_flight.get(lane, 0)
            if count >= limits.per_lane:
                sentence = f"{lane.name} has {limits.per_lane} {self.name} in flight; wait for a response."
                raise TooManyRequests(sentence, retry_after_s=RETRY_AFTER_S)
            if self._total >= limit:
                sentence = f"{limit} {self.name} are running or queued; try again later."
                raise Overloaded(sentence, retry_after_s=RETRY_AFTER_S)
            self._in_flight[lane] = count + 1
            self._total += 1

    def discount(self, lane: Lane) -> None:
        """A counted request has been answered."""
        with self._lock:
            count = self._in_flight.pop(lane) - 1
            if count:
                self._in_flight[lane] = count
            self._total -= 1


class Admission:
    """The context of one counted request."""

    __slots__ = ("_lane", "_limit")

    def __init__(self, limit: ConcurrencyLimit, lane: Lane) -> None:
        self._limit, self._lane = limit, lane

    def __enter__(self) -> None:
        self._limit.count(self._lane)

    def __exit__(self, *_: object) -> None:
        self._limit.discount(self._lane)


def thread_pool(threads: int) -> RunInThread:
    """Run functions in at most this many worker threads of the event loop."""
    limiter = CapacityLimiter(threads)

    async def run_in_thread(function: Callable[..., Result], *arguments: Any) -> Result:
        return await to_thread.run_sync(partial(function, *arguments), limiter=limiter)

    return run_in_thread


class RequestExecutor:
    """Runs the work of requests within the limits. `run_in_thread`: given where there is no event loop."""

    def __init__(self, run_in_thread: RunInThread | None = None) -> None:
        self.reads = ConcurrencyLimit("reads", READS)
        self.writes = ConcurrencyLimit("changes", WRITES)
        self.renewals = ConcurrencyLimit("renewals", RENEWALS)
        self.streams = ConcurrencyLimit("streams", STREAMS)
        self.has_loop = run_in_thread is None
        self._run_reads = run_in_thread or thread_pool(READS.running)
        self._run_writes = run_in_thread or thread_pool(WRITES.running)
        self._run_renewals = run_in_thread or thread_pool(RENEWALS.running)
        self.run_in_thread = run_in_thread or thread_pool(4)

    async def read(self, lane: Lane, work: Callable[..., Result], *arguments: Any) -> Result:
        """Run a read.

        Raises: TooManyRequests, Overloaded.
        """
        with self.reads.admit(lane):
            result: Result = await self._run_reads(work, *arguments)
            return result

    async def change(self, lane: Lane, work: Callable[..., Result], *arguments: Any) -> Result:
        """Run a change.

        Raises: TooManyRequests, Overloaded.
        """
        with self.writes.admit(lane):
            result: Result = await self._run_writes(work, *arguments)
            return result

    async def renew(self, lane: Lane, work: Callable[..., Result], *arguments: Any) -> Result:
        """Run the renewal of a lease.

        Raises: TooManyRequests, Overloaded.
        """
        with self.renewals.admit(lane):
            result: Result = await self._run_renewals(work, *arguments)
            return result

    async def submit(self, lane: Lane, submit: Callable[..., Future[Result]], *arguments: Any) -> Result:
        """Submit a change to a component that returns a future of the result, and wait for it.

        Raises: TooManyRequests, Overloaded.
        """
        with self.writes.admit(lane):
            future = submit(*arguments)
            return await _result(future) if self.has_loop else future.result()


async def _result(future: Future[Result]) -> Result:
    """Wait for a future that cannot be cancelled; in fewer steps than asyncio.wrap_future."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def on_end(_: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(wake)

    future.add_done_callback(on_end)
    await waiter
    return future.result()
