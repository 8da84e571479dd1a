"""The cloud's half of a step on CUDA beside the CPU of the same machine: exactness, speed, one pass for all, copies.

For some edges, each with weights of its own, the cloud receives a micro-batch of segments, finishes forward and
backward, and returns the gradients of the segments. Measured are the trainer's own classes, one edge after the other,
in single precision and under bfloat16 autocast; all replicas in one pass over stacked weights (`torch.func`); and
copies from and to host memory on streams of their own, beside the pass of the previous edge. The model is the ResNet
of the zoo on images of 64 x 64. No data set and no network is needed; three minutes at most.

    .venv/bin/python bench/gpu_cloud.py [--device cpu] [--quick] [--out FILE.json]

It ends with exit code 2 where PyTorch finds no CUDA device; `--device cpu` then runs the whole script without one.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn import functional

from harness.report import Claim, at_least, at_most, publish
from trainer.models.building import build_layers
from trainer.models.optimizer import OptimizerConfig
from trainer.models.rng import RandomStream
from trainer.models.split_model import ServerModel
from trainer.models.stage import Stage

EXIT_NO_DEVICE = 2
MODEL, CLASSES, CUT = "resnet", 10, 2
TOLERANCE = 1e-4
"""Norm of the error of a gradient over the norm of that gradient."""

Gradients = list[Tensor]
"""Of the segment, then of every parameter, on the CPU."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How many edges, samples of a micro-batch, their shape, and how long each time is measured."""

    edges: int
    samples: int
    shape: tuple[int, int, int]
    timed_s: float


FULL, QUICK = Scale(16, 32, (3, 64, 64), 5.0), Scale(2, 4, (3, 16, 16), 0.05)


class Cloud:
    """The cloud's half of every edge, on one device; all begin with the same weights on any device."""

    def __init__(self, device: torch.device, scale: Scale) -> None:
        self.device, self.scale = device, scale
        self.models = [self._model(number) for number in range(scale.edges)]
        self.targets = [torch.randint(CLASSES, (scale.samples,), generator=torch.Generator().manual_seed(number))
                        .to(device) for number in range(scale.edges)]

    def _model(self, number: int) -> ServerModel:
        layers = [layer.to(self.device) for layer in build_layers(MODEL, number, self.scale.shape, CLASSES)]
        return ServerModel(Stage(layers, CUT, len(layers), OptimizerConfig("sgd", 0.01)))

    def train(self, number: int, segment: Tensor) -> Tensor:
        """Train the half of one edge on a micro-batch; return the gradient of its segment."""
        stream = RandomStream(1, f"edge{number}", 1, 0, 0)
        (gradient,), _ = self.models[number].train(segment, self.targets[number], self.scale.samples, stream)
        assert gradient is not None
        return gradient

    def gradients(self, number: int, segment: Tensor) -> Gradients:
        """Return the gradients of one edge's micro-batch."""
        stage = self.models[number].stage
        stage.discard_gradients()
        found = [self.train(number, segment.to(self.device))]
        found += [parameter.grad for parameter in self.parameters(number) if parameter.grad is not None]
        return [gradient.detach().float().cpu() for gradient in found]

    def parameters(self, number: int) -> list[nn.Parameter]:
        """Return the parameters of the half of one edge."""
        stage = self.models[number].stage
        return [parameter for layer in stage.layers[stage.first :] for parameter in layer.parameters()]

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class StackedCloud:
    """All replicas in one pass: their weights are stacked, and a pass is mapped over edges."""

    def __init__(self, cloud: Cloud) -> None:
        halves = [nn.Sequential(*model.stage.layers[model.stage.first :]) for model in cloud.models]
        self._template = halves[0]
        self._values = [{name: value.detach() for name, value in part.items()} for part in stack_module_state(halves)]
        self._targets = torch.stack(cloud.targets)

    def train(self, segments: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the gradients of the parameters and segments (edges, N, ...) of all edges."""
        def loss(parameters: dict[str, Tensor], segment: Tensor, buffers: dict[str, Tensor], targets: Tensor) -> Tensor:
            outputs = functional_call(self._template, (parameters, buffers), (segment,))
            return functional.cross_entropy(outputs, targets)

        parameters, buffers = self._values
        found, _ = vmap(grad_and_value(loss, argnums=(0, 1)))(parameters, segments, buffers, self._targets)
        weights, inputs = found
        return weights, inputs

    def gradients(self, number: int, segments: Tensor) -> Gradients:
        """Return the gradients of one edge, in the order of `Cloud.gradients`."""
        weights, inputs = self.train(segments)
        names = [name for name, _ in self._template.named_parameters()]
        return [inputs[number].float().cpu(), *(weights[name][number].detach().float().cpu() for name in names)]


class CopyStreams:
    """Copies to and from the device on streams of their own; on the CPU they happen in turn."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams = None if device.type != "cuda" else [
            torch.cuda.Stream(device) for _ in range(2)]  # type: ignore[no-untyped-call]

    def train_all(self, cloud: Cloud, hosted: list[Tensor], received: list[Tensor]) -> None:
        """Train every edge on its segment in host memory; write the gradients into `received`.

        While the half of an edge computes, the segment of the next one arrives and the last gradient leaves.
        """
        arriving = self._copy_in(hosted[0])
        for number in range(len(hosted)):
            segment, arrived = arriving
            if number + 1 < len(hosted):
                arriving = self._copy_in(hosted[number + 1])
            if arrived is not None:
                torch.cuda.current_stream(self._device).wait_event(arrived)
                segment.record_stream(torch.cuda.current_stream(self._device))
            self._copy_out(cloud.train(number, segment), received[number])
        cloud.synchronize()

    def _copy_in(self, hosted: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        if self._streams is None:
            return hosted.to(self._device, copy=True), None
        with torch.cuda.stream(self._streams[0]):
            segment = hosted.to(self._device, non_blocking=True)
            return segment, self._streams[0].record_event()

    def _copy_out(self, gradient: Tensor, received: Tensor) -> None:
        if self._streams is None:
            received.copy_(gradient)
            return
        self._streams[1].wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._streams[1]):
            received.copy_(gradient, non_blocking=True)
            gradient.record_stream(self._streams[1])


def train_all_in_turn(cloud: Cloud, hosted: list[Tensor], received: list[Tensor]) -> None:
    """As `CopyStreams.train_all`, one copy and one pass after the other."""
    for number, segment in enumerate(hosted):
        received[number].copy_(cloud.train(number, segment.to(cloud.device, copy=True)))
    cloud.synchronize()


def pass_s(cloud: Cloud, work: Callable[[], object]) -> float:
    """Return the median time of `work`, a pass over all edges."""
    work()
    cloud.synchronize()
    taken, began = list[float](), time.perf_counter()
    while len(taken) < 3 or time.perf_counter() - began < cloud.scale.timed_s:
        start = time.perf_counter()
        work()
        cloud.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def error(found: Gradients, expected: Gradients) -> float:
    """Return the norm of the error of a gradient over the norm of that gradient, the largest of all."""
    return max(float((one - other).norm() / other.norm().clamp_min(1e-30))
               for one, other in zip(found, expected, strict=True))


@contextlib.contextmanager
def exact_convolutions() -> Iterator[None]:
    """Single precision as it is: without TensorFloat-32, which rounds the factors to 10 bits."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def measure(device: torch.device, scale: Scale) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds of a pass over all edges by what was measured, and the errors against the CPU."""
    host, cloud = Cloud(torch.device("cpu"), scale), Cloud(device, scale)
    sides = segment_sides(scale)
    hosted = [torch.randn(scale.samples, *sides, generator=torch.Generator().manual_seed(number)).relu()
              for number in range(scale.edges)]
    received = [torch.empty_like(segment) for segment in hosted]
    if device.type == "cuda":
        hosted, received = ([tensor.pin_memory() for tensor in each] for each in (hosted, received))
    there = [segment.to(device) for segment in hosted]
    stacked, segments, streams = StackedCloud(cloud), torch.stack(there), CopyStreams(device)
    expected = [host.gradients(number, segment) for number, segment in enumerate(hosted)]

    def largest_error(found: Callable[[int], Gradients]) -> float:
        return max(error(found(number), expected[number]) for number in range(scale.edges))

    errors = {"fp32": largest_error(lambda number: cloud.gradients(number, there[number])),
              "stacked": largest_error(lambda number: stacked.gradients(number, segments))}
    with bfloat16(device):
        errors["bf16"] = largest_error(lambda number: cloud.gradients(number, there[number]))
    streams.train_all(cloud, hosted, received)
    errors["streams"] = max(error([gradient], wanted[:1]) for gradient, wanted in zip(received, expected, strict=True))
    turns: dict[str, tuple[Cloud, Callable[[], object]]] = {
        "cpu": (host, lambda: [host.train(number, segment) for number, segment in enumerate(hosted)]),
        "fp32": (cloud, lambda: [cloud.train(number, segment) for number, segment in enumerate(there)]),
        "stacked": (cloud, lambda: stacked.train(segments)),
        "in_turn": (cloud, lambda: train_all_in_turn(cloud, hosted, received)),
        "streams": (cloud, lambda: streams.train_all(cloud, hosted, received)),
    }
    seconds = {name: pass_s(which, work) for name, (which, work) in turns.items()}
    with bfloat16(device):
        seconds["bf16"] = pass_s(*turns["fp32"])
        seconds["stacked_bf16"] = pass_s(*turns["stacked"])
    return seconds, errors


def segment_sides(scale: Scale) -> tuple[int, ...]:
    """Return the shape of a sample's segment at the cut."""
    with torch.no_grad():
        layers = build_layers(MODEL, 1, scale.shape, CLASSES)[:CUT]
        return tuple(nn.Sequential(*layers)(torch.zeros(1, *scale.shape)).shape[1:])


def bfloat16(device: torch.device) -> AbstractContextManager[object]:
    """Compute in bfloat16 where PyTorch's autocast does."""
    return torch.autocast(device.type, torch.bfloat16)


@click.command()
@click.option("--device", "name", default="cuda", show_default=True, type=click.Choice(["cuda", "cpu"]),
              help="Where the cloud computes; it is compared with the CPU.")
@click.option("--quick", is_flag=True, help="Two edges and small images: shows that the script runs.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures as JSON.")
def main(name: str, quick: bool, out: Path | None) -> None:
    """Compare the cloud's half on a device with the CPU."""
    if name == "cuda" and not torch.cuda.is_available():
        click.echo("PyTorch finds no CUDA device here; run this where there is one, or with --device cpu to see that "
                   "the script runs.", err=True)
        sys.exit(EXIT_NO_DEVICE)
    device, scale = torch.device(name), QUICK if quick else FULL
    with exact_convolutions():
        seconds, errors = measure(device, scale)
    claims = {
        "fp32_gradient_error": at_most(errors["fp32"], "", TOLERANCE),
        "stacked_gradient_error": at_most(errors["stacked"], "", TOLERANCE),
        "streams_gradient_error": at_most(errors["streams"], "", TOLERANCE),
        "bf16_gradient_error": Claim(errors["bf16"], ""),
        "speedup_over_cpu": at_least(seconds["cpu"] / seconds["fp32"], "x", 1) if name == "cuda" else Claim(
            seconds["cpu"] / seconds["fp32"], "x"),
        "bf16_speedup": Claim(seconds["fp32"] / seconds["bf16"], "x"),
        "stacked_speedup": Claim(seconds["fp32"] / seconds["stacked"], "x"),
        "overlap_speedup": Claim(seconds["in_turn"] / seconds["streams"], "x"),
        "samples_per_s": Claim(scale.edges * scale.samples / min(seconds.values()), "1/s"),
    }
    described = torch.cuda.get_device_name(device) if name == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    table = Table("what", "ms for all edges", "over the CPU", title=f"{described}; {scale.edges} edges x "
                  f"{scale.samples} samples of the {MODEL}, cut {CUT}")
    for what, taken in seconds.items():
        table.add_row(what, f"{1e3 * taken:.1f}", f"{seconds['cpu'] / taken:.2f}")
    publish("gpu_cloud", claims, {"device": described, "seconds": seconds, "errors": errors}, [table], out)


if __name__ == "__main__":
    main()
