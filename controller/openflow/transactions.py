"""What is sent to switches and what they answer, on Ryu's hub; a call at the end rather than a greenlet that waits.

All messages of one exchange go under one transaction id, which the answers and the errors bear.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from controller.dataplane.southbound import ChangesByNumber, Pause
from controller.errors import SwitchDown, SwitchError, SwitchTimeout
from controller.openflow.encoder import barrier_request, packed
from controller.openflow.eventlet_quiet import eventlet


class Transaction:
    """Messages to one switch under one transaction id, closed by a last answer."""

    __slots__ = ("_then", "began_s", "datapath", "error", "has_ended", "parts", "xid")

    def __init__(self, datapath: Any, xid: int, then: Callable[[], None]) -> None:
        """`then`: called when it ends, well or not."""
        self.datapath = datapath
        self.xid = xid
        self.began_s = time.monotonic()
        self.parts: list[Any] = []
        self.error: SwitchError | None = None
        self.has_ended = False
        self._then = then

    def finish(self, error: SwitchError | None = None) -> None:
        """It has ended; only the first word counts."""
        if not self.has_ended:
            self.has_ended, self.error = True, error
            self._then()


Exchanges = dict[tuple[int, int], Transaction]
"""Those under way, by datapath id and transaction id."""


class TransactionGroup:
    """Exchanges with several switches at once, until all of them have ended or the time is over."""

    def __init__(self, under_way: Exchanges, timeout_s: float, then: Callable[[SwitchError | None], None]) -> None:
        """`then`: called at the end, with an error that names every switch that has not done its part."""
        self._under_way = under_way
        self._timeout_s = timeout_s
        self._then = then
        self._exchanges: list[Transaction] = []
        self._missing = 0
        self._is_complete = False
        self._timer: Any = None

    def add(self, datapath: Any, xid: int, data: bytes | bytearray) -> Transaction:
        """Send something to a switch; what it answers under that id belongs here."""
        exchange = self._under_way[datapath.id, xid] = Transaction(datapath, xid, self._one_ended)
        self._exchanges.append(exchange)
        self._missing += 1
        datapath.socket.sendall(data)
        return exchange

    def wait(self) -> None:
        """Nothing more will be added: `then` is called when all have ended, which may be at once."""
        self._is_complete = True
        if self._missing:
            self._timer = eventlet.hubs.get_hub().schedule_call_global(self._timeout_s, self._time_is_over)
        else:
            self._end()

    def _one_ended(self) -> None:
        self._missing -= 1
        if self._is_complete and not self._missing:
            self._end()

    def _time_is_over(self) -> None:
        late = [exchange for exchange in self._exchanges if not exchange.has_ended]
        error = _late([exchange.datapath.id for exchange in late], self._timeout_s)
        for exchange in late:
            exchange.finish(error)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for exchange in self._exchanges:
            self._under_way.pop((exchange.datapath.id, exchange.xid), None)
        failed = [exchange for exchange in self._exchanges if exchange.error is not None]
        error = failed[0].error if failed else None
        if error is not None:
            error = type(error)(error.detail, datapath_ids=sorted(exchange.datapath.id for exchange in failed))
        self._then(error)


class StagedUpdate:
    """Phases on their way to the switches, one after the other."""

    def __init__(
        self,
        under_way: Exchanges,
        datapath: Callable[[int], Any],
        phases: Iterable[ChangesByNumber | Pause],
        timeout_s: float,
        done: Future[None],
    ) -> None:
        """`datapath`: the connection of a switch, or SwitchDown. `done` ends when all have answered the last phase."""
        self._under_way = under_way
        self._datapath = datapath
        self._phases = iter(phases)
        self._timeout_s = timeout_s
        self._done = done

    def go_on(self, error: SwitchError | None = None) -> None:
        """Begin the next phase, or end."""
        try:
            if error is not None:
                raise error
            phase = next(self._phases, None)
            if phase is None:
                self._done.set_result(None)
            elif isinstance(phase, Pause):
                eventlet.hubs.get_hub().schedule_call_global(phase.seconds, self.go_on)
            else:
                self._tell(phase)
        except Exception as failure:  # noqa: BLE001 - it belongs to whoever asked
            self._done.set_exception(failure)

    def _tell(self, phase: ChangesByNumber) -> None:
        datapaths = {number: self._datapath(number) for number in phase}
        together = TransactionGroup(self._under_way, self._timeout_s, self.go_on)
        for number, changes in phase.items():
            xid = _next_xid(datapaths[number])
            messages = [packed(change, xid) for change in changes]
            together.add(datapaths[number], xid, b"".join([*messages, barrier_request(xid)]))
        together.wait()


class StatsRequest:
    """Requests to one switch, sent at once, each under an id of its own."""

    def __init__(self, under_way: Exchanges, datapath: Any, requests: Sequence[Any], timeout_s: float) -> None:
        self._ended = eventlet.event.Event()
        together = TransactionGroup(under_way, timeout_s, self._ended.send)
        self._exchanges = []
        for request in requests:
            xid = datapath.set_xid(request)
            request.serialize()
            self._exchanges.append(together.add(datapath, xid, bytes(request.buf)))
        together.wait()

    def answers(self) -> list[list[Any]]:
        """Wait for what is answered to each.

        Raises: SwitchError.
        """
        error = self._ended.wait()
        if error is not None:
            raise error
        return [exchange.parts for exchange in self._exchanges]


def _next_xid(datapath: Any) -> int:
    xid: int = datapath.xid + 1 & 0xFFFF_FFFF
    datapath.xid = xid
    return xid


def down(datapath_id: int) -> SwitchDown:
    """What to say of a switch that is not connected."""
    return SwitchDown(f"Switch {datapath_id:016x} is not connected.", datapath_ids=[datapath_id])


def _late(datapath_ids: Sequence[int], timeout_s: float) -> SwitchTimeout:
    names = ", ".join(f"{datapath_id:016x}" for datapath_id in datapath_ids)
    return SwitchTimeout(f"No confirmation within {timeout_s:g} s from {names}.", datapath_ids=list(datapath_ids))
