"""The cloud's edges: who asked, their connections, and one inbox for all of them.

Whoever connects must send a training request first. Strangers who send anything else lose their connection,
and nobody else notices.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

from trainer import clock, messages, protocol
from trainer.errors import ConnectionLostError, ProtocolError, QuorumError, TrainingFailedError
from trainer.transport import Connection, Inbound, Lost, Received, listen

log = logging.getLogger(__name__)

STRANGER_LIMITS = protocol.Limits(header_bytes=protocol.MAX_HEADER_BYTES, payload_bytes=0)
STRANGER_TIMEOUT_S = 10.0
MAX_STRANGERS = 64
PINGS = 8

M = TypeVar("M", bound=messages.Message)


@dataclass
class Member:
    """One edge that trains; `offset_s` is its clock minus ours."""

    name: str
    connection: Connection
    ask: messages.Ask
    source_port: int
    offset_s: float = 0.0
    mss_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.mss_bytes = self.connection.mss_bytes


class Crew:
    """Accepts edges until enough have asked, then passes messages between them and the cloud's loop."""

    def __init__(self, address: tuple[str, int], expected: Sequence[str], task: str) -> None:
        self.members: list[Member] = []
        self.strangers_refused = 0
        self._expected = list(expected)
        self._task = task
        self._asked: dict[str, Member] = {}
        self._closed_because: str | None = None
        self._change = threading.Condition()
        self._strangers = threading.BoundedSemaphore(MAX_STRANGERS)
        self._inbox: queue.Queue[tuple[str, Inbound]] = queue.Queue()
        self._listener = listen(address)
        threading.Thread(target=self._accept, daemon=True).start()

    def gather(self, quorum: int | None, timeout_s: float) -> list[Member]:
        """Wait until all expected edges have asked, or until the deadline has passed with at least `quorum`.

        Raises: QuorumError that names who never asked.
        """
        wanted = len(self._expected)
        with self._change:
            self._change.wait_for(lambda: len(self._asked) == wanted, timeout_s)
            missing = [name for name in self._expected if name not in self._asked]
            if len(self._asked) < (quorum or wanted):
                raise QuorumError(
                    f"{', '.join(missing)} never asked to train within {timeout_s:g} s: {len(self._asked)} of "
                    f"{wanted} edges did, {quorum or wanted} must. Start the missing, or lower --quorum."
                )
            self._closed_because = "training has begun without you"
            self.members = [self._asked[name] for name in self._expected if name in self._asked]
        return self.members

    def send_all(self, message: messages.Message, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Send the same to every member."""
        for member in self.members:
            member.connection.send(message, tensors)

    def receive(self, timeout_s: float, waiting_for: str) -> tuple[Member, Received]:
        """The next message of any member.

        Raises: TrainingFailedError if an edge fails, is lost, or nothing comes in time.
        """
        try:
            name, inbound = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            raise TrainingFailedError(f"Nothing heard for {timeout_s:g} s while waiting for {waiting_for}.") from None
        if isinstance(inbound, Lost):
            raise TrainingFailedError(f"{name} was lost during training: {inbound.reason}")
        if isinstance(inbound.frame.message, messages.Failed):
            raise TrainingFailedError(f"{name} failed: {inbound.frame.message.reason}")
        return self._asked[name], inbound

    def collect(self, kind: type[M], timeout_s: float) -> list[tuple[Member, M, Received]]:
        """One message of that kind from every member, in the members' order.

        Raises: TrainingFailedError as `receive` does, and if another message comes.
        """
        got: dict[str, tuple[Member, M, Received]] = {}
        while len(got) < len(self.members):
            silent = ", ".join(member.name for member in self.members if member.name not in got)
            member, received = self.receive(timeout_s, f"{kind.__name__} of {silent}")
            message = received.frame.message
            if not isinstance(message, kind):
                raise TrainingFailedError(f"{member.name} sent {type(message).__name__} in place of {kind.__name__}.")
            got[member.name] = (member, message, received)
        return [got[member.name] for member in self.members]

    def synchronize(self, timeout_s: float) -> None:
        """Estimate every member's clock offset anew from several pings each."""
        times: dict[str, list[clock.PingTimes]] = {member.name: [] for member in self.members}
        for number in range(PINGS):
            self.send_all(messages.Ping(number=number))
            for member, pong, received in self.collect(messages.Pong, timeout_s):
                times[member.name].append(
                    clock.PingTimes(pong.ping_sent_s, pong.ping_received_s, received.frame.sent_s, received.arrival_s)
                )
        for member in self.members:
            member.offset_s = clock.best_offset_s(times[member.name])

    def close(self, reason: str, failed: bool) -> None:
        """Tell everybody that it is over, and why; then hang up."""
        with self._change:
            self._closed_because = reason
        goodbye = messages.Failed(reason=reason) if failed else messages.Stop(reason=reason)
        for member in self._asked.values():
            with contextlib.suppress(ConnectionLostError):
                member.connection.send(goodbye)
            member.connection.close()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # closed
            if not self._strangers.acquire(blocking=False):
                sock.close()
                continue
            threading.Thread(target=self._welcome, args=(Connection(sock),), daemon=True).start()

    def _welcome(self, connection: Connection) -> None:
        try:
            connection.limits = STRANGER_LIMITS
            connection.set_timeout(STRANGER_TIMEOUT_S)
            ask = connection.receive().frame.message
            if not isinstance(ask, messages.Ask):
                raise ProtocolError(f"{connection.peer} sent {type(ask).__name__} before asking to train.")
            connection.set_timeout(None)
            connection.limits = protocol.Limits()
            self._admit(ask, connection)
        except (ProtocolError, ConnectionLostError, OSError) as error:
            self.strangers_refused += 1
            log.warning("stranger=%s refused=%r", connection.peer, str(error))
            connection.close()
        finally:
            self._strangers.release()

    def _admit(self, ask: messages.Ask, connection: Connection) -> None:
        with self._change:
            if refusal := self._refusal(ask):
                connection.send(messages.Refuse(reason=refusal))
                raise ProtocolError(f"{ask.edge} asked to train: {refusal}")
            self._asked[ask.edge] = Member(ask.edge, connection, ask, connection.peer_port)
            self._change.notify_all()
        connection.start(lambda inbound: self._inbox.put((ask.edge, inbound)))

    def _refusal(self, ask: messages.Ask) -> str | None:
        if self._closed_because:
            return f"{self._closed_because}."
        if ask.edge not in self._expected:
            return f"{ask.edge} is not expected here; expected are {', '.join(self._expected)}."
        if ask.edge in self._asked:
            return f"an edge called {ask.edge} has asked already."
        if ask.task != self._task:
            return f"the task here is {self._task}, not {ask.task}."
        return None
