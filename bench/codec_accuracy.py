"""Codecs: encoding and decoding throughput, encoded bytes per segment, and accuracy of the trained model.

Accuracy is measured by real split training between four edges and a cloud in this process: the same data, weights
and mini-batches for every codec, cuts that move every round, every segment and gradient encoded and decoded.

    .venv/bin/python bench/codec_accuracy.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from rich.table import Table
from torch import Tensor, nn

from harness.report import Claim, at_most, publish
from trainer.config.partitioning import IID
from trainer.data.dataset import batch_indices
from trainer.data.load import load_local
from trainer.data.standardization import choose_standardization, standardize, summarize
from trainer.models.averaging import average
from trainer.models.building import build_layers
from trainer.models.optimizer import OptimizerConfig
from trainer.models.rng import RandomStream
from trainer.models.split_model import ClientModel, ServerModel
from trainer.models.stage import Stage, split_evenly
from trainer.models.zoo import choose_model
from trainer.profiling.layer_costs import layer_costs, segment_shapes
from trainer.protocol.codec import Codec, decode, default_gradient_codec, encode, encoded_bytes

CODECS: tuple[Codec, ...] = ("fp32", "bf16", "int8")
EDGES, BATCH, MICRO, STEPS, AVERAGE_EVERY = 4, 64, 4, 4, 5
MICRO_SAMPLES = BATCH // MICRO
TIMED_S = 0.15
ACCURACY_DROP_LIMIT, BYTES_LIMIT = 0.5, 0.27


@dataclass(frozen=True, slots=True)
class Training:
    """Data set, number of rounds and seeds of a training."""

    data: str
    rounds: int
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Result of one training; `segment_bytes` counts both directions."""

    data: str
    codec: Codec
    seed: int
    accuracy: float
    segment_bytes: int
    seconds: float


QUICK = (Training("traffic-lights", 8, (1,)),)
FULL = (Training("traffic-lights", 10, (1, 2, 3)), Training("tennessee-eastman", 40, (1, 2, 3)))


class Edge:
    """The edge's and the cloud's part of the model of one edge, with its share of the data."""

    def __init__(self, training: Training, number: int, seed: int, codec: Codec) -> None:
        self.name, self.number, self.seed, self.codec = f"edge{number + 1}", number, seed, codec
        self.data = load_local(training.data, IID, self.name, number, EDGES, seed)
        self.sent_bytes = 0
        self.inputs: Tensor
        self.edge: ClientModel
        self.cloud: ServerModel

    def prepare(self, layers: Callable[[], list[nn.Module]], inputs: Tensor) -> None:
        """Set the standardized inputs and build the model on both sides."""
        optimizer = OptimizerConfig()
        self.inputs = inputs
        self.edge, self.cloud = (
            ClientModel(Stage(layers(), 0, 0, optimizer)),
            ServerModel(Stage(layers(), 0, 0, optimizer)),
        )
        self.cloud.stage.last = len(self.cloud.stage.layers)

    def train(self, number: int, cut: int) -> None:
        """Train one round at a cut."""
        self.cloud.move_cut(cut, self.edge.move_cut(cut, self.cloud.layers_to_send(cut)))
        for step in range(STEPS):
            place = (number - 1) * STEPS + step
            places = batch_indices(len(self.data.train), BATCH, self.seed * 1009 + self.number, place)
            for micro, samples in enumerate(split_evenly(BATCH, MICRO)):
                stream = RandomStream(self.seed, self.name, number, step, micro)
                segment = self._transfer(self.edge.forward(self.inputs[places[samples]], stream), self.codec)
                labels = self.data.train.labels[places[samples]]
                gradients, _ = self.cloud.train(segment, labels, BATCH, stream)
                received = [None if gradient is None else self._transfer(gradient, default_gradient_codec(self.codec))
                            for gradient in gradients]
                self.edge.backward(micro, received)
            self.edge.step()
            self.cloud.step()

    def _transfer(self, values: Tensor, codec: Codec) -> Tensor:
        """Encode and decode a tensor; count its encoded bytes."""
        encoded = encode("segment", values, codec)
        self.sent_bytes += sum(tensor.nbytes for tensor in encoded.values())
        return decode("segment", encoded)

    def values(self) -> dict[str, Tensor]:
        """Return the weights of the whole model."""
        stage = self.cloud.stage
        return self.edge.stage.state_dict(0, self.edge.cut) | stage.state_dict(stage.first, stage.last)


def train(training: Training, codec: Codec, seed: int) -> TrainingResult:
    """Run a split training; the accuracy is that of the final global model on all held-out samples."""
    began = time.perf_counter()
    edges = [Edge(training, number, seed, codec) for number in range(EDGES)]
    first = edges[0].data
    shape, classes = tuple(first.train.inputs.shape[1:]), first.classes
    standardization = choose_standardization(
        [summarize(edge.data.train.inputs, edge.data.train.labels, classes) for edge in edges]
    )
    model = choose_model(training.data, shape)[0]
    for edge in edges:
        edge.prepare(
            lambda: build_layers(model, seed, shape, classes), standardize(edge.data.train.inputs, standardization)
        )
    cuts = range(1, len(edges[0].edge.stage.layers))
    for number in range(1, training.rounds + 1):
        for edge in edges:
            edge.train(number, cuts[(number + 3 * edge.number) % len(cuts)])
        if number % AVERAGE_EVERY == 0 or number == training.rounds:
            mean = average([edge.values() for edge in edges], [len(edge.data.train) for edge in edges])
            for edge in edges:
                edge.edge.stage.load_state_dict(mean)
                edge.cloud.stage.load_state_dict(mean)
    whole = nn.Sequential(*edges[0].edge.stage.layers).eval()
    correct = total = 0
    with torch.no_grad():
        for edge in edges:
            predictions = whole(standardize(edge.data.held_out.inputs, standardization)).argmax(dim=1)
            correct += int((predictions == edge.data.held_out.labels).sum())
            total += len(predictions)
    sent = sum(edge.sent_bytes for edge in edges)
    return TrainingResult(training.data, codec, seed, correct / total, sent, time.perf_counter() - began)


def throughput(codec: Codec, segment: Tensor) -> float:
    """Bytes of fp32 that are encoded and decoded per second."""
    decode("segment", encode("segment", segment, codec))
    began, repetitions = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < TIMED_S or not repetitions:
        decode("segment", encode("segment", segment, codec))
        repetitions += 1
    return segment.nbytes * repetitions / elapsed


def segments_of(data: str, sample_shape: tuple[int, ...], classes: int) -> list[tuple[int, ...]]:
    """Return the shapes of a micro-batch's segments at every cut with layers on both sides."""
    layers = build_layers(choose_model(data, sample_shape)[0], 1, sample_shape, classes)
    return [(MICRO_SAMPLES, *shape) for shape in segment_shapes(layer_costs(layers, sample_shape), sample_shape)[1:-1]]


def drop_points(results: list[TrainingResult], codec: Codec) -> float:
    """Loss of accuracy against fp32 in percentage points, mean over all trainings."""
    def mean(codec_name: Codec) -> float:
        return statistics.fmean(result.accuracy for result in results if result.codec == codec_name)

    return 100 * (mean("fp32") - mean(codec))


@click.command()
@click.option("--quick", is_flag=True, help="One training per codec; about a minute.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure fp32, bf16 and int8."""
    torch.set_num_threads(1)
    shapes = segments_of("traffic-lights", (3, 32, 32), 3)
    speeds = {codec: [throughput(codec, torch.randn(shape).relu()) for shape in shapes] for codec in CODECS}
    sizes = {codec: [encoded_bytes(shape, codec) for shape in shapes] for codec in CODECS}
    results = [train(training, codec, seed) for training in (QUICK if quick else FULL)
               for seed in training.seeds for codec in CODECS]
    bytes_ratio = max(small / whole for small, whole in zip(sizes["int8"], sizes["fp32"], strict=True))
    claims = {
        "int8_accuracy_drop_points": at_most(drop_points(results, "int8"), "points", ACCURACY_DROP_LIMIT),
        "bf16_accuracy_drop_points": Claim(drop_points(results, "bf16"), "points"),
        "int8_bytes_over_fp32": at_most(bytes_ratio, "", BYTES_LIMIT),
        **{f"{codec}_megabytes_per_s": Claim(statistics.median(speeds[codec]) / 1e6, "MB/s") for codec in CODECS},
    }
    samples = {
        "shapes": shapes,
        "bytes_per_s": speeds,
        "segment_bytes": sizes,
        "trainings": [
            {
                "data": result.data,
                "codec": result.codec,
                "seed": result.seed,
                "accuracy": result.accuracy,
                "segment_bytes": result.segment_bytes,
                "seconds": result.seconds,
            }
            for result in results
        ],
    }
    publish("codecs", claims, samples, _tables(shapes, speeds, sizes, results), out)


def _tables(
    shapes: list[tuple[int, ...]], speeds: dict[Codec, list[float]], sizes: dict[Codec, list[int]],
    results: list[TrainingResult],
) -> list[Table]:
    coding = Table("segment", *(f"{codec} MB/s" for codec in CODECS), *(f"{codec} bytes" for codec in CODECS),
                   title="Encoding and decoding, MB of fp32 per second on one core")
    for index, shape in enumerate(shapes):
        coding.add_row(" x ".join(map(str, shape)), *(f"{speeds[codec][index] / 1e6:.0f}" for codec in CODECS),
                       *(str(sizes[codec][index]) for codec in CODECS))
    training = Table("data", "seed", "codec", "accuracy", "MB sent", "seconds", title="Split training, moving cuts")
    for result in results:
        training.add_row(
            result.data,
            str(result.seed),
            result.codec,
            f"{result.accuracy:.4f}",
            f"{result.segment_bytes / 1e6:.1f}",
            f"{result.seconds:.1f}",
        )
    return [coding, training]


if __name__ == "__main__":
    main()
