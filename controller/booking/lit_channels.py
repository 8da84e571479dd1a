"""The lightpaths with bookings, by route, and the slots they occupy on every link. Immutable."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import field

from immutables import Map

from controller.domain.frozen import frozen
from controller.domain.lightpath import Lightpath

Lightpaths = tuple[Lightpath, ...]


@frozen
class _LinkChannels:
    """The lightpaths on one link and the slots they occupy."""
    lightpaths: dict[str, Lightpath] = field(default_factory=dict)
    """By id; never modified."""
    slots: int = 0
    overlap: int = 0
    """Slots that several lightpaths occupy, at different times."""

    def with_lightpath(self, lightpath: Lightpath) -> _LinkChannels:
        slots = lightpath.slot_mask
        lightpaths = {**self.lightpaths, lightpath.id: lightpath}
        return _LinkChannels(lightpaths, self.slots | slots, self.overlap | self.slots & slots)

    def without_lightpath(self, lightpath: Lightpath) -> _LinkChannels:
        lightpaths = self.lightpaths.copy()
        del lightpaths[lightpath.id]
        return (
            link_channels(lightpaths.values())
            if self.overlap
            else _LinkChannels(lightpaths, self.slots & ~lightpath.slot_mask)
        )


_UNLIT = _LinkChannels()


@frozen
class LitChannels:
    """The lightpaths by link and by route, in the order in which they were added."""

    _links: Map[str, _LinkChannels] = field(default_factory=Map)
    _along: Map[tuple[str, ...], Lightpaths] = field(default_factory=Map)

    def with_lightpath(self, lightpath: Lightpath) -> LitChannels:
        """Return the channels with one more lightpath."""
        links = self._links.update(
            {link: self._links.get(link, _UNLIT).with_lightpath(lightpath) for link in lightpath.links}
        )
        return LitChannels(
            links, self._along.set(lightpath.nodes, (*self.lightpaths_along(lightpath.nodes), lightpath))
        )

    def without_lightpath(self, lightpath: Lightpath) -> LitChannels:
        """Return the channels without this lightpath."""
        links, along = self._links.mutate(), self._along
        for link in lightpath.links:
            link_channels = links[link].without_lightpath(lightpath)
            if link_channels.lightpaths:
                links[link] = link_channels
            else:
                del links[link]
        kept = tuple(other for other in self.lightpaths_along(lightpath.nodes) if other.id != lightpath.id)
        along = along.set(lightpath.nodes, kept) if kept else along.delete(lightpath.nodes)
        return LitChannels(links.finish(), along)

    def lightpaths_along(self, nodes: tuple[str, ...]) -> Lightpaths:
        """Return the lightpaths whose route is exactly these switches."""
        return self._along.get(nodes, ())

    @property
    def along_or_none(self) -> Callable[[tuple[str, ...]], Lightpaths | None]:
        """The same as a function; None: there are none."""
        return self._along.get

    def channels_on(self, link: str) -> _LinkChannels:
        """Return the lightpaths and slots of a link."""
        return self._links.get(link, _UNLIT)

    def lightpaths(self) -> Lightpaths:
        """Return all lightpaths."""
        return tuple(lightpath for lightpaths in self._along.values() for lightpath in lightpaths)


def link_channels(lightpaths: Iterable[Lightpath]) -> _LinkChannels:
    """Return the channels of a link with these lightpaths."""
    by_id, slots, overlap = {lightpath.id: lightpath for lightpath in lightpaths}, 0, 0
    for lightpath in by_id.values():
        lightpath_slots = lightpath.slot_mask
        overlap |= slots & lightpath_slots
        slots |= lightpath_slots
    return _LinkChannels(by_id, slots, overlap)
