"""Going on with a run: its settings from its record, and which of them may be changed on the way."""

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
    "device",
})
"""What decides how long and over which network; the rest decides which model comes out."""


def last_reservation(run: Path) -> str | None:
    """The id of what the run had reserved when it was last heard of; None if nothing, or if it was given back."""
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


def settings_of(run: Path, changes: Mapping[str, Any]) -> RunSettings:
    """The settings of an earlier run, with what is changed.

    Raises: CheckpointError if `run` is no record, UsageError if something is changed that makes it another run.
    """
    path = run / "config.yaml"
    try:
        content = yaml.safe_load(path.read_text())
        known = {one.name for one in dataclasses.fields(RunSettings)}
        content = {name: value for name, value in content.items() if name in known}
        content["edges"] = tuple(content["edges"])
        content["cuts"] = tuple(tuple(row) for row in content["cuts"])
        before = RunSettings(**content)
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{run} is not the record of a run: {error}.") from error
    fixed = sorted(name for name in changes if name not in CHANGEABLE and changes[name] != getattr(before, name))
    if fixed:
        name = fixed[0]
        raise UsageError(
            f"The run in {run} has {name} = {getattr(before, name)!r}; with {changes[name]!r} it would be another run. "
            "Leave it out, or begin a new run."
        )
    settings = dataclasses.replace(before, **changes)
    settings.check()
    return settings
