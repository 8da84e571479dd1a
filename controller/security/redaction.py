"""What a caller may not see of other tenants is removed here from everything that is answered.

Texts of the controller name a reservation by its id; one that names another tenant's is replaced as a whole, because
flow names, bounds and limits around the id are that tenant's, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from controller.domain.reservation import Reservation
from controller.errors import ControllerError, FlowInUse, RequestError
from controller.security.access import Caller, Scope, can_see

_ID = re.compile(r"\br-[0-9a-f]{8}\b")
WITHHELD = "A limit of another tenant's reservation would be exceeded."
SHARED_FACTS = frozenset({"fits_at", "offer", "link", "failure", "ieee8021q_failure_code"})
"""Facts of a refusal because of another tenant's reservation that are about the request or the network."""


class Redaction:
    """Decides by the tenants of the reservations. `tenant_of`: the tenant of a stored reservation; None: unknown id."""

    def __init__(self, tenant_of: Callable[[str], str | None]) -> None:
        self._tenant_of = tenant_of

    def error(self, caller: Caller | None, error: ControllerError) -> ControllerError:
        """The error as this caller may see it."""
        if isinstance(error, RequestError):  # repeats what was asked, as for an id that does not exist
            return error
        named = error.facts.get("reservation")
        if caller is None or not (isinstance(named, str) or self._names_hidden(caller, error.detail)):
            return error
        if isinstance(named, str) and self._tenant_of(named) is None:  # that of the rejected request itself
            return _rebuilt(error, error.detail, {fact for fact in error.facts if fact != "reservation"})
        if not self._names_hidden(caller, f"{error.detail} {named}"):
            return error
        if isinstance(error, FlowInUse):  # all but the id is of the request
            detail = _ID.sub(lambda found: self._id(caller, found[0]), error.detail)
            return _rebuilt(error, detail, {"flow"})
        return _rebuilt(error, WITHHELD, SHARED_FACTS)

    def reservation(self, caller: Caller, reservation: Reservation) -> Reservation:
        """The reservation as this caller may see it: its reason may be about another tenant's."""
        if reservation.reason is None or not self._names_hidden(caller, reservation.reason):
            return reservation
        return replace(reservation, reason=WITHHELD)

    def reason(self, tenant: str, reason: str | None) -> str | None:
        """A reason as this tenant may see it."""
        reader = Caller(tenant, frozenset({Scope.READ}))
        return WITHHELD if reason is not None and self._names_hidden(reader, reason) else reason

    def _names_hidden(self, caller: Caller, text: str) -> bool:
        return any(self._is_hidden(caller, found) for found in _ID.findall(text))

    def _is_hidden(self, caller: Caller, reservation_id: str) -> bool:
        tenant = self._tenant_of(reservation_id)
        return tenant is not None and not can_see(caller, tenant)

    def _id(self, caller: Caller, reservation_id: str) -> str:
        return "another tenant" if self._is_hidden(caller, reservation_id) else reservation_id


def _rebuilt(error: ControllerError, detail: str, facts: set[str] | frozenset[str]) -> ControllerError:
    return type(error)(detail, **{fact: value for fact, value in error.facts.items() if fact in facts})
