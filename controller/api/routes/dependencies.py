"""Dependencies of routes: the caller with a required scope, quotas, and redaction."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from controller.domain.reservation import Flow
from controller.errors import NotFound
from controller.security import access
from controller.security.access import Caller, check_quota, usage_of_flows
from controller.security.redaction import Redaction
from controller.security.tenant_usage import Usage
from controller.service.queries import Queries

_bearer = HTTPBearer(
    auto_error=False, description="A token created by `paceline token add`; required once a token exists."
)


def require_scope(scope: access.Scope) -> Any:
    """Return a dependency that gives the caller, who must have this scope.

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
    """Counts pending requests together with the usage, so that concurrent requests cannot exceed a quota."""

    def __init__(self, service: Queries) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._pending: dict[str, Usage] = defaultdict(Usage)

    @contextmanager
    def charge(self, caller: Caller, flows: Sequence[Flow], instead_of: str | None = None) -> Iterator[None]:
        """Count these flows as pending while the context is open. `instead_of`: the reservation they replace.

        Raises: QuotaExceeded.
        """
        tenant, requested = caller.tenant, usage_of_flows(flows)
        with self._lock:
            check_quota(caller, self._service.usage_of(tenant, instead_of) + self._pending[tenant], requested)
            self._pending[tenant] += requested
        try:
            yield
        finally:
            with self._lock:
                self._pending[tenant] -= requested
                if not self._pending[tenant].reservations:
                    del self._pending[tenant]


def redaction_of(service: Queries) -> Redaction:
    """The redaction of what this service answers."""

    def tenant_of(reservation_id: str) -> str | None:
        try:
            return service.stored(reservation_id).tenant
        except NotFound:
            return None

    return Redaction(tenant_of)
