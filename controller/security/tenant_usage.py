"""What each tenant holds, counted as reservations come and go."""

from __future__ import annotations

from math import ceil

from controller.domain.frozen import frozen
from controller.domain.reservation import Requirement, Reservation


@frozen
class Usage:
    """So many reservations, and what they asked for together."""

    reservations: int = 0
    bandwidth_bps: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.reservations + other.reservations, self.bandwidth_bps + other.bandwidth_bps)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.reservations - other.reservations, self.bandwidth_bps - other.bandwidth_bps)


NOTHING = Usage()


class TenantUsage:
    """What tenants hold. Changed by one thread at a time; reading needs no lock."""

    def __init__(self) -> None:
        self._held: dict[str, Usage] = {}

    def of(self, tenant: str) -> Usage:
        """What a tenant holds now."""
        return self._held.get(tenant, NOTHING)

    def change(self, before: Reservation | None, after: Reservation) -> None:
        """A reservation stands otherwise than before."""
        if before is not None and before.is_live == after.is_live and before.placements is after.placements:
            return
        held = self.of(after.tenant) + held_by(after)
        if before is not None:  # a reservation never goes to another tenant
            held -= held_by(before)
        if held.reservations:
            self._held[after.tenant] = held
        else:
            self._held.pop(after.tenant, None)


def held_by(reservation: Reservation) -> Usage:
    """What one reservation counts: nothing once it has ended."""
    if not reservation.is_live:
        return NOTHING
    return Usage(1, sum(asked_bps(placement.flow.requirement) for placement in reservation.placements))


def asked_bps(requirement: Requirement) -> int:
    """What a requirement counts against a quota: its rate, or a transfer's bytes over its deadline."""
    if requirement.transfer_bytes is None or requirement.deadline_ms is None:
        return requirement.min_bandwidth_bps or 0
    return ceil(requirement.transfer_bytes * 8000 / requirement.deadline_ms)
