"""The planner is exact: on instances small enough, trying everything finds nothing better."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import PlanError
from trainer.planner import EdgeForecast, Offer, RoundPlan, plan_round, shared_time_s

LAYERS = 4
FLOOR_BPS = 1e6


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[EdgeForecast], Offer, int]:
    """Up to three edges, each with an access link, and one shared link."""

    def seconds() -> list[float]:
        return draw(st.lists(st.floats(0, 2), min_size=LAYERS + 1, max_size=LAYERS + 1))

    names = [f"e{number}" for number in range(draw(st.integers(1, 3)))]
    forecasts = []
    for name in names:
        bits = [draw(st.floats(1e3, 1e8)) for _ in range(LAYERS + 1)]
        forecasts.append(
            EdgeForecast(name, tuple(sorted(seconds())), tuple(sorted(seconds())),
                         tuple(sorted(seconds(), reverse=True)), tuple(bits), tuple(bits), (0.0,) * (LAYERS + 1))
        )
    usable = {"up": draw(st.floats(4e6, 1e9)), "down": draw(st.floats(4e6, 1e9))}
    for name in names:
        usable[f"{name}-access"] = draw(st.floats(4e6, 1e9))
    offer = Offer(
        up_links={name: (f"{name}-access", "up") for name in names},
        down_links=dict.fromkeys(names, ("down",)),
        usable_bps=usable,
        floor_bps=FLOOR_BPS,
    )
    return forecasts, offer, draw(st.integers(1, 5))


def fixed(forecasts: list[EdgeForecast], offer: Offer, micros: int, cuts: tuple[int, ...]) -> RoundPlan:
    return plan_round(forecasts, offer, micros, [[cut] for cut in cuts])


@settings(max_examples=60, deadline=None)
@given(problems())
def test_no_choice_of_cuts_beats_the_plan(problem: tuple[list[EdgeForecast], Offer, int]) -> None:
    forecasts, offer, micros = problem
    plan = plan_round(forecasts, offer, micros, [range(LAYERS + 1)] * len(forecasts))
    best = min(
        fixed(forecasts, offer, micros, cuts).step_s for cuts in product(range(LAYERS + 1), repeat=len(forecasts))
    )
    assert plan.step_s == pytest.approx(best, abs=2e-6)


@settings(max_examples=100, deadline=None)
@given(problems())
def test_no_link_is_asked_for_more_than_it_offers_and_no_flow_gets_less_than_the_floor(
    problem: tuple[list[EdgeForecast], Offer, int]
) -> None:
    forecasts, offer, micros = problem
    plan = plan_round(forecasts, offer, micros, [range(LAYERS + 1)] * len(forecasts))
    used = dict.fromkeys(offer.usable_bps, 0.0)
    for edge in plan.edges:
        assert min(edge.up_bps, edge.down_bps) >= FLOOR_BPS - 1
        for link in offer.up_links[edge.edge]:
            used[link] += edge.up_bps
        for link in offer.down_links[edge.edge]:
            used[link] += edge.down_bps
    assert all(used[link] <= offer.usable_bps[link] * (1 + 1e-6) for link in used)


@settings(max_examples=100, deadline=None)
@given(problems())
def test_every_segment_above_the_floor_takes_the_common_transmission_delay(
    problem: tuple[list[EdgeForecast], Offer, int]
) -> None:
    forecasts, offer, micros = problem
    plan = plan_round(forecasts, offer, micros, [range(LAYERS + 1)] * len(forecasts))
    for forecast, edge in zip(forecasts, plan.edges, strict=True):
        time_s = forecast.up_bits[edge.cut] / edge.up_bps
        assert time_s <= plan.transmission_delay_s * (1 + 1e-5)
        if edge.up_bps > FLOOR_BPS:
            assert time_s == pytest.approx(plan.transmission_delay_s, rel=1e-4)


@given(
    bits=st.lists(st.floats(0, 1e9), min_size=1, max_size=6),
    usable_bps=st.floats(6e6, 1e9),
)
def test_a_shared_link_is_used_to_the_full_and_not_beyond(bits: list[float], usable_bps: float) -> None:
    time_s = shared_time_s(bits, usable_bps, FLOOR_BPS)
    if time_s > 0:
        rates = [max(one / time_s, FLOOR_BPS) for one in bits]
        assert sum(rates) <= usable_bps * (1 + 1e-6)


def test_a_link_without_room_for_the_floors_is_named() -> None:
    forecast = EdgeForecast("e", (0.0, 1.0), (0.0, 1.0), (1.0, 0.0), (8e6, 1e6), (8e6, 1e6), (0.0, 0.0))
    offer = Offer({"e": ("a->b",)}, {"e": ("b->a",)}, {"a->b": 0.5e6, "b->a": 5e6}, FLOOR_BPS)
    with pytest.raises(PlanError, match=r"a->b has 0\.50 Mb/s"):
        plan_round([forecast], offer, 4, [[0, 1]])


def test_cuts_change_only_when_moving_the_layers_is_paid_back() -> None:
    offer = Offer({"e": ("up",)}, {"e": ("down",)}, {"up": 1e7, "down": 1e7}, FLOOR_BPS)

    def planned(state_bits: float) -> int:
        forecast = EdgeForecast("e", (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (2e6, 1e6), (2e6, 1e6), (0.0, state_bits))
        return plan_round([forecast], offer, 1, [[0, 1]], current=[0], steps=4).cuts[0]

    assert planned(1e6) == 1  # 0.2 s a step gained, 0.1 s to move
    assert planned(1e9) == 0  # 100 s to move


def test_a_gain_smaller_than_the_predictions_error_moves_nothing() -> None:
    offer = Offer({"e": ("up",)}, {"e": ("down",)}, {"up": 1e7, "down": 1e7}, FLOOR_BPS)
    forecast = EdgeForecast("e", (0.0, 0.0), (0.0, 0.0), (1.0, 0.97), (1e3, 1e3), (1e3, 1e3), (0.0, 0.0))
    assert plan_round([forecast], offer, 1, [[0, 1]]).cuts == (1,)
    assert plan_round([forecast], offer, 1, [[0, 1]], current=[0]).cuts == (0,)
