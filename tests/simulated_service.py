"""A real service on switches that store their entries, a ledger that fails on demand, and a clock set by the test."""

# ruff: noqa: ARG002 - the signatures are those of the real switches

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.exc import OperationalError

from controller.clock import Clock
from controller.dataplane.entries import (
    Entries,
    FlowEntry,
    GroupEntry,
    MeterEntry,
    SwitchState,
    entries_of,
    key_of,
)
from controller.dataplane.meter_tokens import MeterCounts
from controller.dataplane.pipeline import intended_states
from controller.dataplane.southbound import ChangesByDatapath, Pause, PortChanged, Reading, SwitchConnected
from controller.dataplane.update_order import DELETES
from controller.domain.network import Network
from controller.domain.reservation import Reservation
from controller.failpoints import FailPoint
from controller.storage.ledger import Ledger
from tests.unit.controller.simulated_switches import ConfirmingSwitches


class StoringSwitches(ConfirmingSwitches):
    """All switches of the map, connected; they store their entries, also while no controller runs."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.entries: dict[int, Entries] = {number: {} for number in network.switch_by_datapath_id}
        self.down: set[str] = set()
        """Spans that are cut, as `a-b`."""

    def reconnect(self) -> None:
        """Connect to a new controller, and report the ports."""
        while not self.events.empty():
            self.events.get()
        for number, node in self.network.switch_by_datapath_id.items():
            links = self.network.links_from(node.name)
            ports = {link.source_port: ("", not self._is_cut(link.source, link.destination)) for link in links}
            self.events.put(SwitchConnected(number, ports))

    def set_span(self, a: str, b: str, up: bool) -> None:
        """Cut or repair the span between two switches; both report it."""
        (self.down.discard if up else self.down.add)("-".join(sorted((a, b))))
        for source, destination in ((a, b), (b, a)):
            link = self.network.links[f"{source}->{destination}"]
            number = self.network.nodes[source].datapath_id
            assert number is not None
            self.events.put(PortChanged(number, link.source_port, "", up))

    def _is_cut(self, a: str, b: str) -> bool:
        return "-".join(sorted((a, b))) in self.down

    def apply(self, stages: Iterable[ChangesByDatapath | Pause], timeout_s: float) -> Future[None]:
        for stage in stages:
            if not isinstance(stage, Pause):
                for number, changes in stage.items():
                    for change in changes:
                        if change.kind in DELETES:
                            self.entries[number].pop(key_of(change.entry), None)
                        else:
                            self.entries[number][key_of(change.entry)] = change.entry
        return _done(None)

    def read_state(self, datapath_id: int, timeout_s: float, on_request: Callable[[], None]) -> Future[Reading]:
        on_request()
        state: tuple[dict[Any, Any], dict[Any, Any], dict[Any, Any]] = {}, {}, {}
        for (_, key), entry in self.entries[datapath_id].items():
            kinds = (MeterEntry, FlowEntry, GroupEntry)
            state[kinds.index(type(entry))][key] = entry
        return _done(Reading(entries_of(SwitchState(*state))))

    def installed(self) -> dict[str, Entries]:
        """The entries by the name of the switch."""
        return {node.name: self.entries[number] for number, node in self.network.switch_by_datapath_id.items()}


class UsedSwitches(StoringSwitches):
    """Switches through whose meters packets have passed when they are deleted."""

    def apply(self, stages: Iterable[ChangesByDatapath | Pause], timeout_s: float) -> Future[None]:
        return super().apply(self._counted(stages), timeout_s)

    def _counted(self, stages: Iterable[ChangesByDatapath | Pause]) -> Iterator[ChangesByDatapath | Pause]:
        for stage in stages:
            yield stage
            for change in () if isinstance(stage, Pause) else [each for listed in stage.values() for each in listed]:
                if change.kind == "delete_meter" and change.tokens is not None:
                    change.tokens.before = MeterCounts(1, 1500, 0, 0)


def _done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future


def intended_entries(
    network: Network,
    reservations: Iterable[Reservation],
    down: frozenset[str],
    now_us: int,
    meter_bursts: Mapping[str, Mapping[str, int]],
) -> dict[str, Entries]:
    """The entries that every switch should have, computed from nothing."""
    states: Mapping[str, SwitchState] = intended_states(network, reservations, down, now_us, meter_bursts)
    return {name: entries_of(state) for name, state in states.items()}


LedgerMode = Literal["ok", "locked", "lost", "every other", "numbered"]


class FailingLedger(Ledger):
    """A ledger whose transactions fail: `locked` without effect, `lost` after they took effect, or every other one.

    `numbered`: those in `failing`, without effect, counted from 1 in `transactions`.
    """

    mode: LedgerMode = "ok"
    failing: Container[int] = ()
    transactions = 0

    def fail(self, point: FailPoint) -> None:
        """Fail as the mode says; to be called at every fail point."""
        if point is FailPoint.RECORDING:
            self.transactions += 1
            is_numbered = self.mode == "numbered" and self.transactions in self.failing
            if is_numbered or self.mode == "locked" or (self.mode == "every other" and self.transactions % 2):
                raise OperationalError("", None, Exception("database is locked"))
        if point is FailPoint.RECORDED and self.mode == "lost":
            raise OperationalError("", None, Exception("server closed the connection"))


@dataclass
class SetClock:
    """A pair of clocks that the test sets."""

    monotonic_s: float = 1000.0
    offset_s: float = 1_700_000_000.0

    def pair(self) -> Clock:
        """The pair as a service takes it."""
        return Clock(lambda: self.monotonic_s + self.offset_s, lambda: self.monotonic_s)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.monotonic_s += seconds

    def step(self, seconds: float) -> None:
        """Set the wall clock."""
        self.offset_s += seconds
