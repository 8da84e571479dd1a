"""Caches of pure functions, bounded by bytes and counted in the metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What a cache holds: entries, their estimated bytes and the limit, and how often it was asked."""

    name: str
    entries: int
    bytes: int
    max_bytes: int
    hits: int
    misses: int


@dataclass(frozen=True, slots=True)
class _Cache:
    function: Any
    entry_bytes: int
    max_bytes: int


_caches: dict[str, _Cache] = {}


def bounded_cache(max_bytes: int, entry_bytes: int) -> Callable[[Function], Function]:
    """Cache the results of a function; the least recently used ones are dropped beyond `max_bytes`.

    `entry_bytes`: at least the mean size of an entry, arguments included as far as nothing else holds them
    (tests/unit/controller/test_caches.py measures it).
    """

    def decorate(function: Function) -> Function:
        cached: Any = lru_cache(max_bytes // entry_bytes)(function)
        _caches[f"{function.__module__.removeprefix('controller.')}.{function.__qualname__}"] = _Cache(
            cached, entry_bytes, max_bytes
        )
        result: Function = cached
        return result

    return decorate


def cache_uses() -> Iterator[CacheUse]:
    """What each cache of the process holds."""
    for name, cache in sorted(_caches.items()):
        info = cache.function.cache_info()
        used = info.currsize * cache.entry_bytes
        yield CacheUse(name, info.currsize, used, cache.max_bytes, info.hits, info.misses)


def clear(name: str) -> None:
    """Empty a cache."""
    _caches[name].function.cache_clear()
