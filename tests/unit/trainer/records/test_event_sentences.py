"""Every event of a run is a sentence on the page and in `paceline runs log`, also one of another version."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.records.event_sentences import event_sentence

METRIC = {"name": "accuracy", "final": 0.9312}


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        ({"event": "waiting", "edges": ["edge1", "edge2"], "address": "10.0.0.3:7800"},
         "Waiting at 10.0.0.3:7800 for edge1, edge2."),
        ({"event": "gathered", "edges": ["edge1", "edge2"]}, "2 edges requested training: edge1, edge2."),
        ({"event": "plan", "round": 2, "cuts": {"edge1": 3, "edge2": 0}},
         "Round 2 is planned; layers on the edges: edge1 3, edge2 0."),
        ({"event": "step", "round": 2, "step": 0, "of": 4}, "Step 1 of 4 of round 2 begins."),
        ({"event": "round_done", "round": 2, "duration_ms": 1234, "loss": 0.5, "metric": 0.75,
          "promises": {"made": 8, "kept": 7}},
         "Round 2 took 1.23 s: loss 0.5000, 7 of 8 promises kept, averaged with a metric of 0.7500."),
        ({"event": "lost", "edge": "edge2", "reason": "It closed its connection.", "left": 3},
         "edge2 was lost: It closed its connection. Remaining edges: 3."),
        ({"event": "late", "edge": "edge2", "step": 1, "round": 4, "policy": "drop"},
         "edge2 exceeded its deadline in step 2 of round 4; continuing without it."),
        ({"event": "checkpoint", "round": 0}, "The checkpoint before round 1 is saved."),
        ({"event": "checkpoint", "round": 5}, "The checkpoint after round 5 is saved."),
        ({"event": "secure_sum", "round": 5, "edges": ["edge1"]}, "The sum of round 5 has the layers of edge1."),
        ({"event": "released"}, "The reserved bandwidth is released."),
        ({"event": "said", "sentence": "Labels stay on the edges."}, "Labels stay on the edges."),
        ({"event": "finished", "status": "done", "error": None, "code": None, "accuracy": METRIC,
          "metric": METRIC, "promises": {"made": 80, "kept": 80}},
         "The run is done with accuracy 0.9312; 80 of 80 promises were kept."),
        ({"event": "finished", "status": "failed", "error": "The controller is away.", "code": "away",
          "accuracy": {"name": "accuracy", "final": None}, "metric": {}, "promises": {"made": 0, "kept": 0}},
         "The run failed without a global model. The controller is away."),
        ({"event": "lost", "edge": "edge2"}, "Lost (edge edge2)."),
        ({"event": "of_another_version", "who": ["a", "b"], "many": 3, "deep": {"x": 1}},
         "Of another version (who a, b, many 3)."),
    ],
)  # fmt: skip
def test_an_event_is_a_sentence(event: dict[str, Any], sentence: str) -> None:
    told = event_sentence({"time": 0.0, **event})
    assert told == sentence
    assert not any(mark in told for mark in "{}[]\"\n")
