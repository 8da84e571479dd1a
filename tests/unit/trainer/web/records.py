"""A network, reservations and a run as the page's server reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def link(name: str, **changes: Any) -> Json:
    source, destination = name.partition(".")[0].split("->")
    return {
        "link": name, "source": source, "destination": destination, "length_km": 20.0, "duct": None, "up": True,
        "in_service": True, "capacity_bps": 80_000_000, "reservable_bps": 76_000_000, "reserved_bps": 0,
        "free_bps": 76_000_000, "queue_bytes": 3_000_000, **changes,
    }  # fmt: skip


def network(**changes: Any) -> Json:
    places = {"s1": (0.0, 0.0), "s2": (20.0, 0.0), "edge1": (-2.0, 2.0), "cloud": (22.0, 0.0)}
    nodes = [{"name": name, "kind": "switch" if name[0] == "s" else name.rstrip("1"), "up": True, "ip": None,
              "position_km": place} for name, place in places.items()]  # fmt: skip
    pairs = (("s1", "s2"), ("edge1", "s1"), ("s2", "cloud"))
    links = [link(f"{a}->{b}") for pair in pairs for a, b in (pair, pair[::-1])]
    return {"map": "pair", "nodes": nodes, "links": links, "complaints": [], **changes}


def reservation(id_: str, **changes: Any) -> Json:
    flow = {
        "name": "edge1-cloud", "source": "edge1", "destination": "cloud", "path": ["edge1", "s1", "s2", "cloud"],
        "match": {"protocol": "tcp", "source_port": None, "destination_port": 7800}, "reserved_bps": 15_000_000,
        "burst_bytes": 40_000, "accumulated_latency_us": 14293.6, "latency_variation_us": 14141.0,
        "latency_limit_us": None, "completion_ms": None, "backup_path": None, "suspended": False, "lightpaths": [],
    }  # fmt: skip
    at = "2026-01-01T00:00:00Z"
    return {"id": id_, "version": 1, "state": "active", "owner": "page", "reason": None, "created_at": at,
            "start_at": at, "end_at": None, "expires_at": at, "flows": [flow], **changes}  # fmt: skip


def round_row(number: int, **changes: Any) -> Json:
    def transfer(direction: str, sent_at: float) -> Json:
        return {"edge": "edge1", "direction": direction, "step": 0, "sent_at": sent_at, "bytes": 1000,
                "ideal_ms": 100.0, "bound_ms": 130.0, "measured_ms": 110.0, "kept": True}  # fmt: skip

    edge = {"edge": "edge1", "cut": 3, "codec": "fp32", "training_ms": {"predicted": 50.0, "measured": 60.0}}
    return {
        "round": number, "duration_ms": 1500.0, "loss": 1 / number, "metric": 0.5, "accuracy": 0.5, "averaged": True,
        "averaging_ms": None, "beat_ms": 40.0, "round_over_bound": 1.2, "step_ms": {"predicted": 1, "measured": [1.0]},
        "spread_ms": [3.0], "adaptations": [], "lost": [], "edges": [edge],
        "transfers": [transfer("up", 100.0 * number), transfer("down", 100.0 * number + 0.05)], **changes,
    }  # fmt: skip


def write_run(directory: Path, rows: list[Json], **summary: Any) -> Path:
    directory.mkdir(parents=True)
    metric = {"target": 0.9, "final": None, "best": None, "reached_round": None}
    (directory / "config.yaml").write_text("rounds: 10\nsteps: 4\n")
    (directory / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    events = [
        {"time": 1.0, "event": "gathered", "edges": ["edge1"]},
        {"time": 2.0, "event": "said", "sentence": "Hello."},
        {"time": 3.0, "event": "plan", "round": 1, "cuts": {"edge1": 3}, "step_ms": 100.0},
    ]
    (directory / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    text = json.dumps({"status": "done", "map": "pair", "model": "cnn", "accuracy": metric, "rounds": [], **summary})
    (directory / "summary.json").write_text(text)
    return directory
