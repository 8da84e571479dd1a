"""Signal quality over a route: physics that a reader can check by hand, and the formats that follow."""

from __future__ import annotations

import math

import pytest

from controller import caches
from controller.domain.network import network_from_map
from controller.optical import transmission_quality
from controller.optical.lightpath_design import design_lightpath, precompute_fibres
from controller.optical.spectrum_grid import FIXED
from controller.optical.transmission_quality import FORMATS, SYSTEM_MARGIN_DB, Quality, quality_of
from tests.usable_formats import usable_formats
from topologies.map_file.loader import load_map

DP_16QAM, DP_QPSK = FORMATS


def test_one_amplified_span_has_the_osnr_of_the_textbook() -> None:
    """OSNR = 58 dB + launch power - loss - noise figure: 0 dBm, 17 dB, about 7 dB; then ROADM and transceivers add."""
    per_amplifier_db = 58.0 + 0.0 - 17.0 - 7.0
    with_both_ends = -10 * math.log10(2 * 10 ** (-per_amplifier_db / 10) + 3 * 10 ** (-38 / 10))
    assert quality_of((80.0,)).osnr_db == pytest.approx(with_both_ends, abs=3.0)


def test_ten_times_the_spans_cost_ten_decibels_of_amplifier_noise() -> None:
    assert quality_of((800.0,)).osnr_db - quality_of((8000.0,)).osnr_db == pytest.approx(10.0, abs=1.5)


def test_quality_falls_with_length_and_with_every_roadm() -> None:
    falling = [quality_of((km,)).gsnr_db for km in (100.0, 400.0, 1600.0, 6400.0)]
    assert falling == sorted(falling, reverse=True)
    assert quality_of((400.0, 400.0, 400.0)).gsnr_db < quality_of((1200.0,)).gsnr_db
    assert quality_of((1200.0,)).gsnr_db < quality_of((1200.0,)).osnr_db


def test_short_routes_carry_the_fast_format_longer_ones_the_slow_one_and_the_longest_none() -> None:
    formats = [usable_formats(quality_of((km,))) for km in (80.0, 1500.0, 12_000.0)]
    assert formats == [[DP_16QAM, DP_QPSK], [DP_QPSK], []]


def test_a_longer_fibre_is_better_where_gnpy_divides_it_or_adds_raman_amplification() -> None:
    assert quality_of((150.0,)).gsnr_db > quality_of((149.0,)).gsnr_db + 1
    assert quality_of((135.0,)).gsnr_db > quality_of((130.0,)).gsnr_db


def test_all_channels_of_the_fixed_grid_are_lit() -> None:
    assert len(transmission_quality._propagate((80.0,)).snr_01nm) == FIXED.slots


@pytest.mark.parametrize("km", [80.0, 400.0])
def test_both_bands_lit_cost_quality(km: float) -> None:
    assert quality_of((km,)).gsnr_db - 2 < quality_of((km,), "C+L").gsnr_db < quality_of((km,)).gsnr_db
    assert len(transmission_quality._propagate((km,), "C+L").snr_01nm) == 96 + 69


def test_with_both_bands_fibres_in_a_row_are_nearly_the_whole_route_and_the_c_band_is_as_before() -> None:
    route, before = (80.0, 300.0, 149.0), transmission_quality.propagated_quality((70.0, 90.0))
    near, exact = (
        transmission_quality.concatenated_quality(route, "C+L"), transmission_quality.propagated_quality(route, "C+L"),
    )  # fmt: skip
    assert abs(near.gsnr_db - exact.gsnr_db) <= 0.002 * len(route)
    caches.clear("optical.transmission_quality.propagated_quality")
    assert transmission_quality.propagated_quality((70.0, 90.0)) == before


def test_the_margin_that_is_missing_is_told() -> None:
    weak = Quality(gsnr_db=11.0, osnr_db=12.0)
    assert usable_formats(weak) == []
    assert weak.margin_db(DP_QPSK) == pytest.approx(11.0 - 12.0 - SYSTEM_MARGIN_DB)


@pytest.mark.parametrize("lengths_km", [(), (80.0, 0.0), (-1.0,)])
def test_a_route_without_length_is_refused(lengths_km: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="more than 0 km"):
        quality_of(lengths_km)


def test_when_the_fibres_are_known_no_route_waits_for_gnpy(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_from_map(load_map("waves"))
    precompute_fibres(network)
    caches.clear("optical.transmission_quality.quality_of")
    monkeypatch.setattr(transmission_quality, "_propagate", None)
    ways = [("r1", "r2"), ("r1", "r2", "r3"), ("r1", "r6", "r5")]
    assert all(design_lightpath(network, way).is_feasible for way in ways)
