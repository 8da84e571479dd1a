"""The wiring check: frames that say where they come from, and sentences about what is not as planned."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.dataplane.lldp import PortKey, lldp_frame, read_lldp_frame
from controller.domain.network import network_from_map
from controller.switches.wiring_check import complaints
from topologies.loader import load_map

PAIR = network_from_map(load_map("pair"))
BOTH = frozenset({1, 2})
PORTS = {1: dict.fromkeys((1, 2, 3, 4), True), 2: dict.fromkeys((1, 2, 3), True)}
HEARD: dict[PortKey, PortKey] = {(1, 1): (2, 1), (2, 1): (1, 1)}


@given(st.integers(0, 2**64 - 1), st.integers(1, 2**32 - 1))
def test_a_frame_says_where_it_comes_from(datapath_id: int, port: int) -> None:
    assert read_lldp_frame(lldp_frame(datapath_id, port)) == (datapath_id, port)


@given(st.binary(max_size=200), st.integers(0, 100))
def test_noise_is_nobodys_frame(noise: bytes, cut: int) -> None:
    assert read_lldp_frame(noise) is None
    assert read_lldp_frame(lldp_frame(1, 2)[: 14 + cut % 20] + noise[:0]) is None


def test_a_network_wired_as_planned_draws_no_complaint() -> None:
    assert complaints(PAIR, BOTH, PORTS, HEARD, BOTH) == []


def test_a_missing_switch_is_named_with_its_datapath_id() -> None:
    ports = {1: PORTS[1]}
    assert complaints(PAIR, frozenset({1}), ports, {}, frozenset({1})) == [
        "Switch s2 (datapath id 0000000000000002) is not connected."
    ]


def test_a_switch_that_is_not_on_the_map_is_named() -> None:
    (sentence,) = complaints(PAIR, BOTH | {9}, PORTS, HEARD, BOTH)
    assert sentence == "Datapath id 0000000000000009 is connected but not on map pair."


def test_a_port_that_is_missing_or_down_is_named_with_its_neighbour() -> None:
    ports = {1: {1: True, 2: False, 3: True}, 2: PORTS[2]}
    assert complaints(PAIR, BOTH, ports, HEARD, BOTH) == [
        "Switch s1: port 2 is down; the map puts edge1 port 1 there.",
        "Switch s1: port 4 is missing; the map puts load1 port 1 there.",
    ]


def test_a_wrong_neighbour_is_named() -> None:
    (sentence,) = complaints(PAIR, BOTH, PORTS, HEARD | {(1, 1): (2, 3)}, BOTH)
    assert sentence == "Switch s1: port 1 is wired to s2 port 3; the map puts s2 port 1 there."


def test_silence_means_nothing_until_both_ends_have_settled() -> None:
    heard: dict[PortKey, PortKey] = {(2, 1): (1, 1)}
    assert complaints(PAIR, BOTH, PORTS, heard, frozenset({1})) == []
    (sentence,) = complaints(PAIR, BOTH, PORTS, heard, BOTH)
    assert sentence == "Switch s1: port 1 hears nothing from its neighbour; the map puts s2 port 1 there."
