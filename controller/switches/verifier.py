"""Reads switches back: drift from the intended state."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from controller.dataplane.entries import Entries
from controller.dataplane.intended_state import ChangedKeys, merge_keys
from controller.dataplane.southbound import CONFIRM_TIMEOUT_S, Reading, Switches
from controller.domain.events import ServiceEvent, SwitchReconciled, SwitchReport, SwitchSyncState
from controller.errors import SwitchError
from controller.switches.datapath_ids import DatapathIds
from controller.switches.drift import Drift
from controller.switches.state_tracker import SwitchStateTracker

log = logging.getLogger(__name__)


class StateVerifier:
    """Reads switches and compares; changes none. `sync_state` gives the state of a switch."""

    def __init__(
        self,
        switches: Switches,
        datapath_ids: DatapathIds,
        tracker: SwitchStateTracker,
        sync_state: Callable[[str], SwitchSyncState],
        publish: Callable[[ServiceEvent], None],
    ) -> None:
        self._switches = switches
        self._datapath_ids = datapath_ids
        self._tracker = tracker
        self._sync_state = sync_state
        self._publish = publish

    def compare(self, names: Iterable[str], repair: bool) -> tuple[list[SwitchReport], ChangedKeys]:
        """Read these switches and report their drift; with `repair`, also the keys to correct."""
        reports, changed = [], []
        for name, future in [(name, self._read(name)) for name in names]:
            try:
                reading, expected = self._datapath_ids.result(future[0]), future[1]
            except SwitchError:
                reports.append(SwitchReport(name, self._sync_state(name)))
                continue
            if self._sync_state(name) != "in_step":
                reports.append(SwitchReport(name, self._sync_state(name), foreign=reading.foreign))
                continue
            drift, differs = self._tracker.drift_since(reading, expected)
            self.report(name, drift)
            reports.append(
                SwitchReport(name, "in_step", drift.missing, drift.wrong, drift.foreign)
            )
            if repair:
                changed.append(self._tracker.accept_reading(name, reading, differs))
        return reports, merge_keys(*changed)

    def _read(self, name: str) -> tuple[Future[Reading], Entries]:
        expected: Entries = {}
        on_request = lambda: expected.update(self._tracker.applied(name))  # noqa: E731
        return self._switches.read_state(
            self._datapath_ids.datapath_id_of[name], CONFIRM_TIMEOUT_S, on_request
        ), expected

    def report(self, name: str, drift: Drift) -> None:
        """Log and publish the drift of a switch."""
        if drift.missing or drift.wrong:
            log.warning("switch=%s missing=%d wrong=%d", name, len(drift.missing), len(drift.wrong))
        self._publish(SwitchReconciled(name, len(drift.missing), len(drift.wrong), len(drift.foreign)))
