"""Forwarding capacity: the worst-case load of a map, and the refusal of a scale that exceeds the machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from machine import forwarding_capacity
from machine.errors import EmulationError
from machine.forwarding_capacity import (
    DEFAULT,
    Capacity,
    check_map_fits,
    fit_capacity,
    fitting_scale,
    load_capacity,
    save_capacity,
)
from topologies.demand import worst_mbps_hops
from topologies.map_file.loader import load_map
from topologies.maps import Map, MapLink, MapNode

PAIR, METRO = load_map("pair"), load_map("metro")


def star(hosts: int, rate_gbps: float) -> Map:
    """Hosts at one switch."""
    names = [f"h{number}" for number in range(hosts)]
    nodes = [MapNode("s", "switch", (0, 0)), *(MapNode(name, "host", (0, 0)) for name in names)]
    links = tuple(MapLink((name, "s"), 1, 1, rate_gbps) for name in names)
    return Map("star", "", 1.0, 9000, tuple(nodes), links)


def test_the_worst_case_is_what_the_hosts_can_have_on_their_way_at_once() -> None:
    assert worst_mbps_hops(star(4, 10)) == pytest.approx(4 * 10)
    # 80 Mb/s over two switches in each direction; the rest of each access link goes to its neighbours.
    assert worst_mbps_hops(PAIR) == pytest.approx(2 * 80 * 2 + (80 + 80 + 160 - 80) + (160 + 160 - 80))
    # Every link carries all it can: 14 directions of spans, 8 from the switches to the hosts.
    assert worst_mbps_hops(METRO) == pytest.approx(14 * 80 + 4 * 80 + 3 * 160)
    assert worst_mbps_hops(replace(METRO, scale_mbps_per_gbps=0.4)) == pytest.approx(worst_mbps_hops(METRO) / 2)


def test_two_frame_sizes_give_all_others() -> None:
    """5 us a frame and 1 ns a byte."""
    found = fit_capacity((9000, 1e9 / 14_000), (1000, 1e9 / 6000), "here")
    assert (found.ns_per_frame, found.ns_per_byte) == pytest.approx((5000, 1.0))
    assert found.mbps_hops(1986) == pytest.approx(0.6 * 8 * 2000 / 7)


def test_what_fits_keeps_its_scale_and_what_does_not_is_told_one_that_fits() -> None:
    slow = Capacity(50_000, 0, "measured yesterday")
    assert fitting_scale(METRO, DEFAULT) == METRO.scale_mbps_per_gbps
    fitting = fitting_scale(METRO, slow)
    assert fitting == 0.36
    with pytest.raises(EmulationError) as refusal:
        check_map_fits(METRO, slow)
    assert str(refusal.value) == (
        "map metro at 0.8 Mb/s per Gb/s: its hosts can send 1920 Mb/s x switches, and this machine forwards 865 "
        "without loss (measured yesterday): use --scale 0.36 or less, or run --measure-capacity while nothing else runs"
    )
    check_map_fits(replace(METRO, scale_mbps_per_gbps=fitting), slow)


def test_what_was_measured_is_kept_and_what_cannot_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding_capacity, "FILE", tmp_path / "capacity.json")
    assert load_capacity() == DEFAULT
    save_capacity(Capacity(1, 2, "here"))
    assert load_capacity() == Capacity(1, 2, "here")
    for wrong in ("{", '{"ns_per_frame": 0, "ns_per_byte": 0, "source": ""}', '{"a": 1}'):
        (tmp_path / "capacity.json").write_text(wrong)
        with pytest.raises(EmulationError, match="not a measured capacity"):
            load_capacity()
