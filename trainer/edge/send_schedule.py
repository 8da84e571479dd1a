"""Scheduled sending: messages are sent at periodic instants common to all edges."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from torch import Tensor

from trainer.errors import ConnectionLostError
from trainer.protocol.messages import Message

Send = Callable[[Message, Mapping[str, Tensor]], object]


class SendSchedule:
    """Sends message m at `first_s + m x period_s` (seconds since the epoch), or when it is ready if that is later.

    To be used in a `with` block; a separate thread sends while the edge computes. An error in the block cancels the
    messages that are not yet due.
    """

    def __init__(self, send: Send, first_s: float, period_s: float) -> None:
        self.late_s = 0.0
        self._send = send
        self._first_s = first_s
        self._period_s = period_s
        self._queue: queue.SimpleQueue[tuple[Message, Mapping[str, Tensor]] | None] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._lost: ConnectionLostError | None = None
        self._thread = threading.Thread(target=self._run, name="send-schedule", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def put(self, message: Message, tensors: Mapping[str, Tensor]) -> None:
        """Queue the next message."""
        self._queue.put((message, tensors))

    def finish(self) -> float:
        """Wait until all messages are sent; return the largest delay past a scheduled instant, in seconds.

        Raises: ConnectionLostError if the connection is lost.
        """
        self._queue.put(None)
        self._thread.join()
        if self._lost is not None:
            raise self._lost
        return self.late_s

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancelled.set()
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        due_s = self._first_s
        while (item := self._queue.get()) is not None:
            self.late_s = max(self.late_s, time.time() - due_s)
            while (wait_s := due_s - time.time()) > 0:
                if self._cancelled.wait(wait_s):
                    return
            try:
                self._send(*item)
            except ConnectionLostError as lost:
                self._lost = lost
                return
            due_s += self._period_s
