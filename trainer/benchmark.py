"""How fast this node is: a short benchmark before the model is known, a rehearsal when it is."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from trainer.predictor import ComputeProfile, LayerSeconds

BENCHMARK_S = 0.1
REHEARSAL_S = 0.3
"""Several periods of a CPU limit: its quota is spent and refilled in turns of up to 0.1 s."""


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


def rehearse(layers: Sequence[nn.Module], micro_batch: torch.Tensor, seconds: float = REHEARSAL_S) -> LayerSeconds:
    """What each layer takes forward and backward for one micro-batch (N, ...); nothing is learned from it.

    Layers are told apart by CPU time, which a CPU limit does not chop up; all are then stretched by the wall
    time that the whole took.
    """
    layers = [copy.deepcopy(layer) for layer in layers]  # running statistics would remember it
    _pass(layers, micro_batch)  # the first pass sets things up
    passes: list[LayerSeconds] = []
    wall, cpu = time.perf_counter(), time.thread_time()
    while not passes or time.perf_counter() - wall < seconds:
        passes.append(_pass(layers, micro_batch))
    stretch = (time.perf_counter() - wall) / max(time.thread_time() - cpu, 1e-9)

    def typical(rows: list[tuple[float, ...]]) -> tuple[float, ...]:
        return tuple(max(1.0, stretch) * sorted(column)[len(column) // 2] for column in zip(*rows, strict=True))

    return LayerSeconds(typical([one.forward_s for one in passes]), typical([one.backward_s for one in passes]))


def _pass(layers: Sequence[nn.Module], values: torch.Tensor) -> LayerSeconds:
    forward, backward = [], []
    for number, layer in enumerate(layers):
        leaf = values.detach().requires_grad_(number > 0)
        wanted = [value for value in (leaf, *layer.parameters()) if value.requires_grad]
        started = time.thread_time()
        output = layer(leaf)
        forward.append(time.thread_time() - started)
        started = time.thread_time()
        if wanted:
            torch.autograd.grad(output, wanted, torch.ones_like(output), allow_unused=True)
        backward.append(time.thread_time() - started)
        values = output.detach()
    return LayerSeconds(tuple(forward), tuple(backward))
