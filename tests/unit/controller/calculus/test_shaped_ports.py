"""Ports with credit-based shapers and with asynchronous traffic shaping, against published examples and by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.calculus.curves import Server, ShapingCurve, backlog_bound_bits, delay_bound_us
from controller.calculus.network_bounds import Analysis, Calibration, NoBound, ShapedFlow
from controller.calculus.ports import ports_of
from controller.domain.network import network_from_map
from topologies.maps import Map, MapLink, MapNode

EXACT = Calibration(5.0, 5.0, 0.0, 0.0, 0.0)
"""Meters and links as hardware has them, and full-size frames of other traffic."""


def line(idle_slope_gbps: float | None, ats: bool, mtu_bytes: int = 1500) -> Map:
    """Four hosts at the first of three switches in a row, and four at the last; 100 Mb/s everywhere."""
    nodes = [MapNode(f"s{i}", "switch", (float(i), 0.0)) for i in range(3)]
    nodes += [MapNode(f"h{i}", "edge", (0.0, float(i))) for i in range(8)]
    pairs = [("s0", "s1"), ("s1", "s2"), *((f"h{i}", "s0" if i < 4 else "s2") for i in range(8))]
    links = tuple(MapLink(pair, 0.0, 1, 100.0, idle_slope_gbps=idle_slope_gbps) for pair in pairs)
    return Map("line", "", 1.0, mtu_bytes, tuple(nodes), links, ats=ats)


def test_response_times_at_credit_based_shapers_by_published_equations() -> None:
    """Class A of idle slope 50 Mb/s at 100 Mb/s; f1 with packets of 1 kb and f2 of 2 kb, best effort of 2 kb.

    The response time is T + (b - p) / R + p / c, with p the packet's own length: T + b / R without what the last packet
    gains by being sent at the line rate. Source: Mohammadpour, Stai, Mohiuddin and Le Boudec, ITC 30 (2018), equations
    1, 2, 5 and 12 at the parameters of its case study, without control data traffic (r = b = 0).
    """
    rate_bps, slope_bps, others_bits, bursts_bits = 100e6, 50e6, 2000.0, (1000.0, 2000.0)
    topology = line(50.0, ats=False)
    server = ports_of(network_from_map(topology), replace(EXACT, best_effort_frame_bytes=others_bits / 8))["h0->s0"]
    assert (server.rate_bps, server.latency_us) == (slope_bps, others_bits / rate_bps * 1e6)
    bound_us = delay_bound_us(server, [(None, sum(bursts_bits), 40e6)])
    for own_bits, equation_us in ((1000.0, 70.0), (2000.0, 60.0)):
        gain_us = own_bits * (1 / slope_bps - 1 / rate_bps) * 1e6
        assert bound_us - gain_us == pytest.approx(equation_us)
    assert backlog_bound_bits(server, [(None, sum(bursts_bits), 40e6)]) == pytest.approx(3000 + 40e6 * 20e-6)  # eq. 12


@pytest.mark.parametrize(("talkers", "frame_bytes", "published_us"), [(13, 90, 353.76), (7, 167, 337.12)])
def test_latencies_of_bridges_that_were_shown_to_happen(talkers: int, frame_bytes: int, published_us: float) -> None:
    """Talkers of class A at as many ports of a bridge at 100 Mb/s, 75 of them idle slope, behind one legacy frame.

    All but one talker have two frames there, paced at the idle slope: 12 * 2 * 7.2 * 100/75 + 123.36 us for 13 talkers.
    Source: Boiger, "Class A Bridge Latency Calculations", IEEE 802 plenary, November 2010; bytes with preamble and gap.
    """
    rate_bps, slope_bps, frame_bits, legacy_bits = 100e6, 75e6, frame_bytes * 8.0, 1542 * 8.0
    by_formula_us = (talkers - 1) * 2 * frame_bits / slope_bps * 1e6 + legacy_bits / rate_bps * 1e6
    assert by_formula_us == pytest.approx(published_us, abs=0.01)
    server = Server(slope_bps, legacy_bits / rate_bps * 1e6)
    shaping = ShapingCurve(frame_bits, rate_bps)
    two_frames = shaping, 2 * frame_bits, frame_bits / 125e-6
    last = shaping, frame_bits, frame_bits / 125e-6
    bound_us = delay_bound_us(server, [two_frames] * (talkers - 1) + [last])
    assert published_us <= bound_us < published_us * 1.06


def test_a_hop_with_regulators_delays_by_the_bursts_at_their_sources_alone() -> None:
    """Every hop: sum of bursts and one frame of lower classes over the rate, wherever the flows come from.

    Source: Specht and Samii, "Urgency-based scheduler for time-sensitive switched Ethernet networks", ECRTS 2016,
    theorem 1 for the highest class: (sum of b - l + largest lower l) / r + l / r.
    """
    network = network_from_map(line(None, ats=True))
    flows = {i: ShapedFlow((f"h{i}", "s0", "s1", "s2", f"h{i + 4}"), 10_000_000, 1514) for i in range(4)}
    analysis = Analysis.of(network, flows, EXACT)
    frame_us = 1514 * 8 / 100
    delays_us = analysis.link_delays_us()
    assert delays_us["h0->s0"] == pytest.approx(2 * frame_us)
    assert delays_us["s0->s1"] == pytest.approx(5 * frame_us)
    assert delays_us["s1->s2"] == pytest.approx(5 * frame_us)
    assert delays_us["s2->h4"] == pytest.approx(2 * frame_us)
    assert analysis.bound(0).accumulated_latency_us == pytest.approx(14 * frame_us + 3 * 5)
    # regulators hold what came within the variation of the last port, and the queue what comes within its delay
    variation_us = 5 * frame_us - 60 * 8 / 100
    held_bits = 4 * (1514 * 8 + 10.0 * (variation_us + 5 * frame_us))
    assert analysis.backlog_bytes("s1->s2") == pytest.approx(held_bits / 8 + 1514, abs=1.01)


def test_behind_a_meter_regulators_hold_what_the_meter_passes() -> None:
    network = network_from_map(line(None, ats=True))
    path = ("h0", "s0", "s1", "s2", "h4")
    flow = ShapedFlow(path, 1_000_000, 1514, meter_burst_bytes=2000)
    delays_us = Analysis.of(network, {0: flow}, EXACT).link_delays_us()
    assert delays_us["h0->s0"] == pytest.approx(2 * 1514 * 8 / 100)
    assert delays_us["s0->s1"] == delays_us["s2->h4"] == pytest.approx((2000 + 1514) * 8 / 100)


def test_a_shaper_slows_its_port_and_smooths_what_the_next_one_gets() -> None:
    bounds, shapings = [], []
    flows = {i: ShapedFlow((f"h{i}", "s0", "s1", "s2", f"h{i + 4}"), 5_000_000, 6000) for i in range(4)}
    for slope in (None, 75.0, 30.0):
        network = network_from_map(line(slope, ats=False))
        bounds.append(Analysis.of(network, flows, EXACT).bound(0).accumulated_latency_us)
        shapings.append(ports_of(network, EXACT)["s0->s1"].output_shaping)
    assert bounds == sorted(bounds)
    assert shapings[0] == ShapingCurve(1514 * 8, 100e6)
    assert shapings[1] == ShapingCurve(1514 * 8 * 1.75, 75e6)
    with pytest.raises(NoBound):
        Analysis.of(network, {i: replace(flow, rate_bps=8_000_000) for i, flow in flows.items()}, EXACT)


def test_reservations_stay_below_the_idle_slope() -> None:
    links = network_from_map(line(30.0, ats=False)).links
    assert links["s0->s1"].reservable_bps == 30_000_000 - links["s0->s1"].margin_bps
    assert network_from_map(line(None, ats=False)).links["s0->s1"].reservable_bps == 95_000_000
