"""Requests that may be repeated: the same key gets the first answer again, and nothing is done twice. Thread-safe.

The answer is written down in the transaction that makes the reservation; a request that was not answered with a
reservation has done nothing, so its repetition is a new request.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from controller.domain.reservation import Reservation
from controller.errors import InProgress, KeyReused
from controller.storage.ledger import IdempotencyKey, Ledger

KEPT_S = 86_400.0


class IdempotencyCache:
    """The keys of requests under way, and of those answered within a day."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, str], str] = {}

    @contextmanager
    def first_answer(self, repeat: IdempotencyKey) -> Iterator[Reservation | None]:
        """What was answered before, or None: then this is the request, and it is under way until the block ends.

        Raises: KeyReused, InProgress.
        """
        name = repeat.tenant, repeat.key
        with self._lock:
            digest = self._under_way.get(name)
            if digest is not None:
                _check(repeat, digest)
                raise InProgress(f"The first request with Idempotency-Key {repeat.key!r} is still being answered.")
            self._under_way[name] = repeat.body_digest
        try:
            answered = self._ledger.response(repeat)
            if answered is not None:
                _check(repeat, answered[0])
            yield None if answered is None else answered[1]
        finally:
            with self._lock:
                del self._under_way[name]

    def forget_old(self, now_s: float) -> None:
        """Drop what is older than a day."""
        self._ledger.delete_responses(now_s - KEPT_S)


def _check(repeat: IdempotencyKey, digest: str) -> None:
    if digest != repeat.body_digest:
        sentence = f"Idempotency-Key {repeat.key!r} was used for another request within a day; choose a new one."
        raise KeyReused(sentence, key=repeat.key)
