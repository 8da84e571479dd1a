"""The spans named by `no_path`: all are down, and with them up there is a path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.domain.network import network_from_map
from controller.routing.candidates import candidate_paths
from controller.routing.partition import no_path, separating_spans
from topologies.map_file.loader import load_map

METRO = network_from_map(load_map("metro"))
PAIR = network_from_map(load_map("pair"))
HOSTS = [host.name for host in METRO.hosts]


@given(st.sets(st.sampled_from(sorted(METRO.links))), st.permutations(HOSTS))
def test_the_spans_named_are_a_cut_of_spans_that_are_down(down: set[str], hosts: list[str]) -> None:
    source, destination = hosts[:2]
    both = frozenset(down) | {"->".join(reversed(link.split("->"))) for link in down}
    spans = separating_spans(METRO, source, destination, frozenset(down))
    assert bool(spans) == (not candidate_paths(METRO, source, destination, both))
    assert set(spans) <= {METRO.links[link].span for link in down}
    cut = frozenset(name for name in METRO.links if METRO.links[name].span in spans)
    assert not spans or not candidate_paths(METRO, source, destination, cut)


@pytest.mark.parametrize(("down", "sentence"), [
    ({"s1->s2"}, "up: no path from edge1 to cloud: s1-s2 is down."),
    ({"s2->cloud", "s1->s2", "load1->s1"}, "up: no path from edge1 to cloud: s1-s2 is down."),
])  # fmt: skip
def test_a_refusal_names_the_spans_nearest_to_a_host(down: set[str], sentence: str) -> None:
    refusal = no_path(PAIR, "up", "edge1", "cloud", frozenset(down))
    assert refusal.detail == sentence
    assert refusal.facts == {"flow": "up", "down": ["s1-s2"]}


def test_several_spans_are_listed() -> None:
    around_r6 = frozenset(link.name for link in METRO.links_from("r6") if METRO.nodes[link.destination].is_switch)
    assert no_path(METRO, "up", "edge1", "cloud", around_r6).detail == (
        "up: no path from edge1 to cloud: r1-r6 and r5-r6 are down."
    )
