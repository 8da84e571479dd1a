"""The results of a sweep: kept from one start to the next, as a table (CSV, Markdown) and as a plot."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from trainer.errors import UsageError
from trainer.records.atomic_file import replace_durably
from trainer.records.plots import COLOURS

FIELDS = "status", "metric", "better", "value", "round", "seconds", "megabytes", "record", "sentence"
"""Columns behind the settings: `seconds` of training, `megabytes` of segments and gradients."""
STATE = "results.json"
FINAL = "done", "stopped"
"""What is not run again; `stopped`: early, because others were better."""

Row = dict[str, Any]


class SweepResults:
    """The rows of a sweep in a directory, by the key of the run; `columns`: the settings in which runs differ."""

    def __init__(self, directory: Path, columns: Sequence[str]) -> None:
        """Read what is there.

        Raises: UsageError if that is of another sweep or broken.
        """
        self.directory = directory
        self._columns = list(columns)
        self.rows: dict[str, Row] = {}
        path = directory / STATE
        if not path.exists():
            return
        try:
            content = json.loads(path.read_text())
            found, rows = list(content["columns"]), {str(key): dict(row) for key, row in content["rows"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is no record of a sweep ({error}); give another --out.") from error
        if found != self._columns:
            raise UsageError(f"{directory} has the runs of a sweep over {', '.join(found)}, not over "
                             f"{', '.join(columns)}; give another --out.")
        self.rows = rows

    def finished(self, keys: Sequence[str]) -> dict[str, Row]:
        """Return the rows of those runs that need not be run again."""
        return {key: self.rows[key] for key in keys if self.rows.get(key, {}).get("status") in FINAL}

    def add(self, key: str, settings: Mapping[str, Any], **fields: Any) -> None:
        """Record a run on disk at once; `fields` as in FIELDS."""
        self.rows[key] = {**{name: settings.get(name) for name in self._columns},
                          **{name: fields.get(name) for name in FIELDS}}
        text = json.dumps({"columns": self._columns, "rows": self.rows}, indent=1)
        replace_durably(self.directory / STATE, text.encode())

    def write(self) -> list[Path]:
        """Write results.csv, results.md and results.png, best first; return their paths."""
        rows = sorted(self.rows.values(), key=_order)
        columns = [*self._columns, *FIELDS]
        paths = [self.directory / f"results.{kind}" for kind in ("csv", "md", "png")]
        with paths[0].open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        lines += [f"| {' | '.join(_cell(row[name]) for name in columns)} |" for row in rows]
        paths[1].write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._figure([row for row in rows if row["value"] is not None]).savefig(paths[2], dpi=120)
        return paths

    def _figure(self, rows: Sequence[Row]) -> Figure:
        """Return a plot: runs that differ in the seed only share a line; beside it the value over the time."""
        grouped = [name for name in self._columns if name != "seed"]
        groups: dict[str, list[Row]] = {}
        for row in rows:
            groups.setdefault(", ".join(f"{name} {_cell(row[name])}" for name in grouped) or "all", []).append(row)
        figure = Figure(figsize=(11, 1.6 + 0.3 * max(4, len(groups))), layout="constrained")
        by_group, by_time = figure.subplots(1, 2)
        for place, (label, members) in enumerate(groups.items()):
            colour = COLOURS[place % len(COLOURS)]
            values = [row["value"] for row in members]
            by_group.plot(values, [place] * len(members), "o", color=colour)
            by_time.plot([row["seconds"] for row in members], values, "o", color=colour, label=label)
        by_group.set_yticks(range(len(groups)), list(groups))
        by_group.invert_yaxis()
        name = ", ".join(dict.fromkeys(str(row["metric"]) for row in rows))
        by_group.set_xlabel(name)
        by_time.set(xlabel="seconds of training", ylabel=name)
        return figure


def _order(row: Row) -> tuple[bool, float]:
    value = row["value"]
    return value is None, 0.0 if value is None else -float(value) if row["better"] != "lower" else float(value)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return (f"{value:.6g}" if isinstance(value, float) else str(value)).replace("|", "\\|").replace("\n", " ")
