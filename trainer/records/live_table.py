"""Live table of a run on a terminal: a row for each edge, and a progress bar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

Fields = dict[str, Any]


@dataclass
class EdgeRow:
    """The values displayed for an edge."""

    cut: int | None = None
    codec: str = ""
    rate_bps: float | None = None
    training_ms: Fields | None = None
    uplink_ms: Fields | None = None
    state: str = ""


class LiveTable:
    """Displays the events of a run. Other output appears above the table."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._edges: dict[str, EdgeRow] = {}
        self._metric = "accuracy"
        self._value: float | None = None
        self._promises_made = self._promises_kept = 0
        self._status = "waiting for the edges"
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=30), TextColumn("{task.fields[tail]}"),
            TimeElapsedColumn(), console=console,
        )
        self._rounds = rounds
        self._task = self._bar.add_task("", total=rounds, tail="")
        self._live = Live(self._render(), console=console, auto_refresh=False, transient=True)

    def on_event(self, event: Fields) -> None:
        """Display an event."""
        if not self._live.is_started and event["event"] != "finished":
            self._live.start()
        self._apply(event)
        self._live.update(self._render(), refresh=True)
        if event["event"] == "finished":
            self._live.stop()

    def _apply(self, event: Fields) -> None:
        match event["event"]:
            case "waiting" | "gathered":
                self._edges |= {name: EdgeRow(state="connected" if event["event"] == "gathered" else "waiting")
                                for name in event["edges"]}
            case "collecting":
                self._edges[event["edge"]].state = f"{event['samples']} of {event['wanted']} samples"
            case "prepared":
                self._metric = event["metric"]["name"]
            case "plan":
                self._apply_plan(event)
            case "step":
                self._status = f"round {event['round']}/{self._rounds}"
                completed = event["round"] - 1 + event["step"] / event["of"]
                self._bar.update(self._task, completed=completed, tail=f"step {event['step'] + 1} of {event['of']}")
            case "averaging" | "paused" as phase:
                self._bar.update(self._task, tail=phase)
            case "round_done":
                self._apply_round(event)
            case "late" | "lost" | "joined" as state:
                self._edges[event["edge"]].state = state

    def _apply_plan(self, event: Fields) -> None:
        for name, cut in event["cuts"].items():
            row = self._edges.setdefault(name, EdgeRow())
            row.cut, row.state = cut, "training"
            row.codec = event.get("codecs", {}).get(name, "")
            row.rate_bps = event.get("rates_bps", {}).get(name)

    def _apply_round(self, event: Fields) -> None:
        value = event.get("metric", event["accuracy"])
        self._value = self._value if value is None else value
        self._promises_made += event["promises"]["made"]
        self._promises_kept += event["promises"]["kept"]
        self._bar.update(self._task, completed=event["round"])
        for name, row in self._edges.items():
            row.training_ms = event["training_ms"].get(name, row.training_ms)
            row.uplink_ms = event["uplink_ms"].get(name, row.uplink_ms)

    def _render(self) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("edge")
        table.add_column("state")
        for name in ("cut", "codec", "rate Mb/s", "training ms", "measured", "uplink ms", "measured"):
            table.add_column(name, justify="right")
        for name, row in self._edges.items():
            style = "red" if row.state in ("late", "lost") else ""
            rate = "" if row.rate_bps is None else f"{row.rate_bps / 1e6:.1f}"
            table.add_row(name, row.state, "" if row.cut is None else str(row.cut), row.codec, rate,
                          *_pair(row.training_ms), *_pair(row.uplink_ms), style=style)
        figures = [] if self._value is None else [f"{self._metric} {self._value:.4f}"]
        figures += [f"promises {self._promises_kept}/{self._promises_made} kept"] if self._promises_made else []
        self._bar.update(self._task, description=self._status)
        return Group(table, self._bar, Text("   ".join(figures)))


def _pair(delay: Fields | None) -> tuple[str, str]:
    """Format the predicted and the measured value; empty where nothing was measured."""
    if delay is None or delay["measured"] is None:
        return "", ""
    return f"{delay['predicted']:.0f}", f"{delay['measured']:.0f}"
