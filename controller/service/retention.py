"""Deletes old records regularly, in a thread of its own: the database may be slow or locked."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from sqlalchemy.exc import SQLAlchemyError

log = logging.getLogger(__name__)

RETENTION_INTERVAL_S = 3600.0

RetentionTask = Callable[[float], None]
"""Deletes records that are too old at a given time (Unix time)."""


class RetentionLoop:
    """The thread that runs the retention tasks."""

    def __init__(
        self, tasks: Sequence[RetentionTask], clock: Callable[[], float], interval_s: float = RETENTION_INTERVAL_S
    ) -> None:
        self._interval_s = interval_s
        self._tasks = tuple(tasks)
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="paceline-retention", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and wait for its end for up to 10 s."""
        self._stopping.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            for task in self._tasks:
                self._run_task(task)
            self._stopping.wait(self._interval_s)

    def _run_task(self, task: RetentionTask) -> None:
        """Run a task; if it fails, the next attempt is after the next interval."""
        try:
            task(self._clock())
        except (SQLAlchemyError, OSError) as error:
            log.warning("old records cannot be deleted now: %s", str(error).splitlines()[0])
        except Exception:
            log.exception("old records could not be deleted")
