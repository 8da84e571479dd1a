"""A process that trains the first layers of a model on request: the computing of an edge without its communication.

Reads one JSON request a line, {"cut", "steps"} or {"benchmark": true}, and answers with one JSON line: the seconds of
every step, or the rates of this process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from trainer.models.building import build_layers
from trainer.models.optimizer import OptimizerConfig
from trainer.models.rng import RandomStream
from trainer.models.split_model import ClientModel
from trainer.models.stage import Stage, split_evenly
from trainer.processes.malloc import retain_freed_memory
from trainer.profiling import profiler
from trainer.profiling.stopwatch import Stopwatch

SAMPLE_SHAPE, CLASSES = (3, 32, 32), 3
FIELDS = ("forward_s", "forward_cpu_s", "backward_s", "backward_cpu_s")
"""Fields reported for a step: wall-clock and processor seconds."""
WARM_UP_S, LEAST_ROUND_S = 0.1, 0.5
"""Many periods of the CPU limit, so that the phase within a period does not matter."""


def main() -> None:
    """Join the given control groups, report readiness, then serve requests until the input ends."""
    model, batch, micro, *cgroups = sys.argv[1:]
    torch.set_num_threads(1)
    retain_freed_memory()
    layers = build_layers(model, 1, SAMPLE_SHAPE, CLASSES)
    half = ClientModel(Stage(layers, 0, len(layers), OptimizerConfig()))
    images = torch.rand(int(batch), *SAMPLE_SHAPE)
    pieces = split_evenly(int(batch), int(micro))
    half.stage.last = 1
    _step(half, images, pieces)  # torch loads its optimisers when they are first used
    for directory in map(Path, cgroups):
        (directory / "cgroup.procs").write_text(str(os.getpid()))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("benchmark"):
            answer = asdict(profiler.benchmark_node())
        else:
            half.stage.last = request["cut"]
            steps = _round(lambda: _step(half, images, pieces), request["steps"])
            answer = {name: [one[number] for one in steps] for number, name in enumerate(FIELDS)}
        print(json.dumps(answer), flush=True)


def _round(step: Callable[[], tuple[float, ...]], least_steps: int) -> list[tuple[float, ...]]:
    """At least `least_steps` steps within LEAST_ROUND_S, after a warm-up that is not measured.

    After idling, a process starts with the quota of a whole period and runs faster than its limit.
    """
    _repeat(step, WARM_UP_S, 1)
    return _repeat(step, LEAST_ROUND_S, least_steps)


def _repeat(step: Callable[[], tuple[float, ...]], seconds: float, least_steps: int) -> list[tuple[float, ...]]:
    ends = time.perf_counter() + seconds
    steps: list[tuple[float, ...]] = []
    while len(steps) < least_steps or time.perf_counter() < ends:
        steps.append(step())
    return steps


def _step(half: ClientModel, images: torch.Tensor, pieces: list[slice]) -> tuple[float, ...]:
    """One mini-batch as on an edge; returns the values of FIELDS."""
    forward, backward = Stopwatch(), Stopwatch()
    with forward:
        streams = [RandomStream(1, "edge", 1, 0, number) for number in range(len(pieces))]
        segments = [half.forward(images[piece], stream) for piece, stream in zip(pieces, streams, strict=True)]
    with backward:
        for number, segment in enumerate(segments):
            half.backward(number, [torch.ones_like(segment)])
        half.step()
    return forward.wall_s, forward.cpu_s, backward.wall_s, backward.cpu_s


if __name__ == "__main__":
    main()
