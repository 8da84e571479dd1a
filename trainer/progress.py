"""A run's events as lines for a person; on a terminal with a live line below."""

from __future__ import annotations

import statistics
from typing import Any

from rich.console import Console
from rich.status import Status

Fields = dict[str, Any]


class Progress:
    """Takes the events of a run as they happen."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._console = console
        self._rounds = rounds
        self._status: Status | None = None

    def __call__(self, event: Fields) -> None:
        """Show one event."""
        match event["event"]:
            case "waiting":
                self._live(f"waiting for {', '.join(event['edges'])} to ask at {event['address']}")
            case "gathered":
                self._line(f"{len(event['edges'])} edges asked to train: {', '.join(event['edges'])}")
            case "prepared":
                self._prepared(event)
            case "plan":
                self._live(f"round {event['round']}/{self._rounds}: cuts {_spaced(event['cuts'])}, "
                           f"step {event['step_ms'] / 1e3:.2f} s predicted")
            case "round_done":
                self._line(_round_line(event, self._rounds))
            case "said":
                self._line(event["sentence"])
            case "finished":
                self._finished(event)

    def _prepared(self, event: Fields) -> None:
        how, decay = event["standardization"], event["regularization"]
        self._line(f"model {event['model']}; {how['method']}: {how['reason']}")
        self._line(f"weight decay {decay['weight_decay']:.4g}: {decay['reason']}")

    def _finished(self, event: Fields) -> None:
        if self._status is not None:
            self._status.stop()
        final, promises = event["accuracy"]["final"], event["promises"]
        accuracy = "no global model yet" if final is None else f"global accuracy {final:.4f}"
        kept = f", promises {promises['kept']}/{promises['made']} kept" if promises["made"] else ""
        self._line(f"{event['status']}: {accuracy}{kept}; record in {event['directory']}")

    def _live(self, text: str) -> None:
        if not self._console.is_terminal:
            return
        if self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        self._status.update(text)

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _spaced(cuts: Fields) -> str:
    return " ".join(str(cut) for cut in cuts.values())


def _round_line(event: Fields, rounds: int) -> str:
    uplink = statistics.median(delay["measured"] for delay in event["uplink_ms"].values())
    parts = [
        f"round {event['round']:>2}/{rounds}",
        f"{event['duration_ms'] / 1e3:6.2f} s",
        f"cuts {_spaced(event['cuts'])}",
        f"uplink {uplink:.0f} ms",
        f"spread {max(event['spread_ms']):.1f} ms",
        f"loss {event['loss']:.4f}",
    ]
    if event["promises"]["made"]:
        parts.append(f"promises {event['promises']['kept']}/{event['promises']['made']}")
    if event["accuracy"] is not None:
        parts.append(f"averaged: accuracy {event['accuracy']:.4f}")
    return "  ".join(parts)
