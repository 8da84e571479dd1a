"""What has arrived and is not yet dealt with, bounded for each sender.

Who sends more than fits waits: its receiving thread stops reading, its TCP window closes, and in the end the sender
itself stops. Nobody else notices.
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
    """Items from many threads to one, in order of arrival; `S` is the sender, and must hash."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES, limit_items: int = LIMIT_ITEMS) -> None:
        self._limit_bytes = limit_bytes
        self._limit_items = limit_items
        self._items: deque[tuple[S, T, int]] = deque()
        self._bytes: dict[S, int] = {}
        self._counts: dict[S, int] = {}
        self._change = threading.Condition()
        self._closed = False

    def put(self, sender: S, item: T, size_bytes: int = 0) -> bool:
        """Add an item as soon as the sender's share has room for it; False if the mailbox was closed.

        An item larger than the whole share is taken when nothing else of that sender waits.
        """
        with self._change:
            self._change.wait_for(lambda: self._closed or self._has_room(sender, size_bytes))
            if self._closed:
                return False
            self._items.append((sender, item, size_bytes))
            self._bytes[sender] = self._bytes.get(sender, 0) + size_bytes
            self._counts[sender] = self._counts.get(sender, 0) + 1
            self._change.notify_all()
            return True

    def get(self, deadline_s: float | None = None) -> tuple[S, T] | None:
        """The oldest item; None if there is none by then (`time.monotonic`)."""
        with self._change:
            left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            if not self._change.wait_for(lambda: bool(self._items), left_s):
                return None
            sender, item, size_bytes = self._items.popleft()
            self._bytes[sender] -= size_bytes
            self._counts[sender] -= 1
            if not self._counts[sender]:
                del self._bytes[sender], self._counts[sender]
            self._change.notify_all()
            return sender, item

    def __len__(self) -> int:
        """How many items wait."""
        with self._change:
            return len(self._items)

    def close(self) -> None:
        """Take nothing more; whoever waits to add something is let go."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def _has_room(self, sender: S, size_bytes: int) -> bool:
        held = self._counts.get(sender, 0)
        if not held:
            return True
        return held < self._limit_items and self._bytes[sender] + size_bytes <= self._limit_bytes
