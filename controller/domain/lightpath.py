"""A lightpath: a channel of spectrum along switches, from where light is sent to where it is received.

It takes the same slots on every link of its route. A route and a first slot say which lightpath it is, so its id is
made from them: nobody need remember which are lit, the flows that travel in them say so.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

from controller.domain.frozen import frozen
from controller.domain.path import link_names

FIRST_LABEL = 1
"""Of slot 0; VLAN ids are 1 to 4094."""


@frozen
class Lightpath:
    """Slots `first_slot` … `first_slot + width - 1` along `nodes`, the switches in order.

    `rate_bps`: what it carries, emulated. `margin_db`: how much better its GSNR (in 0.1 nm) is than `modulation` needs,
    the system margin taken off.
    """

    id: str
    nodes: tuple[str, ...]
    first_slot: int
    width: int
    rate_bps: int
    modulation: str
    gsnr_db: float
    margin_db: float

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def links(self) -> tuple[str, ...]:
        """The directed links it is lit on."""
        return link_names(self.nodes)

    @property
    def slots(self) -> int:
        """The set of its slots: bit i is slot i."""
        return ((1 << self.width) - 1) << self.first_slot

    @property
    def mark(self) -> int:
        """16 bits for its entries' cookies: an entry of one lightpath is not taken for the same of another."""
        return int(self.id[-4:], 16) or 1

    @property
    def label(self) -> int:
        """The VLAN id that stands for its channel; unlike that of any other lightpath on the same link."""
        return self.first_slot + FIRST_LABEL


@lru_cache(maxsize=65_536)
def identity(nodes: tuple[str, ...], first_slot: int, width: int) -> str:
    """The id of the lightpath there: the same route and channel have the same."""
    text = f"{'>'.join(nodes)}:{first_slot}+{width}"
    return f"lp-{blake2b(text.encode(), digest_size=5).hexdigest()}"
