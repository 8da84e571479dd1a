"""Draws the spectrum of a network: a row for each direction of each span, a bar for each lightpath."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

Json = dict[str, Any]

ROW_INCHES = 0.16
ROUTES_IN_LEGEND = 30
"""With more lightpaths the legend would cover the rows."""


def draw_spectrum(map_name: str, links: Sequence[Json], lightpaths: Sequence[Json], path: Path) -> None:
    """Write the picture as PNG or SVG, by the file's suffix; the same input always gives the same file.

    Raises: OSError if the file cannot be written.
    """
    height = max(2.0, ROW_INCHES * len(links) + 1.0)
    figure = Figure(figsize=(11, height), layout="constrained")
    axes = figure.add_subplot()
    palette = mpl.colormaps["tab10"]
    row_of = {link["link"]: row for row, link in enumerate(links)}
    for row, link in enumerate(links):
        axes.barh(row, link["slots"], left=0, height=0.8, color="#f0f0f0", linewidth=0)
    for number, lightpath in enumerate(lightpaths):
        rows = [row_of[name] for name in lightpath["links"] if name in row_of]
        label = f"{lightpath['id']}: {' > '.join(lightpath['nodes'])}"
        axes.barh(rows, lightpath["slots"], left=lightpath["channel"], height=0.8, color=palette(number % 10),
                  edgecolor="white", linewidth=0.5, hatch="" if lightpath["lit"] else "///",
                  label=label if number < ROUTES_IN_LEGEND else None)  # fmt: skip
    axes.set(yticks=range(len(links)), xlabel="slot; hatched: booked, not lit",
             title=f"{map_name}: {len(lightpaths)} lightpaths")  # fmt: skip
    axes.set_yticklabels(row_of, fontsize=6)
    axes.set_xlim(left=0)
    axes.set_ylim(len(links) - 0.5, -0.5)
    if lightpaths:
        figure.legend(loc="outside right upper", fontsize=6, frameon=False)
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
    with mpl.rc_context({"svg.hashsalt": "paceline"}):
        figure.savefig(path, dpi=150, metadata=metadata)
