"""Who may do what: scopes, tenants and quotas, as plain decisions."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from controller.domain.reservation import Flow, Reservation
from controller.errors import Forbidden, NotFound, QuotaExceeded
from controller.security.tenant_usage import Usage, asked_bps

PUBLIC = "public"
"""The tenant of everybody where no tokens are configured."""


class Scope(StrEnum):
    """What a token may do; each includes those before it."""

    READ = "read"
    RESERVE = "reserve"
    OPERATE = "operate"


_INCLUDED = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.RESERVE: frozenset({Scope.READ, Scope.RESERVE}),
    Scope.OPERATE: frozenset(Scope),
}


@dataclass(frozen=True, slots=True)
class Quota:
    """The most a tenant may hold at once; None: no limit. Bandwidth is counted as asked for, see `asked_bps`."""

    reservations: int | None = None
    bandwidth_bps: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `token` is the name of the token they showed."""

    tenant: str
    scopes: frozenset[Scope]
    quota: Quota = Quota()
    token: str | None = None

    def may(self, scope: Scope) -> bool:
        """Whether this is within their scopes."""
        return any(scope in _INCLUDED[held] for held in self.scopes)


ANYBODY = Caller(PUBLIC, frozenset({Scope.OPERATE}))
"""Whoever asks where no tokens are configured."""


def require(caller: Caller, scope: Scope) -> None:
    """Raises: Forbidden if the caller lacks the scope."""
    if not caller.may(scope):
        held = ", ".join(sorted(caller.scopes)) or "none"
        sentence = f"Token {caller.token} has scope {held}; this needs {scope}."
        raise Forbidden(sentence, scope=str(scope))


def sees(caller: Caller, tenant: str) -> bool:
    """Whether what belongs to this tenant is the caller's to see."""
    return caller.tenant == tenant or caller.may(Scope.OPERATE)


def owned(caller: Caller, reservation: Reservation) -> Reservation:
    """The reservation, if the caller may see and change it.

    Raises: NotFound, the same as if there were none, so that ids tell a stranger nothing.
    """
    if not sees(caller, reservation.tenant):
        raise NotFound(f"There is no reservation {reservation.id}.")
    return reservation


def wanted_by(asked: Sequence[Flow]) -> Usage:
    """What a reservation of these flows would count."""
    return Usage(1, sum(asked_bps(flow.requirement) for flow in asked))


def check_quota(caller: Caller, held: Usage, asked: Usage) -> None:
    """Whether one more reservation may be added to what the tenant holds already.

    Raises: QuotaExceeded with what is held, asked and allowed.
    """
    most = caller.quota.reservations
    if most is not None and held.reservations + 1 > most:
        sentence = f"Tenant {caller.tenant} holds {held.reservations} reservations; its quota is {most}."
        raise QuotaExceeded(sentence, quota="reservations", held=held.reservations, asked=1, allowed=most)
    allowed_bps = caller.quota.bandwidth_bps
    if allowed_bps is not None and held.bandwidth_bps + asked.bandwidth_bps > allowed_bps:
        sentence = (
            f"Tenant {caller.tenant} holds {held.bandwidth_bps / 1e6:g} Mb/s and asks for "
            f"{asked.bandwidth_bps / 1e6:g} Mb/s; its quota is {allowed_bps / 1e6:g} Mb/s."
        )
        facts = {"held": held.bandwidth_bps, "asked": asked.bandwidth_bps, "allowed": allowed_bps}
        raise QuotaExceeded(sentence, quota="bandwidth_bps", **facts)


@lru_cache(maxsize=1024)
def is_near(address: str, management: str) -> bool:
    """Whether an address is this machine's or of the management network (`management`: CIDR)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return parsed.is_loopback or parsed in ipaddress.ip_network(management)
