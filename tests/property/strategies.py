"""What several properties are tried on: groups of flows, and small fibre plants."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from hypothesis import strategies as st

from controller.domain.reservation import Flow, Match, Requirement
from controller.optical.candidate_routes import CandidateRoutes
from controller.optical.spectrum_grid import Modulation, SpectrumGrid

GRID = SpectrumGrid("small", 12.5, 12, 1, 193.1)
REACHES = (Modulation("fine", 4, 300.0), Modulation("coarse", 1, 900.0))
PAIRS = list(combinations("abcde", 2))


@st.composite
def groups(
    draw: st.DrawFn, hosts: Sequence[str], requirements: st.SearchStrategy[Requirement], most: int
) -> tuple[Flow, ...]:
    """One to `most` flows between hosts, told apart by their ports."""
    ends = draw(st.lists(st.permutations(hosts).map(lambda order: order[:2]), min_size=1, max_size=most))
    return tuple(
        Flow(
            f"f{number}", source, destination,
            Match("udp", draw(st.integers(1, 65535)), 1 + number), draw(requirements),
        )
        for number, (source, destination) in enumerate(ends)
    )  # fmt: skip


@st.composite
def plants(draw: st.DrawFn) -> CandidateRoutes:
    """Five sites, four spans or more."""
    joined = draw(st.lists(st.sampled_from(PAIRS), min_size=4, unique=True))
    return CandidateRoutes(
        {pair: draw(st.sampled_from([100.0, 250.0, 400.0])) for pair in joined}, 8, GRID, table=REACHES
    )
