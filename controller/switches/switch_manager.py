"""The switches of the network by name: which are in step, and how to bring them into step.

A switch is in step when it is connected and known to hold what it should. Changes may come from several threads at
once; what happens to switches is taken note of by one (`take_events`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from queue import Empty

from controller.dataplane.intended_state import ChangedKeys
from controller.dataplane.southbound import (
    CONFIRM_TIMEOUT_S,
    CertificateMismatch,
    ChangesByDatapath,
    LldpReceived,
    Pause,
    PortChanged,
    Reading,
    SwitchConnected,
    Switches,
    SwitchEvent,
)
from controller.domain.events import (
    ServiceEvent,
    SwitchCertificateMismatch,
    SwitchChanged,
    SwitchReport,
    SwitchSyncState,
)
from controller.domain.network import Network
from controller.domain.reservation import Reservation
from controller.errors import SwitchDown, SwitchError
from controller.switches.datapath_ids import Directory
from controller.switches.gate_control import GateController
from controller.switches.link_monitor import LinkWatch
from controller.switches.state_tracker import SwitchStateTracker, Told
from controller.switches.verifier import Inspection, SwitchCounters

log = logging.getLogger(__name__)

RETRY_S = 2.0
WARN_EVERY_S = 60.0


class SwitchManager:
    """What is known of the switches, and the way to change it."""

    def __init__(self, network: Network, switches: Switches, tell: Callable[[ServiceEvent], None]) -> None:
        self.links = LinkWatch(network, switches, tell)
        self._switches = switches
        self._tell = tell
        self._holdings = SwitchStateTracker(network)
        self._gates = GateController(self)
        self._directory = Directory(network)
        self._inspection = Inspection(switches, self._directory, self._holdings, self.standing, tell)
        switches.expect(self._directory.name_of)
        self._lock = threading.Lock()
        self._in_step: frozenset[str] = frozenset()
        self._under_way: set[str] = set()
        self._retry_at_s: dict[str, float] = {}
        self._warned_until_s: dict[str, float] = {}
        self._waiting: list[SwitchEvent] = []

    def start(self) -> None:
        """Begin to open and close periodic windows."""
        self._gates.start()

    def stop(self) -> None:
        """Leave the gates as they are."""
        self._gates.stop()

    # Changing what switches hold ------------------------------------------------------------------------------------

    def is_in_sync(self) -> frozenset[str]:
        """The switches that are connected and hold what they should."""
        connected = self._switches.connected()
        return frozenset(name for name in self._in_step if self._directory.number_of[name] in connected)

    def require(self, names: Iterable[str]) -> None:
        """Make sure that these switches can be told something now.

        Raises: SwitchDown with all that cannot.
        """
        missing = sorted(set(names) - self.is_in_sync())
        if missing:
            sentence = f"Not connected or not yet in step: {', '.join(missing)}; nothing was changed."
            raise SwitchDown(sentence, switches=missing)

    def set_intended(self, changed: Mapping[str, Reservation | None]) -> ChangedKeys:
        """From now on these reservations should be installed as they are here; None: not at all.

        No switch is told before `confirm` or `bring` is called with what this returns.
        """
        had_windows = self._holdings.has_windows
        touched = self._holdings.set_intended(changed)
        if had_windows or self._holdings.has_windows:
            self._gates.look_again()
        return touched

    def set_links_down(self) -> ChangedKeys:
        """From now on best effort should keep off the links that are down."""
        return self._holdings.set_links_down(self.links.down)

    def next_gate_us(self) -> int | None:
        """When the next periodic window opens or closes; see controller.switches.gate_control."""
        return self._holdings.next_gate_us()

    def apply_gates(self) -> ChangedKeys:
        """From now on periodic windows should stand as this moment wants them."""
        return self._holdings.apply_gates()

    def may_forward(self, reservation: Reservation) -> bool:
        """Whether a switch lets packets of this reservation in, or may."""
        return self._holdings.may_forward(reservation)

    def confirm(self, touched: ChangedKeys, drain_s: float = 0.0) -> None:
        """Bring all of these switches to what they should hold.

        Raises: SwitchError; the switches it names count as out of step, and are put right when they let us.
        """
        self.result(self._begin(touched, True, drain_s))

    def begin(self, touched: ChangedKeys) -> Future[None]:
        """Begin to do so; `result` says what has become of it."""
        return self._begin(touched, True, 0.0)

    def result(self, future: Future[None]) -> None:
        """Wait for what has begun.

        Raises: as `confirm`.
        """
        self._directory.result(future)

    def synchronize(self, touched: ChangedKeys, drain_s: float = 0.0) -> Future[None]:
        """Bring those of these switches that are known to what they should hold; the others follow when they are.

        If some of them do not do their part, the others are brought to it all the same, without being waited for.
        """
        bringing = self._begin(touched, False, drain_s)
        bringing.add_done_callback(lambda done: self._bring_the_others(done, touched, drain_s))
        return bringing

    def _bring_the_others(self, done: Future[None], touched: ChangedKeys, drain_s: float) -> None:
        if isinstance(done.exception(), SwitchError):
            known = self._holdings.known()
            others = {name: keys for name, keys in touched.items() if name in known}
            if len(others) < len(touched):
                self.synchronize(others, drain_s)

    def settle(self, touched: ChangedKeys, wait_s: float) -> None:
        """The same, and wait for it, but not for long."""
        if not any(touched.values()):
            return
        try:
            self.synchronize(touched).result(wait_s)
        except (SwitchError, TimeoutError) as error:
            log.warning("switches not yet settled=%s reason=%s", ",".join(sorted(touched)), error)

    def _begin(self, touched: ChangedKeys, all_of_them: bool, drain_s: float) -> Future[None]:
        if not any(touched.values()):
            nothing: Future[None] = Future()
            nothing.set_result(None)
            return nothing
        steps = map(self._numbered, self._holdings.update_stages(touched, all_of_them, drain_s))
        future = self._switches.apply(steps, CONFIRM_TIMEOUT_S)
        future.add_done_callback(lambda done: self._note_failure(done, touched))
        return future

    def _numbered(self, step: Told | Pause) -> ChangesByDatapath | Pause:
        if isinstance(step, Pause):
            return step
        return {self._directory.number_of[name]: changes for name, changes in step.items()}

    def _note_failure(self, done: Future[None], candidates: Collection[str]) -> None:
        error = done.exception()
        if isinstance(error, SwitchError):
            self._out_of_step(_named(self._directory.by_name(error), candidates), error.detail)
        elif error is not None:
            log.error("a change of the switches failed", exc_info=error)
            self._out_of_step(candidates, str(error))

    def _out_of_step(self, names: Collection[str], reason: str) -> None:
        self._holdings.forget(names)
        for name in names:
            self._retry_at_s[name] = time.monotonic() + RETRY_S
        self._stand(names, False)
        log.warning("switches out of step=%s reason=%s", ",".join(sorted(names)), reason)

    # Bringing switches back into step -------------------------------------------------------------------------------

    def restore(self) -> None:
        """Begin to bring connected switches that are out of step back into it; waits for nothing."""
        now_s = time.monotonic()
        connected = {self._directory.name_of[n] for n in self._switches.connected() if n in self._directory.name_of}
        for name in sorted(connected - self._in_step - self._under_way):
            if self._retry_at_s.get(name, 0.0) <= now_s:
                self._under_way.add(name)
                number = self._directory.number_of[name]
                reading = self._switches.read_state(number, CONFIRM_TIMEOUT_S, lambda: None)
                reading.add_done_callback(partial(self._restore, name))

    def _restore(self, name: str, done: Future[Reading]) -> None:
        error = done.exception()
        if error is None:
            touched = self._holdings.learn(name, done.result().state)
            difference = self._holdings.drift_of(name, done.result(), touched)
            self._inspection.tell_of(name, difference)
            self.synchronize(touched).add_done_callback(lambda brought: self._restored(name, brought.exception()))
        else:
            self._out_of_step([name], str(error))
            self._restored(name, error)

    def _restored(self, name: str, error: BaseException | None) -> None:
        self._under_way.discard(name)
        if error is None and name in self._holdings.known():
            self._stand([name], True)
        self.wake()

    def _stand(self, names: Collection[str], in_step: bool) -> None:
        with self._lock:
            before = self._in_step
            self._in_step = before.union(names) if in_step else before.difference(names)
        for name in sorted(before ^ self._in_step):
            self._tell(SwitchChanged(name, self.standing(name)))

    def silent_s(self, name: str) -> float:
        """For how long a switch has owed an answer; 0 if it owes none."""
        return self._switches.silent_s(self._directory.number_of[name])

    def standing(self, name: str) -> SwitchSyncState:
        """How a switch stands now."""
        if self._directory.number_of[name] not in self._switches.connected():
            return "away"
        return "in_step" if name in self._in_step else "out_of_step"

    # Looking whether it is so ---------------------------------------------------------------------------------------

    def verify(self, names: Iterable[str], repair: bool) -> list[SwitchReport]:
        """Read these switches and say what is not as it should be; with `repair` put it right."""
        reports, touched = self._inspection.compare(names, repair)
        self.settle(touched, CONFIRM_TIMEOUT_S)
        return reports

    def counters(self, reservation: Reservation) -> tuple[list[SwitchCounters], list[str]]:
        """The reservation's counters on each of its switches, and the switches that could not be read."""
        return self._inspection.counters(reservation)

    # What happens to switches ---------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let whoever waits for an event look around."""
        self._switches.events.put(None)

    def wait_for_event(self, timeout_s: float) -> None:
        """Wait until something happens or the time is over."""
        try:
            event = self._switches.events.get(timeout=timeout_s)
        except Empty:
            return
        if event is not None:
            self._waiting.append(event)

    def take_events(self) -> bool:
        """Take note of what has happened; whether other links are down than before."""
        while not self._switches.events.empty():
            self.wait_for_event(0)
        for event in self._waiting:
            self._take(event)
        self._waiting.clear()
        return self.links.look()

    def _take(self, event: SwitchEvent) -> None:
        number = event.datapath_id
        if isinstance(event, SwitchConnected | PortChanged | LldpReceived):
            self.links.take(event)
        if isinstance(event, PortChanged | LldpReceived):
            return
        if isinstance(event, CertificateMismatch):
            self._turned_away(event)
            return
        name = self._directory.name_of.get(number)
        what = type(event).__name__
        log.info("switch=%s event=%s", name or f"{number:016x}", what)
        if name is not None:
            self._holdings.forget([name])
            self._retry_at_s.pop(name, None)
            self._stand([name], False)

    def _turned_away(self, event: CertificateMismatch) -> None:
        """Say so, but not each time that it comes again."""
        name, now_s = self._directory.name_of[event.datapath_id], time.monotonic()
        if now_s >= self._warned_until_s.get(name, 0.0):
            self._warned_until_s[name] = now_s + WARN_EVERY_S
            shown = ", ".join(event.names)
            log.warning("switch=%s turned away address=%s: its certificate is that of %s", name, event.address, shown)
            self._tell(SwitchCertificateMismatch(name, event.names, event.address))


def _named(error: SwitchError, candidates: Collection[str]) -> Collection[str]:
    """The switches an error is about."""
    named = error.facts.get("switches")
    found = [name for name in named if name in candidates] if isinstance(named, list) else []
    return found or candidates
