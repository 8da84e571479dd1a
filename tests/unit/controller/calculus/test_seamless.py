"""A seamless flow loads both of its paths at the same time, and its bound is that of the slower copy."""

from __future__ import annotations

from dataclasses import replace

from controller.calculus.failure_bounds import CarriedFlow, FailureBounds
from controller.domain.network import network_from_map
from controller.domain.route import Route
from topologies.map_file.loader import load_map

METRO = network_from_map(load_map("metro"))
WORKING = ("edge1", "r6", "r1", "r2", "cloud")
BACKUP = ("edge1", "r6", "r5", "r4", "r3", "r2", "cloud")
SEAMLESS = CarriedFlow(Route(WORKING, BACKUP, seamless=True), 5_000_000, 20_000)
PROTECTED = replace(SEAMLESS, route=Route(WORKING, BACKUP))
OTHER = CarriedFlow(Route(("edge3", "r5", "r4", "r3", "r2", "cloud")), 5_000_000, 20_000)


def bounds(**flows: CarriedFlow) -> FailureBounds:
    return FailureBounds.empty(METRO).changed({("r", name): flow for name, flow in flows.items()})


def test_the_copy_on_the_backup_path_counts_like_a_flow_of_its_own() -> None:
    copy = CarriedFlow(Route(BACKUP), SEAMLESS.rate_bps, SEAMLESS.burst_bytes)
    single = CarriedFlow(Route(WORKING), SEAMLESS.rate_bps, SEAMLESS.burst_bytes)
    together, apart = bounds(a=SEAMLESS, b=OTHER), bounds(a=single, copy=copy, b=OTHER)
    assert together.bound(("r", "b")) == apart.bound(("r", "b"))
    worst_us = max(apart.bound(("r", name)).accumulated_latency_us for name in ("a", "copy"))
    assert together.bound(("r", "a")).accumulated_latency_us == worst_us
    assert together.bound(("r", "b")).accumulated_latency_us > bounds(b=OTHER).bound(("r", "b")).accumulated_latency_us


def test_what_is_removed_leaves_no_copy_behind() -> None:
    both = bounds(a=SEAMLESS, b=OTHER)
    alone = both.changed({}, [("r", "a")]).analysed_afresh()
    assert alone.bound(("r", "b")) == bounds(b=OTHER).analysed_afresh().bound(("r", "b"))
    replaced = both.changed({("r", "a"): PROTECTED}).analysed_afresh()
    assert replaced.bound(("r", "b")) == bounds(a=PROTECTED, b=OTHER).analysed_afresh().bound(("r", "b"))
    assert replaced.drain_us([("r", "a")]) > 0


def test_links_of_both_paths_are_looked_at_when_limits_are_checked() -> None:
    limited = bounds(a=replace(SEAMLESS, has_limit=True))
    assert ("r", "a") in limited.changed({("r", "b"): OTHER}).changed_limited_flows()
