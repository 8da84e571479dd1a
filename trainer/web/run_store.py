"""The run records in a directory, followed while they grow."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trainer.records.run_control import RunProcess
from trainer.records.summary_file import ROUNDS, SUMMARY, metric_of

Json = dict[str, Any]

LIVE = ("running", "paused")
EVENTS_SHOWN = 5000
EVENTS = "events.jsonl"
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

FRESH_S = 60.0
"""A run whose process is not known counts as running for so long after its last event."""

LOG_BYTES = 32_768
"""As much of the end of a log is shown."""


@dataclass
class GrowingFile:
    """A file of JSON lines that another process appends to; it is read on from where the last reading ended."""

    path: Path
    rows: list[Json] = field(default_factory=list)
    _inode: int = 0
    _offset: int = 0

    def read(self) -> bool:
        """Read what is new; return whether there was anything. A file that was replaced is read anew."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return False
        changed = False
        if status.st_ino != self._inode or status.st_size < self._offset:
            self._inode, self._offset, self.rows, changed = status.st_ino, 0, [], bool(self.rows)
        if status.st_size == self._offset:
            return changed
        with self.path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        self.rows = [*self.rows, *(json.loads(line) for line in whole.splitlines())]
        return changed or bool(whole)

    def is_fresh(self) -> bool:
        """Whether it was written lately."""
        try:
            return time.time() - self.path.stat().st_mtime < FRESH_S
        except OSError:
            return False


class FollowedRun:
    """The record of one run. `refresh` reads what has changed; `version` counts the changes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.id = directory.name
        self.version = 0
        self.summary: Json = {}
        self.config: Json = {}
        self._rounds = GrowingFile(directory / ROUNDS)
        self._events = GrowingFile(directory / EVENTS)
        self._summary_stamp: tuple[int, int] | None = None
        self._facts: tuple[tuple[int, str, bool], Json] | None = None

    def refresh(self) -> None:
        """Read what has changed since."""
        changed = self._rounds.read()
        changed |= self._events.read()
        changed |= self._read_summary()
        self.version += changed

    def _read_summary(self) -> bool:
        try:
            status = (self.directory / SUMMARY).stat()
            stamp = status.st_mtime_ns, status.st_ino
            if stamp == self._summary_stamp:
                return False
            self.summary = json.loads((self.directory / SUMMARY).read_text())
            self._summary_stamp = stamp
            config = yaml.safe_load((self.directory / "config.yaml").read_text())
            self.config = config if isinstance(config, dict) else {}
        except (OSError, ValueError, yaml.YAMLError):
            return False
        return True

    @property
    def rounds(self) -> list[Json]:
        """The finished rounds."""
        return self._rounds.rows or list(self.summary.get("rounds", ()))

    @property
    def events(self) -> list[Json]:
        """The last events."""
        return self._events.rows[-EVENTS_SHOWN:]

    def events_after(self, number: int) -> list[tuple[int, Json]]:
        """The events after that one, numbered from 1."""
        return list(enumerate(self._events.rows[number:], start=number + 1))

    @property
    def status(self) -> str:
        """`running`, `paused`, `done`, `failed`, or `stopped` if it was interrupted or killed."""
        stated = str(self.summary.get("status", "unknown"))
        if self.summary.get("error_code") == "stopped":
            return "stopped"
        if stated != "running":
            return stated
        if RunProcess.of(self.directory) is None and not self._events.is_fresh():
            return "stopped"
        return "paused" if self.is_paused else "running"

    @property
    def is_paused(self) -> bool:
        """Whether the last pause has not ended."""
        last = self._last("paused", "continued")
        return last is not None and last["event"] == "paused"

    @property
    def plan(self) -> Json | None:
        """The event `plan` of the round under way; None between rounds and after the end."""
        done = self.rounds[-1]["round"] if self.rounds else 0
        plan = self._last("plan")
        return plan if self.status in LIVE and plan is not None and plan["round"] > done else None

    @property
    def step(self) -> int | None:
        """The step of the round under way, from 1; None before the first one, between rounds and while averaging."""
        plan, step = self.plan, self._last("step", "averaging")
        if plan is None or step is None or step["round"] != plan["round"] or "step" not in step:
            return None
        return int(step["step"]) + 1

    def _last(self, *names: str) -> Json | None:
        return next((event for event in reversed(self.events) if event["event"] in names), None)

    @property
    def metric(self) -> Json:
        """Name, direction, target, and the last and best value so far."""
        if "accuracy" not in self.summary:
            return {"name": "accuracy", "better": "higher", "target": None, "final": None, "best": None}
        metric = metric_of(self.summary)
        values = [value for row in self.rounds if (value := row.get("metric", row.get("accuracy"))) is not None]
        if values:
            best = max(values) if metric["better"] == "higher" else min(values)
            metric = {**metric, "final": values[-1], "best": best}
        return metric

    @property
    def promises(self) -> Json:
        """How many transfers were promised, and how many kept."""
        kept = [each["kept"] for row in self.rounds for each in row["transfers"] if each["kept"] is not None]
        return {"made": len(kept), "kept": sum(kept)}

    def facts(self) -> Json:
        """Return the run as listed by /v1/runs."""
        stamp = self.version, self.status, RunProcess.of(self.directory) is not None
        if self._facts is None or self._facts[0] != stamp:
            self._facts = stamp, self._present_facts(can_stop=stamp[2])
        return self._facts[1]

    def _present_facts(self, can_stop: bool) -> Json:
        events, rounds = self._events.rows, self.rounds
        return {
            "id": self.id,
            "status": self.status,
            "error": self.summary.get("error"),
            "map": self.summary.get("map"),
            "model": self.summary.get("model"),
            "rounds": len(rounds),
            "of": self.config.get("rounds"),
            "metric": {name: self.metric.get(name) for name in ("name", "better", "target", "final", "best")},
            "promises": self.promises,
            "loss": rounds[-1]["loss"] if rounds else None,
            "started_at": events[0]["time"] if events else None,
            "can_stop": can_stop,
        }

    def artefacts(self) -> list[Json]:
        """Return name and size of every file of the record."""
        files = sorted(path for path in self.directory.iterdir() if path.is_file() and not path.is_symlink())
        return [{"name": path.name, "bytes": path.stat().st_size} for path in files]

    def artefact(self, name: str) -> Path | None:
        """Return a file of the record; None if it has none of that name."""
        path = self.directory / name
        return path if name in {each["name"] for each in self.artefacts()} else None

    def logs(self) -> dict[str, str]:
        """Return the end of every log by name."""
        texts = {}
        for path in sorted(self.directory.glob("*.log")):
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - LOG_BYTES))
                texts[path.stem] = file.read().decode("utf-8", "replace")
        return texts


class RunStore:
    """The runs in a directory, newest first."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._runs: dict[str, FollowedRun] = {}

    def all(self) -> list[FollowedRun]:
        """Return all runs, read as they are now."""
        try:
            names = [path.name for path in self.directory.iterdir() if self._is_run(path)]
        except OSError:
            names = []
        return [run for name in sorted(names, reverse=True) if (run := self.get(name)) is not None]

    def get(self, name: str) -> FollowedRun | None:
        """Return a run, read as it is now; None if there is none of that name."""
        path = self.directory / name
        if RUN_NAME.fullmatch(name) is None or not self._is_run(path):
            self._runs.pop(name, None)
            return None
        run = self._runs.setdefault(name, FollowedRun(path))
        run.refresh()
        return run

    def _is_run(self, path: Path) -> bool:
        return RUN_NAME.fullmatch(path.name) is not None and (path / "config.yaml").is_file()
