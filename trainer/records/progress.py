"""Progress display of a run: a line per event, and on a terminal a live table."""

from __future__ import annotations

import json
import statistics
from typing import Any

from rich.console import Console

from trainer.records.event_sentences import event_line
from trainer.records.live_table import LiveTable
from trainer.records.run_record import Listener
from trainer.records.summary_file import metric_of

Fields = dict[str, Any]


def listener(quiet: bool, as_json: bool, rounds: int) -> Listener:
    """Return the listener that displays a run: only its end (`quiet`), every event as JSON, or `Progress`."""
    if as_json:
        return print_json
    console = Console()
    return Progress(console, rounds, quiet)


def print_json(event: Fields) -> None:
    """Print an event as one line of JSON."""
    print(json.dumps(event), flush=True)


class Progress:
    """Displays the events of a run."""

    def __init__(self, console: Console, rounds: int, quiet: bool = False) -> None:
        self._console = console
        self._rounds = rounds
        self._quiet = quiet
        self._metric = "accuracy"
        self._table = LiveTable(console, rounds) if console.is_terminal and not quiet else None

    def __call__(self, event: Fields) -> None:
        """Display one event."""
        if self._table is not None:
            self._table.on_event(event)
        if event["event"] == "finished":
            self._finished(event)
        elif not self._quiet and (sentence := self._sentence(event)):
            self._line(sentence)

    def _sentence(self, event: Fields) -> str | None:
        if event["event"] == "prepared":
            self._metric = str(event["metric"]["name"])
        if event["event"] == "round_done":
            has_line = self._table is None or event["averaged"]
            return _round_line(event, self._rounds, self._metric) if has_line else None
        return event_line(event)

    def _finished(self, event: Fields) -> None:
        metric, promises = metric_of(event), event["promises"]
        final = metric["final"]
        found = "no global model yet" if final is None else f"global {metric['name']} {final:.4f}"
        kept = f", promises {promises['kept']}/{promises['made']} kept" if promises["made"] else ""
        status = "stopped" if event.get("code") == "stopped" else event["status"]
        resume = " (--resume continues it)" if status == "stopped" and final is not None else ""
        self._line(f"{status}: {found}{kept}; record in {event['directory']}{resume}")

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _round_line(event: Fields, rounds: int, metric: str) -> str:
    parts = [f"round {event['round']:>2}/{rounds}", f"{event['duration_ms'] / 1e3:6.2f} s",
             f"cuts {' '.join(str(cut) for cut in event['cuts'].values())}"]
    if sent := [delay["measured"] for delay in event["uplink_ms"].values() if delay["measured"] is not None]:
        uplink = statistics.median(sent)
        parts += [f"uplink {uplink:.{0 if uplink >= 10 else 1}f} ms", f"spread {max(event['spread_ms']):.1f} ms"]
    parts.append(f"loss {event['loss']:.4f}")
    if event["promises"]["made"]:
        parts.append(f"promises {event['promises']['kept']}/{event['promises']['made']}")
    if (value := event.get("metric", event["accuracy"])) is not None:
        parts.append(f"averaged: {metric} {value:.4f}")
    return "  ".join(parts)
