"""Limits on concurrent requests, in total and per tenant."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import pytest

from controller.api.middleware.concurrency import STREAMS, ConcurrencyLimit, Lane, QueueLimits, RequestExecutor, lane_of
from controller.errors import Overloaded, TooManyRequests
from controller.security.access import ANONYMOUS, Caller, Scope


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


def test_tenants_cannot_take_the_places_of_operators() -> None:
    limit = ConcurrencyLimit("streams", STREAMS)
    with ExitStack() as held:
        for tenant in range(STREAMS.running):
            for _ in range(STREAMS.per_lane):
                with suppress(Overloaded):
                    held.enter_context(limit.admit(Lane(f"Tenant {tenant}")))
        with pytest.raises(Overloaded):
            held.enter_context(limit.admit(Lane("Tenant late")))
        for _ in range(STREAMS.for_operators):
            held.enter_context(limit.admit(Lane("Tenant 0", is_operator=True)))
        assert limit.in_flight == STREAMS.running


def test_two_tenants_with_all_the_streams_they_get_leave_some_to_others() -> None:
    limit = ConcurrencyLimit("streams", STREAMS)
    with ExitStack() as held:
        for name in ("Tenant a", "Tenant b"):
            for _ in range(STREAMS.per_lane):
                held.enter_context(limit.admit(Lane(name)))
            with pytest.raises(TooManyRequests):
                held.enter_context(limit.admit(Lane(name)))
        held.enter_context(limit.admit(Lane("Tenant c")))
        held.enter_context(limit.admit(Lane("Tenant a", is_operator=True)))


def test_a_lane_is_a_tenant_with_a_token_and_an_address_without() -> None:
    assert lane_of(replace(ANONYMOUS, address="10.254.0.9")) == Lane("Address 10.254.0.9")
    reader = Caller("lab", frozenset({Scope.READ}), token="lab-1", address="10.0.0.1")
    assert lane_of(reader) == Lane("Tenant lab")
    assert lane_of(replace(reader, scopes=frozenset({Scope.OPERATE}))) == Lane("Tenant lab", is_operator=True)
