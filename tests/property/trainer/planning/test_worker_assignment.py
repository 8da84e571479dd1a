"""Edges are assigned to workers exactly: exhaustive search over assignments and cuts finds nothing better."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.planning.plan import EdgeForecast, Offer, Option
from trainer.planning.worker_assignment import assign_workers, longest_first

LINK_BPS = 1e7


@st.composite
def rounds(draw: st.DrawFn) -> tuple[list[EdgeForecast], int]:
    """Up to four edges with two cuts each; the earlier cut is quick at the edge and slow in the cloud."""
    forecasts = []
    for number in range(draw(st.integers(1, 4))):
        early, late = (draw(st.floats(0.01, 1)) for _ in range(2))
        bits = draw(st.floats(1e4, 1e7)), draw(st.floats(1e4, 1e7))
        forecasts.append(EdgeForecast(f"e{number}", (
            Option(1, "fp32", 0.0, 0.0, early + late, bits[0], bits[0]),
            Option(2, "fp32", early, early, late, bits[1], bits[1])), (0.0, 0.0, 0.0)))
    return forecasts, draw(st.integers(1, 6))


def shortest_s(forecasts: list[EdgeForecast], micro_batches: int, workers: int) -> float:
    """Return the shortest step over all cuts and assignments, computed without the planner."""
    found = float("inf")
    for options in product(*(forecast.options for forecast in forecasts)):
        forward_s = max(f.margin * o.forward_s for f, o in zip(forecasts, options, strict=True))
        backward_s, busy_s = max(o.backward_s for o in options), max(o.forward_s + o.backward_s for o in options)
        link_s = sum(o.up_bits for o in options) / LINK_BPS
        for places in product(range(workers), repeat=len(options)):
            cloud_s = max(sum(o.cloud_s for o, place in zip(options, places, strict=True) if place == worker)
                          for worker in range(workers))
            stages = [forward_s, link_s, cloud_s, link_s, backward_s]
            found = min(found, max(micro_batches * busy_s, sum(stages) + (micro_batches - 1) * max(stages)))
    return found


@settings(max_examples=40, deadline=None)
@given(rounds(), st.integers(1, 3))
def test_an_assignment_is_as_good_as_exhaustive_search(problem: tuple[list[EdgeForecast], int], workers: int) -> None:
    forecasts, micro_batches = problem
    names = [forecast.edge for forecast in forecasts]
    offer = Offer(dict.fromkeys(names, ("up",)), dict.fromkeys(names, ("down",)), {"up": LINK_BPS, "down": LINK_BPS},
                  1e-3)
    assignment = assign_workers(forecasts, offer, micro_batches, [f"w{number}" for number in range(workers)])
    expected_s = shortest_s(forecasts, micro_batches, workers)
    assert assignment.plan.step_s == pytest.approx(expected_s, rel=1e-5, abs=1e-6)
    assert assignment.plan.proven_s <= expected_s * (1 + 1e-5) + 1e-6


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.integers(1, 6))
def test_no_worker_has_more_than_the_mean_and_one_item(work_s: list[float], workers: int) -> None:
    places = longest_first(work_s, workers)
    loads = [sum(work for work, place in zip(work_s, places, strict=True) if place == worker)
             for worker in range(workers)]
    assert max(loads) <= sum(work_s) / workers + max(work_s) * (1 - 1 / workers) + 1e-9
    assert len(set(places)) == min(workers, len(work_s))
