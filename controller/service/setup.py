"""Takes in new reservations: who waits at its turn is decided, and what is confirmed by then is written down together.

One thread does so, and waits for nobody: each reservation is told to its switches on its own, so that one that is slow
costs only those on it, and who must wait for something else (room at a switch, what is undone, lightpaths that are
moved, advice beside a refusal) does so in a thread of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from functools import partial
from queue import Empty, SimpleQueue

from sqlalchemy.exc import SQLAlchemyError

from controller.admission.admission import Admitted
from controller.dataplane.intended_state import ChangedKeys
from controller.dataplane.southbound import CONFIRM_TIMEOUT_S
from controller.domain.events import ReservationInstalled
from controller.domain.reservation import Reservation, State
from controller.errors import NoSpectrum, Refused
from controller.service.concurrency import RequestLimiter
from controller.service.idempotency import IdempotencyCache
from controller.service.lifecycle import LifecycleManager
from controller.service.lightpath_migration import LightpathMigrator
from controller.service.queries import NOBODY
from controller.service.requests import Answer, AttachedRow, PendingSetup, ReservationSpec, request_of
from controller.service.reservation_ids import Numbers, name_of
from controller.service.state import ServiceState, switches_of
from controller.storage.ledger import IdempotencyKey

log = logging.getLogger(__name__)

AT_ONCE = 32
"""New reservations under way at once; the others wait."""


class SetupPipeline:
    """New reservations, from any thread; `start` before use, `stop` after."""

    def __init__(
        self,
        writer: ServiceState,
        caretaker: LifecycleManager,
        tidying: LightpathMigrator,
        repeats: IdempotencyCache,
        room: RequestLimiter,
    ) -> None:
        self._writer, self._book, self._fabric = writer, writer.book, writer.fabric
        self._caretaker, self._tidying, self._repeats, self._room = caretaker, tidying, repeats, room
        self._inbox: SimpleQueue[PendingSetup | None] = SimpleQueue()
        self._waiting: deque[PendingSetup] = deque()
        self._lock = threading.Lock()
        self._under_way = 0
        self._numbers = Numbers(writer.ledger, lambda name: self._book.standing.get(name) is not None)
        self._stopping = False
        self._aside = ThreadPoolExecutor(AT_ONCE, "paceline-aside")
        self._thread = threading.Thread(target=self._run, name="paceline-intake", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Take in nobody more."""
        self._stopping = True
        self._inbox.put(None)
        self._thread.join(timeout=10)
        self._aside.shutdown(wait=False)

    def ask(
        self,
        asked: ReservationSpec,
        repeat: IdempotencyKey | None,
        within: Callable[[], AbstractContextManager[None]],
        note: AttachedRow | None,
    ) -> Future[Answer]:
        """See Service.reserve_soon."""
        newcomer = PendingSetup(asked, repeat, within, note, self._aside.submit)
        newcomer.answer.set_running_or_notify_cancel()
        self._inbox.put(newcomer)
        return newcomer.answer

    def take(
        self, asked: ReservationSpec, repeat: IdempotencyKey | None, within: Callable[[], AbstractContextManager[None]]
    ) -> Answer:
        """See Service.reserve: for whoever has a thread to wait in."""
        newcomer = PendingSetup(asked, repeat, within, None, _call)
        with self._lock:
            self._under_way += 1
        self._take_in(newcomer)
        try:
            return newcomer.answer.result()
        finally:
            del newcomer  # it has the error, and the error this frame

    def _run(self) -> None:
        while not self._stopping:
            come = self._come()
            self._waiting += [each for each in come if each.installed is None]
            try:
                self._write_down([each for each in come if each.installed is not None])
                while self._waiting and self._under_way < AT_ONCE:
                    with self._lock:
                        self._under_way += 1
                    self._take_in(self._waiting.popleft())
            except Exception:
                # The thread must outlive whatever went wrong.
                log.exception("intake: a turn has failed")

    def _come(self) -> list[PendingSetup]:
        """Wait for somebody; all that are there then."""
        come = [self._inbox.get()]
        with suppress(Empty):
            while True:
                come.append(self._inbox.get_nowait())
        return [each for each in come if each is not None]

    # Deciding -------------------------------------------------------------------------------------------------------

    def _take_in(self, newcomer: PendingSetup) -> None:
        try:
            self._room.take()
            newcomer.places.callback(self._room.leave)
            if newcomer.repeat is not None:
                first = newcomer.places.enter_context(self._repeats.first_answer(newcomer.repeat))
                if first is not None:
                    self._end(newcomer, (first, True))
                    return
            newcomer.places.enter_context(newcomer.within())
            self._decide(newcomer)
        except NoSpectrum as refusal:
            newcomer.run_blocking(self._make_room, newcomer, refusal)
        except Refused as refusal:
            newcomer.run_blocking(self._refuse, newcomer, refusal)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
            self._end(newcomer, error)

    def _make_room(self, newcomer: PendingSetup, refusal: NoSpectrum) -> None:
        try:
            if not self._tidying.make_room(request_of(newcomer.asked, NOBODY)):
                raise refusal
            self._decide(newcomer)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
            self._refuse(newcomer, error)

    def _refuse(self, newcomer: PendingSetup, error: Exception) -> None:
        try:
            if isinstance(error, Refused):
                error.add_offer()
        finally:
            self._end(newcomer, error)

    def _decide(self, newcomer: PendingSetup) -> None:
        """Admit it, and have its switches told, or write it down if it is not to be installed yet."""
        asked = newcomer.asked
        with self._writer.lock:
            wanted, admitted = self._admitted(asked)
            at_once = not asked.hold and wanted.start_at_s <= wanted.created_at_s
            if at_once:
                newcomer.switches = switches_of(wanted)
                self._fabric.require_in_step(newcomer.switches)
            self._book.add(wanted, admitted)
            if at_once:
                touched = self._fabric.set_intended({wanted.id: wanted})
            else:
                wanted = wanted if asked.hold else wanted.with_state(State.SCHEDULED)
                self._record_new(newcomer, wanted)
        newcomer.wanted, newcomer.began_s = wanted, time.monotonic()
        if at_once:
            self._tell(newcomer, touched, may_wait=False)
        else:
            log.info("reserved id=%s state=%s owner=%s", wanted.id, wanted.state, wanted.owner)
            self._end(newcomer, (wanted, False))

    def _admitted(self, asked: ReservationSpec) -> tuple[Reservation, Admitted]:
        now_s, number = self._writer.clock(), self._numbers.new()
        name = name_of(number)
        admitted = self._writer.admit(request_of(asked, name))
        times = asked.lease_s, now_s, now_s + asked.lease_s
        start_at_s = max(now_s, asked.start_at_s or now_s)
        wanted = Reservation(
            name, number, 1, asked.owner, State.HELD, *times, admitted.placements,
            start_at_s=start_at_s, end_at_s=asked.end_at_s, tenant=asked.tenant,
        )  # fmt: skip
        return wanted, admitted

    def _record_new(self, newcomer: PendingSetup, wanted: Reservation) -> None:
        try:
            self._record([(newcomer, wanted)])
        except Exception:
            self._book.remove(wanted.id)
            raise

    # Installing -----------------------------------------------------------------------------------------------------

    def _tell(self, newcomer: PendingSetup, touched: ChangedKeys, may_wait: bool) -> None:
        """Have its switches told when there is room before them; what they have confirmed comes to the inbox."""
        try:
            if not self._room.take_at(newcomer.switches, may_wait):
                newcomer.run_blocking(self._tell, newcomer, touched, True)
                return
            newcomer.installed = self._fabric.updates.begin(touched)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
            newcomer.run_blocking(self._undo, newcomer, error)
            return
        if newcomer.installed.done():
            self._write_down([newcomer])
        else:
            newcomer.installed.add_done_callback(lambda _: self._inbox.put(newcomer))

    def _write_down(self, told: list[PendingSetup]) -> None:
        """Write down, all or none, those that all their switches have confirmed, and answer."""
        installed: list[tuple[PendingSetup, Reservation]] = []
        for each in told:
            assert each.installed is not None
            assert each.wanted is not None
            self._room.leave_at(each.switches)
            try:
                self._fabric.updates.result(each.installed)
                installed.append((each, each.wanted))
            except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
                self._aside.submit(self._undo, each, error)
        if not installed:
            return
        try:
            with self._writer.lock:
                made = [(each, self._writer.as_installed(wanted)) for each, wanted in installed]
                self._record(made)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
            for each, _ in installed:
                self._aside.submit(self._undo, each, error)
            return
        for each, active in made:
            self._writer.publish(ReservationInstalled(active.id, time.monotonic() - each.began_s))
            self._caretaker.look_again(active)
            log.info("installed id=%s version=%d owner=%s", active.id, active.version, active.owner)
            self._end(each, (active, False))

    def _record(self, made: list[tuple[PendingSetup, Reservation]]) -> None:
        """Write these down, all or none, with their notes if that can be. Under the lock."""
        record = partial(self._writer.record, *(reservation for _, reservation in made), are_new=True)
        answers = {reservation.id: each.repeat for each, reservation in made if each.repeat is not None}
        notes = [(each.note, reservation) for each, reservation in made if each.note is not None]
        try:
            record(answers=answers, along=[note.row(reservation) for note, reservation in notes])
        except SQLAlchemyError:
            if not notes:
                raise
            record(answers=answers)  # whoever wanted the notes sees that they are not written
        else:
            for note, _ in notes:
                note.is_written = True

    def _undo(self, newcomer: PendingSetup, error: Exception) -> None:
        """Take back what switches may have been told, and say why."""
        try:
            assert newcomer.wanted is not None
            with self._writer.lock:
                self._book.retire(newcomer.wanted)
                undone = self._fabric.set_intended({newcomer.wanted.id: None})
            self._fabric.updates.settle(undone, CONFIRM_TIMEOUT_S)
            self._writer.sweep()
        finally:
            self._end(newcomer, error)

    def _end(self, newcomer: PendingSetup, answer: Answer | Exception) -> None:
        newcomer.places.close()
        with self._lock:
            self._under_way -= 1
        if self._waiting:
            self._inbox.put(None)
        if isinstance(answer, Refused):
            newcomer.answer.set_exception(answer.with_traceback(None))  # which has the newcomer
        elif isinstance(answer, Exception):
            newcomer.answer.set_exception(answer)
        else:
            newcomer.answer.set_result(answer)


def _call(function: Callable[..., object], *arguments: object) -> None:
    function(*arguments)
