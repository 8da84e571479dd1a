"""The switches as other threads see them; everything behind it runs on Ryu's hub.

Eventlet's hub belongs to one thread. Other threads leave a call in a deque and a byte in a pipe; a greenlet that waits
on the pipe runs the call and completes a future.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from queue import Queue
from typing import Any, TypeVar

from controller.dataplane.entries import COOKIE_TAG, COOKIE_TAG_MASK, MeterEntry, SwitchState, describe
from controller.dataplane.southbound import (
    ChangesByNumber,
    FlowCounter,
    Impostor,
    MeterCounter,
    Pause,
    Reading,
    SwitchEvent,
    SwitchInDoubt,
)
from controller.errors import SwitchRefused
from controller.openflow.connection import corked
from controller.openflow.decoder import flow_counter, group_entry, meter_counter, meter_entry
from controller.openflow.encoder import BARRIER_REPLY, REASON
from controller.openflow.eventlet_quiet import eventlet
from controller.openflow.switch_tls import peer_names_of
from controller.openflow.transactions import Exchanges, StagedUpdate, StatsRequest, down

Result = TypeVar("Result")


class SwitchClient:
    """The switches as other threads see them; see controller.dataplane.southbound.Switches."""

    def __init__(self) -> None:
        self.events: Queue[SwitchEvent | None] = Queue()
        self.datapaths: dict[int, Any] = {}
        self.exchanges: Exchanges = {}
        self._calls: deque[Callable[[], object]] = deque()
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)
        self._is_rung = False
        self._greenlet: Any = None
        self._names: Mapping[int, str] | None = None

    # From any thread ------------------------------------------------------------------------------------------------

    def expect(self, names: Mapping[int, str]) -> None:
        """Whose name the certificate of each switch must bear, by datapath id."""
        self._names = names

    def connected(self) -> frozenset[int]:
        """The datapath ids that are connected now."""
        return frozenset(self.datapaths)

    def silent_s(self, datapath_id: int) -> float:
        """For how long a switch has owed an answer; 0 if it owes none."""
        pending = tuple(self.exchanges.values())
        owed = [e.began_s for e in pending if e.datapath.id == datapath_id and not e.has_ended]
        return time.monotonic() - min(owed) if owed else 0.0

    def apply(self, phases: Iterable[ChangesByNumber | Pause], timeout_s: float) -> Future[None]:
        """Send each phase to its switches at once, each closed by a barrier; the next when all have answered."""
        done: Future[None] = Future()
        self._post(StagedUpdate(self.exchanges, self.datapath, phases, timeout_s, done).go_on)
        return done

    def read_state(self, datapath_id: int, timeout_s: float, asking: Callable[[], None]) -> Future[Reading]:
        """What a switch holds; `asking` is called at the moment for which the answer will be true."""
        return self.call(lambda: self._read_state(datapath_id, timeout_s, asking))

    def read_counters(
        self, datapath_id: int, cookie: int, cookie_mask: int, meters: Sequence[MeterEntry], timeout_s: float
    ) -> Future[tuple[list[FlowCounter], list[MeterCounter]]]:
        """The counters of the entries under a cookie, and of these meters where the switch has them."""
        return self.call(lambda: self._read_counters(datapath_id, cookie, cookie_mask, meters, timeout_s))

    def send_frames(self, datapath_id: int, frames: Mapping[int, bytes]) -> None:
        """Send a frame out of each port, unconfirmed; nothing happens if the switch is not connected."""
        self.call(lambda: self._send_frames(datapath_id, frames))

    def call(self, work: Callable[[], Result]) -> Future[Result]:
        """Run something on the hub."""
        future: Future[Result] = Future()
        self._post(lambda: eventlet.spawn(_run, future, work))
        return future

    def _post(self, call: Callable[[], object]) -> None:
        """Leave something to be done on the hub, which must not wait there."""
        self._calls.append(call)
        if not self._is_rung:  # whoever rang has not been heard yet, and then all that was left is done
            self._is_rung = True
            with contextlib.suppress(BlockingIOError):  # a full pipe wakes the greenlet just as well
                os.write(self._write_fd, b"!")

    # On the hub -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin to take calls."""
        self._greenlet = eventlet.spawn(self._serve)

    def close(self) -> None:
        """Take no more calls."""
        if self._greenlet is not None:
            self._greenlet.kill()

    def _serve(self) -> None:
        while True:
            eventlet.hubs.trampoline(self._read_fd, read=True)
            os.read(self._read_fd, 4096)
            self._is_rung = False
            with corked():
                while self._calls:
                    self._calls.popleft()()

    def _read_state(self, datapath_id: int, timeout_s: float, asking: Callable[[], None]) -> Reading:
        datapath = self.datapath(datapath_id)
        parser, ofproto = datapath.ofproto_parser, datapath.ofproto
        asking()
        asked = (
            _flow_request(datapath, 0, 0),
            parser.OFPMeterConfigStatsRequest(datapath, 0, ofproto.OFPM_ALL),
            parser.OFPGroupDescStatsRequest(datapath, 0),
        )
        flows, meters, groups = StatsRequest(self.exchanges, datapath, asked, timeout_s).answers()
        entries = [flow_counter(stats).entry for stats in flows]
        ours = [entry for entry in entries if entry.cookie & COOKIE_TAG_MASK == COOKIE_TAG << 48]
        read_meters = [(config.meter_id, meter_entry(config)) for config in meters]
        foreign = [describe(entry) for entry in entries if entry.cookie & COOKIE_TAG_MASK != COOKIE_TAG << 48]
        read_groups = [(part.group_id, group_entry(part, ofproto.OFPGT_FF)) for part in groups]
        foreign += [f"meter {number}" for number, meter in read_meters if meter is None]
        foreign += [f"group {number}" for number, group in read_groups if group is None]
        state = SwitchState(
            {meter.meter_id: meter for _, meter in read_meters if meter is not None},
            {entry.key: entry for entry in ours},
            {group.group_id: group for _, group in read_groups if group is not None},
        )
        return Reading(state, tuple(foreign))

    def _read_counters(
        self, datapath_id: int, cookie: int, cookie_mask: int, meters: Sequence[MeterEntry], timeout_s: float
    ) -> tuple[list[FlowCounter], list[MeterCounter]]:
        datapath = self.datapath(datapath_id)
        request = datapath.ofproto_parser.OFPMeterStatsRequest

        def ask(message: Any) -> StatsRequest:
            return StatsRequest(self.exchanges, datapath, [message], timeout_s)

        flows = ask(_flow_request(datapath, cookie, cookie_mask))
        asked = [(meter, ask(request(datapath, 0, meter.meter_id))) for meter in meters]
        counters, (read,) = [], flows.answers()
        for meter, question in asked:
            with contextlib.suppress(SwitchRefused):  # the switch has no such meter now
                counters += [meter_counter(meter, stats) for stats in question.answers()[0]]
        return [flow_counter(stats) for stats in read], counters

    def _send_frames(self, datapath_id: int, frames: Mapping[int, bytes]) -> None:
        datapath = self.datapaths.get(datapath_id)
        if datapath is None:
            return
        parser, ofproto = datapath.ofproto_parser, datapath.ofproto
        for port, frame in frames.items():
            out = [parser.OFPActionOutput(port)]
            sent_by = {"buffer_id": ofproto.OFP_NO_BUFFER, "in_port": ofproto.OFPP_CONTROLLER}
            datapath.send_msg(parser.OFPPacketOut(datapath, actions=out, data=frame, **sent_by))

    def datapath(self, datapath_id: int) -> Any:
        """The connection of a switch.

        Raises: SwitchDown.
        """
        try:
            return self.datapaths[datapath_id]
        except KeyError:
            raise down(datapath_id) from None

    def is_authentic(self, datapath: Any) -> bool:
        """Whether a switch is who it says: it need show no certificate, or shows one in its own name."""
        shown = peer_names_of(datapath.socket.connection)
        if shown is None:
            return True
        if self._names is None:  # it was quicker than we; it will come again
            return False
        name = self._names.get(datapath.id)
        if name is None or name in shown:  # nobody of the map takes no part in anything
            return True
        self.events.put(Impostor(datapath.id, tuple(sorted(shown)), datapath.address[0]))
        return False

    def is_in(self, datapath: Any) -> bool:
        """Whether this connection is the one by which we know the switch."""
        return self.datapaths.get(datapath.id) is datapath

    def on_connected(self, datapath: Any) -> None:
        """A switch has finished its handshake on this connection."""
        self.datapaths[datapath.id] = datapath
        datapath.socket.hear = partial(self._hear, datapath)

    def _hear(self, datapath: Any, kind: int, xid: int, body: bytes) -> bool:
        """A switch has done everything before a barrier, or refused something; whether it was ours."""
        exchange = self.exchanges.get((datapath.id, xid))
        if exchange is None or exchange.datapath is not datapath:
            return False
        if kind == BARRIER_REPLY:
            self.answered(datapath, xid, (), more=False)
        else:
            self.refused(datapath, xid, *REASON.unpack(body[: REASON.size].ljust(REASON.size, b"\0")))
        return True

    def answered(self, datapath: Any, xid: int, parts: Sequence[Any], more: bool) -> None:
        """An answer has come in, or part of one."""
        exchange = self.exchanges.get((datapath.id, xid))
        if exchange is None or exchange.datapath is not datapath:
            return
        exchange.parts += parts
        if not more:
            exchange.finish()

    def refused(self, datapath: Any, xid: int, kind: int, code: int) -> None:
        """A switch has answered with an error."""
        exchange = self.exchanges.get((datapath.id, xid))
        if exchange is not None and exchange.datapath is datapath:
            names = datapath.ofproto
            what = f"{names.ofp_error_type_to_str(kind)}, {names.ofp_error_code_to_str(kind, code)}"
            sentence = f"Switch {datapath.id:016x} answered {what}."
            exchange.finish(SwitchRefused(sentence, datapath_ids=[datapath.id]))
        elif self.is_in(datapath):
            self.events.put(SwitchInDoubt(datapath.id))

    def on_disconnected(self, datapath: Any) -> bool:
        """A connection is gone, and nothing it still owes will come; False if a newer one has replaced it."""
        for exchange in [e for e in self.exchanges.values() if e.datapath is datapath]:
            exchange.finish(down(datapath.id))
        current = self.is_in(datapath)
        if current:
            del self.datapaths[datapath.id]
        return current


def _run(future: Future[Result], work: Callable[[], Result]) -> None:
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
        future.set_exception(error)


def _flow_request(datapath: Any, cookie: int, cookie_mask: int) -> Any:
    ofproto, parser = datapath.ofproto, datapath.ofproto_parser
    anywhere = (ofproto.OFPTT_ALL, ofproto.OFPP_ANY, ofproto.OFPG_ANY)
    return parser.OFPFlowStatsRequest(datapath, 0, *anywhere, cookie, cookie_mask, parser.OFPMatch())
