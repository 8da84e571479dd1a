"""Flows that only have a burst left, as those that have ended, beside flows that are active at times only."""

from __future__ import annotations

from controller.booking.peak_load import Activity
from controller.calculus.network_bounds import Analysis, ShapedFlow
from controller.domain.network import network_from_map
from controller.domain.reservation import Window
from topologies.map_file.loader import load_map

NETWORK = network_from_map(load_map("metro"))
ENDED = ShapedFlow(("load1", "r6", "r1", "r2", "cloud"), 0, 100_000)
PERIODIC = ShapedFlow(
    ("edge1", "r6", "r1", "r2", "cloud"), 5_000_000, 20_000, Activity(0.0, 1e9, Window(500_000, 0, 100_000))
)


def test_a_burst_without_rate_counts_where_activities_are_distinguished() -> None:
    alone = Analysis.of(NETWORK, {"periodic": PERIODIC}).bound("periodic").accumulated_latency_us
    ended_first = Analysis[str].of(NETWORK, {}).changed({"ended": ENDED}).changed({"periodic": PERIODIC})
    ended_last = Analysis.of(NETWORK, {"periodic": PERIODIC}).changed({"ended": ENDED})
    together = Analysis.of(NETWORK, {"periodic": PERIODIC, "ended": ENDED}).bound("periodic").accumulated_latency_us
    assert together > alone + 5_000
    for analysis in (ended_first, ended_last):
        assert together * 0.999 <= analysis.bound("periodic").accumulated_latency_us <= together * 1.02
    assert ended_first.changed({}, ["ended"]).bound("periodic").accumulated_latency_us <= alone * 1.02
