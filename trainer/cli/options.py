"""Options shared by `paceline train` and `paceline cloud`, and their conversion to `RunSettings` and to flags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from trainer.config.fine_tuning import FREEZE_HELP, LORA_HELP
from trainer.config.objectives import LOSS_HELP, METRIC_HELP
from trainer.config.partitioning import COLLECT_HELP, DATA_HELP, PARTITION_HELP
from trainer.config.settings import (
    AGGREGATES,
    DEVICES,
    KEEP_SEGMENTS,
    MOMENTS,
    PROTECTIONS,
    SERVER_LEARNING_RATES,
    STANDARDIZATIONS,
    RunSettings,
    parse_cuts,
)
from trainer.config.stragglers import STRAGGLER_POLICIES

F = TypeVar("F", bound=Callable[..., Any])

DEFAULTS = RunSettings()

_OPTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("--rounds", "rounds", {"type": int, "help": "Maximum number of rounds."}),
    ("--target", "target", {"type": float, "help": "Stop when the global model's metric reaches this value."}),
    ("--min-rounds", "min_rounds", {"type": int, "help": "First round in which the target can end the run."}),
    ("--steps", "steps", {"type": int, "help": "Mini-batches per round and edge."}),
    ("--batch", "batch", {"type": int, "help": "Samples per mini-batch."}),
    ("--micro", "micro", {"type": int, "help": "Micro-batches per mini-batch; computation overlaps with transfers."}),
    ("--average-every", "average_every", {"type": int, "help": "Rounds from one averaging to the next."}),
    (
        "--aggregate",
        "aggregate",
        {
            "type": click.Choice(AGGREGATES),
            "help": "How the edges' models become one: the mean weighted by samples, or a rule that some wrong models "
            "do not move far.",
        },
    ),
    (
        "--tolerate",
        "tolerate",
        {"type": int, "help": "Number of wrong edges that trimmed-mean and krum allow for."},
    ),
    (
        "--clip-updates",
        "clip_updates",
        {"type": float, "help": "Shorten updates longer than this many times the median one.  [default: never]"},
    ),
    (
        "--server-optimizer",
        "server_optimizer",
        {
            "type": click.Choice(list(SERVER_LEARNING_RATES)),
            "help": "What becomes of the edges' mean at an averaging: fedavg adopts it; fedavgm and fedadam take a "
            "step towards it, with momentum or by Adam.",
        },
    ),
    (
        "--server-learning-rate",
        "server_learning_rate",
        {"type": float, "help": "Learning rate of the server optimizer.  [default: fedavgm 1, fedadam 0.01]"},
    ),
    (
        "--proximal",
        "proximal",
        {"type": float, "help": "Pull every edge to the last global model with this weight (FedProx)."},
    ),
    (
        "--moments",
        "moments",
        {
            "type": click.Choice(MOMENTS),
            "help": "What becomes of the moments of the edges' optimizers at an averaging: reset, or each edge keeps "
            "its own.",
        },
    ),
    ("--dp", "dp", {"metavar": "EPSILON[,DELTA]", "help": "Differential privacy of every edge's part in all averages "
                    "of a run, by clipping and Gaussian noise; DELTA is 1e-5 if not given.  [default: none]"}),
    ("--dp-clip", "dp_clip", {"type": float, "help": "With --dp: L2 norm to which an edge's update is clipped."}),
    ("--seed", "seed", {"type": int, "help": "Seed of initial weights, partition and order of the data."}),
    ("--data", "data", {"help": DATA_HELP}),
    ("--partition", "partition", {"help": PARTITION_HELP}),
    ("--collect", "collect", {"type": int, "help": COLLECT_HELP + "  [default: all of the data is there]"}),
    ("--model", "model", {"help": "Model of the zoo, or package.module:function.  [default: by task]"}),
    ("--freeze", "freeze", {"help": FREEZE_HELP}),
    ("--lora", "lora", {"metavar": "RANK[:PATTERN]", "help": LORA_HELP}),
    ("--keep-segments", "keep_segments", {
        "type": click.Choice(KEEP_SEGMENTS),
        "help": "Whether the cloud keeps segments of frozen layers, so that an edge sends each sample once: auto where "
        "that saves time in the planner's view."}),
    ("--keep-memory-bytes", "keep_memory_bytes", {
        "type": float, "help": "Memory for kept segments, of all edges together; more are in files of the run."}),
    ("--policy", "policy", {"help": "Planning policy as package.module:function.  [default: the built-in planner]"}),
    (
        "--codec",
        "codec",
        {
            "type": click.Choice(["fp32", "bf16", "int8", "zstd", "auto"]),
            "help": "Codec of segments: fp32 is exact, bf16 halves and int8 quarters the bytes, zstd takes at most "
            "0.12 of them; auto selects per edge the codec of the shortest step while accuracy is kept.",
        },
    ),
    (
        "--gradient-codec",
        "gradient_codec",
        {
            "type": click.Choice(["fp32", "bf16", "int8", "zstd"]),
            "help": "Codec of gradients.  [default: as segments; bf16 with int8]",
        },
    ),
    ("--optimizer", "optimizer", {"type": click.Choice(["sgd", "momentum", "adam", "adamw"]), "help": "Optimizer."}),
    ("--learning-rate", "learning_rate", {"type": float, "help": "Learning rate."}),
    ("--schedule", "schedule", {"help": "Learning-rate schedule: constant, linear or cosine (to 0 over the run; "
                                "cosine:ROUNDS), step:ROUNDS:FACTOR, exponential:FACTOR (a round)."}),
    ("--loss", "loss", {"help": LOSS_HELP}),
    ("--metric", "metric", {"help": METRIC_HELP}),
    ("--better", "better", {"type": click.Choice(["higher", "lower"]),
                            "help": "Direction of your own metric.  [default: higher]"}),
    (
        "--weight-decay",
        "weight_decay",
        {"type": float, "help": "Weight decay of the optimizer.  [default: by a rule from parameters and samples]"},
    ),
    (
        "--standardization",
        "standardization",
        {
            "type": click.Choice(STANDARDIZATIONS),
            "help": "How inputs are standardized: auto (whole numbers such as token ids stay as they are if your model "
            "takes them; else zscore, with logarithms of skewed features), none, minmax, zscore, log, or unit-norm of "
            "each sample.",
        },
    ),
    (
        "--min-cut",
        "min_cut",
        {"type": int, "help": "Minimum number of layers on an edge; 0 allows sending the raw input, if the edge "
         "allows it, too."},
    ),
    (
        "--max-cut",
        "max_cut",
        {"type": int, "help": "Maximum number of layers on an edge.  [default: all but the last]"},
    ),
    (
        "--tail-layers",
        "tail_layers",
        {"type": int, "help": "With --protect-labels: number of last layers on the edges."},
    ),
    (
        "--cuts",
        "cuts",
        {
            "help": "Fixed cuts instead of planned ones: edges separated by commas, rounds by semicolons "
            '("2,3;4,1"); the last ones apply to all further rounds.'
        },
    ),
    (
        "--quorum",
        "quorum",
        {"type": int, "help": "Required number of edges.  [default: all to start, all but one to continue]"},
    ),
    ("--ask-timeout", "ask_timeout_s", {"type": float, "help": "Seconds to wait for the edges to join."}),
    (
        "--step-timeout",
        "step_timeout_s",
        {"type": float, "help": "Seconds until an edge that does not answer counts as lost."},
    ),
    (
        "--rejoin-timeout",
        "rejoin_timeout_s",
        {"type": float, "help": "Seconds to wait for lost edges below the quorum."},
    ),
    (
        "--late",
        "late",
        {
            "type": click.Choice(STRAGGLER_POLICIES),
            "help": "Policy for an edge that exceeds its deadline: wait for it, drop it from the round, or "
            "shrink its cut from the next round on.",
        },
    ),
    (
        "--late-after",
        "late_after",
        {"type": float, "help": "Deadline of a step, as a multiple of the planned step time."},
    ),
    (
        "--device",
        "device",
        {"type": click.Choice(DEVICES), "help": "Device of the cloud; auto selects CUDA if available."},
    ),
    ("--cloud-threads", "cloud_threads", {
        "type": int, "help": "Threads of the cloud that compute for several edges at once, on CPUs and for models "
        "without random layers.  [default: one for each CPU, at most one for each edge]"}),
    ("--ray", "ray", {"metavar": "ADDRESS", "help": "Serve the edges by workers on this Ray cluster: IP:PORT, auto "
                      "(the one of this machine), or local (start one).  [default: the cloud's process serves them]"}),
    ("--ray-workers", "ray_workers", {"type": int, "help": "With --ray: number of workers.  [default: one for each CPU "
                                      "of the cluster, at most one for each edge]"}),
    (
        "--tensorboard",
        "tensorboard",
        {"metavar": "DIRECTORY", "help": "Write the metrics for TensorBoard into DIRECTORY/RUN, too."},
    ),
    (
        "--mlflow",
        "mlflow",
        {"metavar": "URI", "help": "Write the metrics to this MLflow tracking server, too."},
    ),
    (
        "--controller-retries",
        "controller_retries",
        {"type": int, "help": "Retries when the controller does not answer."},
    ),
    (
        "--protection",
        "protection",
        {
            "type": click.Choice(PROTECTIONS),
            "help": "Failures that every reserved flow survives without interruption: none, any "
            "single link, or any single duct. Backup paths use capacity.",
        },
    ),
    ("--share", "share", {"type": float, "help": "Share of the free capacity to reserve (0..1)."}),
    (
        "--floor-bps",
        "floor_bps",
        {"type": float, "help": "Minimum rate of a flow in bit/s, for control frames and moved layers."},
    ),
    ("--lease", "lease_s", {"type": float, "help": "Lease of the reservation in seconds after its last renewal."}),
    ("--assume-bps", "assume_bps", {"type": float, "help": "Rate in bit/s to plan for without a controller."}),
)

_SWITCHES = {
    "--best-effort": "Train without reservations, pacing and guarantees.",
    "--protect-labels": "Keep labels on the edges; the last layers are trained there.",
    "--secure-aggregation": "Average by secure sums: the cloud never sees the layers of a single edge. All edges then "
    "have the same cut, and it never shrinks.",
    "--trust-samples": "Let an edge weigh more than all others together if it says that it has so many samples.",
}
_SWITCH_NAMES = [flag.removeprefix("--").replace("-", "_") for flag in _SWITCHES]


def training_options(command: F) -> F:
    """Add the shared options to a command."""
    for flag, name, attributes in reversed(_OPTIONS):
        default = getattr(DEFAULTS, name)
        shown = default is not None and name != "cuts"
        command = click.option(flag, name, default=default if shown else None, show_default=shown, **attributes)(
            command
        )
    for flag, text in _SWITCHES.items():
        command = click.option(flag, is_flag=True, help=text)(command)
    return command


def output_options(command: F) -> F:
    """Add --quiet and --json."""
    command = click.option("--json", "as_json", is_flag=True, help="Print every event of the run as a line of JSON.")(
        command)
    return click.option("--quiet", is_flag=True, help="Print only the result.")(command)


def credential_options(command: F) -> F:
    """Add the TLS and token files of a single node."""
    for flag, text in (
        (
            "--tls-ca",
            "Certificate of the certificate authority; with --tls-cert and --tls-key connections use TLS 1.3.",
        ),
        ("--tls-cert", "Certificate of this node; that of an edge must contain its name."),
        ("--tls-key", "Private key of this node."),
        ("--token-file", "File with a secret shared by cloud and edges, for mutual authentication."),
    ):
        command = click.option(flag, type=click.Path(exists=True, dir_okay=False, path_type=Path), help=text)(command)
    return command


def to_settings(options: Mapping[str, Any], **fields: Any) -> RunSettings:
    """Return the settings from parsed options.

    Raises: UsageError with all errors.
    """
    values = {name: options[name] for _, name, _ in _OPTIONS}
    values["cuts"] = parse_cuts(values["cuts"]) if values["cuts"] else ()
    settings = RunSettings(**values, **{name: options[name] for name in _SWITCH_NAMES}, **fields)
    settings.check()
    return settings


def explicit_options(ctx: click.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options given on the command line, as settings."""
    names = [*(name for _, name, _ in _OPTIONS), *_SWITCH_NAMES]
    explicit = {name: options[name] for name in names if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if "cuts" in explicit:
        explicit["cuts"] = parse_cuts(explicit["cuts"])
    return explicit


def to_flags(options: Mapping[str, Any]) -> list[str]:
    """Return the flags that repeat parsed options for another process."""
    flags = [flag for flag, name in zip(_SWITCHES, _SWITCH_NAMES, strict=True) if options.get(name)]
    for flag, name, _ in _OPTIONS:
        if options.get(name) is not None:
            flags += [flag, str(options[name])]
    return flags
