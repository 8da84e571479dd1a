"""Thread-safe client of the switches; its work runs on Ryu's hub.

Eventlet's hub belongs to one thread. Other threads append a call to a deque and write a byte to a pipe; a greenlet that
waits on the pipe runs the calls and completes their futures.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import count
from queue import Queue
from typing import Any, TypeVar

from controller.dataplane.entries import MeterEntry
from controller.dataplane.meter_tokens import NO_COUNTS
from controller.dataplane.southbound import (
    ChangesByDatapath,
    FlowCounter,
    MeterCounter,
    Pause,
    PortCounter,
    Reading,
    SwitchEvent,
    SwitchStateUnknown,
)
from controller.dataplane.switch_capabilities import SwitchCapabilities
from controller.errors import SwitchRefused
from controller.openflow.capability_messages import is_last
from controller.openflow.connection import corked
from controller.openflow.encoder import (
    BARRIER_REPLY,
    ERROR_CODES,
    MULTIPART_REPLY,
    decode_meter_counts,
    is_refused_reading,
)
from controller.openflow.event_queue import SwitchEventQueue
from controller.openflow.eventlet_quiet import eventlet
from controller.openflow.incoming import BadMessageError
from controller.openflow.readings import read_capabilities, read_counters, read_ports, read_state
from controller.openflow.roles import Role, SwitchRoles
from controller.openflow.switch_admission import SwitchAdmission, end
from controller.openflow.transactions import PendingTransactions, StagedUpdate, not_connected

Result = TypeVar("Result")

EMPTY_REPLY_BYTES = 8
"""Body of a multipart reply about a meter that the switch does not have, where it sends no error."""


class SwitchClient:
    """The switches that are connected to Ryu; implements controller.dataplane.southbound.Switches."""

    def __init__(self) -> None:
        self.events: Queue[SwitchEvent | None] = SwitchEventQueue()
        self.datapaths: dict[int, Any] = {}
        self._connections: dict[int, int] = {}
        self._numbers = count(1)
        self.pending: PendingTransactions = {}
        self._calls: deque[Callable[[], object]] = deque()
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)
        self._is_woken = False
        self._greenlet: Any = None
        self.admission = SwitchAdmission(self.datapaths, self.pending, self.events.put)
        self.roles = SwitchRoles(end)

    # From any thread ------------------------------------------------------------------------------------------------

    def expect(self, names: Mapping[int, str], ports: Mapping[int, Collection[int]]) -> None:
        """Set the name that the certificate of each switch must contain, and its ports, by datapath id."""
        self.admission.expect(names, ports)

    def set_role(self, role: Role) -> Future[None]:
        """Have this role at all switches from now on; requests that follow are sent after the change of role."""
        return self.call(lambda: self.roles.set(role, tuple(self.datapaths.values())))

    def connected(self) -> dict[int, int]:
        """The connected switches by datapath id, each with the number of its connection, which no other one had."""
        return self._connections.copy()

    def silent_s(self, datapath_id: int) -> float:
        """Age of the oldest unanswered transaction of a switch; 0 if there is none."""
        pending = [each for each in tuple(self.pending.values()) if each.datapath.id == datapath_id]
        unanswered = [transaction.began_s for transaction in pending if not transaction.has_ended]
        return time.monotonic() - min(unanswered) if unanswered else 0.0

    def apply(self, stages: Iterable[ChangesByDatapath | Pause], timeout_s: float) -> Future[None]:
        """Send each stage to its switches concurrently, ended by a barrier; the next when all have confirmed."""
        done: Future[None] = Future()
        self._post(StagedUpdate(self.pending, self.datapath, stages, timeout_s, done).advance)
        return done

    def read_state(self, datapath_id: int, timeout_s: float, on_request: Callable[[], None]) -> Future[Reading]:
        """Read the entries of a switch; `on_request` is called at the moment whose state the reply describes."""
        return self.call(lambda: read_state(self.pending, self.datapath(datapath_id), timeout_s, on_request))

    def read_counters(
        self, datapath_id: int, cookie: int, cookie_mask: int, meters: Sequence[MeterEntry], timeout_s: float
    ) -> Future[tuple[list[FlowCounter], list[MeterCounter]]]:
        """Read the counters of the entries with a cookie, and of those of these meters that the switch has."""
        return self.call(
            lambda: read_counters(self.pending, self.datapath(datapath_id), (cookie, cookie_mask), meters, timeout_s)
        )

    def read_ports(self, datapath_id: int, timeout_s: float) -> Future[list[PortCounter]]:
        """Read the counters of all ports of a switch."""
        return self.call(lambda: read_ports(self.pending, self.datapath(datapath_id), timeout_s))

    def read_capabilities(self, datapath_id: int, timeout_s: float) -> Future[SwitchCapabilities]:
        """Ask a switch what it can do; a question that it refuses is left open."""
        return self.call(lambda: read_capabilities(self.pending, self.datapath(datapath_id), timeout_s))

    def send_frames(self, datapath_id: int, frames: Mapping[int, bytes]) -> None:
        """Send a frame out of each port, unconfirmed; no effect if the switch is not connected."""
        self.call(lambda: self._send_frames(datapath_id, frames))

    def call(self, work: Callable[[], Result]) -> Future[Result]:
        """Run a function in a greenlet of the hub."""
        future: Future[Result] = Future()
        self._post(lambda: eventlet.spawn(_run, future, work))
        return future

    def _post(self, call: Callable[[], object]) -> None:
        """Queue a call for the hub; the call must not block."""
        self._calls.append(call)
        if not self._is_woken:  # otherwise the greenlet has yet to read the pipe, and then runs all queued calls
            self._is_woken = True
            with contextlib.suppress(BlockingIOError):  # a full pipe wakes the greenlet, too
                os.write(self._write_fd, b"!")

    # On the hub -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start serving calls."""
        self._greenlet = eventlet.spawn(self._run_calls)

    def close(self) -> None:
        """Stop serving calls."""
        if self._greenlet is not None:
            self._greenlet.kill()

    def _run_calls(self) -> None:
        while True:
            eventlet.hubs.trampoline(self._read_fd, read=True)
            os.read(self._read_fd, 4096)
            self._is_woken = False
            with corked():
                while self._calls:
                    self._calls.popleft()()

    def _send_frames(self, datapath_id: int, frames: Mapping[int, bytes]) -> None:
        datapath = self.datapaths.get(datapath_id)
        if datapath is None:
            return
        parser, ofproto = datapath.ofproto_parser, datapath.ofproto
        for port, frame in frames.items():
            actions = [parser.OFPActionOutput(port)]
            packet = {"buffer_id": ofproto.OFP_NO_BUFFER, "in_port": ofproto.OFPP_CONTROLLER}
            datapath.send_msg(parser.OFPPacketOut(datapath, actions=actions, data=frame, **packet))

    def datapath(self, datapath_id: int) -> Any:
        """The connection of a switch.

        Raises: SwitchDown.
        """
        try:
            return self.datapaths[datapath_id]
        except KeyError:
            raise not_connected(datapath_id) from None

    def on_handshake(self, datapath: Any, adopted: Callable[[Any], None]) -> None:
        """Make a connection whose handshake is complete the current one of its switch, and tell, or close it."""

        def adopt(datapath: Any) -> None:
            self.roles.confirm(datapath, established)

        def established(datapath: Any) -> None:
            if datapath.id in self.datapaths:  # another connection was confirmed meanwhile
                end(datapath)
                return
            self.on_connected(datapath)
            adopted(datapath)

        def drop(datapath: Any) -> None:
            self.on_disconnected(datapath)

        self.admission.on_handshake(datapath, adopt, drop)

    def is_current(self, datapath: Any) -> bool:
        """Whether this is the current connection of the switch."""
        return self.datapaths.get(datapath.id) is datapath

    def on_connected(self, datapath: Any) -> None:
        """Make this the current connection of the switch; its handshake is complete."""
        self.datapaths[datapath.id] = datapath
        self._connections[datapath.id] = next(self._numbers)
        datapath.socket.on_confirmation = partial(self._on_confirmation, datapath)
        datapath.socket.is_asked = lambda xid: (datapath.id, xid) in self.pending
        ports, is_on_map = self.admission.ports_of(datapath.id), self.admission.is_on_map(datapath.id)
        datapath.socket.established(ports, is_on_map)

    def _on_confirmation(self, datapath: Any, kind: int, xid: int, body: bytes) -> bool:
        """Handle a barrier reply, a meter's counters or an error; False if it belongs to no pending update."""
        transaction = self.pending.get((datapath.id, xid))
        if transaction is None or transaction.datapath is not datapath:
            return False
        if kind == MULTIPART_REPLY:
            if transaction.takes_bytes:
                self.on_reply(datapath, xid, (body,), more=not is_last(body))
                return True
            if transaction.counts is None:
                return False
            transaction.counts.append(decode_meter_counts(body) if len(body) > EMPTY_REPLY_BYTES else NO_COUNTS)
        elif kind == BARRIER_REPLY:
            transaction.finish()
        elif transaction.counts is not None and is_refused_reading(body):
            transaction.counts.append(NO_COUNTS)  # the switch does not have the meter
        else:
            self.on_error(datapath, xid, *ERROR_CODES.unpack(body[: ERROR_CODES.size].ljust(ERROR_CODES.size, b"\0")))
        return True

    def on_reply(self, datapath: Any, xid: int, parts: Sequence[Any], more: bool) -> None:
        """Handle a reply, or one part of it if `more` follow."""
        transaction = self.pending.get((datapath.id, xid))
        if transaction is None or transaction.datapath is not datapath:
            return
        try:
            transaction.parts += map(transaction.decode, parts)
        except Exception as error:  # noqa: BLE001 - whatever the switch has sent, it ends its connection only
            datapath.socket.fail(BadMessageError(f"a statistics reply cannot be decoded: {error!r}"))
            transaction.finish(not_connected(datapath.id))
            return
        if not more:
            transaction.finish()

    def on_error(self, datapath: Any, xid: int, kind: int, code: int) -> None:
        """Handle an error message of a switch."""
        if self.roles.on_error(datapath, kind):
            return
        transaction = self.pending.get((datapath.id, xid))
        if transaction is not None and transaction.datapath is datapath:
            names = datapath.ofproto
            what = f"{names.ofp_error_type_to_str(kind)}, {names.ofp_error_code_to_str(kind, code)}"
            sentence = f"Switch {datapath.id:016x} answered {what}."
            transaction.finish(SwitchRefused(sentence, datapath_ids=[datapath.id]))
        elif self.is_current(datapath):
            self.events.put(SwitchStateUnknown(datapath.id))

    def on_disconnected(self, datapath: Any) -> bool:
        """Fail the pending transactions of a lost connection; False if a newer connection has replaced it."""
        self.roles.forget(datapath)
        for transaction in [each for each in self.pending.values() if each.datapath is datapath]:
            transaction.finish(not_connected(datapath.id))
        was_current = self.is_current(datapath)
        if was_current:
            del self.datapaths[datapath.id], self._connections[datapath.id]
        return was_current


def _run(future: Future[Result], work: Callable[[], Result]) -> None:
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001 - it is passed on by the future
        future.set_exception(error)
