"""Usage of a tenant as reservations are set up, modified and released."""

from __future__ import annotations

from dataclasses import replace

from controller.domain.reservation import Flow, Match, Placement, Requirement, Reservation, State
from controller.security.tenant_usage import TenantUsage, Usage


def reservation(name: str, tenant: str, rate_bps: int) -> Reservation:
    flow = Flow("up", "edge1", "cloud", Match("tcp", 7801, 7800), Requirement(rate_bps))
    placement = Placement(flow, ("edge1", "s1", "cloud"), rate_bps, 9000, 110_000, 1, 9000.0, 8800.0)
    return Reservation(name, 1, 1, "test", State.ACTIVE, 60.0, 1.0, 61.0, (placement,), tenant=tenant)


def test_usage_counts_a_reservation_until_it_ends() -> None:
    usage, first, second = TenantUsage(), reservation("r-1", "lab", 1_000_000), reservation("r-2", "lab", 2_000_000)
    usage.update(None, first)
    usage.update(None, second)
    usage.update(None, reservation("r-3", "other", 5_000_000))
    assert usage.usage_of("lab") == Usage(2, 3_000_000)
    larger = reservation("r-1", "lab", 4_000_000)
    usage.update(first, larger)
    assert usage.usage_of("lab") == Usage(2, 6_000_000)
    ended = replace(larger, state=State.RELEASED)
    usage.update(larger, ended)
    usage.update(ended, ended)
    assert usage.usage_of("lab") == Usage(1, 2_000_000)
    usage.update(second, replace(second, state=State.EXPIRED))
    assert (usage.usage_of("lab"), usage.usage_of("other")) == (Usage(), Usage(1, 5_000_000))
