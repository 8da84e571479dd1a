"""Saihu's output-port networks: units and defaults, mistakes with their places, round trip, bounds."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from controller.calculus.output_port_bounds import output_port_bounds
from controller.calculus.output_port_network import NetworkFileError, network_from_json, network_to_json

DEMO: dict[str, Any] = {
    "network": {"name": "demo", "packetizer": False, "multiplexing": "FIFO", "analysis_option": ["IS"],
                "time_unit": "us", "data_unit": "B", "rate_unit": "Mbps"},
    "flows": [
        {"name": "f0", "path": ["s0-o0", "s1-o0"], "rate_unit": "kbps", "max_packet_length": 50,
         "arrival_curve": {"bursts": [10, "2kB"], "rates": ["10kbps", 0.5]}},
        {"name": "f1", "path": ["s0-o0", "s1-o1"], "max_packet_length": "50B",
         "arrival_curve": {"bursts": ["10B"], "rates": ["10kbps"]}},
        {"name": "f2", "path": ["s1-o0"], "max_packet_length": 50,
         "arrival_curve": {"bursts": [10], "rates": [0.01]}},
    ],
    "servers": [
        {"name": "s0-o0", "service_curve": {"latencies": [10, 1000], "rates": [4, "50Mbps"]}, "capacity": 100},
        {"name": "s1-o0", "service_curve": {"latencies": [10, "1ms"], "rates": [4, 50]}, "capacity": 100},
        {"name": "s1-o1", "service_curve": {"latencies": ["1e-5s"], "rates": ["4Mbps"]}, "capacity": "0.1Gbps"},
    ],
}  # fmt: skip
"""The demonstration of Saihu."""


def changed(**places: object) -> dict[str, Any]:
    """The demonstration with values replaced at places such as flows__0__path; None removes."""
    document = copy.deepcopy(DEMO)
    for place, value in places.items():
        *way, last = [int(part) if part.isdigit() else part for part in place.split("__")]
        target: Any = document
        for part in way:
            target = target[part]
        if value is None:
            del target[last]
        else:
            target[last] = value
    return document


def test_numbers_have_their_own_unit_or_the_nearest_default() -> None:
    network = network_from_json(DEMO)
    assert network.flows[0].buckets == ((80.0, 10e3), (16e3, 500.0))
    assert network.flows[2].buckets == ((80.0, 10e3),)
    assert list(network.servers["s1-o0"].curves) == [pytest.approx((4e6, 10.0)), pytest.approx((50e6, 1000.0))]
    assert list(network.servers["s1-o1"].curves) == [pytest.approx((4e6, 10.0))]
    assert network.servers["s1-o1"].capacity_bps == 1e8
    assert [flow.max_packet_bits for flow in network.flows] == [400.0] * 3


def test_written_networks_read_the_same() -> None:
    for document in (DEMO, changed(network__analysis_option=[]), changed(network__packetizer=True)):
        network = network_from_json(document)
        assert network_from_json(network_to_json(network)) == network


def test_the_bounds_of_the_demonstration_are_the_published_ones_or_better() -> None:
    bounds = output_port_bounds(network_from_json(DEMO))
    assert [bound.total_flow_us for bound in bounds] == pytest.approx([99.324, 79.322, 49.324], abs=1e-3)
    assert bounds[0].linear_program_us == pytest.approx(80.050, abs=1e-3)
    best_published_us = [80.050, 60.050, 49.280]
    for bound, best_us in zip(bounds, best_published_us, strict=True):
        assert bound.linear_program_us is not None
        assert bound.linear_program_us <= best_us + 5e-4


def test_packets_have_larger_bounds_than_a_fluid() -> None:
    fluid = output_port_bounds(network_from_json(DEMO))
    packets = output_port_bounds(network_from_json(changed(network__packetizer=True)))
    for less, more in zip(fluid, packets, strict=True):
        assert less.linear_program_us is not None
        assert more.linear_program_us is not None
        assert less.linear_program_us <= more.linear_program_us


def test_a_multicast_flow_is_one_flow_for_each_path() -> None:
    document = changed(flows__1__multicast=[{"name": "copy", "path": ["s0-o0", "s1-o0"]}])
    flows = network_from_json(document).flows
    assert [flow.name for flow in flows] == ["f0", "f1", "f1/copy", "f2"]
    assert flows[2].path == ("s0-o0", "s1-o0")


def test_an_overloaded_network_has_no_bounds() -> None:
    network = network_from_json(changed(flows__1__arrival_curve__rates=["80Mbps"]))
    assert [bound.linear_program_us for bound in output_port_bounds(network)][:2] == [None, None]


def test_a_network_without_flows_has_no_bounds() -> None:
    assert output_port_bounds(network_from_json(changed(flows=[]))) == []


@pytest.mark.parametrize(
    ("document", "mistakes"),
    [
        ([], ["the document must be an object with network, servers and flows"]),
        ({"network": {}, "servers": {}}, ["servers: must be an array", "flows: must be an array; there is none"]),
        (changed(network__multiplexing="ARBITRARY"),
         ["""network.multiplexing: must be "FIFO": the bounds assume servers in this order, not 'ARBITRARY'"""]),
        (changed(flows__0__path=["s0-o0", "nowhere"]),
         ["flows[0].path: must be the name of a server, not 'nowhere'"]),
        (changed(flows__0__path=["s0-o0", "s0-o0"]),
         ["flows[0].path: must cross every server at most once, not ['s0-o0', 's0-o0']"]),
        (changed(flows__0__path=[]), ["flows[0].path: must be an array of at least one server's name, not []"]),
        (changed(servers__0__capacity="fast"),
         ["""servers[0].capacity: must be a number, or a number with a unit such as "100Mbps", not 'fast'"""]),
        (changed(servers__0__capacity="10Mbps"),
         ["servers[0].capacity: must be at least the service rate, 5e+07 bit/s, not '10Mbps'"]),
        (changed(servers__1__name="s0-o0", flows__2__path=["s0-o0"], flows__0__path=["s0-o0"]),
         ["servers[1].name: is the name of an earlier server too, not 's0-o0'"]),
        (changed(servers__2__service_curve=None),
         ["servers[2].service_curve: must be an object with latencies and rates"]),
        (changed(flows__2__arrival_curve__rates=[]),
         ["flows[2].arrival_curve.rates: must be an array of at least one quantity, not []"]),
        (changed(flows__2__arrival_curve__rates=[1, 2]),
         ["flows[2].arrival_curve: must have as many bursts as rates, not [1, 2]"]),
        (changed(flows__2__arrival_curve__bursts=["-3B"]),
         ["flows[2].arrival_curve.bursts: must be finite and not negative, not '-3B'"]),
        (changed(flows__2__arrival_curve__bursts=["10ms"], flows__1__name=7),
         ["flows[1].name: must be a name, not 7",
          'flows[2].arrival_curve.bursts: must be a number, or a number with a unit such as "1500B", not \'10ms\'']),
        (changed(network__analysis_option=True),
         ['network.analysis_option: must be an array such as ["IS"], not True']),
        (changed(flows__0__multicast=3), ["flows[0].multicast: must be an array of paths, not 3"]),
        (changed(network__packetizer=True, flows__1__max_packet_length=None),
         ["f1: needs a max_packet_length, because network.packetizer is true"]),
    ],
)  # fmt: skip
def test_all_mistakes_are_told_with_their_places(document: object, mistakes: list[str]) -> None:
    with pytest.raises(NetworkFileError) as error:
        network_from_json(document)
    assert error.value.mistakes == mistakes
