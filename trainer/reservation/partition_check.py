"""Asks the controller which edges are cut off from the cloud by links that are down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from trainer.errors import NetworkError, ReservationRefusedError
from trainer.reservation.controller_client import ControllerClient

FindPartition = Callable[[Mapping[str, Sequence[str]]], Mapping[str, str]]
"""For the edges of these that are cut off: the sentence that says why. Never raises.

The edges come with the nodes of the cloud that may serve them; none: the one that they join.
"""


def no_partition(_edges: Mapping[str, Sequence[str]]) -> Mapping[str, str]:
    """Find no edge cut off: there is no controller to ask."""
    return {}


class PartitionCheck:
    """A `FindPartition` that calls `notify` with every sentence that is new since the last question.

    An edge is cut off from the cloud if it cannot reach the node `cloud`, where it joins, or none that may serve it.
    """

    def __init__(self, controller: ControllerClient, cloud: str, notify: Callable[[str], None]) -> None:
        self._controller = controller
        self._cloud = cloud
        self._notify = notify
        self._told: frozenset[str] = frozenset()

    def __call__(self, edges: Mapping[str, Sequence[str]]) -> Mapping[str, str]:
        """Ask for the paths of every edge; none is cut off as far as the controller does not answer."""
        edges_by_reason: dict[tuple[str, str], list[str]] = {}
        try:
            for edge, nodes in edges.items():
                if (reason := self._reason(edge, nodes)) is not None:
                    edges_by_reason.setdefault(reason, []).append(edge)
        except NetworkError:
            return {}
        cut_off = {
            edge: f"No path from {', '.join(names)} to {nodes}{why}."
            for (nodes, why), names in edges_by_reason.items() for edge in names
        }
        sentences = dict.fromkeys(cut_off.values())
        for sentence in sentences:
            if sentence not in self._told:
                self._notify(sentence)
        self._told = frozenset(sentences)
        return cut_off

    def _reason(self, edge: str, nodes: Sequence[str]) -> tuple[str, str] | None:
        """Which nodes this edge cannot reach, and why; None if it reaches what it needs."""
        if (down := self._down(edge, self._cloud)) is not None:
            return self._cloud, _told(down)
        links: dict[str, None] = {}
        for node in (places := dict.fromkeys(nodes)):
            if node == self._cloud or (down := self._down(edge, node)) is None:
                return None
            links.update(dict.fromkeys(down))
        return (" or ".join(places), _told([*links])) if places else None

    def _down(self, edge: str, node: str) -> list[str] | None:
        """Return the links that are down where no path is up; None if one is, or if the map has no such hosts."""
        try:
            content = self._controller.send("GET", "/v1/paths", query={"source": edge, "destination": node})
        except ReservationRefusedError:
            return None
        return None if content.get("paths", True) else list(content.get("down", []))


def _told(down: Sequence[str]) -> str:
    return f": {', '.join(down)} {'is' if len(down) == 1 else 'are'} down" if down else " is up"
