"""What the events of a run say, as sentences for people: on the terminal, on the page, in `paceline runs log`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.config.stragglers import StragglerPolicy
from trainer.records.summary_file import metric_of

Fields = dict[str, Any]

_STRAGGLER_ACTIONS: dict[StragglerPolicy, str] = {
    "wait": "waiting",
    "drop": "continuing without it",
    "shrink": "waiting, its cut shrinks from the next round on",
}


def event_line(event: Fields) -> str | None:
    """Return what the terminal prints of an event; None of one that it shows otherwise, or not at all."""
    match event["event"]:
        case "gathered":
            edges = event["edges"]
            return f"{len(edges)} {'edge' if len(edges) == 1 else 'edges'} requested training: {', '.join(edges)}"
        case "collecting":
            return f"{event['edge']}: {event['sentence']}"
        case "collected":
            return (f"{event['edge']} trains on {event['samples']} samples from round {event['round']} on "
                    f"({event['new_samples']} more)")
        case "resumed":
            return f"resuming after round {event['round']}"
        case "prepared":
            return _prepared(event)
        case "lost":
            how = "excluded from the run" if event.get("excluded") else "lost"
            return f"{event['edge']} was {how}: {event['reason']} Remaining edges: {event['left']}."
        case "joined":
            return f"{event['edge']} rejoins in round {event['round'] + 1}."
        case "late":
            step = f"step {event['step'] + 1} of round {event['round']}"
            return f"{event['edge']} exceeded its deadline in {step}; {_STRAGGLER_ACTIONS[event['policy']]}."
        case "paused":
            waits = "" if event["deadline_s"] is None else f" Waiting up to {event['deadline_s']:g} s."
            return f"Paused: {event['reason']}{waits}"
        case "continued":
            return f"Continuing with round {event['round']}."
        case "said":
            return str(event["sentence"])
    return None


def event_sentence(event: Fields) -> str:
    """Return any event as a sentence; of an event of another version what it has."""
    try:
        text = event_line(event) or _other(event)
    except (KeyError, TypeError, ValueError, AttributeError):
        text = None
    text = (text or f"{event['event'].replace('_', ' ')}{_facts(event)}").replace("\n", ". ").strip()
    if not text.startswith(str(event.get("edge", " "))):  # the name of an edge stays as it is
        text = text[:1].upper() + text[1:]
    return text + ("" if text.endswith((".", "!", "?")) else ".")


def _other(event: Fields) -> str | None:
    """What the terminal shows otherwise."""
    match event["event"]:
        case "waiting":
            return f"Waiting at {event['address']} for {_listed(event['edges'])}."
        case "plan":
            cuts = ", ".join(f"{edge} {cut}" for edge, cut in event["cuts"].items())
            return f"Round {event['round']} is planned; layers on the edges: {cuts}."
        case "step":
            return f"Step {event['step'] + 1} of {event['of']} of round {event['round']} begins."
        case "round_done":
            return _round_done(event)
        case "averaging":
            return f"The edges' models are averaged after round {event['round']}."
        case "checkpointing" | "checkpoint":
            verb = "is being saved" if event["event"] == "checkpointing" else "is saved"
            return f"The checkpoint after round {event['round']} {verb}." if event["round"] else (
                f"The checkpoint before round 1 {verb}.")  # fmt: skip
        case "secure_sum":
            return f"The sum of round {event['round']} has the layers of {_listed(event['edges'])}."
        case "held_out_kept":
            return f"The cloud keeps the held-out segments of {_listed(event['edges'])} ({event['bytes']} bytes)."
        case "released":
            return "The reserved bandwidth is released."
        case "finished":
            return _finished(event)
    return None


def _round_done(event: Fields) -> str:
    metric, promises = event.get("metric", event.get("accuracy")), event["promises"]
    kept = f", {promises['kept']} of {promises['made']} promises kept" if promises["made"] else ""
    averaged = "" if metric is None else f", averaged with a metric of {metric:.4f}"
    return f"Round {event['round']} took {event['duration_ms'] / 1e3:.2f} s: loss {event['loss']:.4f}{kept}{averaged}."


def _finished(event: Fields) -> str:
    metric, promises = metric_of(event), event["promises"]
    found = "without a global model" if metric["final"] is None else f"with {metric['name']} {metric['final']:.4f}"
    kept = f"; {promises['kept']} of {promises['made']} promises were kept" if promises["made"] else ""
    ended = {"done": "The run is done", "stopped": "The run was stopped", "failed": "The run failed"}
    status = "stopped" if event.get("code") == "stopped" else str(event["status"])
    because = f". {event['error']}" if event.get("error") and status != "stopped" else ""
    return f"{ended.get(status, f'The run ended ({status})')} {found}{kept}{because}"


def _prepared(event: Fields) -> str:
    standardization, decay = event["standardization"], event["regularization"]
    tail = event.get("tail")
    protected = "" if tail is None else f"\nlabels stay on the edges, which also train the layers from {tail} on"
    warning = f"\nwarning: {event['warning']}" if "warning" in event else ""
    metric = event["metric"]
    objective = f"; loss {metric['loss']}, metric {metric['name']} ({metric['better']} is better)"
    if (metric["loss"], metric["name"]) == ("cross-entropy", "accuracy"):
        objective = ""
    return (f"model {event['model']}{objective}; {standardization['method']}: {standardization['reason']}\n"
            f"weight decay {decay['weight_decay']:.4g}: {decay['reason']}{protected}{warning}")


def _listed(names: Sequence[object]) -> str:
    return ", ".join(map(str, names)) or "nothing"


def _facts(event: Mapping[str, object]) -> str:
    facts = [
        f"{name.replace('_', ' ')} {_listed(value) if isinstance(value, list) else value}"
        for name, value in event.items()
        if name not in ("time", "event", "number", "directory") and value not in (None, "")
        and (isinstance(value, str | int | float) or (isinstance(value, list) and all(map(_is_plain, value))))
    ]  # fmt: skip
    return f" ({', '.join(facts)})" if facts else ""


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float)
