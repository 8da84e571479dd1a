"""Edges are assigned to workers exactly: exhaustive search over assignments and cuts finds nothing better."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import PlanError
from trainer.planning.plan import EdgeForecast, Offer, Option
from trainer.planning.worker_assignment import assign_workers, assigned_in_turn

FLOOR_BPS = 1e-3
rates_bps = st.floats(1e6, 1e8)


@st.composite
def rounds(draw: st.DrawFn, least_edges: int = 1, most_edges: int = 4) -> tuple[list[EdgeForecast], int]:
    """Edges with two cuts each; the earlier cut is quick at the edge and slow in the cloud."""
    forecasts = []
    for number in range(draw(st.integers(least_edges, most_edges))):
        early, late = (draw(st.floats(0.01, 1)) for _ in range(2))
        bits = draw(st.floats(1e4, 1e7)), draw(st.floats(1e4, 1e7))
        forecasts.append(EdgeForecast(f"e{number}", (
            Option(1, "fp32", 0.0, 0.0, early + late, bits[0], bits[0]),
            Option(2, "fp32", early, early, late, bits[1], bits[1])), (0.0, 0.0, 0.0)))
    return forecasts, draw(st.integers(1, 6))


@st.composite
def networks(draw: st.DrawFn, edges: list[str], nodes: list[str]) -> dict[str, Offer]:
    """Every edge has a link of its own, every node, too; between them are the links of two regions."""
    usable_bps = {name: draw(rates_bps) for name in (*edges, *nodes, "west", "east")}
    inner = {edge: draw(st.sampled_from(["west", "east"])) for edge in edges}
    shortcut = draw(st.sampled_from(["", *edges]))
    offers = {}
    for node in nodes:
        paths = {edge: (edge, node) if edge == shortcut else (edge, inner[edge], node) for edge in edges}
        offers[node] = Offer({edge: tuple(f"{link}>" for link in path) for edge, path in paths.items()},
                             {edge: tuple(f"<{link}" for link in path[::-1]) for edge, path in paths.items()},
                             {name: rate_bps for link, rate_bps in usable_bps.items()
                              for name in (f"{link}>", f"<{link}")},
                             FLOOR_BPS)
    return offers


def shortest_s(
    forecasts: list[EdgeForecast], offers: Mapping[str, Offer], micro_batches: int, workers: Mapping[str, str]
) -> float:
    """Return the shortest step over all cuts and assignments, computed without the planner."""
    found = float("inf")
    for options in product(*(forecast.options for forecast in forecasts)):
        forward_s = max(f.margin * o.forward_s for f, o in zip(forecasts, options, strict=True))
        backward_s, busy_s = max(o.backward_s for o in options), max(o.forward_s + o.backward_s for o in options)
        for places in product(workers, repeat=len(options)):
            cloud_s = max(sum(o.cloud_s for o, place in zip(options, places, strict=True) if place == worker)
                          for worker in workers)
            loads_s: dict[str, float] = {}
            for forecast, option, place in zip(forecasts, options, places, strict=True):
                offer = offers[workers[place]]
                for link, bits in [(link, option.up_bits) for link in offer.up_links[forecast.edge]] + [
                        (link, option.down_bits) for link in offer.down_links[forecast.edge]]:
                    loads_s[link] = loads_s.get(link, 0.0) + bits / offer.usable_bps[link]
            up_s = max(load_s for link, load_s in loads_s.items() if link.endswith(">"))
            down_s = max(load_s for link, load_s in loads_s.items() if link.startswith("<"))
            stages = [forward_s, up_s, cloud_s, down_s, backward_s]
            found = min(found, max(micro_batches * busy_s, sum(stages) + (micro_batches - 1) * max(stages)))
    return found


@settings(max_examples=60, deadline=None)
@given(rounds(), st.lists(st.sampled_from(["north", "south"]), min_size=1, max_size=3), st.data())
def test_an_assignment_is_as_good_as_exhaustive_search(
    problem: tuple[list[EdgeForecast], int], nodes: list[str], data: st.DataObject
) -> None:
    forecasts, micro_batches = problem
    offers = data.draw(networks([forecast.edge for forecast in forecasts], ["north", "south"]))
    workers = {f"w{number}": node for number, node in enumerate(nodes)}
    assignment = assign_workers(forecasts, offers, micro_batches, workers)
    expected_s = shortest_s(forecasts, offers, micro_batches, workers)
    assert assignment.plan.step_s == pytest.approx(expected_s, rel=1e-5, abs=1e-6)
    assert assignment.plan.proven_s <= expected_s * (1 + 1e-5) + 1e-6


@settings(max_examples=15, deadline=None)
@given(rounds(7, 8), st.data())
def test_a_search_is_not_below_its_bound(problem: tuple[list[EdgeForecast], int], data: st.DataObject) -> None:
    forecasts, micro_batches = problem
    offers = data.draw(networks([forecast.edge for forecast in forecasts], ["north", "south"]))
    workers = {"w0": "north", "w1": "south", "w2": "south"}
    assignment = assign_workers(forecasts, offers, micro_batches, workers)
    assert set(assignment.workers) <= set(workers)
    assert assignment.plan.proven_s <= assignment.plan.step_s * (1 + 1e-9)


def test_edges_go_to_the_node_whose_links_carry_them() -> None:
    """The link to the north is slow; that to the south carries the least rates of two flows only."""
    forecasts = [EdgeForecast(f"e{number}", (Option(1, "fp32", 0.1, 0.1, 0.01, 1e6, 1e6),), (0.0, 0.0))
                 for number in range(3)]
    names = [forecast.edge for forecast in forecasts]
    offers = {node: Offer(dict.fromkeys(names, (node,)), dict.fromkeys(names, (f"{node} down",)),
                          {node: rate_bps, f"{node} down": rate_bps}, floor_bps=4e6)
              for node, rate_bps in (("north", 5e6), ("south", 1e7))}
    workers = {"w0": "north", "w1": "south"}
    assignment = assign_workers(forecasts, offers, 2, workers)
    assert sorted(assignment.workers) == ["w0", "w1", "w1"]
    with pytest.raises(PlanError, match=r"Link south( down)? has 10.00 Mb/s for 3 flows; each needs at least 4 Mb/s"):
        assign_workers(forecasts, offers, 2, {"w1": "south"})


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.integers(1, 6))
def test_no_worker_has_more_than_the_mean_and_one_item(work_s: list[float], number: int) -> None:
    workers = {f"w{worker}": "" for worker in range(number)}
    options = [Option(1, "fp32", 0.0, 0.0, each_s, 0.0, 0.0) for each_s in work_s]
    forecasts = [EdgeForecast(f"e{edge}", (option,), (0.0, 0.0)) for edge, option in enumerate(options)]
    names = [forecast.edge for forecast in forecasts]
    offer = Offer(dict.fromkeys(names, ()), dict.fromkeys(names, ()), {}, FLOOR_BPS)
    places = assigned_in_turn(forecasts, options, {"": offer}, 1, workers)
    loads = [sum(work for work, place in zip(work_s, places, strict=True) if place == worker) for worker in workers]
    assert max(loads) <= sum(work_s) / number + max(work_s) * (1 - 1 / number) + 1e-9
    assert len(set(places)) == min(number, len(work_s))
