"""What a person sees of a run while it goes: a line for each event, or on a terminal a table that follows it."""

from __future__ import annotations

import json
import statistics
from typing import Any

from rich.console import Console

from trainer.records.live_table import LiveTable
from trainer.records.run_record import Listener

Fields = dict[str, Any]


def listener(quiet: bool, as_json: bool, rounds: int) -> Listener:
    """Who shows the run: nobody but for its end (`quiet`), every event as JSON, or `Progress`."""
    if as_json:
        return print_json
    console = Console()
    return Progress(console, rounds, quiet)


def print_json(event: Fields) -> None:
    """One event, one line."""
    print(json.dumps(event), flush=True)


class Progress:
    """Takes the events of a run as they happen."""

    def __init__(self, console: Console, rounds: int, quiet: bool = False) -> None:
        self._console = console
        self._rounds = rounds
        self._quiet = quiet
        self._table = LiveTable(console, rounds) if console.is_terminal and not quiet else None

    def __call__(self, event: Fields) -> None:
        """Show one event."""
        if self._table is not None:
            self._table.take(event)
        if event["event"] == "finished":
            self._finished(event)
        elif not self._quiet and (sentence := self._sentence(event)):
            self._line(sentence)

    def _sentence(self, event: Fields) -> str | None:
        match event["event"]:
            case "gathered":
                return f"{len(event['edges'])} edges asked to train: {', '.join(event['edges'])}"
            case "resumed":
                return f"going on after round {event['round']}"
            case "prepared":
                return _prepared(event)
            case "round_done" if self._table is None or event["averaged"]:
                return _round_line(event, self._rounds)
            case "lost":
                return f"{event['edge']} was lost: {event['reason']} {event['left']} edges go on."
            case "joined":
                return f"{event['edge']} trains again from round {event['round'] + 1} on."
            case "late":
                where = f"step {event['step'] + 1} of round {event['round']}"
                return f"{event['edge']} is late in {where}: {event['policy']}."
            case "paused":
                return f"Paused: {event['reason']} Waiting for {event['deadline_s']:g} s."
            case "continued":
                return f"Going on with round {event['round']}."
            case "said":
                return str(event["sentence"])
        return None

    def _finished(self, event: Fields) -> None:
        final, promises = event["accuracy"]["final"], event["promises"]
        accuracy = "no global model yet" if final is None else f"global accuracy {final:.4f}"
        kept = f", promises {promises['kept']}/{promises['made']} kept" if promises["made"] else ""
        self._line(f"{event['status']}: {accuracy}{kept}; record in {event['directory']}")

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _prepared(event: Fields) -> str:
    how, decay = event["standardization"], event["regularization"]
    tail = event.get("tail")
    protected = "" if tail is None else f"\nlabels never leave the edges: they train the layers from {tail} on, too"
    return (f"model {event['model']}; {how['method']}: {how['reason']}\n"
            f"weight decay {decay['weight_decay']:.4g}: {decay['reason']}{protected}")


def _round_line(event: Fields, rounds: int) -> str:
    parts = [f"round {event['round']:>2}/{rounds}", f"{event['duration_ms'] / 1e3:6.2f} s",
             f"cuts {' '.join(str(cut) for cut in event['cuts'].values())}"]
    if event["uplink_ms"]:
        uplink = statistics.median(delay["measured"] for delay in event["uplink_ms"].values())
        parts += [f"uplink {uplink:.0f} ms", f"spread {max(event['spread_ms']):.1f} ms"]
    parts.append(f"loss {event['loss']:.4f}")
    if event["promises"]["made"]:
        parts.append(f"promises {event['promises']['kept']}/{event['promises']['made']}")
    if event["accuracy"] is not None:
        parts.append(f"averaged: accuracy {event['accuracy']:.4f}")
    return "  ".join(parts)
