"""The cloud's edges: joined, active, waiting; one inbox for the messages of all of them.

A lost edge is removed immediately. When it reconnects it is prepared and waits for the next averaging, unless it was
excluded: because it sent what is not possible, or because the model failed on it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from torch import Tensor

from trainer.cloud import edge_checks
from trainer.cloud.edge_acceptor import EdgeAcceptor, JoinRefusedError
from trainer.cloud.edge_session import EdgeConnection, EdgeEvent, EdgeFailed, EdgeSession
from trainer.cloud.join_rules import JoinRules
from trainer.cloud.remote_edge import RemoteConnection, StoredModel
from trainer.errors import (
    ConnectionLostError,
    ModelFailedError,
    PartitionError,
    ProtocolError,
    QuorumError,
    TrainingFailedError,
)
from trainer.protocol import framing, messages
from trainer.reservation.partition_check import FindPartition, no_partition
from trainer.transport import clock_sync
from trainer.transport.connection import Connection, Disconnected, ReceivedFrame
from trainer.transport.credentials import NO_CREDENTIALS, TransportCredentials
from trainer.transport.inbox import Inbox
from trainer.transport.pacing import SentFrame

log = logging.getLogger(__name__)

PINGS = 8
PARTITION_POLL_S = 1.0
KEEPALIVE_INTERVAL_S = 5.0
"""Interval of keep-alive messages to idle edges."""
END_TIMEOUT_S = 5.0
"""At the end of a run: until an edge has read the reason, which it does after its present computation."""

M = TypeVar("M", bound=messages.Message)


class Workers(Protocol):
    """The workers that serve the edges, where the training loop does not do so itself."""

    @property
    def nodes(self) -> dict[str, str]:
        """The node of the cloud on which each worker is."""

    def place(self, places: Mapping[str, str], recipe: messages.Prepare, keep_bytes: int) -> None:
        """Assign a worker to every edge; all workers build the model. `keep_bytes`: of all for kept segments."""

    def mean(self, models: Mapping[str, StoredModel], weights: Sequence[float]) -> dict[str, Tensor]:
        """Average models that have stayed at the workers.

        Raises: ModelsLostError.
        """

    def nodes_for(self, edge: str) -> list[str]:
        """Return the nodes of the workers that may serve an edge: that of its own, or all while it has none."""

    def expect(self, edge: str) -> RemoteConnection:
        """Have an edge's worker expect it; an edge whose worker is lost gets another one.

        Raises: JoinRefusedError if there is no worker.
        """


class EdgeManager:
    """Admits edges and transfers messages between them and the training loop.

    `on_lost` is called with the session and the reason in the thread of the training loop; `on_collecting` there, too,
    with the reports of edges that collect.
    """

    def __init__(
        self,
        address: tuple[str, int],
        expected: Sequence[str],
        task: str,
        samples: Mapping[str, tuple[int, int]] | None = None,
        credentials: TransportCredentials = NO_CREDENTIALS,
        excluded: Mapping[str, str] | None = None,
    ) -> None:
        """`samples`, `excluded`: as in `JoinRules`, of a run that resumes."""
        self.workers: Workers | None = None
        self.on_lost: Callable[[EdgeSession, str], None] = lambda _session, _reason: None
        self.on_collecting: Callable[[messages.Collecting], None] = lambda _report: None
        self._reports: dict[str, messages.Collecting] = {}
        self._collecting: dict[str, messages.Collecting] = {}
        self._expected = list(expected)
        self._rules = JoinRules(self._expected, task, samples, excluded)
        self._joined: dict[str, EdgeSession] = {}
        self._active: dict[str, EdgeSession] = {}
        self._waiting: dict[str, EdgeSession] = {}
        self._prepare_message: messages.Prepare | None = None
        self._prepare_timeout_s = 0.0
        self._limits = framing.FrameLimits()
        self._closed_because: str | None = None
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._inbox: Inbox[EdgeSession, EdgeEvent] = Inbox()
        self._acceptor = EdgeAcceptor(address, credentials, self._admit, on_collecting=self._receive_report)
        threading.Thread(target=self._keep_alive, daemon=True).start()

    @property
    def sessions(self) -> list[EdgeSession]:
        """The edges in training, in the order of the settings."""
        return [self._active[name] for name in self._expected if name in self._active]

    @property
    def waiting(self) -> list[str]:
        """Names of the edges that wait for the next averaging."""
        with self._changed:
            return [name for name in self._expected if name in self._waiting]

    @property
    def excluded(self) -> dict[str, str]:
        """The edges that take no further part in the run, with the reasons."""
        return dict(self._rules.excluded)

    @property
    def connections_refused(self) -> int:
        """Number of refused connections."""
        return self._acceptor.refused

    def gather(
        self, quorum: int | None, timeout_s: float, find_partition: FindPartition = no_partition
    ) -> list[EdgeSession]:
        """Wait until all expected edges have joined, or until the timeout with at least `quorum` of them.

        Edges that were excluded before the run resumed are not expected. While edges collect, the timeout begins anew
        with every report of more samples. `find_partition` is asked every PARTITION_POLL_S about the edges that are
        missing.

        Raises: QuorumError that names the missing edges; PartitionError at once if so many are cut off from the cloud
        that the quorum cannot be reached.
        """
        possible = [name for name in self._expected if name not in self._rules.excluded]
        expected = len(possible)
        deadline_s = time.monotonic() + timeout_s
        collected: dict[str, int] = {}
        while not self._joined_are(expected, min(PARTITION_POLL_S, deadline_s - time.monotonic())):
            if self._tell_reports(collected):
                deadline_s = time.monotonic() + timeout_s
            if time.monotonic() >= deadline_s:
                break
            missing = [name for name in possible if name not in self._joined]
            cut_off = find_partition(self.nodes_for(missing))
            if expected - len(cut_off) < (quorum or expected):
                sentences = " ".join(dict.fromkeys(cut_off.values()))
                raise PartitionError(f"{sentences} {expected - len(cut_off)} of {expected} edges can join, "
                                     f"{quorum or expected} are required.")
            if missing and len(cut_off) == len(missing):
                break  # they may join later
        with self._changed:
            missing = [name for name in possible if name not in self._joined]
            if len(self._joined) < (quorum or expected):
                raise QuorumError(
                    f"{self._rules.why_refused(missing)}{self._how_far(missing)}"
                    f"{', '.join(missing)} did not join within {timeout_s:g} s: "
                    f"{len(self._joined)} of {expected} edges "
                    f"joined, {quorum or expected} are required. Start the missing edges or lower --quorum."
                )
            self._active, self._joined = self._joined, {}
            for name, session in self._active.items():
                self._rules.samples[name] = (session.request.samples, session.request.held_out)
        return self.sessions

    def nodes_for(self, edges: Sequence[str]) -> dict[str, list[str]]:
        """Return the nodes of the workers that may serve each edge; none where the training loop serves all."""
        workers = self.workers
        return {edge: [] if workers is None else workers.nodes_for(edge) for edge in edges}

    def _receive_report(self, report: messages.Collecting) -> None:
        """Keep the report of an edge that collects; runs in a thread of the acceptor."""
        with self._changed:
            if report.edge in self._expected:
                self._reports[report.edge] = report

    def _tell_reports(self, collected: dict[str, int]) -> bool:
        """Pass on the reports that have come; return whether an edge has more samples than in `collected`."""
        with self._changed:
            reports, self._reports = self._reports, {}
        has_more = False
        for edge, report in reports.items():
            has_more |= report.samples > collected.get(edge, -1)
            collected[edge] = report.samples
            self._collecting[edge] = report
            self.on_collecting(report)
        return has_more

    def _how_far(self, edges: Sequence[str]) -> str:
        """Return a sentence for each of these edges that collects."""
        return "".join(f"{edge}: {edge_checks.printable(self._collecting[edge].sentence)} " for edge in edges
                       if edge in self._collecting)

    def _joined_are(self, number: int, timeout_s: float) -> bool:
        """Whether that many edges have joined within this time."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._joined) == number, max(0.0, timeout_s))

    def move_to_workers(
        self, places: Mapping[str, str], recipe: messages.Prepare, keep_bytes: int, timeout_s: float, quorum: int
    ) -> None:
        """Send every edge to its worker; one that does not arrive there is dropped. `keep_bytes`: as for `place`.

        Raises: QuorumError if fewer than the quorum arrive.
        """
        assert self.workers is not None
        self.workers.place(places, recipe, keep_bytes)
        moving = []
        for session in self.sessions:
            before, link = session.connection, self.workers.expect(session.name)
            session.connection = link
            moving.append((session, link))
            with contextlib.suppress(ConnectionLostError):  # it does not arrive
                before.send(messages.Redirect(host=link.worker.address[0], port=link.worker.address[1]))
        deadline_s = time.monotonic() + timeout_s
        for session, link in moving:
            if link.wait(deadline_s - time.monotonic()):
                self._take_link(session, link)
                self._start(session, link)
            else:
                self.drop(session, f"it did not connect to its worker within {timeout_s:g} s.")
        if (arrived := len(self.sessions)) < quorum:
            raise QuorumError(f"{arrived} of {len(self._expected)} edges have connected to their workers within "
                              f"{timeout_s:g} s, {quorum} are required. Edges must reach the addresses of the workers.")

    def _start(self, session: EdgeSession, link: RemoteConnection) -> None:
        link.start(lambda inbound: self._deliver(session, link, inbound))

    def _take_link(self, session: EdgeSession, link: RemoteConnection) -> None:
        worker = link.worker
        session.mss_bytes, session.worker = link.mss_bytes, worker.name
        session.cloud_port, session.cloud_node = worker.address[1], worker.node

    def prepare(
        self, prepare_message: messages.Prepare, payload_bytes: int, timeout_s: float
    ) -> None:
        """Send every edge what it needs to prepare, now and when it joins later; `await_prepared` waits for them.

        `payload_bytes` limits the payload of a frame.
        """
        with self._changed:
            self._limits = framing.FrameLimits(payload_bytes=payload_bytes)
            self._prepare_message, self._prepare_timeout_s = prepare_message, timeout_s
        for session in self.sessions:
            session.connection.limits = self._limits
            self.send(session, prepare_message)

    def await_prepared(self) -> None:
        """Wait until every edge is prepared; one that is not within the time limit is dropped."""
        for session, ready, _ in self.collect(messages.Ready, self._prepare_timeout_s):
            session.data_order, session.initial_digest = ready.data_order, ready.initial_digest

    def admit_waiting(self) -> list[EdgeSession]:
        """Activate the waiting edges; return them."""
        with self._changed:
            joining = [self._waiting.pop(name) for name in self._expected if name in self._waiting]
            self._active.update({session.name: session for session in joining})
        return joining

    def send(
        self, session: EdgeSession, message: messages.Message, tensors: Mapping[str, Tensor] | None = None
    ) -> SentFrame | None:
        """Send to one edge; None if its connection is lost."""
        try:
            return session.connection.send(message, tensors)
        except ConnectionLostError as error:
            self.drop(session, str(error))
            return None

    def send_all(self, message: messages.Message, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Send a message to every active edge."""
        for session in self.sessions:
            self.send(session, message, tensors)

    def receive(self, deadline_s: float) -> tuple[EdgeSession, ReceivedFrame] | None:
        """Return the next message of an active edge; None at the deadline (`time.monotonic`) or if an edge was lost."""
        while (item := self._inbox.get(deadline_s)) is not None:
            session, inbound = item
            if self._active.get(session.name) is not session:
                continue  # from a session that was dropped
            if isinstance(inbound, Disconnected):
                self.drop(session, inbound.reason)
                return None
            if isinstance(inbound, EdgeFailed):
                if isinstance(inbound.error, ProtocolError):
                    self.exclude(session, str(inbound.error))
                else:
                    self.fail(session, inbound.error)
                return None
            if isinstance(inbound.frame.message, messages.Failed):
                reason = edge_checks.printable(inbound.frame.message.reason)
                if inbound.frame.message.of_model:
                    self.fail(session, ModelFailedError(f"{session.name}: {reason}"))
                else:
                    self.drop(session, f"it reported an error: {reason}")
                return None
            return session, inbound
        return None

    def collect(
        self, kind: type[M], timeout_s: float, among: Sequence[EdgeSession] | None = None, stale: bool = False
    ) -> list[tuple[EdgeSession, M, ReceivedFrame]]:
        """Return one message of that kind from every edge (of `among`); drop an edge that sends none or another.

        With `stale` other messages are ignored: they belong to an aborted step.
        """
        replies: dict[str, tuple[EdgeSession, M, ReceivedFrame]] = {}
        deadline_s = time.monotonic() + timeout_s

        def addressed() -> list[EdgeSession]:
            return [session for session in self.sessions if among is None or session in among]

        while awaited := [session for session in addressed() if session.name not in replies]:
            item = self.receive(deadline_s)
            if item is None:
                if time.monotonic() >= deadline_s:
                    for session in awaited:
                        self.drop(session, f"it did not send {kind.__name__} within {timeout_s:g} s.")
                continue
            session, received = item
            message = received.frame.message
            if isinstance(message, kind):
                replies[session.name] = (session, message, received)
            elif not stale:
                self.drop(session, f"it sent {type(message).__name__} instead of {kind.__name__}.")
        return [replies[session.name] for session in addressed()]

    def synchronize(self, timeout_s: float) -> None:
        """Estimate the clock offset of every edge from several pings."""
        times: dict[str, list[clock_sync.PingTimes]] = {session.name: [] for session in self.sessions}
        for number in range(PINGS):
            self.send_all(messages.Ping(number=number))
            for session, pong, received in self.collect(messages.Pong, timeout_s):
                if pong.number != number:
                    self.exclude(session, f"it answered ping {pong.number} instead of {number}.")
                    continue
                times[session.name].append(
                    clock_sync.PingTimes(
                        pong.ping_sent_s, pong.ping_received_s, received.frame.sent_s, received.arrival_s
                    )
                )
        for session in self.sessions:
            session.offset_s = clock_sync.best_offset_s(times[session.name])

    def drop(self, session: EdgeSession, reason: str) -> None:
        """Remove an edge from training; if it is still running, it reconnects and waits for the next averaging."""
        if self._active.get(session.name) is not session:
            return
        with self._changed:
            del self._active[session.name]
        session.connection.abort()
        self.on_lost(session, reason)

    def exclude(self, session: EdgeSession, reason: str) -> None:
        """Remove an edge that sent what is not possible; it is not admitted again."""
        if self._active.get(session.name) is session:
            log.warning("edge=%s excluded=%r", session.name, reason)
            with self._changed:
                self._rules.excluded[session.name] = reason
            session.excluded = True
            self.drop(session, reason)

    def fail(self, session: EdgeSession, error: TrainingFailedError) -> None:
        """Exclude an edge on which the model failed: it would fail again, and nothing proves that others would."""
        session.failure = error
        self.exclude(session, str(error))

    def close(self, reason: str, failed: bool, timeout_s: float = END_TIMEOUT_S) -> None:
        """Send the reason for the end to every edge and close all connections, unless that is done.

        All at the same time: an edge that has stopped reading holds none of the others up. An edge closes its side when
        it has read the reason; until then, at most `timeout_s`, what it sends is read and dropped.
        """
        if self._closing.is_set():
            return
        with self._changed:
            self._closed_because = reason
            sessions = self._all_sessions()
        last_message = messages.Failed(reason=reason) if failed else messages.Stop(reason=reason)
        self._closing.set()
        self._inbox.close()
        threads = [threading.Thread(target=_end, args=(session, last_message, timeout_s), daemon=True)
                   for session in sessions]
        for thread in threads:
            thread.start()
        deadline_s = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        for session in sessions:
            session.connection.close()
        self._acceptor.close()

    def _admit(self, request: messages.JoinRequest, connection: Connection, answer: messages.JoinAccepted) -> None:
        """Admit or refuse an edge; runs in a thread of the acceptor."""
        with self._changed:
            self._check_request(request)
            prepare_message = self._prepare_message
            session = EdgeSession(request.edge, connection, request, connection.peer_port)
            if prepare_message is None:
                connection.limits = framing.FrameLimits()
                connection.send(answer)
                self._joined[request.edge] = session
                self._changed.notify_all()
        if prepare_message is None:
            connection.start(lambda inbound: self._deliver(session, connection, inbound))
        else:
            self._admit_late(session, prepare_message, answer)

    def _admit_late(
        self, session: EdgeSession, prepare_message: messages.Prepare, answer: messages.JoinAccepted
    ) -> None:
        """Prepare an edge that joins during the run and let it wait for the next averaging."""
        session.connection.send(answer)
        connection = session.connection = self._connection_for(session)
        connection.limits = self._limits
        connection.set_receive_timeout(self._prepare_timeout_s)
        connection.send(prepare_message)
        ready = connection.receive().frame.message
        if isinstance(ready, messages.Failed):
            raise ProtocolError(f"{session.name} cannot be prepared: {edge_checks.printable(ready.reason)}")
        if not isinstance(ready, messages.Ready):
            raise ProtocolError(f"{session.name} sent {type(ready).__name__} instead of Ready.")
        connection.set_receive_timeout(None)
        session.data_order = ready.data_order
        with self._changed:
            self._check_request(session.request)
            self._waiting[session.name] = session
            self._changed.notify_all()
        connection.start(lambda inbound: self._deliver(session, connection, inbound))

    def _connection_for(self, session: EdgeSession) -> EdgeConnection:
        """Return the connection by which an edge that joins late is served: its own, or that to its worker.

        Raises: JoinRefusedError if there is no worker, ConnectionLostError if it does not arrive there.
        """
        if self.workers is None:
            return session.connection
        link = self.workers.expect(session.name)
        session.connection.send(messages.Redirect(host=link.worker.address[0], port=link.worker.address[1]))
        if not link.wait(self._prepare_timeout_s):
            raise ConnectionLostError(f"{session.name} did not connect to its worker.")
        session.connection.abort()
        self._take_link(session, link)
        return link

    def _all_sessions(self) -> list[EdgeSession]:
        return [*self._joined.values(), *self._active.values(), *self._waiting.values()]

    def _deliver(self, session: EdgeSession, connection: EdgeConnection, inbound: EdgeEvent) -> None:
        if session.connection is not connection:  # it has moved to a worker
            if isinstance(inbound, Disconnected):
                connection.abort()
            return
        if isinstance(inbound, Disconnected):
            with self._changed:  # an edge outside training is removed silently
                for sessions in (self._joined, self._waiting):
                    if sessions.get(session.name) is session:
                        del sessions[session.name]
                        session.connection.abort()
        size_bytes = inbound.frame.size_bytes if isinstance(inbound, ReceivedFrame) else 0
        self._inbox.put(session, inbound, size_bytes)

    def _check_request(self, request: messages.JoinRequest) -> None:
        """Check whether an edge may join now.

        Raises: JoinRefusedError.
        """
        if self._closed_because:
            raise JoinRefusedError(self._closed_because)
        self._rules.check(request, {*self._joined, *self._active, *self._waiting})

    def _keep_alive(self) -> None:
        while not self._closing.wait(KEEPALIVE_INTERVAL_S):
            with self._changed:
                sessions = self._all_sessions()
            for session in sessions:
                with contextlib.suppress(ConnectionLostError):  # the receiving thread reports the loss
                    session.connection.send_if_idle(messages.Keepalive(), KEEPALIVE_INTERVAL_S)


def _end(session: EdgeSession, last_message: messages.Message, timeout_s: float) -> None:
    """Tell an edge the end and wait until it has closed its side."""
    with contextlib.suppress(ConnectionLostError):
        session.connection.send(last_message)
        session.connection.end_sending()
        session.connection.await_end(timeout_s)
