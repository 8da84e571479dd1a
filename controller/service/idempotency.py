"""Idempotent requests: a repeated request gets the response of the first, and has no effect. Thread-safe.

The response is stored in the transaction that makes the reservation. A request that was refused or failed has had no
effect, so its repetition is a new request.
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
    """Idempotency keys of requests in progress, and stored responses of the last 24 hours."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._in_progress: dict[tuple[str, str], str] = {}

    @contextmanager
    def first_response(self, key: IdempotencyKey) -> Iterator[Reservation | None]:
        """The stored response to this key; None: the request is new, and in progress until the block ends.

        Raises: KeyReused, InProgress.
        """
        name = key.tenant, key.key
        with self._lock:
            body_digest = self._in_progress.get(name)
            if body_digest is not None:
                _check_body(key, body_digest)
                raise InProgress(f"The first request with Idempotency-Key {key.key!r} is still being answered.")
            self._in_progress[name] = key.body_digest
        try:
            response = self._ledger.response(key)
            if response is not None:
                _check_body(key, response[0])
            yield None if response is None else response[1]
        finally:
            with self._lock:
                del self._in_progress[name]

    def delete_expired(self, now_s: float) -> None:
        """Delete stored responses older than 24 hours."""
        self._ledger.delete_responses(now_s - KEPT_S)


def _check_body(key: IdempotencyKey, body_digest: str) -> None:
    if body_digest != key.body_digest:
        sentence = f"Idempotency-Key {key.key!r} was used for another request within a day; choose a new one."
        raise KeyReused(sentence, key=key.key)
