"""Who may do what: scopes, tenants and quotas, as plain decisions."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil

from controller.errors import Forbidden, NotFound, QuotaExceeded
from controller.reservation import Flow, Requirement, Reservation

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


def asked_bps(requirement: Requirement) -> int:
    """What a requirement counts against a quota: its rate, or a transfer's bytes over its deadline."""
    if requirement.transfer_bytes is None or requirement.deadline_ms is None:
        return requirement.min_bandwidth_bps or 0
    return ceil(requirement.transfer_bytes * 8000 / requirement.deadline_ms)


def check_quota(caller: Caller, held: Iterable[Sequence[Flow]], asked: Sequence[Flow]) -> None:
    """Whether `asked` may be added to what the tenant holds already, a sequence of flows for each reservation.

    Raises: QuotaExceeded with what is held, asked and allowed.
    """
    groups = list(held)
    most = caller.quota.reservations
    if most is not None and len(groups) + 1 > most:
        sentence = f"Tenant {caller.tenant} holds {len(groups)} reservations; its quota is {most}."
        raise QuotaExceeded(sentence, quota="reservations", held=len(groups), asked=1, allowed=most)
    allowed_bps = caller.quota.bandwidth_bps
    held_bps = sum(asked_bps(flow.requirement) for flows in groups for flow in flows)
    wanted_bps = sum(asked_bps(flow.requirement) for flow in asked)
    if allowed_bps is not None and held_bps + wanted_bps > allowed_bps:
        sentence = (
            f"Tenant {caller.tenant} holds {held_bps / 1e6:g} Mb/s and asks for {wanted_bps / 1e6:g} Mb/s; "
            f"its quota is {allowed_bps / 1e6:g} Mb/s."
        )
        facts = {"held": held_bps, "asked": wanted_bps, "allowed": allowed_bps}
        raise QuotaExceeded(sentence, quota="bandwidth_bps", **facts)


def is_near(address: str, management: str) -> bool:
    """Whether an address is this machine's or of the management network (`management`: CIDR)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return parsed.is_loopback or parsed in ipaddress.ip_network(management)
