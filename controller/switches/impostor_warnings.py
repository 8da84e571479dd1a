"""Tells of connections that were rejected because they claim to be a switch that they are not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from controller.dataplane.southbound import CertificateMismatch, DuplicateConnection
from controller.domain.events import ServiceEvent, SwitchCertificateMismatch, SwitchDuplicate
from controller.switches.datapath_ids import DatapathIds

log = logging.getLogger(__name__)

WARN_EVERY_S = 60.0


class ImpostorWarnings:
    """Logs and publishes rejected connections, each switch's at most once in WARN_EVERY_S."""

    def __init__(self, datapath_ids: DatapathIds, publish: Callable[[ServiceEvent], None]) -> None:
        self._datapath_ids = datapath_ids
        self._publish = publish
        self._silent_until_s: dict[str, float] = {}

    def warn(self, event: CertificateMismatch | DuplicateConnection) -> None:
        """Tell of a rejected connection."""
        name, now_s = self._datapath_ids.name_of.get(event.datapath_id), time.monotonic()
        if name is None or now_s < self._silent_until_s.get(name, 0.0):
            return
        self._silent_until_s[name] = now_s + WARN_EVERY_S
        if isinstance(event, CertificateMismatch):
            names = ", ".join(event.names)
            log.warning("switch=%s rejected address=%s: its certificate is for %s", name, event.address, names)
            self._publish(SwitchCertificateMismatch(name, event.names, event.address))
        else:
            log.warning("switch=%s rejected address=%s: the switch is connected already", name, event.address)
            self._publish(SwitchDuplicate(name, event.names, event.address))
