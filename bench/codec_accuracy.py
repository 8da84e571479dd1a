"""Codecs: time to encode and decode a segment, encoded bytes, and accuracy of the trained model.

Accuracy is measured by real split training between four edges and a cloud in this process: the same data, weights
and mini-batches for every codec, cuts that move every round, every segment and gradient encoded and decoded. Times are
processor times for the segments of a trained model, beside the time that their transfer takes less than in fp32.

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
from trainer.protocol.codec import CODECS, Codec, decode, default_gradient_codec, encode, encoded_bytes

EDGES, BATCH, MICRO, STEPS, AVERAGE_EVERY = 4, 64, 4, 4, 5
TIMED_S = 0.15
ACCURACY_DROP_LIMIT = 0.5
BYTES_LIMIT: dict[Codec, float] = {"int8": 0.27, "zstd": 0.12}
RATE_BPS = 20e6
"""A fair share of the map metro's bottleneck for each of four edges."""


@dataclass(frozen=True, slots=True)
class Training:
    """Data set, number of rounds and seeds of a training."""

    data: str
    rounds: int
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Result of one training. `segments`: those of one edge in the last round, one of each shape."""

    data: str
    codec: Codec
    seed: int
    accuracy: float
    segment_bytes: int
    gradient_bytes: int
    seconds: float
    segments: list[Tensor]


QUICK = (Training("traffic-lights", 8, (1,)),)
FULL = (Training("traffic-lights", 10, (1, 2, 3)), Training("tennessee-eastman", 40, (1, 2, 3, 4, 5)))


class Edge:
    """The edge's and the cloud's part of the model of one edge, with its share of the data."""

    def __init__(self, training: Training, number: int, seed: int, codec: Codec) -> None:
        self.name, self.number, self.seed, self.codec = f"edge{number + 1}", number, seed, codec
        self.data = load_local(training.data, IID, self.name, number, EDGES, seed)
        self.segment_bytes = self.gradient_bytes = 0
        self.segments: dict[tuple[int, ...], Tensor] = {}
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
                values = self.edge.forward(self.inputs[places[samples]], stream)
                self.segments[tuple(values.shape)] = values.detach()
                segment, size = transfer(values, self.codec)
                self.segment_bytes += size
                labels = self.data.train.labels[places[samples]]
                gradients, _ = self.cloud.train(segment, labels, BATCH, stream)
                received: list[Tensor | None] = []
                for gradient in gradients:
                    assert gradient is not None
                    arrived, size = transfer(gradient, default_gradient_codec(self.codec))
                    self.gradient_bytes += size
                    received.append(arrived)
                self.edge.backward(micro, received)
            self.edge.step()
            self.cloud.step()

    def values(self) -> dict[str, Tensor]:
        """Return the weights of the whole model."""
        stage = self.cloud.stage
        return self.edge.stage.state_dict(0, self.edge.cut) | stage.state_dict(stage.first, stage.last)


def transfer(values: Tensor, codec: Codec) -> tuple[Tensor, int]:
    """Encode and decode a tensor; also return its encoded bytes."""
    encoded = encode("segment", values, codec)
    return decode("segment", encoded, tuple(values.shape)), sum(tensor.nbytes for tensor in encoded.values())


def train(training: Training, codec: Codec, seed: int) -> TrainingResult:
    """Run a split training; the accuracy is that of the final global model on all held-out samples."""
    began = time.process_time()
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
    sent, back = (sum(getattr(edge, f"{what}_bytes") for edge in edges) for what in ("segment", "gradient"))
    return TrainingResult(training.data, codec, seed, correct / total, sent, back, time.process_time() - began,
                          list(edges[0].segments.values()))


def coding_ms(codec: Codec, segment: Tensor) -> tuple[float, float]:
    """Return the processor time of encoding and of decoding a segment, medians."""
    torch.set_num_threads(1)
    shape, encoded = tuple(segment.shape), encode("segment", segment, codec)
    return (_median_ms(lambda: encode("segment", segment, codec)),
            _median_ms(lambda: decode("segment", encoded, shape)))


def _median_ms(work: Callable[[], object]) -> float:
    taken, began = list[float](), time.process_time()
    while time.process_time() - began < TIMED_S:
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return 1e3 * statistics.median(taken)


def saved_ms(codec: Codec, segment: Tensor) -> float:
    """Return the time that the transfer of a segment at RATE_BPS takes less than in fp32."""
    return 8e3 * (segment.nbytes - transfer(segment, codec)[1]) / RATE_BPS


def bytes_ratio(results: list[TrainingResult], codec: Codec, what: str) -> float:
    """Return the largest ratio, over all trainings, of the segments or gradients sent to those in fp32."""
    whole = {(result.data, result.seed): float(getattr(result, what)) for result in results if result.codec == "fp32"}
    return max(float(getattr(result, what)) / whole[result.data, result.seed]
               for result in results if result.codec == codec)


def drop_points(results: list[TrainingResult], codec: Codec) -> float:
    """Loss of accuracy against fp32 in percentage points, mean over all trainings."""
    def mean(codec_name: Codec) -> float:
        return statistics.fmean(result.accuracy for result in results if result.codec == codec_name)

    return 100 * (mean("fp32") - mean(codec))


@click.command()
@click.option("--quick", is_flag=True, help="One training per codec; about a minute.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure all codecs."""
    torch.set_num_threads(1)
    results = [train(training, codec, seed) for training in (QUICK if quick else FULL)
               for seed in training.seeds for codec in CODECS]
    shown = sorted(results[0].segments, key=Tensor.numel, reverse=True)
    times = {codec: [coding_ms(codec, segment) for segment in shown] for codec in CODECS}
    claims = {f"{codec}_accuracy_drop_points": at_most(drop_points(results, codec), "points", ACCURACY_DROP_LIMIT)
              for codec in CODECS[1:]}
    for codec, limit in BYTES_LIMIT.items():
        claims[f"{codec}_bytes_over_fp32"] = at_most(bytes_ratio(results, codec, "segment_bytes"), "", limit)
        claims[f"{codec}_gradient_bytes_over_fp32"] = Claim(bytes_ratio(results, codec, "gradient_bytes"), "")
        most = max(encoded_bytes(tuple(segment.shape), codec) / segment.nbytes for segment in shown)
        claims[f"{codec}_reserved_over_fp32"] = at_most(most, "", limit)
    claims |= {f"{codec}_coding_share_of_time_saved": Claim(max(
        sum(taken) / saved_ms(codec, segment) for taken, segment in zip(times[codec], shown, strict=True)), "")
        for codec in CODECS[1:]}
    samples = {
        "coding_ms": {codec: dict(zip((str(tuple(segment.shape)) for segment in shown), taken, strict=True))
                      for codec, taken in times.items()},
        "trainings": [{name: getattr(result, name) for name in TrainingResult.__slots__ if name != "segments"}
                      for result in results],
    }
    publish("codecs", claims, samples, [_coding(shown, times), _trainings(results)], out)


def _coding(shown: list[Tensor], times: dict[Codec, list[tuple[float, float]]]) -> Table:
    table = Table("segment", *(f"{codec}, ms" for codec in CODECS),
                  title=f"Processor time to encode + decode; (time saved at {RATE_BPS / 1e6:g} Mb/s against fp32)")
    for index, segment in enumerate(shown):
        table.add_row(" x ".join(map(str, segment.shape)), *(
            f"{times[codec][index][0]:.2f} + {times[codec][index][1]:.2f} ({saved_ms(codec, segment):.1f})"
            for codec in CODECS))
    return table


def _trainings(results: list[TrainingResult]) -> Table:
    table = Table("data", "seed", "codec", "accuracy", "segments, MB", "gradients, MB", "CPU s",
                  title="Split training, moving cuts")
    for result in results:
        table.add_row(result.data, str(result.seed), result.codec, f"{result.accuracy:.4f}",
                      f"{result.segment_bytes / 1e6:.1f}", f"{result.gradient_bytes / 1e6:.1f}",
                      f"{result.seconds:.1f}")
    return table


if __name__ == "__main__":
    main()
