"""The shortest pair of paths without a common span, or duct, is what trying all pairs of paths finds."""

from __future__ import annotations

from itertools import combinations, pairwise

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.domain.path import Path, span_name
from controller.domain.route import Route, link_usage, path_under_failure, survivable_failures
from controller.routing.disjoint_paths import shortest_disjoint_pair
from controller.routing.srlg_disjoint import shortest_srlg_disjoint_pair

NODES = "abcdefg"


@st.composite
def graphs(draw: st.DrawFn) -> nx.DiGraph[str]:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(NODES)
    for a, b in draw(st.sets(st.sampled_from(list(combinations(NODES, 2))), min_size=6)):
        length_km = draw(st.integers(1, 20))
        directions = draw(st.sampled_from([((a, b), (b, a))] * 4 + [((a, b),)]))
        graph.add_edges_from(directions, weight=length_km)
    return graph


def spans(path: Path) -> set[str]:
    return {span_name(a, b) for a, b in pairwise(path)}


def length(graph: nx.DiGraph[str], *paths: Path) -> float:
    return sum(nx.path_weight(graph, list(path), "weight") for path in paths)


@given(graph=graphs(), node_disjoint=st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_pair_is_disjoint_and_none_is_shorter(graph: nx.DiGraph[str], node_disjoint: bool) -> None:
    paths = [tuple(path) for path in nx.all_simple_paths(graph, "a", "g")]
    pairs = [
        (one, other)
        for one, other in combinations(paths, 2)
        if not spans(one) & spans(other) and not (node_disjoint and set(one[1:-1]) & set(other[1:-1]))
    ]
    found = shortest_disjoint_pair(graph, "a", "g", node_disjoint)
    assert (found is None) == (not pairs)
    if found is not None:
        assert found in pairs or found[::-1] in pairs
        assert length(graph, found[0]) <= length(graph, found[1])
        assert length(graph, *found) == min(length(graph, *pair) for pair in pairs)


@given(graph=graphs(), node_disjoint=st.booleans(), data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_duct_holds_both_paths_and_none_are_shorter(
    graph: nx.DiGraph[str], node_disjoint: bool, data: st.DataObject
) -> None:
    lying = st.sampled_from(["duct:x", "duct:y", "duct:z", None])
    ducts = {name: duct for name in sorted({span_name(*edge) for edge in graph.edges}) if (duct := data.draw(lying))}
    paths = [tuple(path) for path in nx.all_simple_paths(graph, "a", "g")]
    pairs = [
        (one, other)
        for one, other in combinations(paths, 2)
        if not spans(one) & spans(other) and not (node_disjoint and set(one[1:-1]) & set(other[1:-1]))
        and not {ducts[span] for span in spans(one) & set(ducts)} & {ducts[span] for span in spans(other) & set(ducts)}
    ]  # fmt: skip
    found = shortest_srlg_disjoint_pair(graph, "a", "g", node_disjoint, ducts)
    assert (found is None) == (not pairs)
    if found is not None:
        assert found in pairs or found[::-1] in pairs
        assert length(graph, found[0]) <= length(graph, found[1])
        assert length(graph, *found) == min(length(graph, *pair) for pair in pairs)


def test_a_duct_that_holds_path_and_backup_is_not_survived_and_costs_nothing() -> None:
    route = Route(("h", "s1", "s2", "s3", "s4", "i"), ("h", "s1", "b", "c", "s4", "i"))
    ducts = {"s1-s2": "duct:fatal", "b-c": "duct:fatal", "s2-s3": "duct:twice", "s3-s4": "duct:twice"}
    assert survivable_failures(route, ducts) == ("s1-s2", "s2-s3", "s3-s4", "duct:twice")
    taken = dict(link_usage(route, ducts))
    assert taken["b->c"] == {"s1-s2", "s2-s3", "s3-s4", "duct:twice"}
    assert taken["s2->s1"] == {"s2-s3", "s3-s4", "duct:twice"} and taken["s3->s2"] == {"s3-s4"}
    assert path_under_failure(route, "duct:twice", ducts) == path_under_failure(route, "s2-s3", ducts)


def test_every_walk_under_a_failure_keeps_to_links_that_are_taken_for_it() -> None:
    route = Route(("h", "s1", "s2", "s3", "s4", "i"), ("h", "s1", "b", "c", "s4", "i"))
    taken = dict(link_usage(route, {}))
    assert path_under_failure(route, "s1-s2", {}) == ("h", "s1", "b", "c", "s4", "i")
    assert path_under_failure(route, "s3-s4", {}) == ("h", "s1", "s2", "s3", "s2", "s1", "b", "c", "s4", "i")
    for failure in ("s1-s2", "s2-s3", "s3-s4"):
        walk = path_under_failure(route, failure, {})
        links = [f"{a}->{b}" for a, b in pairwise(walk)]
        assert len(set(links)) == len(links)
        assert {link for link, failures in taken.items() if not failures} | set(links) <= set(taken)
        assert set(links) == {link for link in links if not taken[link] or failure in taken[link]}
    assert taken["s3->s2"] == {"s3-s4"} and taken["s2->s1"] == {"s2-s3", "s3-s4"}
    assert "s4->s3" not in taken
