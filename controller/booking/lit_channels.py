"""Which lightpaths anything is booked in, along which switches, and the slots they take on every link. Immutable."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field

from immutables import Map

from controller.domain.frozen import frozen
from controller.domain.lightpath import Lightpath

Lightpaths = tuple[Lightpath, ...]


@frozen
class _OnLink:
    lightpaths: dict[str, Lightpath] = field(default_factory=dict)
    """By id; never changed."""
    slots: int = 0
    overlap: int = 0
    """Slots that several have, at different times."""

    def plus(self, lightpath: Lightpath) -> _OnLink:
        slots = lightpath.slots
        more = {**self.lightpaths, lightpath.id: lightpath}
        return _OnLink(more, self.slots | slots, self.overlap | self.slots & slots)

    def minus(self, lightpath: Lightpath) -> _OnLink:
        rest = self.lightpaths.copy()
        del rest[lightpath.id]
        return on_link(rest.values()) if self.overlap else _OnLink(rest, self.slots & ~lightpath.slots)


_DARK = _OnLink()


@frozen
class Channels:
    """The lightpaths by link and by route, in the order in which they were lit."""

    _links: Map[str, _OnLink] = field(default_factory=Map)
    _along: Map[tuple[str, ...], Lightpaths] = field(default_factory=Map)

    def plus(self, lightpath: Lightpath) -> Channels:
        """With one more."""
        links = self._links.update({link: self._links.get(link, _DARK).plus(lightpath) for link in lightpath.links})
        return Channels(links, self._along.set(lightpath.nodes, (*self.along(lightpath.nodes), lightpath)))

    def minus(self, lightpath: Lightpath) -> Channels:
        """With one less."""
        links, along = self._links.mutate(), self._along
        for link in lightpath.links:
            rest = links[link].minus(lightpath)
            if rest.lightpaths:
                links[link] = rest
            else:
                del links[link]
        kept = tuple(each for each in self.along(lightpath.nodes) if each.id != lightpath.id)
        along = along.set(lightpath.nodes, kept) if kept else along.delete(lightpath.nodes)
        return Channels(links.finish(), along)

    def along(self, nodes: tuple[str, ...]) -> Lightpaths:
        """Those from the first of these switches over all of them to the last."""
        return self._along.get(nodes, ())

    def on(self, link: str) -> _OnLink:
        """Those on a link."""
        return self._links.get(link, _DARK)

    def all(self) -> Lightpaths:
        """Every one."""
        return tuple(each for row in self._along.values() for each in row)


def on_link(lightpaths: Iterable[Lightpath]) -> _OnLink:
    """These on one link."""
    by_id, slots, overlap = {each.id: each for each in lightpaths}, 0, 0
    for lightpath in by_id.values():
        own = lightpath.slots
        overlap |= slots & own
        slots |= own
    return _OnLink(by_id, slots, overlap)
