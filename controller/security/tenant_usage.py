"""Usage of each tenant, counted as reservations are set up, modified and released."""

from __future__ import annotations

from math import ceil

from controller.domain.frozen import frozen
from controller.domain.reservation import Requirement, Reservation


@frozen
class Usage:
    """Number of live reservations and their requested bandwidth together."""

    reservations: int = 0
    bandwidth_bps: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.reservations + other.reservations, self.bandwidth_bps + other.bandwidth_bps)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.reservations - other.reservations, self.bandwidth_bps - other.bandwidth_bps)


NO_USAGE = Usage()


class TenantUsage:
    """Usage by tenant. Updated by one thread at a time; reading needs no lock."""

    def __init__(self) -> None:
        self._usage: dict[str, Usage] = {}

    def usage_of(self, tenant: str) -> Usage:
        """Present usage of a tenant."""
        return self._usage.get(tenant, NO_USAGE)

    def update(self, before: Reservation | None, after: Reservation) -> None:
        """Count a reservation that is new (`before`: None) or has changed."""
        if before is not None and before.is_live == after.is_live and before.placements is after.placements:
            return
        usage, added = self._usage.get(after.tenant, NO_USAGE), usage_of(after)
        removed = NO_USAGE if before is None else usage_of(before)  # a reservation never changes its tenant
        count = usage.reservations + added.reservations - removed.reservations
        if count:
            bandwidth_bps = usage.bandwidth_bps + added.bandwidth_bps - removed.bandwidth_bps
            self._usage[after.tenant] = Usage(count, bandwidth_bps)
        else:
            self._usage.pop(after.tenant, None)


def usage_of(reservation: Reservation) -> Usage:
    """What a reservation counts against a quota: nothing once it has ended."""
    if not reservation.is_live:
        return NO_USAGE
    return Usage(1, sum(requested_bps(placement.flow.requirement) for placement in reservation.placements))


def requested_bps(requirement: Requirement) -> int:
    """What a requirement counts against a quota: its rate, or a transfer's bytes over its deadline."""
    if requirement.transfer_bytes is None or requirement.deadline_ms is None:
        return requirement.min_bandwidth_bps or 0
    return ceil(requirement.transfer_bytes * 8000 / requirement.deadline_ms)
