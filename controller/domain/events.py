"""What the service tells those who listen: facts, as they become true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from controller.domain.frozen import frozen
from controller.domain.reservation import Reservation

SwitchStanding = Literal["in_step", "out_of_step", "away"]
"""In step: connected and known to hold what it should. Out of step: connected, not yet brought to it."""


@frozen
class ReservationChanged:
    """A reservation is new, or stands otherwise than before: state, version, paths, lease."""

    reservation: Reservation


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """A directed link has gone down or come up."""

    link: str
    up: bool


@dataclass(frozen=True, slots=True)
class SpanChanged:
    """A span is in another state. `duct_is_dark`: with it, all spans of its duct are: the duct has been cut."""

    span: str
    length_km: float
    duct: str | None
    state: Literal["up", "dark", "out_of_service"]
    duct_is_dark: bool

    @property
    def text(self) -> str:
        """A sentence for those who run the network."""
        where = f"Span {self.span} of {self.length_km:g} km" + (f" in duct {self.duct}" if self.duct else "")
        also = f"; all spans of duct {self.duct} are" if self.duct_is_dark else ""
        return f"{where} is {self.state.replace('_', ' ')}{also}."


@dataclass(frozen=True, slots=True)
class SwitchChanged:
    """A switch stands otherwise than before."""

    switch: str
    standing: SwitchStanding


@dataclass(frozen=True, slots=True)
class Reconciled:
    """A switch was read back and had these many entries to be put right; foreign ones are left alone."""

    switch: str
    missing: int
    wrong: int
    foreign: int


@dataclass(frozen=True, slots=True)
class Installed:
    """Every switch concerned has confirmed a change that a client asked for, after so long."""

    reservation_id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class SwitchImpostor:
    """Somebody at an address said to be this switch, with a certificate in other names; it was not let in."""

    switch: str
    names: tuple[str, ...]
    address: str


ServiceEvent = (
    ReservationChanged | LinkChanged | SpanChanged | SwitchChanged | SwitchImpostor | Reconciled | Installed
)


@dataclass(frozen=True, slots=True)
class SwitchReport:
    """What a switch holds against what it should: a line for each entry, meter or group that is not as it should be.

    `missing`: not there. `wrong`: ours, and other than wanted or not wanted. `foreign`: not ours; never touched.
    """

    switch: str
    standing: SwitchStanding
    missing: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()

    @property
    def is_consistent(self) -> bool:
        """Whether it is known to hold all that it should; what is foreign does not count."""
        return self.standing == "in_step" and not (self.missing or self.wrong)
