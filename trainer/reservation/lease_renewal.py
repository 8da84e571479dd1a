"""A lease that is renewed as long as it is wanted."""

from __future__ import annotations

import threading
from collections.abc import Callable


class LeaseRenewal:
    """Calls `renew` every `every_s` seconds until `stop`."""

    def __init__(self, every_s: float, renew: Callable[[], None]) -> None:
        self._over = threading.Event()
        threading.Thread(target=self._run, args=(every_s, renew), daemon=True).start()

    def stop(self) -> None:
        """Renew no more."""
        self._over.set()

    def _run(self, every_s: float, renew: Callable[[], None]) -> None:
        while not self._over.wait(every_s):
            renew()
