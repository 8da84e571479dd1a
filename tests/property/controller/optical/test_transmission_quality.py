"""Fibres put in a row are what GNPy says of the whole route, nearly; and where it matters, exactly."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from controller.optical.transmission_quality import (
    FORMATS,
    GUARD_DB,
    concatenated_quality,
    propagated_quality,
    quality_of,
)
from tests.usable_formats import usable_formats

lengths = st.one_of(st.floats(0.1, 10), st.floats(10, 200), st.floats(100, 1500)).map(lambda km: round(km, 1))
routes = st.lists(lengths, min_size=1, max_size=8).map(tuple)

BEHIND_FIFTY_ROADMS = (0.1,) * 50
LONG = (3000.0, 2500.0, 100.0, 2000.0)
AROUND_STEPS = (129.9, 130.0, 134.9, 135.0, 135.1, 149.0, 149.9, 150.0, 150.1, 299.9, 300.0, 300.1)
"""Around the lengths from which GNPy divides a fibre, or amplifies it in another way."""
ON_THE_EDGE = (10.0, 10.0, 10.0, 119.0)


@given(routes)
@example(BEHIND_FIFTY_ROADMS)
@example(LONG)
@settings(max_examples=12, deadline=None)
def test_fibres_in_a_row_are_within_the_guard_band_of_the_whole_route(lengths_km: tuple[float, ...]) -> None:
    near, exact = concatenated_quality(lengths_km), propagated_quality(lengths_km)
    assert abs(near.gsnr_db - exact.gsnr_db) <= 0.002 * len(lengths_km) <= GUARD_DB
    assert abs(near.osnr_db - exact.osnr_db) <= GUARD_DB


@given(routes)
@settings(max_examples=12, deadline=None)
def test_the_format_is_that_of_the_whole_route(lengths_km: tuple[float, ...]) -> None:
    assert usable_formats(quality_of(lengths_km)) == usable_formats(propagated_quality(lengths_km))


@given(st.lists(st.one_of(st.sampled_from(AROUND_STEPS), lengths), min_size=1, max_size=6).map(tuple))
@example((149.0,))
@example((150.0, 149.9, 135.0))
@settings(max_examples=12, deadline=None)
def test_where_gnpy_changes_its_design_the_format_is_that_of_the_whole_route(lengths_km: tuple[float, ...]) -> None:
    near, exact = concatenated_quality(lengths_km), propagated_quality(lengths_km)
    assert abs(near.gsnr_db - exact.gsnr_db) <= 0.002 * len(lengths_km)
    assert usable_formats(quality_of(lengths_km)) == usable_formats(exact)
    assert quality_of(lengths_km) == quality_of(lengths_km), "from the cache"


def test_full_gnpy_decides_where_fibres_in_a_row_would_be_wrong() -> None:
    fast, slow = FORMATS
    assert usable_formats(concatenated_quality(ON_THE_EDGE)) == [fast, slow]
    assert usable_formats(quality_of(ON_THE_EDGE)) == [slow]
