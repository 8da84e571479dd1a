"""Callers by scope, quotas, redaction (from guard.py)."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from controller.domain.reservation import Flow, Reservation
from controller.errors import ControllerError, NotFound
from controller.security import access
from controller.security.access import Caller, can_see, check_quota, usage_of_flows
from controller.security.tenant_usage import Usage
from controller.service.queries import Queries

_bearer = HTTPBearer(
    auto_error=False, description="A token of `paceline token add`. Not needed as long as there is none."
)


def require_scope(scope: access.Scope) -> Any:
    """A dependency: the caller, who must have this scope.

    Raises: Forbidden.
    """

    async def check(request: Request, _token: Annotated[Any, Depends(_bearer)]) -> Caller:
        caller: Caller = request.state.caller
        access.require(caller, scope)
        return caller

    return Depends(check)


Reader = Annotated[Caller, require_scope(access.Scope.READ)]


Reserver = Annotated[Caller, require_scope(access.Scope.RESERVE)]


Operator = Annotated[Caller, require_scope(access.Scope.OPERATE)]


class QuotaTracker:
    """Counts what is being asked for together with what is held, so that two requests at once cannot share a quota."""

    def __init__(self, service: Queries) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._pending: dict[str, Usage] = defaultdict(Usage)

    @contextmanager
    def charge(self, caller: Caller, asked: Sequence[Flow], instead_of: str | None = None) -> Iterator[None]:
        """Count these flows as the tenant's for as long as this lasts. `instead_of`: a reservation they replace.

        Raises: QuotaExceeded.
        """
        tenant, wanted = caller.tenant, usage_of_flows(asked)
        with self._lock:
            check_quota(caller, self._service.held_by(tenant, instead_of) + self._pending[tenant], wanted)
            self._pending[tenant] += wanted
        try:
            yield
        finally:
            with self._lock:
                self._pending[tenant] -= wanted
                if not self._pending[tenant].reservations:
                    del self._pending[tenant]


def redacted(service: Queries, caller: Caller | None, error: ControllerError) -> ControllerError:
    """The error without the name of a reservation that is another tenant's."""
    name = error.facts.get("reservation")
    if not isinstance(name, str) or caller is None or _may_see(service, caller, name):
        return error
    facts = {fact: value for fact, value in error.facts.items() if fact != "reservation"}
    return type(error)(error.detail.replace(name, "another tenant's"), **facts)


def _may_see(service: Queries, caller: Caller, name: str) -> bool:
    try:
        found: Reservation = service.reservation(name)
    except NotFound:
        return False  # the request's own, which came to nothing
    return can_see(caller, found.tenant)
