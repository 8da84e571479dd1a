"""How fast this node is: a short benchmark before the model is known, a rehearsal when it is."""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from trainer.models.optimizer import OptimizerConfig
from trainer.profiling.predictor import ComputeProfile, LayerSeconds
from trainer.profiling.stopwatch import Stopwatch

BENCHMARK_S = 0.1
REHEARSAL_S = 1.0
"""Many periods of a CPU limit: its quota is spent and refilled in turns of up to 0.1 s."""
DEFAULT_RECIPE = OptimizerConfig()


def measure_profile(seconds: float = BENCHMARK_S) -> ComputeProfile:
    """Convolution-sized matrix products, then reading and writing memory, half the time each."""
    matrix = torch.ones(256, 144)
    other = torch.ones(144, 256)
    flops_per_s = _rate(lambda: matrix @ other, seconds / 2) * 2 * 256 * 144 * 256
    values = torch.ones(256 * 1024)
    target = torch.empty_like(values)
    bytes_per_s = _rate(lambda: torch.mul(values, 2.0, out=target), seconds / 2) * 2 * values.nbytes
    return ComputeProfile(flops_per_s, bytes_per_s)


def _rate(work: Callable[[], object], seconds: float) -> float:
    work()  # the first call sets things up
    start, turns = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds or turns == 0:
        work()
        turns += 1
    return turns / elapsed


def rehearse(
    layers: Sequence[nn.Module], micro_batch: torch.Tensor, recipe: OptimizerConfig = DEFAULT_RECIPE, micros: int = 1,
    seconds: float = REHEARSAL_S,
) -> LayerSeconds:
    """What each layer takes forward and backward for one micro-batch (N, ...), with its part of the optimiser's step.

    Nothing is learned from it. Layers are told apart by CPU time, which a CPU limit does not chop up; all are then
    stretched by the wall time that the whole took.
    """
    layers = [copy.deepcopy(layer) for layer in layers]  # running statistics would remember it
    still = dataclasses.replace(recipe, learning_rate=0.0)
    optimizers = [still.build(values) if (values := list(layer.parameters())) else None for layer in layers]
    _rehearse_once(layers, optimizers, micro_batch, micros)  # the first pass sets things up
    passes: list[tuple[list[float], list[float]]] = []
    watch = Stopwatch()
    while not passes or watch.wall_s < seconds:
        with watch:
            passes.append(_rehearse_once(layers, optimizers, micro_batch, micros))
    stretch = max(1.0, watch.wall_s / max(watch.cpu_s, 1e-9))

    def typical(rows: list[list[float]]) -> tuple[float, ...]:
        return tuple(stretch * statistics.median(column) for column in zip(*rows, strict=True))

    return LayerSeconds(typical([one for one, _ in passes]), typical([one for _, one in passes]), stretch)


def _rehearse_once(
    layers: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer | None], values: torch.Tensor, micros: int
) -> tuple[list[float], list[float]]:
    """Seconds of a processor for every layer, forward and backward."""
    forward, reached = [], [0.0] * (len(layers) + 1)

    def note(number: int) -> Callable[[torch.Tensor], None]:
        def reach(_gradient: torch.Tensor) -> None:
            reached[number] = time.thread_time()
        return reach

    for number, layer in enumerate(layers):
        began = time.thread_time()
        values = layer(values)
        forward.append(time.thread_time() - began)
        if values.requires_grad:
            values.register_hook(note(number + 1))  # type: ignore[no-untyped-call]
    reached[-1] = time.thread_time()
    if values.requires_grad:
        values.backward(torch.ones_like(values))  # type: ignore[no-untyped-call]
    ended = time.thread_time()
    reached = [at or ended for at in reached]  # no gradient is wanted of the input
    backward = [before - after + _step_s(optimizer) / micros
                for before, after, optimizer in zip(reached[:-1], reached[1:], optimizers, strict=True)]
    return forward, backward


def _step_s(optimizer: torch.optim.Optimizer | None) -> float:
    began = time.thread_time()
    if optimizer is not None:
        optimizer.step()
        optimizer.zero_grad()
    return time.thread_time() - began
