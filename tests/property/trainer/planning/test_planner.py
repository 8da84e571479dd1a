"""The planner is exact: exhaustive search of small instances finds nothing better."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from trainer.errors import PlanError
from trainer.planning.pipeline_model import SharedLinks, StageTimes
from trainer.planning.plan import EdgeForecast, Offer, Option
from trainer.planning.planner import alternatives, plan_round

LAYERS = 3
FLOOR_BPS = 1e6


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[EdgeForecast], Offer, int]:
    """Up to three edges, the first possibly with two codecs, each with an access link, and one shared link.

    To cuts of at most `frozen` layers no gradients come back, and they have no backward pass.
    """

    def seconds() -> list[float]:
        return draw(st.lists(st.floats(0, 2), min_size=LAYERS + 1, max_size=LAYERS + 1))

    names = [f"e{number}" for number in range(draw(st.integers(1, 3)))]
    forecasts = []
    for name in names:
        bits = [draw(st.floats(1e3, 1e8)) for _ in range(LAYERS + 1)]
        forward, backward, cloud = sorted(seconds()), sorted(seconds()), sorted(seconds(), reverse=True)
        frozen = draw(st.integers(-1, LAYERS))
        options = [Option(cut, "fp32", forward[cut], backward[cut] if cut > frozen else 0.0, cloud[cut], bits[cut],
                          bits[cut] / 2 if cut > frozen else 0.0) for cut in range(LAYERS + 1)]
        if name == names[0] and draw(st.booleans()):
            options += [Option(o.cut, "bf16", o.forward_s, o.backward_s, o.cloud_s, o.up_bits / 2, o.down_bits / 2)
                        for o in options]
        noise_share, tail_s = draw(st.floats(0, 0.5)), draw(st.just(0.0) | st.floats(0, 2))
        forecasts.append(EdgeForecast(name, tuple(options), (0.0,) * (LAYERS + 1), noise_share, tail_s))
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


def step_s(forecasts: list[EdgeForecast], offer: Offer, micro_batches: int, options: tuple[Option, ...]) -> float:
    """Compute the step time independently of the planner's tables."""

    def shared_s(bits: dict[str, float], paths: dict[str, tuple[str, ...]]) -> float:
        def fits(time_s: float) -> bool:
            load = dict.fromkeys(offer.usable_bps, 0.0)
            for edge, sent in bits.items():
                for link in paths[edge]:
                    load[link] += max(sent / time_s, offer.floor_bps) if sent else 0.0
            return all(load[link] <= offer.usable_bps[link] * (1 + 1e-9) for link in load)

        low, high = 1e-7, 1e3
        while high / low > 1 + 1e-8:
            middle = (low * high) ** 0.5
            low, high = (low, middle) if fits(middle) else (middle, high)
        return high

    pairs = list(zip(forecasts, options, strict=True))
    forward = max(f.margin * o.forward_s for f, o in pairs)
    backward = max(o.backward_s for o in options)
    up = shared_s({f.edge: o.up_bits for f, o in pairs}, dict(offer.up_links))
    down = shared_s({f.edge: o.down_bits for f, o in pairs}, dict(offer.down_links))
    stages = [forward, up, sum(o.cloud_s for o in options), down, max(f.tail_s for f in forecasts), backward]
    busy = max(o.forward_s + f.tail_s + o.backward_s for f, o in pairs)
    return max(micro_batches * busy, sum(stages) + (micro_batches - 1) * max(stages))


@settings(max_examples=40, deadline=None)
@given(problems())
def test_no_choice_beats_the_plan_and_its_proven_bound_is_tight(problem: tuple[list[EdgeForecast], Offer, int]) -> None:
    forecasts, offer, micro_batches = problem
    plan = plan_round(forecasts, offer, micro_batches)
    best = min(step_s(forecasts, offer, micro_batches, chosen) for chosen in product(*(f.options for f in forecasts)))
    assert plan.step_s == pytest.approx(best, rel=1e-6, abs=1e-6)
    assert plan.proven_s == pytest.approx(plan.step_s, rel=1e-9, abs=1e-6)


RESIDUAL = ((0.0010, 0.0017, 0.00226, 137.0e6), (0.0048, 0.0081, 0.00166, 137.0e6), (0.0076, 0.0131, 0.00119, 68.6e6),
            (0.0102, 0.0176, 0.00080, 68.6e6), (0.0121, 0.0211, 0.00049, 34.3e6), (0.0140, 0.0246, 0.00021, 34.3e6),
            (0.0141, 0.0247, 0.00010, 0.5e6))
"""A residual network at cuts 1 to 7: seconds forward, backward and in the cloud, bits up and down."""


@settings(max_examples=15, deadline=None)
@example([0.36, 1.1, 0.36, 1.23, 0.73, 1.45, 1.57, 0.96, 1.6, 0.7], 5e9)
@given(st.lists(st.floats(0.3, 1.6), min_size=10, max_size=10), st.floats(3e9, 20e9))
def test_the_plan_for_ten_edges_on_separate_links_is_proven_within_the_budget(
    slowness: list[float], link_bps: float
) -> None:
    forecasts = [
        EdgeForecast(f"e{number}", tuple(
            Option(cut, "fp32", slow * forward_s, slow * backward_s, cloud_s, bits, bits)
            for cut, (forward_s, backward_s, cloud_s, bits) in enumerate(RESIDUAL, 1)
        ), (0.0,) * 8, 0.03)
        for number, slow in enumerate(slowness)
    ]
    links = {forecast.edge: (forecast.edge,) for forecast in forecasts}
    plan = plan_round(forecasts, Offer(links, links, dict.fromkeys(links, link_bps), FLOOR_BPS), 8)
    assert plan.proven_s == pytest.approx(plan.step_s, rel=1e-9, abs=1e-7)


@settings(max_examples=40, deadline=None)
@given(problems())
def test_the_next_best_cut_is_never_better_than_the_plan(problem: tuple[list[EdgeForecast], Offer, int]) -> None:
    forecasts, offer, micro_batches = problem
    plan = plan_round(forecasts, offer, micro_batches)
    others = alternatives(forecasts, offer, micro_batches, plan)
    assert [other.edge for other in others] == [edge.edge for edge in plan.edges]
    for other, edge in zip(others, plan.edges, strict=True):
        assert other.cut != edge.cut
        assert other.step_s >= plan.step_s - 1e-6


@settings(max_examples=40, deadline=None)
@given(problems())
def test_rates_fit_the_links_and_all_segments_above_the_floor_take_the_common_transmission_delay(
    problem: tuple[list[EdgeForecast], Offer, int]
) -> None:
    forecasts, offer, micro_batches = problem
    plan = plan_round(forecasts, offer, micro_batches)
    used = dict.fromkeys(offer.usable_bps, 0.0)
    for edge in plan.edges:
        assert edge.up_bps >= FLOOR_BPS - 1
        assert edge.down_bps >= FLOOR_BPS - 1 or edge.down_bps == 0
        for link in offer.up_links[edge.edge]:
            used[link] += edge.up_bps
        for link in offer.down_links[edge.edge]:
            used[link] += edge.down_bps
    assert all(used[link] <= offer.usable_bps[link] * (1 + 1e-6) for link in used)
    for forecast, edge in zip(forecasts, plan.edges, strict=True):
        chosen = next(o for o in forecast.options if (o.cut, o.codec) == (edge.cut, edge.codec))
        time_s = chosen.up_bits / edge.up_bps
        assert time_s <= plan.transmission_delay_s * (1 + 1e-5)
        assert (edge.down_bps == 0) == (chosen.down_bits == 0)
        if edge.up_bps > FLOOR_BPS:
            assert time_s == pytest.approx(plan.transmission_delay_s, rel=1e-4)


@given(
    bits=st.lists(st.floats(0, 1e9), min_size=1, max_size=6),
    usable_bps=st.floats(6e6, 1e9),
)
def test_a_shared_link_is_fully_used_and_not_overloaded(bits: list[float], usable_bps: float) -> None:
    assume(max(bits) > 1)
    time_s = SharedLinks([("a",)] * len(bits), {"a": usable_bps}, FLOOR_BPS).time_s(np.array(bits))
    rates = [max(flow_bits / time_s, FLOOR_BPS) if flow_bits else 0.0 for flow_bits in bits]
    assert sum(rates) <= usable_bps * (1 + 1e-6)
    if any(rate > FLOOR_BPS * (1 + 1e-9) for rate in rates):
        assert sum(rates) >= usable_bps * (1 - 1e-6)


@given(
    times=st.lists(st.floats(0, 2), min_size=6, max_size=6), busy_s=st.floats(0, 4), micro_batches=st.integers(1, 12)
)
def test_the_step_time_is_the_makespan_of_the_pipeline(
    times: list[float], busy_s: float, micro_batches: int
) -> None:
    free = [0.0] * 6
    for _ in range(micro_batches):
        ready = 0.0
        for stage, seconds in enumerate(times):
            free[stage] = ready = max(ready, free[stage]) + seconds
    forward, up, cloud, down, tail, backward = times
    stages = StageTimes(forward, backward, busy_s, cloud, up, down, tail)
    assert stages.step_s(micro_batches) == pytest.approx(max(free[-1], micro_batches * busy_s))
    assert stages.bound_s(micro_batches) <= stages.step_s(micro_batches) + 1e-9


@given(st.lists(st.floats(0, 2), min_size=9, max_size=9), st.integers(1, 8))
def test_with_protected_labels_the_step_time_is_a_lower_bound_of_the_simulated_pipeline(
    times: list[float], micro_batches: int
) -> None:
    forward, up, cloud, down, tail, up_again, cloud_again, down_again, backward = times
    stages = StageTimes(forward, backward, forward + tail + backward, cloud + cloud_again, up + up_again,
                    down + down_again, tail)
    places = ("edge", "up", "cloud", "down", "edge", "up", "cloud", "down", "edge")
    ended = last_end_s(list(zip(places, times, strict=True)), micro_batches, stages.period_s)
    assert stages.step_s(micro_batches) <= ended + 1e-9
    if micro_batches == 1:
        assert stages.step_s(1) == pytest.approx(ended)


def last_end_s(route: list[tuple[str, float]], micro_batches: int, period_s: float) -> float:
    """Return when the last micro-batch ends; segments are sent periodically.

    Every resource serves one job at a time: the edge the earliest stage first, the others first come, first served.
    """
    busy_until = dict.fromkeys([place for place, _ in route], 0.0)
    ready = [(0.0, 0, micro) for micro in range(micro_batches)]
    ended = 0.0
    while ready:
        begins = {job: max(job[0], busy_until[route[job[1]][0]]) for job in ready}
        job = min(ready, key=lambda job: (begins[job], job[1] if route[job[1]][0] == "edge" else job[0], job))
        ready.remove(job)
        _, stage, micro = job
        place, seconds = route[stage]
        busy_until[place] = done_s = begins[job] + seconds
        if stage + 1 == len(route):
            ended = max(ended, done_s)
        else:
            due_s = route[0][1] + micro * period_s if stage == 0 else 0.0
            ready.append((max(done_s, due_s), stage + 1, micro))
    return ended


def option(cut: int, cloud_s: float = 0.0, bits: float = 1e3) -> Option:
    return Option(cut, "fp32", 0.0, 0.0, cloud_s, bits, bits)


def test_a_link_that_cannot_carry_the_floors_is_named() -> None:
    forecast = EdgeForecast("e", (option(0, bits=8e6), option(1, bits=1e6)), (0.0, 0.0))
    offer = Offer({"e": ("a->b",)}, {"e": ("b->a",)}, {"a->b": 0.5e6, "b->a": 5e6}, FLOOR_BPS)
    with pytest.raises(PlanError, match=r"a->b has 0\.50 Mb/s"):
        plan_round([forecast], offer, 4)


WIDE = Offer({"e": ("up",)}, {"e": ("down",)}, {"up": 1e7, "down": 1e7}, FLOOR_BPS)


def test_cuts_change_only_if_the_time_to_move_layers_is_regained() -> None:
    def planned(state_bits: float) -> int:
        forecast = EdgeForecast("e", (option(0, bits=2e6), option(1, bits=1e6)), (0.0, state_bits))
        return plan_round([forecast], WIDE, 1, current=[0], steps=4).cuts[0]

    assert planned(1e6) == 1  # 0.2 s a step gained, 0.1 s to move
    assert planned(1e9) == 0  # 100 s to move


def test_a_gain_below_the_prediction_error_changes_no_cut() -> None:
    forecast = EdgeForecast("e", (option(0, cloud_s=1.0), option(1, cloud_s=0.97)), (0.0, 0.0))
    assert plan_round([forecast], WIDE, 1).cuts == (1,)
    assert plan_round([forecast], WIDE, 1, current=[0]).cuts == (0,)


def test_an_edge_without_own_gain_keeps_its_cut_while_another_moves() -> None:
    def forecast(name: str, *options: Option) -> EdgeForecast:
        return EdgeForecast(name, options, (0.0, 1e3))

    slow = forecast("slow", Option(0, "fp32", 0.1, 0.1, 0.1, 1e3, 1e3), Option(1, "fp32", 1.0, 1.0, 0.0, 1e3, 1e3))
    quick = forecast("quick", Option(0, "fp32", 0.0, 0.0, 0.2, 1e3, 1e3), Option(1, "fp32", 0.1, 0.1, 0.2, 1e3, 1e3))
    links = {"slow": ("up",), "quick": ("up",)}
    offer = Offer(links, dict.fromkeys(links, ("down",)), {"up": 1e8, "down": 1e8}, FLOOR_BPS)
    assert plan_round([slow, quick], offer, 4, current=[1, 1], steps=4).cuts == (0, 1)


def test_a_lossy_codec_is_used_only_where_it_saves_time() -> None:
    def planned(bits: float) -> str:
        options = (Option(1, "fp32", 0.5, 0.5, 0.1, bits, bits), Option(1, "bf16", 0.5, 0.5, 0.1, bits / 2, bits / 2))
        return plan_round([EdgeForecast("e", options, (0.0, 0.0))], WIDE, 8).edges[0].codec

    assert planned(1e7) == "bf16"  # a second on the link, as long as the edge computes
    assert planned(1e5) == "fp32"  # a hundredth
