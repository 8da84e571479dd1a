"""The slots of every span that lightpaths take. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Json = dict[str, Any]

LEAST_SLOTS = 96
WIDTH, LEFT = 900.0, 96.0


@dataclass(frozen=True, slots=True)
class Block:
    """A lightpath on a directed link: its place and width in the picture, and a number that chooses its colour."""

    lightpath: str
    x: float
    width: float
    lit: bool
    colour: int
    text: str


@dataclass(frozen=True, slots=True)
class Strip:
    """The spectrum of a directed link."""

    link: str
    blocks: tuple[Block, ...]
    taken: int
    slots: int


def spectrum(lightpaths: list[Json]) -> list[Strip]:
    """Return a strip for every directed link that a lightpath crosses."""
    slots = max([LEAST_SLOTS, *(each["channel"] + each["slots"] for each in lightpaths)])
    unit = (WIDTH - LEFT) / slots
    links: dict[str, list[Block]] = {}
    taken: dict[str, int] = {}
    for each in lightpaths:
        text = (
            f"{each['id']}: {' > '.join(each['nodes'])}, slots {each['channel']} to "
            f"{each['channel'] + each['slots'] - 1}, {each['modulation']}, "
            f"{each['reserved_bps'] / 1e6:.4g} of {each['rate_bps'] / 1e6:.4g} Mb/s reserved"
            f"{'' if each['lit'] else ', booked'}"
        )
        nodes = [node for node in each["nodes"] if "-" not in node or "." not in node]
        for source, destination in pairwise(nodes):
            link = f"{source}->{destination}"
            block = Block(
                each["id"],
                round(LEFT + each["channel"] * unit, 1),
                round(each["slots"] * unit, 2),
                each["lit"],
                sum(map(ord, each["id"])) % 6,
                text,
            )
            links.setdefault(link, []).append(block)
            taken[link] = taken.get(link, 0) + each["slots"]
    return [Strip(link, tuple(blocks), taken[link], slots) for link, blocks in sorted(links.items())]
