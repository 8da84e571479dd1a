"""An edge's share of the computing and nothing else: a process that trains the first layers of a model on request.

Reads one JSON request a line, {"cut", "steps"} or {"rehearse": true}, and answers with one JSON line of seconds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from trainer import benchmark
from trainer.halves import EdgeHalf
from trainer.models import build_layers
from trainer.parts import Part, split_evenly
from trainer.randomness import RandomStream
from trainer.recipe import OptimizerRecipe

SAMPLE_SHAPE, CLASSES = (3, 32, 32), 3


def main() -> None:
    """Join the control groups named, say that all is loaded, then serve until the input ends."""
    model, batch, micro, *cgroups = sys.argv[1:]
    torch.set_num_threads(1)
    layers = build_layers(model, 1, SAMPLE_SHAPE, CLASSES)
    half = EdgeHalf(Part(layers, 0, len(layers), OptimizerRecipe()))
    images = torch.rand(int(batch), *SAMPLE_SHAPE)
    pieces = split_evenly(int(batch), int(micro))
    _step(half, 1, images, pieces)  # torch loads its optimisers when they are first used
    for directory in map(Path, cgroups):
        (directory / "cgroup.procs").write_text(str(os.getpid()))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("rehearse"):
            answer = asdict(benchmark.rehearse(layers, images[pieces[0]]))
        else:
            steps = [_step(half, request["cut"], images, pieces) for _ in range(request["steps"])]
            answer = {"forward_s": [one for one, _ in steps], "backward_s": [other for _, other in steps]}
        print(json.dumps(answer), flush=True)


def _step(half: EdgeHalf, cut: int, images: torch.Tensor, pieces: list[slice]) -> tuple[float, float]:
    """Forward and backward of one mini-batch, as an edge does it: seconds of wall clock."""
    half.part.last = cut
    began = time.perf_counter()
    streams = [RandomStream(1, "edge", 1, 0, number) for number in range(len(pieces))]
    segments = [half.forward(images[piece], stream) for piece, stream in zip(pieces, streams, strict=True)]
    between = time.perf_counter()
    for number, segment in enumerate(segments):
        half.backward(number, torch.ones_like(segment))
    half.step()
    return between - began, time.perf_counter() - between


if __name__ == "__main__":
    main()
