"""Background verification: reads one switch after another back and repairs entries that differ from intended ones."""

from __future__ import annotations

import logging
import threading
from itertools import count
from time import monotonic

from controller.switches.switch_manager import SwitchManager

log = logging.getLogger(__name__)

VERIFY_INTERVAL_S = 5.0
"""Interval between the verifications of one switch and the next; longer if a verification takes long."""
MAX_VERIFY_SHARE = 0.02
"""Largest share of the time that verification may take."""


class VerificationLoop:
    """The thread that verifies the switches in turn."""

    def __init__(self, switches: SwitchManager, names: list[str], interval_s: float) -> None:
        self._switches = switches
        self._names = names
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="paceline-verifier", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and wait for its end for up to 10 s."""
        self._stopping.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        took_s = 0.0
        for number in count():
            if self._stopping.wait(max(self._interval_s, took_s / MAX_VERIFY_SHARE)):
                return
            started_s = monotonic()
            self._verify(self._names[number % len(self._names)])
            took_s = monotonic() - started_s

    def _verify(self, name: str) -> None:
        if name in self._switches.in_step():
            try:
                self._switches.verify([name], repair=True)
            except Exception:
                log.exception("switch=%s could not be verified", name)
