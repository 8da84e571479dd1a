"""Messages to switches and their replies, on Ryu's hub; completion calls a function instead of waking a greenlet.

All messages of a transaction carry the same OpenFlow transaction id (xid), and so do the replies and errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from controller.dataplane.meter_tokens import NO_COUNTS, MeterCounts
from controller.dataplane.southbound import ChangesByDatapath, Pause
from controller.dataplane.update_order import Change
from controller.errors import SwitchDown, SwitchError, SwitchTimeout
from controller.openflow.capability_messages import encode_question
from controller.openflow.encoder import encode_barrier_request, encode_change, reading_times
from controller.openflow.eventlet_quiet import eventlet

Decode = Callable[[Any], Any]


class Transaction:
    """Messages to one switch under one xid, ended by the last reply or an error."""

    __slots__ = (
        "_on_end", "began_s", "counts", "datapath", "decode", "error", "has_ended", "parts", "takes_bytes", "xid",
    )  # fmt: skip

    def __init__(self, datapath: Any, xid: int, on_end: Callable[[], None]) -> None:
        """`on_end`: called when the transaction ends, with or without an error."""
        self.datapath = datapath
        self.xid = xid
        self.began_s = time.monotonic()
        self.parts: list[Any] = []
        self.decode: Decode = _unchanged
        """Decodes every part of a reply as it arrives: Ryu's objects are large."""
        self.counts: list[MeterCounts] | None = None
        """Of an update: the counters of meters that it has read, in order."""
        self.takes_bytes = False
        """Whether its parts are the bodies of multipart replies as they came, which Ryu does not parse."""
        self.error: SwitchError | None = None
        self.has_ended = False
        self._on_end = on_end

    def finish(self, error: SwitchError | None = None) -> None:
        """End the transaction; later calls have no effect."""
        if not self.has_ended:
            self.has_ended, self.error = True, error
            on_end, self._on_end = self._on_end, _nothing  # so that what was read is in no reference cycle
            on_end()


def _unchanged(part: Any) -> Any:
    return part


def _nothing(_error: SwitchError | None = None) -> None:
    """Follow the end of a transaction or group that has ended."""


PendingTransactions = dict[tuple[int, int], Transaction]
"""Transactions under way, by datapath id and xid."""


class TransactionGroup:
    """Concurrent transactions with several switches, until all have ended or the timeout expires."""

    def __init__(
        self, pending: PendingTransactions, timeout_s: float, on_end: Callable[[SwitchError | None], None]
    ) -> None:
        """`on_end`: called at the end; its error names every switch whose transaction failed."""
        self._pending = pending
        self._timeout_s = timeout_s
        self._on_end = on_end
        self._transactions: list[Transaction] = []
        self._missing = 0
        self._is_complete = False
        self._timer: Any = None

    def send(self, datapath: Any, xid: int, data: bytes | bytearray) -> Transaction:
        """Send encoded messages with that xid to a switch."""
        transaction = self._pending[datapath.id, xid] = Transaction(datapath, xid, self._on_transaction_end)
        self._transactions.append(transaction)
        self._missing += 1
        datapath.socket.sendall(data)
        return transaction

    def complete(self) -> None:
        """Declare that all is sent: `on_end` is called when all transactions have ended, perhaps immediately."""
        self._is_complete = True
        if self._missing:
            self._timer = eventlet.hubs.get_hub().schedule_call_global(self._timeout_s, self._on_timeout)
        else:
            self._finish()

    def _on_transaction_end(self) -> None:
        self._missing -= 1
        if self._is_complete and not self._missing:
            self._finish()

    def _on_timeout(self) -> None:
        late = [transaction for transaction in self._transactions if not transaction.has_ended]
        error = _timeout_error([transaction.datapath.id for transaction in late], self._timeout_s)
        for transaction in late:
            transaction.finish(error)

    def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        on_end, self._on_end = self._on_end, _nothing
        for transaction in self._transactions:
            self._pending.pop((transaction.datapath.id, transaction.xid), None)
        failed = [transaction for transaction in self._transactions if transaction.error is not None]
        error = failed[0].error if failed else None
        if error is not None:
            error = type(error)(error.detail, datapath_ids=sorted(failure.datapath.id for failure in failed))
        on_end(error)


PART_BYTES = 4 << 20
"""A switch confirms so many bytes of a stage before it is sent more, so that it leaves little unread."""


class StagedUpdate:
    """Sends the stages of an update to the switches, each after the switches have confirmed the one before."""

    def __init__(
        self,
        pending: PendingTransactions,
        datapath: Callable[[int], Any],
        stages: Iterable[ChangesByDatapath | Pause],
        timeout_s: float,
        done: Future[None],
    ) -> None:
        """`datapath`: connection of a switch, raises SwitchDown. `done` completes when the last stage is confirmed."""
        self._pending = pending
        self._datapath = datapath
        self._stages = iter(stages)
        self._timeout_s = timeout_s
        self._done = done
        self._unsent: dict[int, tuple[Any, Iterator[Change]]] = {}
        """Of the stage in progress, by switch: its connection, and the changes that are left."""

    def advance(self, error: SwitchError | None = None) -> None:
        """Send the next stage, or the next part of it, or complete the future."""
        try:
            if error is not None:
                raise error
            if self._unsent:
                self._send_parts()
                return
            stage = next(self._stages, None)
            if stage is None:
                self._done.set_result(None)
            elif isinstance(stage, Pause):
                eventlet.hubs.get_hub().schedule_call_global(stage.seconds, self.advance)
            else:
                self._send(stage)
        except Exception as failure:  # noqa: BLE001 - it is passed on by the future
            self._done.set_exception(failure)

    def _send(self, stage: ChangesByDatapath) -> None:
        self._unsent = {number: (self._datapath(number), iter(changes)) for number, changes in stage.items()}
        self._send_parts()

    def _send_parts(self) -> None:
        """Send as much as each switch may be sent at once."""
        readings: list[tuple[Transaction, Change]] = []

        def on_end(error: SwitchError | None) -> None:
            _set_counts(readings)
            self.advance(error)

        parts, self._unsent = self._unsent, {}
        for number, (datapath, _) in parts.items():
            if self._datapath(number) is not datapath:  # connected anew: nothing is known of what it executed
                raise not_connected(number)
        group = TransactionGroup(self._pending, self._timeout_s, on_end)
        for number, (datapath, changes) in parts.items():
            xid = _next_xid(datapath)
            messages, size_bytes, moves = [], 0, list[Change]()
            for change in changes:
                messages.append(encode_change(change, xid))
                if change.tokens is not None:
                    moves.append(change)
                size_bytes += len(messages[-1])
                if size_bytes >= PART_BYTES:
                    self._unsent[number] = datapath, changes
                    break
            sent = group.send(datapath, xid, b"".join([*messages, encode_barrier_request(xid)]))
            if moves:
                sent.counts = []
                readings += [(sent, change) for change in moves]
        group.complete()


def _set_counts(readings: Sequence[tuple[Transaction, Change]]) -> None:
    """Hand the counters that each confirmed transaction has read, in order, to its changes."""
    for transaction, change in readings:
        counts, move = transaction.counts, change.tokens
        if counts is not None and move is not None and transaction.error is None:
            before, after = reading_times(change)
            move.before = counts.pop(0) if before and counts else NO_COUNTS
            move.after = counts.pop(0) if after and counts else NO_COUNTS
            move.is_read = True


class StatsRequest:
    """Statistics requests to one switch, sent together, each with its own xid."""

    def __init__(
        self, pending: PendingTransactions, datapath: Any, requests: Sequence[tuple[Any, Decode]], timeout_s: float
    ) -> None:
        """`requests`: messages of Ryu, each with what decodes the parts of its reply."""
        self._ended = eventlet.event.Event()
        group = TransactionGroup(pending, timeout_s, self._ended.send)
        self._transactions = []
        for request, decode in requests:
            xid = datapath.set_xid(request)
            request.serialize()
            self._transactions.append(group.send(datapath, xid, bytes(request.buf)))
            self._transactions[-1].decode = decode
        group.complete()

    def replies(self) -> list[list[Any]]:
        """Block this greenlet until all replies are in; the decoded parts of each reply.

        Raises: SwitchError.
        """
        error = self._ended.wait()
        if error is not None:
            raise error
        return [transaction.parts for transaction in self._transactions]


class Question:
    """A question to one switch about what it can do; the bodies of the reply are not decoded."""

    def __init__(self, pending: PendingTransactions, datapath: Any, question: str, timeout_s: float) -> None:
        """`question`: one of capability_messages.QUESTIONS."""
        self._ended = eventlet.event.Event()
        group = TransactionGroup(pending, timeout_s, self._ended.send)
        xid = _next_xid(datapath)
        self._transaction = group.send(datapath, xid, encode_question(question, xid))
        self._transaction.takes_bytes = True
        group.complete()

    def reply(self) -> list[bytes]:
        """Block this greenlet until the reply is in; its bodies.

        Raises: SwitchError.
        """
        error = self._ended.wait()
        if error is not None:
            raise error
        return self._transaction.parts


def _next_xid(datapath: Any) -> int:
    xid: int = datapath.xid + 1 & 0xFFFF_FFFF
    datapath.xid = xid
    return xid


def not_connected(datapath_id: int) -> SwitchDown:
    """The error of a switch that is not connected."""
    return SwitchDown(f"Switch {datapath_id:016x} is not connected.", datapath_ids=[datapath_id])


def _timeout_error(datapath_ids: Sequence[int], timeout_s: float) -> SwitchTimeout:
    names = ", ".join(f"{datapath_id:016x}" for datapath_id in datapath_ids)
    return SwitchTimeout(f"No confirmation within {timeout_s:g} s from {names}.", datapath_ids=list(datapath_ids))
