"""The cloud's edges: who asked, who is there, who was lost, who came back; one mailbox for all of them.

An edge that is lost leaves the crew at once; when it connects again it is prepared and waits for the next averaging.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor

from trainer.cloud.edge_acceptor import EdgeAcceptor, NotAdmittedError
from trainer.cloud.edge_session import EdgeSession
from trainer.errors import ConnectionLostError, ProtocolError, QuorumError
from trainer.protocol import framing, messages
from trainer.transport import clock_sync
from trainer.transport.connection import Connection, Inbound, Lost, Received, Sent
from trainer.transport.credentials import NOBODY, TransportCredentials
from trainer.transport.inbox import Inbox

log = logging.getLogger(__name__)

PINGS = 8
ALIVE_EVERY_S = 5.0
"""So often an idle edge hears that the cloud is there."""

M = TypeVar("M", bound=messages.Message)


class EdgeManager:
    """Admits edges, then passes messages between them and the cloud's loop.

    `on_lost` hears at once, in the loop's own thread, which member is gone and why.
    """

    def __init__(
        self,
        address: tuple[str, int],
        expected: Sequence[str],
        task: str,
        samples: Mapping[str, tuple[int, int]] | None = None,
        credentials: TransportCredentials = NOBODY,
    ) -> None:
        self.on_lost: Callable[[EdgeSession, str], None] = lambda _member, _reason: None
        self._expected = list(expected)
        self._task = task
        self._samples = dict(samples or {})
        self._asked: dict[str, EdgeSession] = {}
        self._present: dict[str, EdgeSession] = {}
        self._waiting: dict[str, EdgeSession] = {}
        self._recipe: messages.Prepare | None = None
        self._prepare_timeout_s = 0.0
        self._limits = framing.FrameLimits()
        self._closed_because: str | None = None
        self._change = threading.Condition()
        self._over = threading.Event()
        self._mailbox: Inbox[EdgeSession, Inbound] = Inbox()
        self._lobby = EdgeAcceptor(address, credentials, self._admit)
        threading.Thread(target=self._keep_alive, daemon=True).start()

    @property
    def members(self) -> list[EdgeSession]:
        """Who trains now, in the order in which they are expected."""
        return [self._present[name] for name in self._expected if name in self._present]

    @property
    def waiting(self) -> list[str]:
        """Who came (back) and waits for an averaging."""
        with self._change:
            return [name for name in self._expected if name in self._waiting]

    @property
    def strangers_refused(self) -> int:
        """Connections that were turned away."""
        return self._lobby.refused

    def gather(self, quorum: int | None, timeout_s: float) -> list[EdgeSession]:
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
            self._present, self._asked = self._asked, {}
            for name, member in self._present.items():
                self._samples[name] = (member.ask.samples, member.ask.held_out)
        return self.members

    def prepare(self, recipe: messages.Prepare, payload_bytes: int, timeout_s: float) -> None:
        """Prepare every member, and whoever comes from now on; no frame's payload may be larger than that."""
        with self._change:
            self._limits = framing.FrameLimits(payload_bytes=payload_bytes)
            self._recipe, self._prepare_timeout_s = recipe, timeout_s
        for member in self.members:
            member.connection.limits = self._limits
            self.send(member, recipe)
        for member, ready, _ in self.collect(messages.Ready, timeout_s):
            member.layers = ready.layers

    def readmit(self) -> list[EdgeSession]:
        """Take in whoever waits."""
        with self._change:
            coming = [self._waiting.pop(name) for name in self._expected if name in self._waiting]
            self._present.update({member.name: member for member in coming})
        return coming

    def send(
        self, member: EdgeSession, message: messages.Message, tensors: Mapping[str, Tensor] | None = None
    ) -> Sent | None:
        """Send to one member; None if that showed that it is gone."""
        try:
            return member.connection.send(message, tensors)
        except ConnectionLostError as error:
            self.drop(member, str(error))
            return None

    def send_all(self, message: messages.Message, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Send the same to every member."""
        for member in self.members:
            self.send(member, message, tensors)

    def receive(self, deadline_s: float) -> tuple[EdgeSession, Received] | None:
        """The next message of a member; None if there is none by then (`time.monotonic`), or a member was lost."""
        while (item := self._mailbox.get(deadline_s)) is not None:
            member, inbound = item
            if self._present.get(member.name) is not member:
                continue  # it was lost or dropped before
            if isinstance(inbound, Lost):
                self.drop(member, inbound.reason)
                return None
            if isinstance(inbound.frame.message, messages.Failed):
                self.drop(member, f"it failed: {inbound.frame.message.reason}")
                return None
            return member, inbound
        return None

    def collect(
        self, kind: type[M], timeout_s: float, among: Sequence[EdgeSession] | None = None, stale: bool = False
    ) -> list[tuple[EdgeSession, M, Received]]:
        """One message of that kind from every member (`among` those); who sends none in time, or another, is dropped.

        With `stale` other messages are passed over: they belong to what was given up.
        """
        got: dict[str, tuple[EdgeSession, M, Received]] = {}
        deadline_s = time.monotonic() + timeout_s

        def asked() -> list[EdgeSession]:
            return [member for member in self.members if among is None or member in among]

        while awaited := [member for member in asked() if member.name not in got]:
            item = self.receive(deadline_s)
            if item is None:
                if time.monotonic() >= deadline_s:
                    for member in awaited:
                        self.drop(member, f"no {kind.__name__} came from it within {timeout_s:g} s.")
                continue
            member, received = item
            message = received.frame.message
            if isinstance(message, kind):
                got[member.name] = (member, message, received)
            elif not stale:
                self.drop(member, f"it sent {type(message).__name__} in place of {kind.__name__}.")
        return [got[member.name] for member in asked()]

    def synchronize(self, timeout_s: float) -> None:
        """Estimate every member's clock offset anew from several pings each."""
        times: dict[str, list[clock_sync.PingTimes]] = {member.name: [] for member in self.members}
        for number in range(PINGS):
            self.send_all(messages.Ping(number=number))
            for member, pong, received in self.collect(messages.Pong, timeout_s):
                times[member.name].append(
                    clock_sync.PingTimes(
                        pong.ping_sent_s, pong.ping_received_s, received.frame.sent_s, received.arrival_s
                    )
                )
        for member in self.members:
            member.offset_s = clock_sync.best_offset_s(times[member.name])

    def drop(self, member: EdgeSession, reason: str) -> None:
        """Go on without a member; if it lives, it connects again and waits for the next averaging."""
        if self._present.get(member.name) is not member:
            return
        with self._change:
            del self._present[member.name]
        member.connection.abort()
        self.on_lost(member, reason)

    def close(self, reason: str, failed: bool) -> None:
        """Tell everybody that it is over, and why; then hang up."""
        with self._change:
            self._closed_because = reason
            everybody = self._everybody()
        goodbye = messages.Failed(reason=reason) if failed else messages.Stop(reason=reason)
        self._over.set()
        for member in everybody:
            with contextlib.suppress(ConnectionLostError):
                member.connection.send(goodbye)
            member.connection.close()
        self._mailbox.close()
        self._lobby.close()

    def _admit(self, ask: messages.JoinRequest, connection: Connection, answer: messages.JoinAccepted) -> None:
        """In the lobby's thread: let an edge in, or say why not."""
        with self._change:
            self._check(ask)
            recipe = self._recipe
            member = EdgeSession(ask.edge, connection, ask, connection.peer_port)
            if recipe is None:
                connection.limits = framing.FrameLimits()
                connection.send(answer)
                self._asked[ask.edge] = member
                self._change.notify_all()
        if recipe is None:
            connection.start(lambda inbound: self._deliver(member, inbound))
        else:
            self._admit_late(member, recipe, answer)

    def _admit_late(self, member: EdgeSession, recipe: messages.Prepare, answer: messages.JoinAccepted) -> None:
        """Prepare an edge that comes in the middle of the run; then it waits."""
        connection = member.connection
        connection.limits = self._limits
        connection.set_timeout(self._prepare_timeout_s)
        connection.send(answer)
        connection.send(recipe)
        ready = connection.receive().frame.message
        if not isinstance(ready, messages.Ready):
            raise ProtocolError(f"{member.name} sent {type(ready).__name__} in place of Ready.")
        connection.set_timeout(None)
        member.layers = ready.layers
        with self._change:
            self._check(member.ask)
            self._waiting[member.name] = member
            self._change.notify_all()
        connection.start(lambda inbound: self._deliver(member, inbound))

    def _everybody(self) -> list[EdgeSession]:
        return [*self._asked.values(), *self._present.values(), *self._waiting.values()]

    def _deliver(self, member: EdgeSession, inbound: Inbound) -> None:
        if isinstance(inbound, Lost):
            with self._change:  # whoever is not yet, or not now, in training simply is not there any more
                for place in (self._asked, self._waiting):
                    if place.get(member.name) is member:
                        del place[member.name]
                        member.connection.abort()
        size_bytes = inbound.frame.size_bytes if isinstance(inbound, Received) else 0
        self._mailbox.put(member, inbound, size_bytes)

    def _check(self, ask: messages.JoinRequest) -> None:
        """Whether that edge may come in now.

        Raises: NotAdmittedError.
        """
        if self._closed_because:
            raise NotAdmittedError(self._closed_because)
        if ask.edge not in self._expected:
            raise NotAdmittedError(f"{ask.edge} is not expected here; expected are {', '.join(self._expected)}.")
        if ask.task != self._task:
            raise NotAdmittedError(f"the task here is {self._task}, not {ask.task}.")
        if ask.edge in self._asked or ask.edge in self._present or ask.edge in self._waiting:
            raise NotAdmittedError(f"an edge called {ask.edge} has asked already and is still connected.", retry=True)
        if (known := self._samples.get(ask.edge)) not in (None, (ask.samples, ask.held_out)):
            raise NotAdmittedError(
                f"{ask.edge} had {known[0]} samples and {known[1]} held out when the run began; "
                f"now it has {ask.samples} and {ask.held_out}."
            )

    def _keep_alive(self) -> None:
        while not self._over.wait(ALIVE_EVERY_S):
            with self._change:
                everybody = self._everybody()
            for member in everybody:
                with contextlib.suppress(ConnectionLostError):  # the receiving thread will notice, too
                    member.connection.send_if_idle(messages.Alive(), ALIVE_EVERY_S)
