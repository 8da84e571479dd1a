"""The formats usable at a given transmission quality."""

from __future__ import annotations

from controller.optical.transmission_quality import FORMATS, Format, Quality


def usable_formats(quality: Quality) -> list[Format]:
    """The formats with a non-negative margin, fastest first."""
    return [candidate for candidate in FORMATS if quality.margin_db(candidate) >= 0]
