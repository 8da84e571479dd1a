"""Resuming a run: its settings from its record, and which of them may change."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trainer.config.settings import RunSettings
from trainer.errors import CheckpointError, UsageError

CHANGEABLE = frozenset({
    "rounds", "target", "min_rounds", "quorum", "ask_timeout_s", "step_timeout_s", "rejoin_timeout_s", "late",
    "late_after", "controller", "controller_retries", "best_effort", "share", "floor_bps", "lease_s", "assume_bps",
    "device", "cloud_threads", "ray", "ray_workers", "keep_segments", "keep_memory_bytes",
})
"""Settings of duration and network; all others determine the trained model."""


def last_reservation(run: Path) -> str | None:
    """Return the id of the reservation that the run held last; None if there is none or it was released."""
    last = None
    try:
        for line in (run / "events.jsonl").read_text().splitlines():
            event = json.loads(line) if line.endswith("}") else {}
            if event.get("event") == "plan":
                last = event.get("reservation") or last
            elif event.get("event") == "released":
                last = None
    except (OSError, ValueError):
        return None
    return last


def resumed_settings(run: Path, changes: Mapping[str, Any]) -> RunSettings:
    """Return the settings of an earlier run with `changes` applied.

    Raises: CheckpointError if `run` is not a run record, UsageError if a change would alter the trained model.
    """
    path = run / "config.yaml"
    try:
        content = yaml.safe_load(path.read_text())
        names = {field.name for field in dataclasses.fields(RunSettings)}
        content = {name: value for name, value in content.items() if name in names}
        content["edges"] = tuple(content["edges"])
        content["cuts"] = tuple(tuple(row) for row in content["cuts"])
        previous = RunSettings(**content)
    except (OSError, ValueError, yaml.YAMLError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{run} is not the record of a run: {error}.") from error
    fixed = sorted(name for name in changes if name not in CHANGEABLE and changes[name] != getattr(previous, name))
    if fixed:
        name = fixed[0]
        raise UsageError(
            f"The run in {run} has {name} = {getattr(previous, name)!r}; it cannot be resumed with {changes[name]!r}. "
            "Omit the option, or start a new run."
        )
    settings = dataclasses.replace(previous, **changes)
    if settings.dp is not None and settings.rounds != previous.rounds:
        raise UsageError(f"The run in {run} has --dp {settings.dp} for its {previous.rounds} rounds; more would need "
                         "other noise from the beginning, so it cannot be resumed with another --rounds.")
    if settings.schedule in ("linear", "cosine") and settings.rounds != previous.rounds:
        raise UsageError(f"The run in {run} has --schedule {settings.schedule}, which ends with its {previous.rounds} "
                         "rounds; it cannot be resumed with another --rounds.")
    settings.check()
    return settings
