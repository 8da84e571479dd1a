"""Switch latencies measured by `bench/switch_latency.py`, read from a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from math import isfinite
from pathlib import Path

from controller.calculus.network_bounds import DEFAULT_CALIBRATION, Calibration
from controller.errors import StartError


def load_calibration(path: Path) -> Calibration:
    """Read a calibration from a JSON object; absent fields keep their defaults.

    Raises: StartError with every mistake in the file.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise StartError(f"The calibration {path} cannot be read: {error}", exit_code=2) from error
    if not isinstance(values, Mapping):
        raise StartError(f"The calibration {path} must be a JSON object.", exit_code=2)
    if mistakes := _mistakes(values):
        raise StartError(f"The calibration {path}: {'; '.join(mistakes)}.", exit_code=2)
    calibration = replace(DEFAULT_CALIBRATION, **{name: float(value) for name, value in values.items()})
    if calibration.switch_min_us > calibration.switch_max_us:
        min_us, max_us = calibration.switch_min_us, calibration.switch_max_us
        sentence = f"switch_min_us is {min_us:g}, which is more than switch_max_us, {max_us:g}"
        raise StartError(f"The calibration {path}: {sentence}.", exit_code=2)
    return calibration


def _mistakes(values: Mapping[str, object]) -> list[str]:
    known = [field.name for field in fields(Calibration)]
    mistakes = []
    for name, value in values.items():
        if name not in known:
            mistakes.append(f"unknown field {name!r}; the fields are {', '.join(known)}")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
            unit = "bytes" if name.endswith("_bytes") else "microseconds"
            mistakes.append(f"{name} is {value!r}; it must be a number of {unit}, 0 or more")
    return mistakes
