"""Places on the map, strips of a round, ticks and spectrum."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.trainer.web.records import link, network, round_row
from trainer.web.charts import line_chart, ticks
from trainer.web.flowing import flowing
from trainer.web.gantt import LEFT, WIDTH, gantt
from trainer.web.map_layout import ASIDE, lay_out
from trainer.web.spectrum import spectrum


def test_the_map_has_north_above_and_keeps_hosts_apart() -> None:
    layout = lay_out(network())
    assert layout.positions["edge1"][1] < layout.positions["s1"][1]
    distances = [math.dist(a, b) for a, b in combinations(layout.positions.values(), 2)]
    assert min(distances) >= ASIDE * 0.9


def test_parallel_spans_lie_beside_each_other() -> None:
    changed = network()
    changed["links"] += [link("s1->s2.2"), link("s2->s1.2")]
    first, second = (span for span in lay_out(changed).spans if span.name.startswith("s1-s2"))
    assert first.start != second.start


def test_a_network_without_places_is_drawn_on_a_circle() -> None:
    placeless = network()
    placeless["nodes"] = [
        {name: value for name, value in node.items() if name != "position_km"} for node in placeless["nodes"]
    ]
    assert len(set(lay_out(placeless).positions.values())) == 4


@pytest.mark.parametrize(("changes", "style"), [
    ({}, "load-0"), ({"reserved_bps": 76_000_000}, "load-5"), ({"reserved_bps": 1}, "load-1"), ({"up": False}, "down"),
    ({"up": False, "in_service": False}, "closed"),
])  # fmt: skip
def test_a_span_looks_like_its_worse_direction(changes: dict[str, object], style: str) -> None:
    changed = network()
    changed["links"][1] |= changes
    assert lay_out(changed).spans[0].style == style


def test_the_name_of_a_switch_is_where_no_span_is() -> None:
    changed = network()
    for node in changed["nodes"]:
        node["position_km"] = {"s1": [0, 0], "s2": [0, -20]}.get(node["name"], node["position_km"])
    layout = lay_out(changed)
    assert layout.positions["s2"][1] > layout.positions["s1"][1]
    assert layout.labels["s1"].y < layout.positions["s2"][1] - ASIDE
    assert layout.labels["s1"].anchor != "middle" or layout.labels["s1"].y < layout.positions["s1"][1]


def test_what_flows_is_told_by_the_fuller_direction() -> None:
    rates = {"s1->s2": 0.1e6, "s2->s1": 41e6}
    (span,) = flowing(network(), rates)
    assert (span.name, span.level, span.rates_bps) == ("s1-s2", 3, rates)
    assert flowing(network(), {"s1->s2": 1e3, "s2->s1": 0.0})[0].level == 0
    assert flowing(None, rates) == []


def test_a_round_is_drawn_within_its_picture() -> None:
    drawn = gantt(round_row(1))
    assert drawn is not None
    assert {bar.kind for bar in drawn.bars} == {"computing", "sending", "cloud", "receiving"}
    assert all(bar.x >= LEFT and bar.x + bar.width <= WIDTH for bar in drawn.bars)
    assert len(drawn.bounds) == 2
    assert gantt(round_row(1, transfers=[])) is None


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9))
@example(0.0, 5e-324)
@example(1e9, 1e-6)
@example(2e-13, 6e-13)
@example(-1.5e-8, 51.0)
def test_ticks_cover_the_range_and_are_few(low: float, size: float) -> None:
    found = ticks(low, low + size)
    assert found[0] <= low + (abs(low) + size) * 1e-6 + 1e-9
    assert found[-1] >= low + size - abs(low + size) * 1e-6 - 1e-9
    assert len(found) <= 8


def test_a_chart_has_no_points_that_are_not_numbers() -> None:
    chart = line_chart("Loss", {"a": [(1, 0.5), (2, math.nan), (3, math.inf)], "b": []}, "round")
    assert chart is not None
    assert [len(line.markers) for line in chart.lines] == [1]
    assert line_chart("Loss", {"a": []}, "round") is None


def test_a_lightpath_takes_its_slots_on_every_link_of_its_route() -> None:
    lightpath = {"id": "lp-1", "nodes": ["r1", "r2", "r3"], "channel": 4, "slots": 3, "lit": True,
                 "modulation": "DP-QPSK", "reserved_bps": 1, "rate_bps": 2}  # fmt: skip
    strips = spectrum([lightpath])
    assert [(strip.link, strip.taken) for strip in strips] == [("r1->r2", 3), ("r2->r3", 3)]
