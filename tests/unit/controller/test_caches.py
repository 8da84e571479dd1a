"""Caches are bounded by bytes and counted."""

from __future__ import annotations

import gc
import tracemalloc

from prometheus_client.parser import text_string_to_metric_families

from controller import caches
from controller.caches import CacheUse, bounded_cache, cache_uses
from controller.storage.ledger import IN_MEMORY, Ledger
from controller.telemetry.metrics import Metrics
from tests.unit.controller.service.test_setup import spec
from tests.unit.controller.simulated_switches import running_service

NOISE_BYTES = 20_000


@bounded_cache(1000, entry_bytes=100)
def _square(number: int) -> int:
    return number * number


def use_of(name: str) -> CacheUse:
    return next(use for use in cache_uses() if use.name == name)


def test_a_cache_drops_what_was_least_recently_used_beyond_its_bytes() -> None:
    name = f"{__name__}._square"
    caches.clear(name)
    assert [_square(number) for number in range(25)] == [number * number for number in range(25)]
    assert _square(24) == 576
    assert use_of(name) == CacheUse(name, 10, 1000, 1000, hits=1, misses=25)
    _square(14)
    assert use_of(name).misses == 26
    caches.clear(name)
    assert use_of(name).bytes == 0


def test_the_metrics_have_the_use_and_the_limit_of_every_cache() -> None:
    with running_service(Ledger(IN_MEMORY, "pair")) as service:
        text = Metrics(service.queries).render().decode()
    limits = {
        sample.labels["cache"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "paceline_cache_max_bytes"
    }
    assert limits == {use.name: use.max_bytes for use in cache_uses()}
    assert 'paceline_cache_misses_total{cache="domain.path.link_names"}' in text
    assert sum(use.max_bytes for use in cache_uses()) <= 160 * caches.MIB


def test_entries_are_no_larger_than_stated() -> None:
    for use in cache_uses():
        caches.clear(use.name)
    tracemalloc.start()
    try:
        with running_service(Ledger(IN_MEMORY, "pair")) as service:
            for number in range(1, 20):
                service.release(service.reserve(spec(number)).result(60)[0].id)
            gc.collect()
            for use in cache_uses():
                before = tracemalloc.get_traced_memory()[0]
                caches.clear(use.name)
                freed = before - tracemalloc.get_traced_memory()[0]
                assert freed <= use.bytes + NOISE_BYTES, f"{use.name}: {freed} bytes in {use.entries} entries"
    finally:
        tracemalloc.stop()
