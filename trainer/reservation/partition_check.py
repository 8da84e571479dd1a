"""Asks the controller which edges are cut off from the cloud by links that are down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from trainer.errors import NetworkError, ReservationRefusedError
from trainer.reservation.controller_client import ControllerClient

FindPartition = Callable[[Sequence[str]], Mapping[str, str]]
"""For the edges of these that are cut off: the sentence that says why. Never raises."""


def no_partition(_edges: Sequence[str]) -> Mapping[str, str]:
    """Find no edge cut off: there is no controller to ask."""
    return {}


class PartitionCheck:
    """A `FindPartition` that calls `notify` with every sentence that is new since the last question."""

    def __init__(self, controller: ControllerClient, cloud: str, notify: Callable[[str], None]) -> None:
        self._controller = controller
        self._cloud = cloud
        self._notify = notify
        self._told: frozenset[str] = frozenset()

    def __call__(self, edges: Sequence[str]) -> Mapping[str, str]:
        """Ask for the paths of every edge; none is cut off as far as the controller does not answer."""
        edges_by_reason: dict[str, list[str]] = {}
        try:
            for edge in edges:
                if (reason := self._reason(edge)) is not None:
                    edges_by_reason.setdefault(reason, []).append(edge)
        except NetworkError:
            return {}
        cut_off = {
            edge: f"No path from {', '.join(names)} to {self._cloud}{reason}."
            for reason, names in edges_by_reason.items() for edge in names
        }
        sentences = dict.fromkeys(cut_off.values())
        for sentence in sentences:
            if sentence not in self._told:
                self._notify(sentence)
        self._told = frozenset(sentences)
        return cut_off

    def _reason(self, edge: str) -> str | None:
        """Why no path is up between this edge and the cloud; None if one is, or if the map has no such hosts."""
        try:
            content = self._controller.send("GET", "/v1/paths", query={"source": edge, "destination": self._cloud})
        except ReservationRefusedError:
            return None
        down = content.get("down", [])
        if content.get("paths", True):
            return None
        return f": {', '.join(down)} {'is' if len(down) == 1 else 'are'} down" if down else " is up"
