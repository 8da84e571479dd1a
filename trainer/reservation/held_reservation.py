"""The one reservation that a run holds: made, changed, renewed while it lasts, given back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from trainer.errors import NetworkError, ReservationRefusedError
from trainer.reservation.api_types import FlowRequest, Reservation
from trainer.reservation.controller_client import Controller
from trainer.reservation.lease_renewal import LeaseRenewal

log = logging.getLogger(__name__)

LIVE_STATES = ("active", "degraded")

GONE = ("not_found", "not_live")
"""Refusals that say that there is nothing left to be changed."""


class ReservationGoneError(NetworkError):
    """What we held is held no more: plan anew without it."""

    code = "reservation_gone"


@dataclass
class HeldReservation:
    """`owner`: the cloud's host. `say` hears of all trouble. `live`: what is held, None if nothing is.

    `busy`: to be had by whoever reads it and then changes it.
    """

    controller: Controller
    owner: str
    lease_s: float
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    live: Reservation | None = None
    busy: threading.Lock = field(default_factory=threading.Lock)
    _asked: Sequence[FlowRequest] = ()
    _lease_ends_s: float = 0.0
    _renewal: LeaseRenewal | None = None

    @property
    def lasts(self) -> bool:
        """Whether something is held and its lease has not ended."""
        return self.live is not None and self.clock() < self._lease_ends_s

    def adopt(self, reservation: str) -> None:
        """Go on with what a cloud that was killed had reserved, if it is still there: its flows are in our way."""
        try:
            live = self.controller.find(reservation)
        except NetworkError as error:
            self.say(f"Reservation {reservation} of before cannot be gone on with: {error}")
            return
        if live.state in LIVE_STATES:
            self.live, self._lease_ends_s = live, self.clock() + self.lease_s

    def change(self, flows: Sequence[FlowRequest], retries: int = 1) -> Reservation:
        """Have these reserved in place of what is; refused, it stays as it was.

        Raises: ReservationGoneError if it does not, ReservationRefusedError, ControllerUnreachableError.
        """
        began_s = self.clock()
        live = self.live = self._ask(flows, retries)
        self._asked, self._lease_ends_s = flows, began_s + self.lease_s
        return live

    def _ask(self, flows: Sequence[FlowRequest], retries: int) -> Reservation:
        if self.live is None:
            return self.controller.create(self.owner, self.lease_s, flows)
        try:
            return self.controller.modify(self.live.id, self.lease_s, flows, retries)
        except ReservationRefusedError as refusal:
            if refusal.problem.get("code") not in GONE:
                raise
            raise ReservationGoneError(f"Reservation {self.live.id} cannot go on: {refusal}") from refusal

    def forget(self, why: NetworkError) -> None:
        """It is gone."""
        self.say(f"{why} A new one is made.")
        self.live = None

    def give_back(self, edge: str) -> None:
        """An edge's flows; what the others have stays. Never fails."""
        if self.live is None:
            return
        flows = [flow for flow in self._asked if flow.name not in (f"{edge}-up", f"{edge}-down")]
        try:
            if flows:
                self.live = self.controller.modify(self.live.id, self.lease_s, flows, retries=0)
                self._asked = flows
            else:
                live, self.live = self.live, None
                self.controller.release(live.id)
        except NetworkError as error:
            self.say(f"The bandwidth of {edge} could not be given back: {error} It ends with the lease.")

    def keep_alive(self) -> None:
        """From now on renew the lease in time, in long rounds and pauses, too."""
        if self._renewal is None:
            self._renewal = LeaseRenewal(self.lease_s / 3, self._renew)

    def _renew(self) -> None:
        if not self.busy.acquire(blocking=False):
            return  # it is being changed, which renews it, too
        try:
            if self.live is not None:
                began_s = self.clock()
                self.controller.renew(self.live.id, self.lease_s)
                self._lease_ends_s = began_s + self.lease_s
        except NetworkError as error:
            log.info("lease=%s renewed=no reason=%r", self.lease_s, str(error))  # the next round will tell
        finally:
            self.busy.release()

    def release(self) -> None:
        """Release it, once; a controller that is gone lets the lease run out."""
        if self._renewal is not None:
            self._renewal.stop()
        with self.busy:
            live, self.live = self.live, None
        if live is None:
            return
        try:
            self.controller.release(live.id)
        except NetworkError as error:
            self.say(f"Reservation {live.id} could not be released: {error} It ends with its lease.")
