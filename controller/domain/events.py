"""Events that the service publishes to its listeners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from controller.domain.lightpath import Lightpath
from controller.domain.reservation import Placement, Reservation

SwitchSyncState = Literal["in_step", "out_of_step", "away"]
"""`in_step`: connected, and its state is known to be as intended. `out_of_step`: connected, not yet synchronised.
`away`: not connected."""


@dataclass(frozen=True, slots=True)
class ReservationChanged:
    """A reservation was created, or its state, version, paths or lease changed."""

    reservation: Reservation


BoundsCause = Literal["requested", "rerouted", "other_reservations"]
"""Why bounds have changed: by a request for this reservation, by a failure or return of a link, by what others do."""


@dataclass(frozen=True, slots=True)
class BoundChange:
    """A flow whose told bounds have changed, before and after."""

    before: Placement
    after: Placement

    @property
    def broken_promise(self) -> str | None:
        """What exceeds the promise of a `bound_slack`, by more than rounding, as a sentence; None: nothing."""
        before, after = self.before, self.after
        checks = (
            ("latency", after.accumulated_latency_us, before.promised_latency_us),
            ("latency variation", after.latency_variation_us, before.promised_variation_us),
        )
        for quantity, bound_us, limit_us in checks:
            if limit_us is not None and bound_us > limit_us * (1 + 1e-6):
                head = f"{after.flow.name}: the proven {quantity} is {bound_us:.0f} us"
                return f"{head}; at most {limit_us:.0f} us were promised."
        return None


@dataclass(frozen=True, slots=True)
class BoundsChanged:
    """The bounds told of these flows of a reservation have changed with its present version."""

    reservation: Reservation
    cause: BoundsCause
    flows: tuple[BoundChange, ...]


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """A directed link went down or came up."""

    link: str
    up: bool


@dataclass(frozen=True, slots=True)
class SpanChanged:
    """A span changed state. `duct_is_dark`: all spans of its duct are dark, so the duct has been cut."""

    span: str
    length_km: float
    duct: str | None
    state: Literal["up", "dark", "out_of_service"]
    duct_is_dark: bool

    @property
    def text(self) -> str:
        """The event as a sentence for operators."""
        where = f"Span {self.span} of {self.length_km:g} km" + (f" in duct {self.duct}" if self.duct else "")
        also = f"; all spans of duct {self.duct} are" if self.duct_is_dark else ""
        return f"{where} is {self.state.replace('_', ' ')}{also}."


@dataclass(frozen=True, slots=True)
class SwitchChanged:
    """The synchronisation state of a switch changed."""

    switch: str
    sync_state: SwitchSyncState


@dataclass(frozen=True, slots=True)
class SwitchReconciled:
    """A switch was read back, and this many entries were repaired; foreign entries are left in place."""

    switch: str
    missing: int
    wrong: int
    foreign: int


@dataclass(frozen=True, slots=True)
class ReservationInstalled:
    """All switches concerned have confirmed a change that a client requested; `seconds` is the time it took."""

    reservation_id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class SwitchCertificateMismatch:
    """A peer claimed to be this switch but presented a certificate for other names; the connection was refused."""

    switch: str
    names: tuple[str, ...]
    address: str


@dataclass(frozen=True, slots=True)
class SwitchDuplicate:
    """A further connection claimed to be this switch, which is connected; the further one was refused.

    `names`: those of its certificate; empty without TLS.
    """

    switch: str
    names: tuple[str, ...]
    address: str


@dataclass(frozen=True, slots=True)
class LedgerChanged:
    """The ledger can be written again, or no longer; `unrecorded`: changes that it does not have yet."""

    is_writable: bool
    unrecorded: int


@dataclass(frozen=True, slots=True)
class ClockStepped:
    """The wall clock stepped by `by_s`; leases keep their remaining time, gates and calendar follow the new time."""

    by_s: float
    at_s: float


@dataclass(frozen=True, slots=True)
class GatesLate:
    """Switches have confirmed changes of gates later than the bounds allow for since the last such event.

    `since_s`: when the first of them was due, in Unix time; `late_s`: the latest; `changes`: how many.
    """

    switches: tuple[str, ...]
    since_s: float
    late_s: float
    changes: int


MoveCause = Literal["request", "defragmentation"]


@dataclass(frozen=True, slots=True)
class LightpathMoved:
    """A lightpath in use has changed its channel, for a request that found no spectrum or on demand."""

    before: Lightpath
    after: Lightpath
    cause: MoveCause


ServiceEvent = (
    ReservationChanged
    | BoundsChanged
    | LinkChanged
    | SpanChanged
    | SwitchChanged
    | SwitchCertificateMismatch
    | SwitchDuplicate
    | SwitchReconciled
    | ReservationInstalled
    | LedgerChanged
    | ClockStepped
    | GatesLate
    | LightpathMoved
)


@dataclass(frozen=True, slots=True)
class SwitchReport:
    """Installed against intended state of a switch: one line for each entry, meter or group that differs.

    `missing`: intended, not installed. `wrong`: ours, but different from the intended one or not intended. `foreign`:
    not ours; never changed.
    """

    switch: str
    sync_state: SwitchSyncState
    missing: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()

    @property
    def is_consistent(self) -> bool:
        """Whether the switch is known to hold its intended state; foreign entries do not count."""
        return self.sync_state == "in_step" and not (self.missing or self.wrong)
