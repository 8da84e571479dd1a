"""Limits on concurrent requests, in total and per tenant."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from controller.api.middleware.concurrency import ConcurrencyLimit, Lane, QueueLimits, RequestExecutor
from controller.errors import Overloaded, TooManyRequests


def test_a_limit_holds_in_total_and_per_tenant() -> None:
    limit = ConcurrencyLimit("reads", QueueLimits(running=2, queued=2, per_lane=3))

    def in_flight_with(*tenants: str) -> Any:
        if not tenants:
            return limit.in_flight
        with limit.admit(Lane(f"Tenant {tenants[0]}")):
            return in_flight_with(*tenants[1:])

    assert in_flight_with("a", "a", "a") == 3
    with pytest.raises(TooManyRequests, match="Tenant a has 3 reads in flight"):
        in_flight_with("a", "a", "a", "a")
    with pytest.raises(Overloaded, match="4 reads are running or queued") as refused:
        in_flight_with("a", "a", "b", "b", "c")
    assert refused.value.facts["retry_after_s"] == 1
    assert limit.in_flight == 0


def test_blocked_changes_do_not_delay_reads() -> None:
    """All threads for changes are blocked by a switch that does not reply."""
    released = threading.Event()

    async def scenario() -> str:
        executor = RequestExecutor()
        limits = executor.writes.limits
        tenants = [Lane(str(number)) for number in range(limits.running + limits.queued - limits.for_operators)]
        blocked = [asyncio.create_task(executor.change(tenant, released.wait)) for tenant in tenants]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await executor.change(Lane("late", is_operator=False), released.wait)
        answer = await asyncio.wait_for(executor.read(Lane("reader"), lambda: "at once"), 10)
        released.set()
        await asyncio.gather(*blocked)
        assert executor.writes.in_flight == 0
        return answer

    assert asyncio.run(scenario()) == "at once"


def test_a_limit_counts_concurrent_requests_exactly() -> None:
    limit = ConcurrencyLimit("reads", QueueLimits(running=4, queued=0, per_lane=4))
    highest = 0

    def is_admitted(number: int) -> bool:
        nonlocal highest
        try:
            with limit.admit(Lane(str(number % 3))):
                highest = max(highest, limit.in_flight)
        except Overloaded:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        admitted: list[bool] = list(pool.map(is_admitted, range(500)))
    assert any(admitted)
    assert highest <= 4
    assert limit.in_flight == 0
