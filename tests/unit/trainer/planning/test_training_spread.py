"""How far the edges' computing of a micro-batch differs, and how little the layers' grain allows."""

from __future__ import annotations

import pytest

from trainer.planning.plan import EdgeForecast, Offer, Option, least_spread_s
from trainer.planning.planner import plan_round

LINKS = {"fast": ("link",), "slow": ("link",)}


def forecast(edge: str, *forward_ms: float) -> EdgeForecast:
    options = tuple(Option(cut, "fp32", time / 1e3, 2 * time / 1e3, 0.001 * (9 - cut), 1e5, 1e5)
                    for cut, time in enumerate(forward_ms, start=1))
    return EdgeForecast(edge, options, (0.0,) * 9)


@pytest.mark.parametrize(("fast", "least_ms"), [((5, 9, 14), 8), ((5, 9, 14, 20), 2), ((5, 22, 30), 0), ((30,), 22)])
def test_the_least_spread_is_to_the_time_nearest_below_the_slowest_edges(
    fast: tuple[float, ...], least_ms: float
) -> None:
    forecasts = [forecast("fast", *fast), forecast("slow", 10, 22)]
    assert least_spread_s(forecasts, 0.022) == pytest.approx(least_ms / 1e3)


def test_a_plan_tells_its_spread_and_the_least_one() -> None:
    plan = plan_round([forecast("fast", 5, 9, 14), forecast("slow", 10, 22)],
                      Offer(LINKS, LINKS, {"link": 1e9}, 1e5), 4)
    times = [edge.forward_s for edge in plan.edges]
    assert plan.training_spread_s == pytest.approx(max(times) - min(times))
    assert 0 <= plan.least_spread_s <= plan.training_spread_s
