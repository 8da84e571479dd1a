"""The choice of paths against trying every choice; its effort is bounded, and its gap is proven."""

from __future__ import annotations

import random
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.routing.min_max_load import MAX_WORK, TOLERANCE, PathChoice, choose_paths

LINKS = ["a", "b", "c", "d", "e", "f"]
PATHS = st.lists(st.lists(st.sampled_from(LINKS), min_size=1, max_size=4, unique=True), min_size=1, max_size=4)
VOLUMES = st.lists(st.tuples(st.integers(1, 5) | st.integers(1, 10**9), PATHS), min_size=1, max_size=5)
CAPACITIES = st.fixed_dictionaries({link: st.integers(1, 10**8) for link in LINKS})


def least_time(volumes: list[tuple[int, list[list[str]]]], free_bps: dict[str, int]) -> float:
    return min(time_of(volumes, free_bps, choice) for choice in product(*(range(len(p)) for _, p in volumes)))


def time_of(
    volumes: list[tuple[int, list[list[str]]]], free_bps: dict[str, int], chosen: tuple[int, ...]
) -> float:
    load = dict.fromkeys(LINKS, 0)
    for (size, paths), choice in zip(volumes, chosen, strict=True):
        for link in paths[choice]:
            load[link] += size
    return max(load[link] / free_bps[link] for link in LINKS)


@given(VOLUMES, CAPACITIES, st.sampled_from([0, 50, MAX_WORK]))
@settings(deadline=None)
def test_the_choice_and_its_bound_agree_with_trying_every_choice(
    volumes: list[tuple[int, list[list[str]]]], free_bps: dict[str, int], max_work: int
) -> None:
    choice = choose_paths([size for size, _ in volumes], [paths for _, paths in volumes], free_bps, max_work)
    least_s = least_time(volumes, free_bps)
    assert choice.time_s == time_of(volumes, free_bps, choice.chosen)
    assert choice.bound_s <= least_s <= choice.time_s
    if choice.is_exact:
        assert choice.time_s <= least_s * (1 + 2 * TOLERANCE)
    if max_work == MAX_WORK:
        assert choice.is_exact


def similar_volumes(count: int) -> PathChoice:
    """Volumes of nearly the same size, each on any two of many equal links: most choices are nearly as good."""
    chance = random.Random(1)
    links = [f"l{number}" for number in range(17)]
    paths = [[chance.sample(links, 2) for _ in range(6)] for _ in range(count)]
    sizes = [1_000_000 + chance.randrange(20_000) for _ in range(count)]
    return choose_paths(sizes, paths, dict.fromkeys(links, 1_000_000))


def test_many_similar_volumes_are_answered_within_the_effort_with_a_gap() -> None:
    choice = similar_volumes(40)
    assert not choice.is_exact
    assert 0 < 1 - choice.bound_s / choice.time_s < 0.2
    assert choice.work <= MAX_WORK * 1.01


def test_the_same_question_gets_the_same_answer() -> None:
    assert similar_volumes(24) == similar_volumes(24)
