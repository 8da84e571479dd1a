"""The wiring check: LLDP frames, and differences between cabling and map."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.dataplane.lldp import PortKey, lldp_frame, read_lldp_frame
from controller.domain.network import network_from_map
from controller.switches.wiring_check import wiring_problems
from topologies.map_file.loader import load_map

PAIR = network_from_map(load_map("pair"))
BOTH = frozenset({1, 2})
PORTS = {1: dict.fromkeys((1, 2, 3, 4), True), 2: dict.fromkeys((1, 2, 3), True)}
RECEIVED: dict[PortKey, PortKey] = {(1, 1): (2, 1), (2, 1): (1, 1)}


@given(st.integers(0, 2**64 - 1), st.integers(1, 2**32 - 1))
def test_a_frame_identifies_its_source_port(datapath_id: int, port: int) -> None:
    assert read_lldp_frame(lldp_frame(datapath_id, port)) == (datapath_id, port)


@given(st.binary(max_size=200), st.integers(0, 100))
def test_malformed_frames_are_ignored(noise: bytes, cut: int) -> None:
    assert read_lldp_frame(noise) is None
    assert read_lldp_frame(lldp_frame(1, 2)[: 14 + cut % 20] + noise[:0]) is None


def test_correct_cabling_has_no_problems() -> None:
    assert wiring_problems(PAIR, BOTH, PORTS, RECEIVED, BOTH) == []


def test_a_missing_switch_is_named_with_its_datapath_id() -> None:
    ports = {1: PORTS[1]}
    assert wiring_problems(PAIR, frozenset({1}), ports, {}, frozenset({1})) == [
        "Switch s2 (datapath id 0000000000000002) is not connected."
    ]


def test_a_switch_that_is_not_on_the_map_is_named() -> None:
    (sentence,) = wiring_problems(PAIR, BOTH | {9}, PORTS, RECEIVED, BOTH)
    assert sentence == "Datapath id 0000000000000009 is connected but not on map pair."


def test_a_port_that_is_missing_or_down_is_named_with_its_neighbour() -> None:
    ports = {1: {1: True, 2: False, 3: True}, 2: PORTS[2]}
    assert wiring_problems(PAIR, BOTH, ports, RECEIVED, BOTH) == [
        "Switch s1: port 2 is down; the map puts edge1 port 1 there.",
        "Switch s1: port 4 is missing; the map puts load1 port 1 there.",
    ]


def test_a_wrong_neighbour_is_named() -> None:
    (sentence,) = wiring_problems(PAIR, BOTH, PORTS, RECEIVED | {(1, 1): (2, 3)}, BOTH)
    assert sentence == "Switch s1: port 1 is wired to s2 port 3; the map puts s2 port 1 there."


def test_missing_frames_are_no_problem_until_both_ends_have_settled() -> None:
    received: dict[PortKey, PortKey] = {(2, 1): (1, 1)}
    assert wiring_problems(PAIR, BOTH, PORTS, received, frozenset({1})) == []
    (sentence,) = wiring_problems(PAIR, BOTH, PORTS, received, BOTH)
    assert sentence == "Switch s1: port 1 receives no LLDP frame from its neighbour; the map puts s2 port 1 there."
