"""What works behind a route's fibres."""

from __future__ import annotations

from controller.optical.transmission_quality import FORMATS, Format, Quality


def working(light: Quality) -> list[Format]:
    """The formats that can be read there, fastest first."""
    return [line for line in FORMATS if light.margin_db(line) >= 0]
