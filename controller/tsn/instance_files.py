"""Reads streams and networks from the text of CSV files, as tsnkit publishes its instances.

Streams have the columns src, dst (a list), size in bytes on the wire, period and deadline in ns, and may have a name in
stream; links have link (a pair of nodes), rate in Gb/s, and may have t_proc and t_prop in ns.
Source: https://github.com/ChuanyuXue/tsnkit.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from io import StringIO
from math import isfinite

from controller.tsn.network import MAX_FRAME_BYTES, TsnLink, TsnNetwork, tsn_network
from controller.tsn.streams import TsnStream

MAX_MISTAKES = 10
MAX_INTERVAL_NS = 60_000_000_000
MIN_RATE_GBPS, MAX_RATE_GBPS = 1e-5, 1e4


class InstanceError(ValueError):
    """A file of streams or links is not usable; `mistakes` has a sentence for each mistake, up to MAX_MISTAKES."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes[:MAX_MISTAKES]


class _Row:
    """A row of a file; what is wrong in it is added to `mistakes`."""

    def __init__(self, line: int, cells: dict[str, str], mistakes: list[str]) -> None:
        self._line, self._cells, self._mistakes = line, cells, mistakes

    def mistake(self, column: str, wanted: str) -> None:
        """Note that a cell is not what it should be."""
        self._mistakes.append(f"line {self._line}: {column} is {self._cells.get(column)!r}, it must be {wanted}")

    def text(self, column: str, default: str = "") -> str:
        """Return a cell."""
        return (self._cells.get(column) or default).strip()

    def number(self, column: str, least: float, most: float, default: float | None = None) -> float:
        """Return a number in a range, or the least after a mistake."""
        text = self.text(column)
        if not text and default is not None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (isfinite(value) and least <= value <= most):
            self.mistake(column, f"a number from {least:g} to {most:g}")
            return least
        return value

    def whole(self, column: str, least: int, most: int, default: int | None = None) -> int:
        """Return a whole number in a range, or the least after a mistake."""
        value = self.number(column, least, most, default)
        if value != int(value):
            self.mistake(column, f"a whole number from {least} to {most}")
        return int(value)

    def nodes(self, column: str) -> tuple[str, ...]:
        """Return the nodes of a list such as [3, 4] or (3, 4)."""
        found = re.fullmatch(
            r"\s*[\[(]?\s*([\w.-]+(?:\s*,\s*[\w.-]+)*)\s*,?\s*[\])]?\s*", self._cells.get(column) or ""
        )
        if not found:
            self.mistake(column, "a list of nodes such as [3, 4]")
            return ()
        return tuple(node.strip() for node in found[1].split(","))


def network_from_csv(text: str, name: str, sync_error_ns: int = 0) -> TsnNetwork:
    """Return the network of a file; nodes with more than one link are bridges. Raises: InstanceError."""
    mistakes: list[str] = []
    links: dict[str, TsnLink] = {}
    for row in _rows(text, ("link", "rate"), mistakes):
        ends = row.nodes("link")
        if len(ends) != 2 or len(set(ends)) != 2:
            row.mistake("link", "two different nodes such as (0, 1)")
            continue
        rate_bps = round(row.number("rate", MIN_RATE_GBPS, MAX_RATE_GBPS) * 1e9)
        delays_ns = row.whole("t_prop", 0, MAX_INTERVAL_NS, 0), row.whole("t_proc", 0, MAX_INTERVAL_NS, 0)
        link = TsnLink(f"{ends[0]}->{ends[1]}", *ends, rate_bps, *delays_ns)
        if link.name in links:
            row.mistake("link", "there only once")
        links[link.name] = link
    if mistakes or not links:
        raise InstanceError(mistakes or ["there is no link in it"])
    return tsn_network(name, links.values(), sync_error_ns)


def streams_from_csv(text: str, network: TsnNetwork) -> list[TsnStream]:
    """Return the streams of a file. Raises: InstanceError."""
    mistakes: list[str] = []
    streams: dict[str, TsnStream] = {}
    for number, row in enumerate(_rows(text, ("src", "dst", "size", "period", "deadline"), mistakes)):
        stream = TsnStream(
            row.text("stream", str(number)),
            row.text("src"),
            row.nodes("dst"),
            row.whole("size", 1, MAX_FRAME_BYTES),
            row.whole("period", 1, MAX_INTERVAL_NS),
            row.whole("deadline", 1, MAX_INTERVAL_NS),
        )
        _check_ends(row, stream, network)
        if stream.name in streams:
            row.mistake("stream", "a name of its own")
        streams[stream.name] = stream
    if mistakes or not streams:
        raise InstanceError(mistakes or ["there is no stream in it"])
    return list(streams.values())


def _check_ends(row: _Row, stream: TsnStream, network: TsnNetwork) -> None:
    if stream.talker not in network.nodes:
        row.mistake("src", "a node of the network")
    unknown = [listener for listener in stream.listeners if listener not in network.nodes]
    if unknown or stream.talker in stream.listeners or len(set(stream.listeners)) < len(stream.listeners):
        row.mistake("dst", "different nodes of the network other than src")


def _rows(text: str, columns: tuple[str, ...], mistakes: list[str]) -> Iterator[_Row]:
    reader = csv.DictReader(StringIO(text.removeprefix("\ufeff")), skipinitialspace=True)
    try:
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            mistakes.append(
                f"the first line must name the columns {', '.join(columns)}; {', '.join(missing)} is missing"
            )
            return
        for cells in reader:
            yield _Row(reader.line_num, {key: cell for key, cell in cells.items() if isinstance(cell, str)}, mistakes)
    except csv.Error as error:
        mistakes.append(f"line {reader.line_num}: {error}")
