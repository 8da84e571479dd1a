"""Fine-tuning a sentence encoder at the edges, three ways on one network: seconds, bytes, the edges' work and memory.

MiniLM classifies descriptions of Debian packages by section. All of it on every edge, averaged (`full`: FedAvg); only
adapters, with the whole model on every edge (`lora`: FedAvg of LoRA); and `ours`: frozen layers on the edges, adapters
behind them in the cloud, segments sent once. The same samples in the same order each way. Beside them LoRA in one
place, on all data, for its accuracy; and the memory of the cloud's models for 16 edges and for one.

    sudo .venv/bin/python bench/fine_tuning.py [--local] [--quick] [--ways lora,ours] [--out FILE.json]
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from harness import report
from machine.errors import EmulationError
from topologies.map_file.loader import map_path
from trainer.config.fine_tuning import parse_fine_tuning
from trainer.data.debian_sections import load_debian_sections
from trainer.models.building import BuiltModel, build_model, random_batch
from trainer.models.frozen import copy_sharing
from trainer.models.optimizer import OptimizerConfig
from trainer.models.rng import RandomStream
from trainer.models.shared_trunk import MicroBatch, joint_layers, train_together
from trainer.models.split_model import ServerModel
from trainer.models.stage import Stage

EDGES, LAYERS, CLASSES, SEED = 4, 9, 12, 5
RANK, LEARNING_RATE = 8, 0.002
WHOLE = ",".join([str(LAYERS)] * EDGES)
WAYS = {
    "full": ("--cuts", WHOLE),
    "lora": ("--cuts", WHOLE, "--lora", str(RANK)),
    "ours": ("--freeze", "0,1,2,3", "--lora", str(RANK), "--codec", "int8", "--max-cut", "4"),
}
COST = re.compile(r"edge=(\w+) computed_s=([\d.]+) evaluated_s=([\d.]+) peak_memory_bytes=(\d+)")
MEMORY_EDGES, MEMORY_BATCH, MICRO = 16, 64, 4


@dataclass(frozen=True)
class Size:
    """How much is trained: packages of a section and tokens (None: all), `batch` samples in a step of an edge."""

    packages: int | None
    tokens: int
    batch: int
    steps: int
    rounds: int
    full_rounds: int


QUICK = Size(packages=100, tokens=16, batch=16, steps=8, rounds=6, full_rounds=2)
WHOLE_DATA = Size(packages=None, tokens=32, batch=32, steps=20, rounds=12, full_rounds=12)


@dataclass(frozen=True)
class Measured:
    """One way: accuracy, seconds since the start of the first round and bytes so far at every averaging.

    `samples`: that each edge has visited by then. `computed_s`: CPU time of the layers in training on all edges,
    `evaluated_s`: of evaluations; `peak_bytes`: memory of the edge with most.
    """

    accuracy: list[float]
    seconds: list[float]
    sent_bytes: list[int]
    samples: list[int]
    computed_s: float
    evaluated_s: float
    peak_bytes: int
    epoch: int

    def seconds_to(self, accuracy: float) -> float:
        """Return the seconds until the first averaging with that accuracy."""
        return next(second for second, value in zip(self.seconds, self.accuracy, strict=True) if value >= accuracy)

    def later_bytes(self) -> float:
        """Return the bytes of a round after the first epoch; those of the last one if none is."""
        first = next((place for place, seen in enumerate(self.samples) if seen >= self.epoch), len(self.samples) - 2)
        first = min(first, len(self.samples) - 2)
        return (self.sent_bytes[-1] - self.sent_bytes[first]) / (len(self.samples) - 1 - first)


def write_data(size: Size, path: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Write the samples to a file; return inputs and classes of both parts."""
    loaded = load_debian_sections()
    parts = []
    for part, share in ((loaded.train, 0.8), (loaded.held_out, 0.2)):
        most = len(part) if size.packages is None else int(size.packages * share)
        rows = torch.cat([torch.nonzero(part.labels == label).flatten()[:most] for label in range(CLASSES)])
        parts.append((part.inputs[rows, : size.tokens], part.labels[rows]))
    (inputs, labels), (held_out, held_out_labels) = parts
    np.savez(path, X=torch.cat([inputs, held_out]).numpy(), y=torch.cat([labels, held_out_labels]).numpy(),
             split=np.repeat(["train", "test"], [len(inputs), len(held_out)]))
    return inputs, labels, held_out, held_out_labels


def build(flags: tuple[str, ...], size: Size) -> BuiltModel:
    """Build the model that a way trains."""
    options = dict(zip(flags[::2], flags[1::2], strict=True))
    return build_model("minilm", SEED, (size.tokens,), CLASSES, (0, 30521),
                       tuning=parse_fine_tuning(options.get("--freeze"), options.get("--lora")))


def train(way: str, size: Size, data: Path, local: bool, rounds: int) -> Measured:
    """Run a training; return what it measured.

    Raises: EmulationError if it fails.
    """
    flags = WAYS[way]
    with tempfile.TemporaryDirectory() as directory:
        where = ["--local", "--edges", str(EDGES)] if local else []
        command = [sys.executable, "-m", "trainer.cli.main", "--verbose", "train", *where, "--runs-dir", directory,
                   "--data", str(data), "--model", "minilm", "--rounds", str(rounds), "--steps", str(size.steps),
                   "--batch", str(size.batch), "--average-every", "1", "--optimizer", "adamw", "--learning-rate",
                   str(LEARNING_RATE), "--seed", str(SEED), "--step-timeout", "900", *flags]
        if subprocess.run(command, check=False).returncode:
            raise EmulationError(f"the training run {way} failed")
        (run,) = Path(directory).iterdir()
        summary = json.loads((run / "summary.json").read_text())
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        costs = [COST.search((run / f"edge{number}.log").read_text()) for number in range(1, EDGES + 1)]
    return measured(summary, events, [cost for cost in costs if cost is not None], build(flags, size), size)


def measured(
    summary: dict[str, Any], events: list[dict[str, Any]], costs: list[re.Match[str]], model: BuiltModel, size: Size
) -> Measured:
    """Return the figures of a run's record and its edges' logs."""
    began = next(event["time"] for event in events if event["event"] == "plan")
    stage = Stage(model.layers, 0, LAYERS, OptimizerConfig(), model.unchanging)

    def value_bytes(last: int) -> int:
        return sum(value.nbytes for value in stage.state_dict(0, last).values())

    held_out = {event["edge"]: event for event in _held_out_events(events)}
    sent, sums = 0, []
    for row in summary["rounds"]:
        sent += sum(transfer["bytes"] for transfer in row["transfers"])
        for edge in row["edges"]:  # the averaging: the edge's layers up, the model down unless the cloud evaluates
            kept = held_out.get(edge["edge"])
            is_in_cloud = kept is not None and kept["round"] <= row["round"]
            sent += value_bytes(edge["cut"]) + (0 if is_in_cloud else value_bytes(LAYERS))
            sent += kept["bytes"] if kept is not None and kept["round"] == row["round"] else 0
        sums.append(sent)
    return Measured(
        accuracy=[row["metric"] for row in summary["rounds"]],
        seconds=[event["time"] - began for event in events if event["event"] == "round_done"],
        sent_bytes=sums,
        samples=[size.batch * size.steps * row["round"] for row in summary["rounds"]],
        computed_s=sum(float(cost[2]) for cost in costs),
        evaluated_s=sum(float(cost[3]) for cost in costs),
        peak_bytes=max(int(cost[4]) for cost in costs),
        epoch=max(edge["samples"] for edge in summary["data"]["edges"].values()),
    )


def _held_out_events(events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield edge, round and bytes of the held-out segments that the cloud received."""
    number = 0
    for event in events:
        number = event["round"] if event["event"] == "averaging" else number
        if event["event"] == "held_out_kept":
            for edge in event["edges"]:
                yield {"edge": edge, "round": number, "bytes": event["bytes"] // len(event["edges"])}


def central_accuracy(size: Size, data: tuple[Tensor, Tensor, Tensor, Tensor]) -> float:
    """Fine-tune with adapters on all data in one place, as many steps with the samples of all edges; its accuracy."""
    inputs, labels, held_out, held_out_labels = data
    model = nn.Sequential(*build(WAYS["lora"], size).layers)
    optimizer = OptimizerConfig("adamw", LEARNING_RATE).build([value for value in model.parameters()
                                                               if value.requires_grad])
    generator = torch.Generator().manual_seed(SEED)
    rows = torch.cat([torch.randperm(len(inputs), generator=generator)
                      for _ in range(-(-size.rounds * size.steps * size.batch * EDGES // len(inputs)))])
    for step in range(size.rounds * size.steps):
        chosen = rows[step * size.batch * EDGES : (step + 1) * size.batch * EDGES]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        outputs = torch.cat([model(part) for part in torch.split(held_out, 64)])
    return float((outputs.argmax(1) == held_out_labels).float().mean())


def cloud_memory_bytes(edges: int) -> int:
    """Return the largest memory of a process that trains the cloud's models of that many edges."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_train_in_cloud, (edges,))


def _train_in_cloud(edges: int) -> int:
    """Train a mini-batch of every edge behind cut 4, as the cloud does: passes with the samples of one mini-batch."""
    torch.set_num_threads(1)
    built = build(WAYS["ours"], WHOLE_DATA)
    batch = partial(random_batch, sample_shape=(WHOLE_DATA.tokens,), integers=(0, 30521))
    joint = joint_layers(built.layers, built.boundaries, built.unchanging, batch)
    with torch.no_grad():
        segment = nn.Sequential(*built.layers[:4])(batch(MEMORY_BATCH // MICRO))
    models = [ServerModel(Stage(copy_sharing(built.layers, built.unchanging), 4, LAYERS, OptimizerConfig("adamw"),
                                built.unchanging)) for _ in range(edges)]
    targets, stream = torch.zeros(MEMORY_BATCH // MICRO, dtype=torch.int64), RandomStream(1, "edge", 1, 0, 0)
    ready = [MicroBatch(model, segment, targets, MEMORY_BATCH, stream) for _ in range(MICRO) for model in models]
    for first in range(0, len(ready), MICRO):
        train_together(ready[first : first + MICRO], built.boundaries, joint)
    for model in models:
        model.step()
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


@contextlib.contextmanager
def network(local: bool) -> Iterator[None]:
    """Run the emulated metro map within the block, unless all is on this machine."""
    if local:
        yield
        return
    from emulation.network import EmulationSettings
    from emulation.session import emulate

    with emulate(EmulationSettings(map_path("metro"))):
        yield


def claims_of(
    found: dict[str, Measured], central: float | None, memory: tuple[int, int] | None
) -> dict[str, report.Claim]:
    """Compare ours with the others that were measured."""
    claims: dict[str, report.Claim] = {}
    if memory is not None:
        claims["cloud_memory_of_16_edges_over_one"] = report.at_most(memory[1] / memory[0], "", 1.5)
    if central is not None:
        claims["central_lora_accuracy"] = report.Claim(central, "")
    if "ours" not in found:
        return claims
    ours = found["ours"]
    claims["accuracy"] = report.Claim(ours.accuracy[-1], "")
    if central is not None:
        claims["points_below_central_lora"] = report.at_most(100 * (central - ours.accuracy[-1]), "points", 0.5)
    if "lora" in found:
        lora = found["lora"]
        target = min(ours.accuracy[-1], lora.accuracy[-1])
        claims |= {
            "edge_compute_over_lora_fedavg": report.at_most(ours.computed_s / lora.computed_s, "", 0.15),
            "edge_compute_with_evaluations_over_lora_fedavg": report.Claim(
                (ours.computed_s + ours.evaluated_s) / (lora.computed_s + lora.evaluated_s), ""),
            "bytes_over_lora_fedavg": report.Claim(ours.sent_bytes[-1] / lora.sent_bytes[-1], ""),
            "bytes_after_first_epoch_over_lora_fedavg": report.at_most(ours.later_bytes() / lora.later_bytes(), "",
                                                                       0.05),
            "seconds_to_accuracy_over_lora_fedavg": report.at_most(
                ours.seconds_to(target) / lora.seconds_to(target), "", 0.5),
            "edge_memory_over_lora_fedavg": report.Claim(ours.peak_bytes / lora.peak_bytes, ""),
        }
    if "full" in found:
        full = found["full"]
        claims |= {
            "round_seconds_over_full_fedavg": report.Claim(
                (ours.seconds[-1] / len(ours.seconds)) / (full.seconds[-1] / len(full.seconds)), ""),
            "round_bytes_over_full_fedavg": report.Claim(
                (ours.sent_bytes[-1] / len(ours.seconds)) / (full.sent_bytes[-1] / len(full.seconds)), ""),
            "edge_memory_over_full_fedavg": report.Claim(ours.peak_bytes / full.peak_bytes, ""),
        }
    return claims


@click.command()
@click.option("--local", is_flag=True, help="On this machine, without an emulated network; needs no root.")
@click.option("--quick", is_flag=True, help="Part of the data, few rounds; some minutes.")
@click.option("--ways", default=",".join((*WAYS, "central", "memory")), show_default=True, help="What to measure.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(local: bool, quick: bool, ways: str, out: Path | None) -> None:
    """Measure fine-tuning three ways."""
    size, chosen = QUICK if quick else WHOLE_DATA, ways.split(",")
    memory = (cloud_memory_bytes(1), cloud_memory_bytes(MEMORY_EDGES)) if "memory" in chosen else None
    found: dict[str, Measured] = {}
    try:
        with tempfile.TemporaryDirectory() as directory:
            data = Path(directory) / "sections.npz"
            arrays = write_data(size, data)
            with network(local or not set(chosen) & set(WAYS)):
                for way in filter(WAYS.__contains__, chosen):
                    found[way] = train(way, size, data, local, size.full_rounds if way == "full" else size.rounds)
    except EmulationError as error:
        raise click.ClickException(str(error)) from error
    central = central_accuracy(size, arrays) if "central" in chosen else None
    table = Table("way", "accuracy", "seconds", "bytes", "edges computed s", "evaluated s", "edge memory MB",
                  title="fine-tuning, all rounds")
    for way, one in found.items():
        table.add_row(way, f"{one.accuracy[-1]:.3f}", f"{one.seconds[-1]:.1f}", f"{one.sent_bytes[-1]:,}",
                      f"{one.computed_s:.1f}", f"{one.evaluated_s:.1f}", f"{one.peak_bytes / 1e6:.0f}")
    samples: dict[str, object] = {way: asdict(one) for way, one in found.items()}
    samples |= {"cloud_memory_bytes_of_1_and_16_edges": memory}
    report.publish("fine_tuning", claims_of(found, central, memory), samples, [table], out)


if __name__ == "__main__":
    main()
