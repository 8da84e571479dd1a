"""Queue of received items, bounded per sender.

A sender that exceeds its limit is throttled: its receiving thread blocks, its TCP window closes, and the sender itself
blocks. Other senders are not affected.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

LIMIT_BYTES = 64 * 1024 * 1024
LIMIT_ITEMS = 256

S = TypeVar("S")
T = TypeVar("T")


class Inbox(Generic[S, T]):
    """Queue from many threads to one, in order of arrival; `S` is the sender, hashable."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES, limit_items: int = LIMIT_ITEMS) -> None:
        self._limit_bytes = limit_bytes
        self._limit_items = limit_items
        self._items: deque[tuple[S, T, int]] = deque()
        self._bytes: dict[S, int] = {}
        self._counts: dict[S, int] = {}
        self._changed = threading.Condition()
        self._closed = False

    def put(self, sender: S, item: T, size_bytes: int = 0) -> bool:
        """Add an item; blocks until the sender's limit allows it. Returns False if the inbox was closed.

        An item larger than the whole limit is accepted when the sender has no other item in the queue.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(sender, size_bytes))
            if self._closed:
                return False
            self._items.append((sender, item, size_bytes))
            self._bytes[sender] = self._bytes.get(sender, 0) + size_bytes
            self._counts[sender] = self._counts.get(sender, 0) + 1
            self._changed.notify_all()
            return True

    def get(self, deadline_s: float | None = None) -> tuple[S, T] | None:
        """Remove and return the oldest item; None if there is none by the deadline (`time.monotonic`)."""
        with self._changed:
            timeout_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            if not self._changed.wait_for(lambda: bool(self._items), timeout_s):
                return None
            sender, item, size_bytes = self._items.popleft()
            self._bytes[sender] -= size_bytes
            self._counts[sender] -= 1
            if not self._counts[sender]:
                del self._bytes[sender], self._counts[sender]
            self._changed.notify_all()
            return sender, item

    def __len__(self) -> int:
        """Return the number of items in the queue."""
        with self._changed:
            return len(self._items)

    def close(self) -> None:
        """Accept no more items; blocked `put` calls return False."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _has_room(self, sender: S, size_bytes: int) -> bool:
        queued = self._counts.get(sender, 0)
        if not queued:
            return True
        return queued < self._limit_items and self._bytes[sender] + size_bytes <= self._limit_bytes
