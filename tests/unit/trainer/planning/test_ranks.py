"""The planner gives adapters the greatest rank that a round has time for."""

from __future__ import annotations

from dataclasses import replace

from trainer.config.fine_tuning import AUTO_RANKS
from trainer.planning.plan import EdgeForecast, Offer, Option
from trainer.planning.planner import plan_round

NAMES = "slow", "fast"
OFFER = Offer(dict.fromkeys(NAMES, ("line",)), dict.fromkeys(NAMES, ("back",)),
              {"line": 100e6, "back": 100e6}, 1e6)


def forecast(name: str, forward_s: float, adapter_bits: float = 0.0, cloud_s: float = 1e-4) -> EdgeForecast:
    """An edge whose forward and backward passes, and the cloud's work, take a fifth longer with the greatest rank."""
    options = tuple(
        Option(1, "fp32", longer * forward_s, longer * forward_s, longer * cloud_s, 8e4, 8e4, rank=rank)
        for rank in AUTO_RANKS for longer in (1 + 0.2 * (rank - 2) / 14,))
    return EdgeForecast(name, options, (0.0, 1e6), adapter_bits=(0.0, adapter_bits))


def ranks(*forecasts: EdgeForecast, steps: int = 4) -> list[int | None]:
    return [edge.rank for edge in plan_round(forecasts, OFFER, 2, steps=steps).edges]


def test_an_edge_that_others_wait_for_keeps_a_small_rank_and_one_with_time_left_gets_the_greatest() -> None:
    slow, fast = ranks(forecast("slow", 0.1), forecast("fast", 0.001))
    assert slow in (2, 4)
    assert fast == 16


def test_the_way_of_the_adapters_to_an_averaging_counts() -> None:
    far = forecast("slow", 0.001, adapter_bits=50e6)
    assert ranks(far, forecast("fast", 0.1))[0] == 2
    assert ranks(replace(far, adapter_bits=(0.0, 1.0)), forecast("fast", 0.1))[0] == 16


def test_the_cloud_has_time_for_few_greater_ranks() -> None:
    busy = ranks(forecast("slow", 0.001, cloud_s=0.1), forecast("fast", 0.001, cloud_s=0.1))
    assert max(rank or 0 for rank in busy) < 16


def test_without_ranks_nothing_is_chosen() -> None:
    plain = [EdgeForecast(name, (Option(1, "fp32", 0.1, 0.1, 0.1, 8e4, 8e4),), (0.0, 1e6)) for name in NAMES]
    assert ranks(*plain) == [None, None]
