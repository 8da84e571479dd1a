"""Measures this node: its rates by a short benchmark without any model, or the time of every layer of a model."""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from trainer.models.boundary import call_layer
from trainer.models.frozen import backward_layers, trained_parameters
from trainer.models.optimizer import OptimizerConfig
from trainer.models.values import Values, backward, detached, differentiable, gradients_of, new_leaves
from trainer.models.without_compiler import optimizer_step
from trainer.profiling.cgroup_limit import CgroupCpuLimit
from trainer.profiling.predictor import MAX_SLOWDOWN, ComputeProfile, LayerSeconds
from trainer.profiling.stopwatch import Stopwatch

BENCHMARK_S = 0.1
PROFILING_S = 0.1
DEFAULT_OPTIMIZER = OptimizerConfig()


def benchmark_node(seconds: float = BENCHMARK_S) -> ComputeProfile:
    """Benchmark convolution-sized matrix products, then memory traffic, half the time each."""
    watch = Stopwatch()
    matrix = torch.ones(256, 144)
    other = torch.ones(144, 256)
    flops_per_s = _calls_per_s(lambda: matrix @ other, seconds / 2, watch) * 2 * 256 * 144 * 256
    values = torch.ones(256 * 1024)
    target = torch.empty_like(values)
    bytes_per_s = _calls_per_s(lambda: torch.mul(values, 2.0, out=target), seconds / 2, watch) * 2 * values.nbytes
    return ComputeProfile(flops_per_s, bytes_per_s, _slowdown(watch))


def _slowdown(watch: Stopwatch) -> float:
    """Return wall over CPU time; a CPU limit counts as its control group states it.

    What is measured lasts only a few periods of a limit, and a process that has waited begins with a saved quota.
    """
    limit = CgroupCpuLimit().read()
    limited = 1.0 if limit is None else 1 / limit.cores
    return min(max(1.0, watch.wall_s / max(watch.cpu_s, 1e-9), limited), MAX_SLOWDOWN)


def _calls_per_s(work: Callable[[], object], seconds: float, watch: Stopwatch) -> float:
    """Return calls per second of CPU time; adds both clocks to `watch`."""
    work()  # warm-up
    before_s, calls = watch.cpu_s, 0
    with watch:
        start_s = time.perf_counter()
        while calls == 0 or time.perf_counter() - start_s < seconds:
            work()
            calls += 1
    return calls / (watch.cpu_s - before_s)


class FirstRuns:
    """Runs copies of layers forward and backward once: what torch chooses and loads on first use is then there.

    It would stall the first transfers otherwise, as a process that computes does not read. `micro_batch`: inputs
    (N, ...).
    """

    def __init__(self, layers: Sequence[nn.Module], micro_batch: torch.Tensor, optimizer: OptimizerConfig) -> None:
        self._layers = layers
        self._values: Values = micro_batch.clone()  # a layer may modify its input
        self._needed = backward_layers(layers)
        self._optimizer = optimizer
        self._done = 0

    def run(self, last: int, is_interrupted: Callable[[], bool] = lambda: False) -> None:
        """Run the layers [0, last) that have not run yet, one by one, until interrupted."""
        while self._done < last and not is_interrupted():
            number = self._done
            (layer,), (optimizer,) = _copies(self._layers[number : number + 1], self._optimizer)
            has_input_gradient = number > 0 and self._needed[number - 1]
            entered = new_leaves(self._values)[1] if has_input_gradient else detached(self._values)
            made = call_layer([*self._layers[:number], layer], number, entered)
            if self._needed[number]:
                gradients: list[torch.Tensor | None] = [torch.ones_like(tensor) for tensor in differentiable(made)]
                backward(made, gradients)
                _optimizer_step_s(optimizer)
            self._values = detached(made)
            self._done += 1


def profile_layers(
    layers: Sequence[nn.Module], micro_batch: torch.Tensor, optimizer: OptimizerConfig = DEFAULT_OPTIMIZER,
    micros: int = 1, seconds: float = PROFILING_S,
) -> LayerSeconds:
    """Measure each layer's forward and backward time for one micro-batch (N, ...), with its part of the optimiser step.

    Does not change the layers. Layers are distinguished by CPU time, which a CPU limit does not interrupt; all are
    then scaled by the ratio of wall to CPU time of the whole.
    """
    layers, optimizers = _copies(layers, optimizer)
    micro_batch = micro_batch.clone()  # a layer may modify its input
    needed = backward_layers(layers)
    _profile_pass(layers, optimizers, micro_batch, micros, needed)  # warm-up
    passes: list[tuple[list[float], list[float]]] = []
    watch = Stopwatch()
    while not passes or watch.wall_s < seconds:
        with watch:
            passes.append(_profile_pass(layers, optimizers, micro_batch, micros, needed))
    slowdown = _slowdown(watch)

    def typical(rows: list[list[float]]) -> tuple[float, ...]:
        return tuple(slowdown * statistics.median(column) for column in zip(*rows, strict=True))

    return LayerSeconds(typical([forward for forward, _ in passes]), typical([backward for _, backward in passes]),
                        slowdown)


def _copies(
    layers: Sequence[nn.Module], optimizer: OptimizerConfig
) -> tuple[list[nn.Module], list[torch.optim.Optimizer | None]]:
    """Copies of layers, which leave running statistics unchanged, each with its optimizer."""
    copies = [copy.deepcopy(layer) for layer in layers]
    still = dataclasses.replace(optimizer, learning_rate=0.0)
    return copies, [still.build(values) if (values := trained_parameters(layer)) else None for layer in copies]


def _profile_pass(
    layers: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer | None], values: Values, micros: int,
    needed: Sequence[bool],
) -> tuple[list[float], list[float]]:
    """Return the CPU seconds of every layer, forward and backward; each runs on copies of its input.

    `needed`: whether a layer has a backward pass.
    """
    forward_s, passes = [], []
    for number in range(len(layers)):
        # The model's input has no gradient, nor has what only frozen layers made.
        leaves, entered = new_leaves(values) if number and needed[number - 1] else ([], detached(values))
        start_s = time.thread_time()
        values = call_layer(layers, number, entered)
        forward_s.append(time.thread_time() - start_s)
        passes.append((leaves, values))
    gradients: list[torch.Tensor | None] = [torch.ones_like(tensor) for tensor in differentiable(values)]
    backward_s = []
    for (leaves, made), optimizer, has_backward in zip(*map(reversed, (passes, optimizers, needed)), strict=True):
        if not has_backward:
            backward_s.append(0.0)
            continue
        start_s = time.thread_time()
        backward(made, gradients)
        backward_s.append(time.thread_time() - start_s + _optimizer_step_s(optimizer) / micros)
        gradients = gradients_of(leaves)
    return forward_s, backward_s[::-1]


def _optimizer_step_s(optimizer: torch.optim.Optimizer | None) -> float:
    start_s = time.thread_time()
    if optimizer is not None:
        optimizer_step(optimizer)
        optimizer.zero_grad()
    return time.thread_time() - start_s
