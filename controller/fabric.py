"""The switches of the network by name: which are in step, which links are up, and how to bring them into step.

A switch is in step when it is connected and known to hold what it should. Changes may come from several threads at
once; what happens to switches is taken note of by one (`take_events`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import Empty
from typing import TypeVar

from controller.entries import COOKIE_RESERVATION_MASK, MeterEntry, cookie_of
from controller.errors import SwitchDown, SwitchError, SwitchTimeout
from controller.events import (
    LinkChanged,
    Reconciled,
    ServiceEvent,
    SwitchChanged,
    SwitchImpostor,
    SwitchReport,
    SwitchStanding,
)
from controller.forwarding import reservation_meter
from controller.gates import Gates
from controller.holdings import Difference, Holdings, Told
from controller.network import Network
from controller.portwatch import PortWatch
from controller.reservation import Reservation
from controller.spans import SpanState, changes, links_of, span_states
from controller.switches import (
    ChangesByNumber,
    FlowCounter,
    Impostor,
    LldpSeen,
    MeterCounter,
    Pause,
    PortChanged,
    Reading,
    Switches,
    SwitchEvent,
    SwitchUp,
)
from controller.target import Entries, Touched, merged

log = logging.getLogger(__name__)

CONFIRM_S = 5.0
"""How long a switch may take to confirm a step."""
HUB_S = 60.0
"""How long the hub may take over everything; only a hub that has stopped ever does."""
RETRY_S = 2.0
TICK_S = 1.0
WARN_EVERY_S = 60.0

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SwitchCounters:
    """What one switch has counted for a reservation."""

    switch: str
    flows: list[FlowCounter]
    meters: list[MeterCounter]


class Fabric:
    """What is known of the switches, and the way to change it."""

    def __init__(self, network: Network, switches: Switches, tell: Callable[[ServiceEvent], None]) -> None:
        self.down: frozenset[str] = frozenset()
        self.closed: frozenset[str] = frozenset()
        self._span_states: Mapping[str, SpanState] = {}
        self._network = network
        self._switches = switches
        self._tell = tell
        self._holdings = Holdings(network)
        self._gates = Gates(self)
        self._name_of = {number: node.name for number, node in network.switch_by_datapath_id.items()}
        self._number_of = {name: number for number, name in self._name_of.items()}
        switches.expect(self._name_of)
        self._lock = threading.Lock()
        self._in_step: frozenset[str] = frozenset()
        self._under_way: set[str] = set()
        self._retry_at_s: dict[str, float] = {}
        self._ports = PortWatch(network, switches)
        self._warned_until_s: dict[str, float] = {}
        self._waiting: list[SwitchEvent] = []

    def start(self) -> None:
        """Begin to open and close periodic windows."""
        self._gates.start()

    def stop(self) -> None:
        """Leave the gates as they are."""
        self._gates.stop()

    # Changing what switches hold ------------------------------------------------------------------------------------

    def in_step(self) -> frozenset[str]:
        """The switches that are connected and hold what they should."""
        connected = self._switches.connected()
        return frozenset(name for name in self._in_step if self._number_of[name] in connected)

    def require(self, names: Iterable[str]) -> None:
        """Make sure that these switches can be told something now.

        Raises: SwitchDown with all that cannot.
        """
        missing = sorted(set(names) - self.in_step())
        if missing:
            sentence = f"Not connected or not yet in step: {', '.join(missing)}; nothing was changed."
            raise SwitchDown(sentence, switches=missing)

    def aim(self, changed: Mapping[str, Reservation | None]) -> Touched:
        """From now on these reservations should be installed as they are here; None: not at all.

        No switch is told before `confirm` or `bring` is called with what this returns.
        """
        had_windows = self._holdings.has_windows
        touched = self._holdings.aim(changed)
        if had_windows or self._holdings.has_windows:
            self._gates.look_again()
        return touched

    def aim_around_links_down(self) -> Touched:
        """From now on best effort should keep off the links that are down."""
        return self._holdings.aim_around(self.down)

    def next_gate_us(self) -> int | None:
        """When the next periodic window opens or closes; see controller.gates."""
        return self._holdings.next_gate_us()

    def turn_gates(self) -> Touched:
        """From now on periodic windows should stand as this moment wants them."""
        return self._holdings.turn_gates()

    def lets_in(self, reservation: Reservation) -> bool:
        """Whether a switch lets packets of this reservation in, or may."""
        return self._holdings.lets_in(reservation)

    def confirm(self, touched: Touched, drain_s: float = 0.0) -> None:
        """Bring all of these switches to what they should hold.

        Raises: SwitchError; the switches it names count as out of step, and are put right when they let us.
        """
        self._result(self._begin(touched, True, drain_s))

    def bring(self, touched: Touched, drain_s: float = 0.0) -> Future[None]:
        """Bring those of these switches that are known to what they should hold; the others follow when they are."""
        return self._begin(touched, False, drain_s)

    def settle(self, touched: Touched, wait_s: float) -> None:
        """The same, and wait for it, but not for long."""
        try:
            self.bring(touched).result(wait_s)
        except (SwitchError, TimeoutError) as error:
            log.warning("switches not yet settled=%s reason=%s", ",".join(sorted(touched)), error)

    def _begin(self, touched: Touched, all_of_them: bool, drain_s: float) -> Future[None]:
        if not any(touched.values()):
            nothing: Future[None] = Future()
            nothing.set_result(None)
            return nothing
        steps = map(self._numbered, self._holdings.steps(touched, all_of_them, drain_s))
        future = self._switches.apply(steps, CONFIRM_S)
        future.add_done_callback(lambda done: self._note_failure(done, touched))
        return future

    def _numbered(self, step: Told | Pause) -> ChangesByNumber | Pause:
        if isinstance(step, Pause):
            return step
        return {self._number_of[name]: changes for name, changes in step.items()}

    def _note_failure(self, done: Future[None], candidates: Collection[str]) -> None:
        error = done.exception()
        if isinstance(error, SwitchError):
            self._out_of_step(_named(self._by_name(error), candidates), error.detail)
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
        connected = {self._name_of[n] for n in self._switches.connected() if n in self._name_of}
        for name in sorted(connected - self._in_step - self._under_way):
            if self._retry_at_s.get(name, 0.0) <= now_s:
                self._under_way.add(name)
                number = self._number_of[name]
                reading = self._switches.read_state(number, CONFIRM_S, lambda: None)
                reading.add_done_callback(partial(self._restore, name))

    def _restore(self, name: str, done: Future[Reading]) -> None:
        error = done.exception()
        if error is None:
            touched = self._holdings.learn(name, done.result().state)
            difference = self._holdings.difference(name, done.result(), touched)
            self._tell_of(name, difference)
            self.bring(touched).add_done_callback(lambda brought: self._restored(name, brought.exception()))
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
        return self._switches.silent_s(self._number_of[name])

    def standing(self, name: str) -> SwitchStanding:
        """How a switch stands now."""
        if self._number_of[name] not in self._switches.connected():
            return "away"
        return "in_step" if name in self._in_step else "out_of_step"

    # Looking whether it is so ---------------------------------------------------------------------------------------

    def compare(self, names: Iterable[str], repair: bool) -> list[SwitchReport]:
        """Read these switches and say what is not as it should be; with `repair` put it right."""
        reports, touched = [], []
        for name, future in [(name, self._read(name)) for name in names]:
            try:
                reading, expected = self._result(future[0]), future[1]
            except SwitchError:
                reports.append(SwitchReport(name, self.standing(name)))
                continue
            if self.standing(name) != "in_step":
                reports.append(SwitchReport(name, self.standing(name), foreign=reading.foreign))
                continue
            difference, differs = self._holdings.compare(reading, expected)
            self._tell_of(name, difference)
            reports.append(
                SwitchReport(name, "in_step", difference.missing, difference.wrong, difference.foreign)
            )
            if repair:
                touched.append(self._holdings.admit(name, reading, differs))
        self.settle(merged(*touched), CONFIRM_S)
        return reports

    def _read(self, name: str) -> tuple[Future[Reading], Entries]:
        expected: Entries = {}
        asking = lambda: expected.update(self._holdings.expected(name))  # noqa: E731
        return self._switches.read_state(self._number_of[name], CONFIRM_S, asking), expected

    def _tell_of(self, name: str, found: Difference) -> None:
        if found.missing or found.wrong:
            log.warning("switch=%s missing=%d wrong=%d", name, len(found.missing), len(found.wrong))
        self._tell(Reconciled(name, len(found.missing), len(found.wrong), len(found.foreign)))

    def _result(self, future: Future[Result]) -> Result:
        """The future's result; datapath ids in errors become names."""
        try:
            return future.result(HUB_S)
        except SwitchError as error:
            raise self._by_name(error) from error
        except TimeoutError as error:
            raise SwitchTimeout("The switches' side of the controller does not answer.", switches=[]) from error

    def _by_name(self, error: SwitchError) -> SwitchError:
        numbers = error.facts.get("datapath_ids")
        if not isinstance(numbers, list):
            return error
        names = [self._name_of.get(n, f"{n:016x}") for n in numbers]
        sentence = error.detail
        for name in names:
            sentence = sentence.replace(f"{self._number_of.get(name, 0):016x}", name)
        return type(error)(sentence, switches=names)

    def counters(self, reservation: Reservation) -> tuple[list[SwitchCounters], list[str]]:
        """The reservation's counters on each of its switches, and the switches that could not be read."""
        meters: dict[str, list[MeterEntry]] = {}
        for placement in reservation.carried:
            for name in placement.switches:
                meters.setdefault(name, [])
            meters[placement.switches[0]].append(reservation_meter(placement))
        cookie = cookie_of(reservation.number, 0)
        asked = {
            name: self._switches.read_counters(
                self._number_of[name], cookie, COOKIE_RESERVATION_MASK, wanted, CONFIRM_S
            )
            for name, wanted in meters.items()
        }
        read, unavailable = [], []
        for name, future in asked.items():
            try:
                read.append(SwitchCounters(name, *self._result(future)))
            except SwitchError:
                unavailable.append(name)
        return read, unavailable

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
        before, states = self.down, self._span_states
        dark = self._ports.dark()
        self._span_states = span_states(self._network, dark, self.closed)
        self.down = dark | links_of(self._network, self.closed)
        for change in changes(self._network, states, self._span_states):
            log.warning("alarm span=%s state=%s: %s", change.span, change.state, change.text)
            self._tell(change)
        for link in sorted(before ^ self.down):
            log.warning("link=%s state=%s", link, "down" if link in self.down else "up")
            self._tell(LinkChanged(link, link not in self.down))
        return before != self.down

    def close(self, spans: frozenset[str]) -> None:
        """From the next look at events on, exactly these spans are out of service, besides what is dark."""
        self.closed = spans

    def _take(self, event: SwitchEvent) -> None:
        number = event.datapath_id
        if isinstance(event, SwitchUp | PortChanged | LldpSeen):
            self._ports.take(event)
        if isinstance(event, PortChanged | LldpSeen):
            return
        if isinstance(event, Impostor):
            self._turned_away(event)
            return
        name = self._name_of.get(number)
        what = type(event).__name__
        log.info("switch=%s event=%s", name or f"{number:016x}", what)
        if name is not None:
            self._holdings.forget([name])
            self._retry_at_s.pop(name, None)
            self._stand([name], False)

    def _turned_away(self, event: Impostor) -> None:
        """Say so, but not each time that it comes again."""
        name, now_s = self._name_of[event.datapath_id], time.monotonic()
        if now_s >= self._warned_until_s.get(name, 0.0):
            self._warned_until_s[name] = now_s + WARN_EVERY_S
            shown = ", ".join(event.names)
            log.warning("switch=%s turned away address=%s: its certificate is that of %s", name, event.address, shown)
            self._tell(SwitchImpostor(name, event.names, event.address))

    # Wiring ---------------------------------------------------------------------------------------------------------

    def check_wiring(self) -> None:
        """Have every port say where it is, now and then."""
        self._ports.check_wiring()

    def complaints(self) -> list[str]:
        """What is not as the map says, one sentence each."""
        return self._ports.complaints()


def _named(error: SwitchError, candidates: Collection[str]) -> Collection[str]:
    """The switches an error is about."""
    named = error.facts.get("switches")
    found = [name for name in named if name in candidates] if isinstance(named, list) else []
    return found or candidates
