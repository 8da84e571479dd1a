"""Whatever a network file holds, it is read or its mistakes are told; what is written reads the same."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.calculus.output_port_bounds import output_port_bounds
from controller.calculus.output_port_network import NetworkFileError, network_from_json, network_to_json
from tests.unit.controller.calculus.test_output_port_network import DEMO

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**9) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["10us", "1kB", "3Mbps", "s0-o0", "IS", "FIFO", "5", "1e400b", "2 GBps", "-1b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


def places(document: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places of a document."""
    keys: list[Any] = list(document) if isinstance(document, dict) else []
    keys = list(range(len(document))) if isinstance(document, list) else keys
    return [place for key in keys for place in ((*way, key), *places(document[key], (*way, key)))]


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """The demonstration with up to three values replaced, removed or added."""
    document: Any = copy.deepcopy(DEMO)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(places(document)))
        target = document
        for key in way:
            target = target[key]
        if isinstance(target, dict) and draw(st.booleans()):
            del target[last]
        else:
            target[last] = draw(VALUES)
        if not places(document):
            break
    return document


@given(document=documents() | VALUES)
@settings(max_examples=300, deadline=None)
def test_a_file_is_read_or_its_mistakes_are_told(document: Any) -> None:
    with suppress(NetworkFileError):
        network = network_from_json(document)
        assert network_from_json(json.loads(json.dumps(network_to_json(network)))) == network


@given(document=documents())
@settings(max_examples=100, deadline=None)
def test_every_network_that_is_read_is_analysed(document: Any) -> None:
    try:
        network = network_from_json(document)
    except NetworkFileError:
        return
    for bound in output_port_bounds(network, forests=1, rounds=1):
        if bound.total_flow_us is not None:
            assert bound.linear_program_us is not None
            assert 0 <= bound.linear_program_us <= bound.total_flow_us * (1 + 1e-9)
