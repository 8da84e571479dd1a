"""An incrementally updated analysis gives the bounds of a new one, or slightly larger ones."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.booking.peak_load import ALWAYS, Activity
from controller.calculus.fixed_point import HEADROOMS
from controller.calculus.network_bounds import Analysis, NoBound, ShapedFlow
from controller.domain.network import network_from_map
from controller.domain.path import link_names
from controller.domain.reservation import Window
from controller.routing.candidates import candidate_paths
from topologies.map_file.loader import load_map

NETWORK = network_from_map(load_map("metro"))
HOSTS = [host.name for host in NETWORK.hosts]
ACTIVITIES = (
    ALWAYS,
    ALWAYS,
    Activity(0, 100),
    Activity(50, 200),
    Activity(300, 400),
    Activity(window=Window(2_000_000, 0, 500_000)),
    Activity(window=Window(2_000_000, 1_000_000, 500_000)),
    Activity(failures=frozenset({"r1-r2"})),
    Activity(failures=frozenset({"r2-r3", "r3-r4"})),
)
WIDER_AT_MOST = 1.02


@st.composite
def flows(draw: st.DrawFn) -> ShapedFlow:
    source, destination = draw(st.permutations(HOSTS))[:2]
    path = draw(st.sampled_from(candidate_paths(NETWORK, source, destination)))
    rate_bps, burst_bytes = draw(st.integers(1_000_000, 15_000_000)), draw(st.integers(9014, 60_000))
    meter_burst_bytes = draw(st.none() | st.integers(burst_bytes, 2 * burst_bytes))
    return ShapedFlow(path, rate_bps, burst_bytes, draw(st.sampled_from(ACTIVITIES)), meter_burst_bytes)


changes = st.lists(st.tuples(st.integers(0, 9), st.none() | flows()), min_size=1, max_size=14)


@given(steps=changes)
@settings(max_examples=100, deadline=None)
def test_after_any_changes_the_bounds_equal_those_of_a_new_analysis_or_are_slightly_larger(
    steps: list[tuple[int, ShapedFlow | None]],
) -> None:
    analysis: Analysis[int] = Analysis.of(NETWORK, {})
    flows: dict[int, ShapedFlow] = {}
    for key, flow in steps:
        before = analysis
        removed = [key] if key in flows else []
        wanted = {other: kept for other, kept in flows.items() if other != key}
        if flow is not None:
            wanted[key] = flow
        try:
            fresh = Analysis.of(NETWORK, wanted)
        except NoBound:
            fresh = None
        try:
            analysis = analysis.changed({} if flow is None else {key: flow}, removed)
        except NoBound:
            assert fresh is None
            continue
        assert fresh is not None
        assert analysis.bounds.keys() == wanted.keys()
        flows = wanted
        for other, bound in fresh.bounds.items():
            kept = analysis.bound(other).accumulated_latency_us
            assert bound.accumulated_latency_us / (1 + HEADROOMS[-1]) <= kept
            assert kept <= bound.accumulated_latency_us * WIDER_AT_MOST
            if other != key and not analysis.changed_links.intersection(link_names(wanted[other].path)):
                assert before.bound(other) == analysis.bound(other)


def test_flows_that_are_never_active_together_may_each_use_most_of_a_link() -> None:
    path = candidate_paths(NETWORK, "edge1", "cloud")[0]
    halves = [Activity(window=Window(2_000_000, offset_us, 600_000)) for offset_us in (0, 1_000_000)]
    for activities in (halves, [Activity(0, 100), Activity(101, 200)]):
        alone = Analysis.of(NETWORK, {0: ShapedFlow(path, 50_000_000, 45_000)}).bound(0)
        shared = {i: ShapedFlow(path, 50_000_000, 45_000, activity) for i, activity in enumerate(activities)}
        assert Analysis.of(NETWORK, shared).bound(1) == alone


def test_windows_too_close_for_the_busy_period_between_them_count_as_one() -> None:
    """80 Mb/s, of which 60 are taken by what is always there: its burst and a window's keep the port busy for long."""
    path = candidate_paths(NETWORK, "edge1", "cloud")[0]
    close = [Activity(window=Window(2_000_000, offset_us, 500_000)) for offset_us in (0, 501_000)]
    far = [Activity(window=Window(2_000_000, offset_us, 500_000)) for offset_us in (0, 1_000_000)]

    def bound_us(windows: list[Activity]) -> float:
        mixed = {i: ShapedFlow(path, 5_000_000, 45_000, activity) for i, activity in enumerate([ALWAYS, *windows])}
        return Analysis.of(NETWORK, mixed).bound(0).accumulated_latency_us

    assert bound_us(far) < bound_us(close) == pytest.approx(bound_us([ALWAYS, ALWAYS]), rel=1e-12)


def test_an_infeasible_change_names_a_link_and_leaves_the_analysis_unchanged() -> None:
    path = candidate_paths(NETWORK, "edge1", "cloud")[0]
    analysis = Analysis.of(NETWORK, {0: ShapedFlow(path, 50_000_000, 45_000)})
    before = analysis.bounds
    try:
        analysis.changed({1: ShapedFlow(path, 50_000_000, 45_000)})
    except NoBound as unbounded:
        assert unbounded.link in {"edge1->r6", "r6->r1", "r1->r2"}
    else:
        raise AssertionError("100 of 80 Mb/s were given a bound")
    assert analysis.bounds == before
    assert analysis.changed({}, [0]).bounds == {}


def test_behind_its_meter_a_flow_counts_as_its_meter_passes_it_whatever_its_host_sends_besides() -> None:
    """So no other host's bounds depend on whether the host keeps to its bursts."""
    def bounds_of_other(burst_bytes: int, *more: ShapedFlow) -> float:
        metered = ShapedFlow(("edge1", "r6", "r1", "r2", "cloud"), 5_000_000, burst_bytes, ALWAYS, 40_000)
        other = ShapedFlow(("edge2", "r6", "r1", "r2", "cloud"), 5_000_000, 20_000, ALWAYS, 25_000)
        flows = dict(enumerate((other, metered, *more)))
        return Analysis.of(NETWORK, flows).bound(0).accumulated_latency_us

    beside = ShapedFlow(("edge1", "r6", "r5", "edge4"), 5_000_000, 500_000, ALWAYS, 500_000)
    assert bounds_of_other(10_000) == bounds_of_other(40_000) == bounds_of_other(10_000, beside)
