"""Sends updates to switches: the stages of the state tracker, each confirmed before the next."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from concurrent.futures import Future

from controller.dataplane.intended_state import ChangedKeys
from controller.dataplane.southbound import CONFIRM_TIMEOUT_S, ChangesByDatapath, Pause, Switches
from controller.errors import SwitchError
from controller.switches.datapath_ids import DatapathIds
from controller.switches.pending_update import StageChanges
from controller.switches.state_tracker import SwitchStateTracker

log = logging.getLogger(__name__)


class UpdateSender:
    """Brings switches from their applied to their intended state. Thread-safe.

    `on_failure` is called with the switches that did not confirm an update, and the reason.
    """

    def __init__(
        self,
        switches: Switches,
        datapath_ids: DatapathIds,
        tracker: SwitchStateTracker,
        on_failure: Callable[[Collection[str], str], None],
    ) -> None:
        self._switches = switches
        self._datapath_ids = datapath_ids
        self._tracker = tracker
        self._on_failure = on_failure

    def confirm(self, changed: ChangedKeys, drain_s: float = 0.0) -> None:
        """Bring all of these switches to their intended state, and wait for it.

        Raises: SwitchError; the switches it names are out of step until they are resynchronized.
        """
        self.result(self._begin(changed, True, drain_s))

    def begin(self, changed: ChangedKeys) -> Future[None]:
        """Start to bring all of these switches to their intended state; `result` waits for it."""
        return self._begin(changed, True, 0.0)

    def result(self, update: Future[None]) -> None:
        """Wait for an update.

        Raises: as `confirm`.
        """
        self._datapath_ids.result(update)

    def synchronize(self, changed: ChangedKeys, drain_s: float = 0.0) -> Future[None]:
        """Bring those of these switches whose state is known to their intended state; the others follow later.

        If some do not confirm, the others are updated all the same, which the returned future does not include.
        """
        update = self._begin(changed, False, drain_s)
        update.add_done_callback(lambda done: self._continue_without_failed(done, changed, drain_s))
        return update

    def _continue_without_failed(self, done: Future[None], changed: ChangedKeys, drain_s: float) -> None:
        if isinstance(done.exception(), SwitchError):
            known = self._tracker.known_switches()
            others = {name: keys for name, keys in changed.items() if name in known}
            if len(others) < len(changed):
                self.synchronize(others, drain_s)

    def settle(self, changed: ChangedKeys, wait_s: float) -> None:
        """Synchronize, and wait at most `wait_s` for it."""
        if not any(changed.values()):
            return
        try:
            self.synchronize(changed).result(wait_s)
        except (SwitchError, TimeoutError) as error:
            log.warning("switches not yet settled=%s reason=%s", ",".join(sorted(changed)), error)

    def _begin(self, changed: ChangedKeys, require_all: bool, drain_s: float) -> Future[None]:
        if not any(changed.values()):
            nothing: Future[None] = Future()
            nothing.set_result(None)
            return nothing
        stages = self._tracker.update_stages(changed, require_all, drain_s)
        update = self._switches.apply(map(self._by_datapath, stages), CONFIRM_TIMEOUT_S)

        def on_end(done: Future[None]) -> None:
            stages.close()
            self._note_failure(done, changed)

        update.add_done_callback(on_end)
        return update

    def _by_datapath(self, stage: StageChanges | Pause) -> ChangesByDatapath | Pause:
        if isinstance(stage, Pause):
            return stage
        return {self._datapath_ids.datapath_id_of[name]: changes for name, changes in stage.items()}

    def _note_failure(self, done: Future[None], candidates: Collection[str]) -> None:
        error = done.exception()
        if isinstance(error, SwitchError):
            self._on_failure(_failed_switches(self._datapath_ids.with_names(error), candidates), error.detail)
        elif error is not None:
            log.error("an update of the switches failed", exc_info=error)
            self._on_failure(candidates, str(error))


def _failed_switches(error: SwitchError, candidates: Collection[str]) -> Collection[str]:
    """Those of the candidates that an error names; all if it names none."""
    named = error.facts.get("switches")
    failed = [name for name in named if name in candidates] if isinstance(named, list) else []
    return failed or candidates
