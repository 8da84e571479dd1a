"""The shortest common transfer time is what trying every choice of paths finds."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.admission.admission import Admitted, Request, decide
from controller.booking.calendar import Booking, Calendar
from controller.domain.network import network_from_map
from controller.domain.path import link_names
from controller.domain.reservation import Flow, Match, Requirement
from controller.errors import NoCapacity, UnknownHost
from controller.routing.candidates import candidate_paths
from controller.routing.coflow import Volume, shortest_coflow_completion
from topologies.map_file.loader import load_map

METRO = network_from_map(load_map("metro"))
HOSTS = [host.name for host in METRO.hosts]
BETWEEN_SWITCHES = [name for name in METRO.links if name.count("r") == 2 and "cloud" not in name]


@st.composite
def volumes(draw: st.DrawFn) -> list[Volume]:
    sizes = draw(st.lists(st.integers(1, 5) | st.integers(1, 5_000_000), min_size=1, max_size=4))
    ends = [draw(st.permutations(HOSTS)) for _ in sizes]
    return [
        Volume(f"v{number}", source, destination, size)
        for number, ((source, destination, *_), size) in enumerate(zip(ends, sizes, strict=True))
    ]


@st.composite
def calendars(draw: st.DrawFn) -> Calendar:
    taken = draw(st.dictionaries(st.sampled_from(BETWEEN_SWITCHES), st.integers(1, 70), max_size=8))
    return Calendar().with_bookings(Booking("r-1", "a", link, mbps * 1_000_000, 0.0) for link, mbps in taken.items())


def by_trying_everything(bookings: Calendar, wanted: list[Volume]) -> Fraction:
    candidates = [candidate_paths(METRO, each.source, each.destination) for each in wanted]
    free = {name: link.reservable_bps - bookings.reserved_bps(name, 1.0) for name, link in METRO.links.items()}
    best: Fraction | None = None
    for paths in product(*candidates):
        load: dict[str, int] = {}
        for volume, path in zip(wanted, paths, strict=True):
            for link in link_names(path):
                load[link] = load.get(link, 0) + volume.transfer_bytes * 8
        time_s = max(Fraction(bits, free[link]) for link, bits in load.items())
        best = time_s if best is None else min(best, time_s)
    assert best is not None
    return best


@given(bookings=calendars(), wanted=volumes())
@settings(max_examples=120, deadline=None)
def test_no_choice_of_paths_is_quicker(bookings: Calendar, wanted: list[Volume]) -> None:
    quote = shortest_coflow_completion(METRO, bookings, wanted, 1.0)
    least_s = by_trying_everything(bookings, wanted)
    assert (quote.is_exact, quote.gap) == (True, 0)
    assert quote.least_ms == pytest.approx(float(least_s * 1000), rel=1e-12)
    taken: dict[str, int] = {}
    for volume, each in zip(wanted, quote.quotes, strict=True):
        assert each.transfer_ms == pytest.approx(volume.transfer_bytes * 8e3 / each.rate_bps)
        if each.rate_bps > 1000:
            assert volume.transfer_bytes * 8 / float(least_s) - each.rate_bps < 1000.001
        for link in link_names(each.path):
            taken[link] = taken.get(link, 0) + max(each.rate_bps, 0)
    assert quote.transfer_ms == max(each.transfer_ms for each in quote.quotes)
    bottleneck = METRO.links[quote.bottleneck]
    free_bps = bottleneck.reservable_bps - bookings.reserved_bps(quote.bottleneck, 1.0)
    crossing = [each for each in quote.quotes if quote.bottleneck in link_names(each.path)]
    assert free_bps - 1000 * len(crossing) <= taken[quote.bottleneck] <= free_bps + 1000 * len(crossing)


def test_what_is_quoted_is_admitted() -> None:
    wanted = [Volume(f"v{number}", f"edge{number}", "cloud", 1_000_000 * number) for number in (1, 2, 3, 4)]
    quote = shortest_coflow_completion(METRO, Calendar(), wanted, 0.0)
    flows = tuple(
        Flow(each.name, each.path[0], "cloud", Match("tcp", number, 1), Requirement(each.rate_bps, 10_000))
        for number, each in enumerate(quote.quotes, 1)
    )
    assert isinstance(decide(METRO, Calendar(), (), Request("r-1", 1, flows), 0.0), Admitted)
    assert quote.bottleneck in ("r6->r1", "r2->cloud")  # 40 of 76 and 80 of 152 Mbit
    assert quote.transfer_ms == pytest.approx(80e9 / METRO.links["r2->cloud"].reservable_bps, rel=1e-3)


def test_many_equal_transfers_are_answered_soon_and_say_whether_it_is_proven() -> None:
    wanted = [Volume(f"v{number}", "edge1", "load2", 1_000_000) for number in range(64)]
    assert shortest_coflow_completion(METRO, Calendar(), wanted, 0.0).is_exact


def test_a_full_link_and_an_unknown_host_are_refused() -> None:
    full = Calendar().with_bookings([Booking("r-1", "a", "edge1->r6", METRO.links["edge1->r6"].reservable_bps, 0.0)])
    with pytest.raises(NoCapacity, match="edge1->r6 has no free bandwidth"):
        shortest_coflow_completion(METRO, full, [Volume("v", "edge1", "cloud", 1)], 1.0)
    with pytest.raises(UnknownHost, match="there is no host 'r1'"):
        shortest_coflow_completion(METRO, full, [Volume("v", "r1", "cloud", 1)], 1.0)
