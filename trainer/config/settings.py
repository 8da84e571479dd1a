"""Settings of a run: defaults, and a check that reports every mistake at once. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

from trainer.config.fine_tuning import auto_rank_mistakes, parse_fine_tuning
from trainer.config.objectives import name_mistakes, parse_schedule, target_mistake
from trainer.config.partitioning import DATA_SETS, parse_partitioning, task_of
from trainer.config.privacy_budget import parse_privacy_budget
from trainer.config.stragglers import STRAGGLER_POLICIES, StragglerPolicy
from trainer.errors import UsageError

CLOUD_PORT = 7800
DEVICES = ("auto", "cpu", "cuda")
Protection = Literal["none", "link_disjoint", "duct_disjoint"]
PROTECTIONS: tuple[Protection, ...] = get_args(Protection)
STANDARDIZATIONS = ("auto", "none", "minmax", "zscore", "log", "unit-norm")
Aggregate = Literal["mean", "trimmed-mean", "median", "krum"]
AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)
ServerOptimizerName = Literal["fedavg", "fedavgm", "fedadam"]
Moments = Literal["reset", "keep"]
MOMENTS: tuple[Moments, ...] = get_args(Moments)
SERVER_LEARNING_RATES: dict[ServerOptimizerName, float] = {"fedavg": 1.0, "fedavgm": 1.0, "fedadam": 0.01}
"""The server optimizers with their default learning rates."""
KEEP_SEGMENTS = ("auto", "never")
SECURE_EDGES = (3, 1000)
"""Edges in a secure sum: of two, each would learn the other's; the shares of more do not fit into a frame."""
MAX_SEED = 2**32 - 1
FIRST_EDGE_PORT = 7801
"""Edge number i connects from this port + i, so its flow's 5-tuple is known before it connects."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """All settings of a run. Rates in bits/s, times in seconds.

    `collect`: every edge joins when it has this number of samples of its data, which grows.
    `target`: the value of the metric that ends the run at an averaging, but not before `min_rounds`. `loss`, `metric`
    None: by the data. `better`: direction of the user's own metric. `schedule`: as `parse_schedule` reads it.
    `freeze`: patterns of the names of frozen parameters, separated by commas. `lora`: RANK[:PATTERN] of the adapters.
    `keep_segments`: whether the cloud keeps segments of frozen layers, so that each sample is sent once (one of
    KEEP_SEGMENTS), in so much memory, then on disk.
    `cuts`: fixed cuts, per round and edge, instead of the planner's; the last round's repeat.
    `policy`: a user function that chooses cuts, instead of the planner.
    `weight_decay` None: by a rule from parameters and samples. `standardization`: one of STANDARDIZATIONS.
    `model` None: the task's default. `gradient_codec` None: the segments' codec, but bf16 with int8.
    `aggregate`: how the edges' models become one; `tolerate`: of how many wrong edges; `clip_updates`: longest update,
    in median lengths. `trust_samples`: edges are weighted by the samples that they say, without limit.
    `server_optimizer`: what is made of their mean; `server_learning_rate` None: by its kind. `proximal`: weight of the
    pull of every edge to the last global model. `moments`: what becomes of the edges' own at an averaging.
    `secure_aggregation`: averages are made of secure sums of the edges' layers; all edges have the same cut, and it
    never shrinks. `dp`: budget of differential privacy of the averages, as `parse_privacy_budget` reads it; `dp_clip`:
    L2 norm of an edge's update.
    `protection`: which failures every reserved flow survives by a backup path: a link, or a duct.
    `protect_labels`: the last `tail_layers` layers stay on the edges, with the labels.
    `cloud_threads`: of the cloud that compute for the edges; None: one for each CPU.
    `ray`: address of the Ray cluster whose `ray_workers` workers serve the edges, "auto", or "local": one of its own.
    `max_cut` None: all layers but the last, or but the last before the tail. With the whole model on an edge nothing
    worth a reservation would be sent, and a segment of a few bytes cannot take as long as the others' segments.
    """

    edges: tuple[str, ...] = ("edge1", "edge2", "edge3", "edge4")
    map_name: str | None = None
    data: str = "traffic-lights"
    partition: str = "iid"
    collect: int | None = None
    model: str | None = None
    freeze: str | None = None
    lora: str | None = None
    keep_segments: str = "auto"
    keep_memory_bytes: float = 1e9
    policy: str | None = None
    rounds: int = 10
    target: float | None = None
    min_rounds: int = 1
    steps: int = 4
    batch: int = 64
    micro: int = 4
    average_every: int = 5
    aggregate: Aggregate = "mean"
    tolerate: int = 1
    clip_updates: float | None = None
    server_optimizer: ServerOptimizerName = "fedavg"
    server_learning_rate: float | None = None
    proximal: float = 0.0
    moments: Moments = "reset"
    trust_samples: bool = False
    secure_aggregation: bool = False
    dp: str | None = None
    dp_clip: float = 1.0
    seed: int = 1
    codec: str = "fp32"
    gradient_codec: str | None = None
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    schedule: str = "constant"
    loss: str | None = None
    metric: str | None = None
    better: str | None = None
    weight_decay: float | None = None
    standardization: str = "auto"
    min_cut: int = 1
    max_cut: int | None = None
    protect_labels: bool = False
    tail_layers: int = 1
    cuts: tuple[tuple[int, ...], ...] = field(default=())
    quorum: int | None = None
    ask_timeout_s: float = 60.0
    step_timeout_s: float = 120.0
    rejoin_timeout_s: float = 60.0
    late: StragglerPolicy = "wait"
    late_after: float = 4.0
    device: str = "auto"
    cloud_threads: int | None = None
    ray: str | None = None
    ray_workers: int | None = None
    controller: str | None = None
    controller_retries: int = 5
    best_effort: bool = False
    protection: Protection = "none"
    share: float = 0.75
    floor_bps: float = 2e6
    lease_s: float = 60.0
    assume_bps: float = 80e6
    tensorboard: str | None = None
    mlflow: str | None = None

    @property
    def task(self) -> str:
        """The task that edges and cloud must agree on."""
        return task_of(self.data)

    @property
    def quorum_in_training(self) -> int:
        """Edges required in every round; by default all but one."""
        return self.quorum or max(1, len(self.edges) - 1)

    def check(self) -> None:
        """Validate the settings.

        Raises: UsageError that reports all mistakes together.
        """
        parse_partitioning(self.partition)
        parse_fine_tuning(self.freeze, self.lora)
        mistakes = [sentence for is_wrong, sentence in self._checks() if is_wrong]
        mistakes += name_mistakes(self.loss, self.metric, self.better)
        mistakes += auto_rank_mistakes(self.lora, {
            f"--aggregate {self.aggregate}": self.aggregate != "mean", "--clip-updates": self.clip_updates is not None,
            "--dp": self.dp is not None, "--secure-aggregation": self.secure_aggregation, "--ray": self.ray is not None,
            "--policy": self.policy is not None, "--moments keep": self.moments == "keep"})
        if self.dp is not None:
            try:
                parse_privacy_budget(self.dp, len(self.edges))
            except UsageError as error:
                mistakes.append(str(error))
        if mistakes:
            by_value = {sentence.partition(";")[0]: sentence for sentence in reversed(mistakes)}  # one for each value
            raise UsageError(" ".join(reversed(by_value.values())))
        parse_schedule(self.schedule, self.rounds, self.steps)

    def _checks(self) -> list[tuple[bool, str]]:
        edges = len(self.edges)
        metric = self.metric or ("accuracy" if self.data in DATA_SETS else "")
        target_is_wrong = target_mistake(self.target, metric)
        sizes = {"rounds": self.rounds, "steps": self.steps, "batch": self.batch, "micro": self.micro,
                 "average-every": self.average_every, "tail-layers": self.tail_layers, "min-rounds": self.min_rounds}
        numbers = {"target": 1.0 if self.target is None else self.target, "learning-rate": self.learning_rate,
                   "share": self.share,
                   "late-after": self.late_after}
        positive = {"ask-timeout": self.ask_timeout_s, "step-timeout": self.step_timeout_s,
                    "rejoin-timeout": self.rejoin_timeout_s, "floor-bps": self.floor_bps, "assume-bps": self.assume_bps,
                    "lease": self.lease_s}
        return [
            *((not math.isfinite(value), f"--{name} is {value}; it must be a finite number.")
              for name, value in (numbers | positive).items()),
            *((value <= 0, f"--{name} is {value:g}; it must be above 0.") for name, value in positive.items()),
            (not 0 <= self.seed <= MAX_SEED, f"--seed is {self.seed}; it must lie between 0 and {MAX_SEED}."),
            (self.weight_decay is not None and not 0 <= self.weight_decay < math.inf,
             f"--weight-decay is {self.weight_decay}; it must be a finite number of at least 0."),
            (self.standardization not in STANDARDIZATIONS,
             f"--standardization is {self.standardization}; it is one of {', '.join(STANDARDIZATIONS)}."),
            (self.collect is not None and self.collect < 1, f"--collect is {self.collect}; it must be at least 1."),
            (self.collect is not None and self.partition != "iid",
             f"--partition is {self.partition}; with --collect each edge takes its share of what arrives (iid)."),
            (self.keep_segments not in KEEP_SEGMENTS,
             f"--keep-segments is {self.keep_segments}; it is one of {', '.join(KEEP_SEGMENTS)}."),
            (not 0 <= self.keep_memory_bytes < math.inf,
             f"--keep-memory-bytes is {self.keep_memory_bytes}; it must be a finite number of at least 0."),
            (self.min_cut < 0, f"--min-cut is {self.min_cut}; it must be at least 0."),
            (self.max_cut is not None and self.max_cut < self.min_cut,
             f"--max-cut is {self.max_cut}; it must be at least --min-cut, which is {self.min_cut}."),
            (any(cut < 0 for row in self.cuts for cut in row), "--cuts has a negative cut; cuts count from 0."),
            (self.controller_retries < 0,
             f"--controller-retries is {self.controller_retries}; it must be at least 0."),
            (self.micro > self.batch >= 1,
             f"--micro is {self.micro}; it must be at most --batch, which is {self.batch} samples."),
            (edges == 0, "A run needs at least one edge."),
            (len(set(self.edges)) < edges, "Every edge needs a unique name."),
            *((size < 1, f"--{name} is {size}; it must be at least 1.") for name, size in sizes.items()),
            (target_is_wrong is not None, target_is_wrong or ""),
            (not 0 < self.share <= 1, f"--share is {self.share}; it must be above 0 and at most 1."),
            (self.aggregate not in AGGREGATES,
             f"--aggregate is {self.aggregate}; it is one of {', '.join(AGGREGATES)}."),
            (self.tolerate < 1, f"--tolerate is {self.tolerate}; it must be at least 1."),
            (0 < edges < self._least_edges(),
             f"--aggregate {self.aggregate} needs {self._least_edges()} edges to tolerate {self.tolerate} wrong; there "
             f"are {edges}."),
            (self.clip_updates is not None and not 0 < self.clip_updates < math.inf,
             f"--clip-updates is {self.clip_updates}; it must be a finite number above 0."),
            *self._server_checks(),
            (self.learning_rate <= 0, f"--learning-rate is {self.learning_rate}; it must be above 0."),
            (self.quorum is not None and not 1 <= self.quorum <= edges,
             f"--quorum is {self.quorum}; it must lie between 1 and the {edges} edges."),
            (any(len(row) != edges for row in self.cuts),
             f"--cuts must name {edges} cuts, one per edge, in every round."),
            (bool(self.cuts and self.policy), "--cuts and --policy both choose the cuts; give one of them."),
            (self.cloud_threads is not None and self.cloud_threads < 1,
             f"--cloud-threads is {self.cloud_threads}; it must be at least 1."),
            (self.cloud_threads is not None and self.ray is not None,
             "--cloud-threads has no effect with --ray, whose workers compute; give one of them."),
            (self.ray_workers is not None and self.ray_workers < 1,
             f"--ray-workers is {self.ray_workers}; it must be at least 1."),
            (self.ray_workers is not None and self.ray is None,
             "--ray-workers is the number of workers on Ray; give the cluster, too: --ray local, auto or IP:PORT."),
            (self.device not in DEVICES, f"--device is {self.device}; it is one of {', '.join(DEVICES)}."),
            (self.late not in STRAGGLER_POLICIES,
             f"--late is {self.late}; it is one of {', '.join(STRAGGLER_POLICIES)}."),
            (self.late_after < 1, f"--late-after is {self.late_after:g}; it must be at least 1 (planned step)."),
            (self.protection not in PROTECTIONS,
             f"--protection is {self.protection}; it is one of {', '.join(PROTECTIONS)}."),
            (self.protection != "none" and self.best_effort,
             f"--protection {self.protection} requires a reservation; --best-effort reserves nothing."),
            *self._secure_aggregation_checks(),
            (not 0 < self.dp_clip < math.inf, f"--dp-clip is {self.dp_clip}; it must be a finite number above 0."),
            (self.dp is not None and self.aggregate != "mean",
             f"--aggregate {self.aggregate} has no known sensitivity to one edge; --dp needs the mean."),
            (self.dp is not None and self.clip_updates is not None,
             "--clip-updates clips by what the other edges sent; with --dp give --dp-clip."),
            (0 < self.lease_s < 1, f"--lease is {self.lease_s:g} s; it must be at least 1."),
        ]

    def _server_checks(self) -> list[tuple[bool, str]]:
        name, rate = self.server_optimizer, self.server_learning_rate
        return [
            (name not in SERVER_LEARNING_RATES,
             f"--server-optimizer is {name}; it is one of {', '.join(SERVER_LEARNING_RATES)}."),
            (rate is not None and not 0 < rate < math.inf,
             f"--server-learning-rate is {rate}; it must be a finite number above 0."),
            (rate is not None and name == "fedavg",
             "--server-learning-rate belongs to --server-optimizer fedavgm and fedadam; fedavg takes the mean as it "
             "is."),
            (self.moments not in MOMENTS, f"--moments is {self.moments}; it is one of {', '.join(MOMENTS)}."),
            (not 0 <= self.proximal < math.inf,
             f"--proximal is {self.proximal}; it must be a finite number of at least 0."),
        ]

    def _secure_aggregation_checks(self) -> list[tuple[bool, str]]:
        if not self.secure_aggregation:
            return []
        edges, majority = len(self.edges), len(self.edges) // 2 + 1
        sums = "with --secure-aggregation the cloud sees sums only"
        return [
            (not SECURE_EDGES[0] <= edges <= SECURE_EDGES[1],
             f"--secure-aggregation needs {SECURE_EDGES[0]} to {SECURE_EDGES[1]} edges; there are {edges}."),
            (self.aggregate != "mean", f"--aggregate {self.aggregate} compares the edges' models; {sums}."),
            (self.clip_updates is not None, f"--clip-updates measures every edge's update; {sums}."),
            (self.late == "shrink", "--late shrink moves layers from an edge to the cloud; with --secure-aggregation "
             "no layer does."),
            (self.quorum_in_training < majority,
             f"--quorum is {self.quorum_in_training}; --secure-aggregation needs a majority, {majority} of {edges}."),
            (any(len(set(row)) > 1 for row in self.cuts),
             "--cuts differ between edges; with --secure-aggregation all edges have the same cut, or the cloud would "
             "learn a layer that one edge alone has."),
            (any(later < earlier for earlier, later in pairwise(row[0] for row in self.cuts if row)),
             "--cuts shrink; with --secure-aggregation no layer moves from an edge to the cloud."),
        ]

    def _least_edges(self) -> int:
        """Return how many edges the aggregation needs to tolerate that many wrong ones."""
        match self.aggregate:
            case "trimmed-mean" | "median":
                return 2 * self.tolerate + 1
            case "krum":
                return 2 * self.tolerate + 3
        return 1


def parse_cuts(text: str) -> tuple[tuple[int, ...], ...]:
    """Parse `"2,3;4,1"` into ((2, 3), (4, 1)): rounds separated by semicolons, edges by commas.

    Raises: UsageError if the text has another form.
    """
    try:
        return tuple(tuple(int(cut) for cut in row.split(",")) for row in text.split(";"))
    except ValueError:
        raise UsageError(f'--cuts is {text!r}; separate edges by commas and rounds by semicolons: "2,3;4,1".') from None
