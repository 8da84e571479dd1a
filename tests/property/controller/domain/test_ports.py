"""Ranges of ports: their masked values match them and nothing else; overlaps are what sets of ports have in common."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.admission.admission import Admitted, Request, decide
from controller.admission.live_reservations import LiveReservations
from controller.booking.calendar import Calendar
from controller.domain.network import network_from_map
from controller.domain.ports import (
    LAST_PORT,
    PortRange,
    Ports,
    describe_ports,
    masked_ports,
    ports_from_text,
    ports_overlap,
)
from controller.domain.reservation import Flow, Match, Requirement, Reservation, State
from topologies.map_file.loader import load_map

PAIR = network_from_map(load_map("pair"))


def ranges(last: int = LAST_PORT) -> st.SearchStrategy[PortRange]:
    ends = st.lists(st.integers(1, last), min_size=2, max_size=2, unique=True).map(sorted)
    return ends.map(lambda pair: PortRange(*pair))


FEW_PORTS = st.none() | st.integers(1, 9) | ranges(9)


def members(ports: Ports, last: int = LAST_PORT) -> set[int]:
    lower, upper = ports if isinstance(ports, PortRange) else (ports or 0, last if ports is None else ports)
    return set(range(lower, upper + 1))


def matched(field: int | tuple[int, int]) -> set[int]:
    value, mask = field if isinstance(field, tuple) else (field, LAST_PORT)
    return {port for port in range(LAST_PORT + 1) if port & mask == value}


@given(ranges())
def test_the_masked_values_of_a_range_match_each_of_its_ports_once(ports: PortRange) -> None:
    blocks = [matched(field) for field in masked_ports(ports) if field is not None]
    assert len(blocks) <= 30
    assert sum(map(len, blocks)) == len(members(ports))
    assert set().union(*blocks) == members(ports)


@pytest.mark.parametrize(("ports", "fields"), [
    (None, (None,)),
    (7801, (7801,)),
    (PortRange(49152, 65535), ((49152, 0xC000),)),
    (PortRange(40000, 40003), ((40000, 0xFFFC),)),
])  # fmt: skip
def test_usual_ports_take_one_entry(ports: Ports, fields: tuple[object, ...]) -> None:
    assert masked_ports(ports) == fields


def test_no_range_takes_more_entries_than_one_to_65534() -> None:
    assert len(masked_ports(PortRange(1, 65534))) == 30


@given(FEW_PORTS, FEW_PORTS)
def test_ports_overlap_where_they_have_one_in_common(one: Ports, other: Ports) -> None:
    assert ports_overlap(one, other) == bool(members(one, 9) & members(other, 9))


@given(ranges())
def test_a_range_is_written_as_it_is_read(ports: PortRange) -> None:
    assert ports_from_text(describe_ports(ports)) == ports


@pytest.mark.parametrize("text", ["", "-", "1-", "-1", "0-5", "5-4", "1-65536", "1-2-3", "a-b", " 1-2", "7801", "²-³"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a range of ports"):
        ports_from_text(text)


MATCHES = st.builds(Match, st.sampled_from(["tcp", "udp"]), FEW_PORTS, FEW_PORTS)


def flow(match: Match, name: str = "a") -> Flow:
    return Flow(name, "edge1", "cloud", match, Requirement(1_000_000))


def reservation(number: int, match: Match) -> Reservation:
    admitted = decide(PAIR, Calendar(), (), Request("r-1", 1, (flow(match),)), 0.0)
    assert isinstance(admitted, Admitted)
    return Reservation(f"r-{number}", number, 1, "test", State.ACTIVE, 60, 0, 60, admitted.placements)


@given(st.lists(MATCHES, max_size=6), st.sets(st.integers(0, 5)), MATCHES)
def test_the_holders_of_a_flow_are_those_with_packets_in_common(
    held: list[Match], released: set[int], wanted: Match
) -> None:
    live = LiveReservations.of(PAIR, [reservation(number, match) for number, match in enumerate(held)])
    for number in released:
        live = live.without(f"r-{number}")
    common = {
        f"r-{number}" for number, match in enumerate(held)
        if number not in released and match.protocol == wanted.protocol
        and members(match.source_port, 9) & members(wanted.source_port, 9)
        and members(match.destination_port, 9) & members(wanted.destination_port, 9)
    }  # fmt: skip
    holders = [holder.id for holder in live.holders(flow(wanted))]
    assert sorted(holders) == sorted(common)
    assert set(live._port_ranges) == {
        ("edge1", "cloud", match.protocol)
        for number, match in enumerate(held)
        if number not in released and not match.is_exact
    }
