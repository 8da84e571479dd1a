"""A lightpath: a spectrum channel along switches, from transmitter to receiver.

It occupies the same slots on every link of its route (spectrum continuity). Its id is derived from route and channel,
so no registry of lit lightpaths is needed: the placements of the flows carry them.
"""

from __future__ import annotations

from hashlib import blake2b

from controller.caches import MIB, bounded_cache
from controller.domain.frozen import frozen
from controller.domain.path import link_names

FIRST_VLAN_ID = 1
"""The VLAN id of slot 0; VLAN ids are 1 to 4094."""


@frozen
class Lightpath:
    """Slots `first_slot` … `first_slot + width - 1` along `nodes`, the path between switches.

    `rate_bps`: its emulated capacity. `margin_db`: GSNR (in 0.1 nm) above the requirement of `modulation`, after
    subtracting the system margin.
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
        """The directed links it occupies."""
        return link_names(self.nodes)

    @property
    def slot_mask(self) -> int:
        """Its slots as a bit set: bit i is slot i."""
        return ((1 << self.width) - 1) << self.first_slot

    @property
    def cookie_tag(self) -> int:
        """16 bits for the cookies of its entries, so that entries of different lightpaths do not compare equal."""
        return int(self.id[-4:], 16) or 1

    @property
    def vlan_id(self) -> int:
        """The VLAN id that encodes its channel; unique among the lightpaths on a link."""
        return self.first_slot + FIRST_VLAN_ID


@bounded_cache(4 * MIB, entry_bytes=512)
def lightpath_id(nodes: tuple[str, ...], first_slot: int, width: int) -> str:
    """Return the id of the lightpath with this route and channel."""
    route_and_channel = f"{'>'.join(nodes)}:{first_slot}+{width}"
    return f"lp-{blake2b(route_and_channel.encode(), digest_size=5).hexdigest()}"
