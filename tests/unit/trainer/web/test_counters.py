"""Rates between readings of counters."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.web.counters import LinkRates


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now_s = [100.0]
    monkeypatch.setattr("trainer.web.counters.time.monotonic", lambda: now_s[0])
    return now_s


def answer(at: str, count: int) -> dict[str, Any]:
    links = [{"link": "s1->s2", "bytes": count}]
    return {"read_at": f"2026-01-01T00:00:{at}Z", "links": links, "unavailable": []}


def test_one_reading_a_second_serves_all_who_ask(clock: list[float]) -> None:
    readings = [answer("00.000", 1000), answer("02.000", 251_000)]
    rates = LinkRates(lambda: readings.pop(0))
    assert rates.now_bps() == {}
    clock[0] += 2
    assert rates.now_bps() == {"s1->s2": 1e6}
    clock[0] += 0.5
    assert rates.now_bps() == {"s1->s2": 1e6}


@pytest.mark.parametrize(("second", "rates"), [(answer("30", 5000), {}), (answer("02", 400), {"s1->s2": 0.0})])
def test_a_reading_long_ago_gives_no_rate_and_a_restarted_switch_none_below_zero(
    clock: list[float], second: dict[str, Any], rates: dict[str, float]
) -> None:
    readings = [answer("00", 1000), second]
    found = LinkRates(lambda: readings.pop(0))
    found.now_bps()
    clock[0] += 2
    assert found.now_bps() == rates
