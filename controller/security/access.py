"""Access control: scopes, tenants and quotas, as pure decisions."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from controller.caches import MIB, bounded_cache
from controller.domain.reservation import Flow, Reservation
from controller.errors import Forbidden, NotFound, QuotaExceeded
from controller.security.tenant_usage import Usage, requested_bps

PUBLIC_TENANT = "public"
"""The tenant of every caller while no tokens are configured."""


class Scope(StrEnum):
    """Scope of a bearer token; each includes those before it. Source: RFC 6750 §3."""

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
    """The most a tenant may hold at once; None: no limit. `requested_bps` says how bandwidth is counted."""

    reservations: int | None = None
    bandwidth_bps: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated client; `token` is the name of its token, `address` where its request comes from."""

    tenant: str
    scopes: frozenset[Scope]
    quota: Quota = Quota()
    token: str | None = None
    address: str | None = None

    def has_scope(self, scope: Scope) -> bool:
        """Whether one of the caller's scopes is or includes this one."""
        return any(scope in _INCLUDED[held] for held in self.scopes)


ANONYMOUS = Caller(PUBLIC_TENANT, frozenset({Scope.OPERATE}))
"""The caller of every request while no tokens are configured."""


def require(caller: Caller, scope: Scope) -> None:
    """Raises: Forbidden if the caller lacks the scope."""
    if not caller.has_scope(scope):
        held = ", ".join(sorted(caller.scopes)) or "none"
        sentence = f"Token {caller.token} has scope {held}; this needs {scope}."
        raise Forbidden(sentence, scope=str(scope))


def can_see(caller: Caller, tenant: str) -> bool:
    """Whether the caller may see what belongs to this tenant."""
    return caller.tenant == tenant or caller.has_scope(Scope.OPERATE)


def require_visible(caller: Caller, reservation: Reservation) -> Reservation:
    """Return the reservation if the caller may see and change it.

    Raises: NotFound, the same error as for an unknown id, so that ids reveal nothing to other tenants.
    """
    if not can_see(caller, reservation.tenant):
        raise NotFound(f"There is no reservation {reservation.id}.")
    return reservation


def usage_of_flows(flows: Sequence[Flow]) -> Usage:
    """What a reservation of these flows counts against a quota."""
    return Usage(1, sum(requested_bps(flow.requirement) for flow in flows))


def check_quota(caller: Caller, usage: Usage, requested: Usage) -> None:
    """Check that the tenant may add one reservation to its present usage.

    Raises: QuotaExceeded with what is held, requested and allowed.
    """
    max_reservations = caller.quota.reservations
    if max_reservations is not None and usage.reservations + 1 > max_reservations:
        sentence = f"Tenant {caller.tenant} holds {usage.reservations} reservations; its quota is {max_reservations}."
        facts = {"held": usage.reservations, "asked": 1, "allowed": max_reservations}
        raise QuotaExceeded(sentence, quota="reservations", **facts)
    max_bps = caller.quota.bandwidth_bps
    if max_bps is not None and usage.bandwidth_bps + requested.bandwidth_bps > max_bps:
        sentence = (
            f"Tenant {caller.tenant} holds {usage.bandwidth_bps / 1e6:g} Mb/s and asks for "
            f"{requested.bandwidth_bps / 1e6:g} Mb/s; its quota is {max_bps / 1e6:g} Mb/s."
        )
        facts = {"held": usage.bandwidth_bps, "asked": requested.bandwidth_bps, "allowed": max_bps}
        raise QuotaExceeded(sentence, quota="bandwidth_bps", **facts)


@bounded_cache(MIB // 2, entry_bytes=512)
def is_management_address(address: str, management: str) -> bool:
    """Whether an address is a loopback address or in the management network (`management`: CIDR)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return parsed.is_loopback or parsed in ipaddress.ip_network(management)
