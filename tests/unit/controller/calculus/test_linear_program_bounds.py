"""Bounds by linear programmes: the published figures, several forests, soundness of duals, limits of time."""

from __future__ import annotations

import numpy as np
import pytest

from controller.calculus.curves import Server
from controller.calculus.cut_bursts import CutAnalysis, least_solution
from controller.calculus.fifo_network import FifoNetwork
from controller.calculus.fixed_point import NoBound, Stream
from controller.calculus.forest import forest_in_order, forests, segments_of
from controller.calculus.linear_program import LinearProgram, Rows, Unsolved
from controller.calculus.path_bounds import PathBounds
from harness.published_networks import (
    PACKET_BITS,
    Case,
    plp_as_published,
    ring,
    tandem,
    total_flow_delays,
)


@pytest.mark.parametrize(
    ("case", "published_us"),
    [
        (ring(4, 0.20), 603.6), (ring(4, 0.40), 724.3), (ring(4, 0.60), 936.0), (ring(4, 0.80), 1448.7),
        (ring(4, 0.20, PACKET_BITS), 838.0), (ring(4, 0.40, PACKET_BITS), 955.0),
        (ring(4, 0.60, PACKET_BITS), 1165.2), (ring(4, 0.80, PACKET_BITS), 1649.8),
        (ring(8, 0.20), 1238.7), (ring(8, 0.40), 1541.3), (ring(8, 0.60), 2119.1), (ring(8, 0.80), 3863.0),
        (tandem(8, 0.30), 1172.9), (tandem(8, 0.60), 1495.3), (tandem(8, 0.90), 2277.7),
    ],
)  # fmt: skip
def test_run_as_published_the_programmes_yield_the_published_bounds(case: Case, published_us: float) -> None:
    assert max(plp_as_published(case)) == pytest.approx(published_us, abs=0.06)


def bounds_of(case: Case, forests_count: int = 4) -> list[float]:
    servers, streams = case
    bounds = PathBounds(FifoNetwork.of(servers, streams), total_flow_delays(case))
    assert bounds.analyse(forests_count)
    return [bounds.bound_us(number) for number in range(len(streams))]


def test_several_forests_yield_tighter_bounds_than_one_as_published() -> None:
    assert max(bounds_of(ring(8, 0.80), 8)) <= 0.90 * 3863.0
    assert max(bounds_of(tandem(8, 0.90))) <= 0.95 * 2277.7


def test_a_ring_without_a_total_flow_bound_has_one_by_linear_programmes() -> None:
    case = ring(4, 0.95)
    assert total_flow_delays(case) == {}
    assert max(bounds_of(case)) <= 0.75 * 3061.0


@pytest.mark.parametrize("case", [ring(4, 0.40), ring(5, 0.70), tandem(5, 0.60)])
def test_no_bound_exceeds_that_of_total_flow_analysis(case: Case) -> None:
    delays_us = total_flow_delays(case)
    for bound_us, stream in zip(bounds_of(case), case[1].values(), strict=True):
        assert bound_us <= sum(delays_us[name] for name in stream.servers) * (1 + 1e-9)


def test_one_server_is_analysed_exactly() -> None:
    """Two bursts of 8000 bits at 1 Mb/s after 100 us."""
    servers, streams = {"s": Server(1e6, 100.0)}, {0: Stream(("s",), 1e5, 8000), 1: Stream(("s",), 2e5, 8000)}
    assert bounds_of((servers, streams)) == pytest.approx([16_100.0] * 2, rel=1e-8)


def test_an_overloaded_server_has_no_bound_and_the_error_names_it() -> None:
    servers = {"s": Server(1e6, 1.0), "t": Server(1e5, 1.0)}
    streams = {number: Stream(("s", "t"), 6e4, 1000) for number in range(2)}
    bounds = PathBounds(FifoNetwork.of(servers, streams), {})
    with pytest.raises(NoBound) as refusal:
        bounds.analyse()
    assert refusal.value.link == "t"


def test_what_is_proven_when_the_time_is_over_stays() -> None:
    case = ring(8, 0.80)
    delays_us = total_flow_delays(case)
    bounds = PathBounds(FifoNetwork.of(*case), delays_us, lambda: -1.0)
    assert not bounds.analyse()
    assert bounds.bound_us(0) == pytest.approx(sum(delays_us.values()))


def test_every_forest_is_acyclic_with_one_successor_and_keeps_all_servers_of_a_flow() -> None:
    network = FifoNetwork.of(*ring(6, 0.50))
    for successors in forests(network, 6):
        for start in successors:
            passed, server = {start}, successors.get(start)
            while server is not None:
                assert server not in passed
                passed.add(server)
                server = successors.get(server)
        for number, flow in enumerate(network.flows):
            parts = [segment.servers for segment in segments_of(network, successors) if segment.flow == number]
            assert sum(parts, ()) == flow.servers


def test_a_bound_holds_for_every_dual_also_for_a_wrong_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The solver is replaced by noise: the bounds get worse, never better."""
    case = tandem(4, 0.60)
    exact = bounds_of(case)
    chance = np.random.default_rng(5)
    true_dual = LinearProgram._dual

    def noisy(self: LinearProgram, *arguments: object) -> object:
        dual = true_dual(self, *arguments)  # type: ignore[arg-type]
        return np.maximum(dual + chance.normal(0, 1e-4, len(dual)) * np.isfinite(self.constants), 0.0)

    monkeypatch.setattr(LinearProgram, "_dual", noisy)
    for wrong, right in zip(bounds_of(case), exact, strict=True):
        assert wrong >= right * (1 - 1e-9)


def test_an_unbounded_programme_is_unsolved() -> None:
    rows = Rows()
    rows.add([(0, -1.0)], 1.0)
    with pytest.raises(Unsolved):
        LinearProgram(rows, [False], 0).maximum("z", {0: 1.0}, np.zeros(0), (np.zeros(1), np.zeros(1)))


def test_bursts_that_feed_each_other_more_than_themselves_have_no_solution_without_limits() -> None:
    constants, slopes = np.array([1.0, 1.0]), np.array([[0.0, 1.1], [1.0, 0.0]])
    assert least_solution(constants, slopes, np.full(2, np.inf)) is None
    limited = least_solution(constants, slopes, np.array([np.inf, 5.0]))
    assert limited is not None
    assert limited == pytest.approx([6.5, 5.0])
    stable = least_solution(constants, slopes / 2, np.full(2, np.inf))
    assert stable is not None
    assert (constants + slopes / 2 @ stable <= stable).all()


def test_delays_on_a_kept_forest_need_no_new_bursts() -> None:
    servers, streams = ring(5, 0.60)
    network = FifoNetwork.of(servers, streams)
    bounds = PathBounds(network, total_flow_delays((servers, streams)))
    first = bounds.flow_bound_us(0)
    bounds.bursts = {}
    assert bounds.flow_bound_us(1) > 0
    assert bounds.bursts == {}
    whole = CutAnalysis(network, forest_in_order(network), {})
    whole.solve({})
    assert first <= whole.delay_us("s0", "s4") * 1.01
