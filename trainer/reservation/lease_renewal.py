"""Periodic renewal of a lease."""

from __future__ import annotations

import threading
from collections.abc import Callable


class LeaseRenewal:
    """Calls `renew` every `interval_s` seconds in its own thread until `stop`."""

    def __init__(self, interval_s: float, renew: Callable[[], None]) -> None:
        self._stopped = threading.Event()
        threading.Thread(target=self._run, args=(interval_s, renew), daemon=True).start()

    def stop(self) -> None:
        """End the renewals."""
        self._stopped.set()

    def _run(self, interval_s: float, renew: Callable[[], None]) -> None:
        while not self._stopped.wait(interval_s):
            renew()
