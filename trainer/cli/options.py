"""The options that `paceline train` and `paceline cloud` share, and the way to `RunSettings` and back to flags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from trainer.config.partitioning import DATA_HELP, PARTITION_HELP
from trainer.config.settings import DEVICES, PROTECTIONS, RunSettings, parse_cuts
from trainer.config.stragglers import STRAGGLER_POLICIES

F = TypeVar("F", bound=Callable[..., Any])

DEFAULTS = RunSettings()

_OPTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("--rounds", "rounds", {"type": int, "help": "Rounds at most."}),
    ("--target", "target", {"type": float, "help": "Stop when the global accuracy reaches this (0..1)."}),
    ("--min-rounds", "min_rounds", {"type": int, "help": "Do not stop at the target before this round."}),
    ("--steps", "steps", {"type": int, "help": "Mini-batches per round and edge."}),
    ("--batch", "batch", {"type": int, "help": "Samples per mini-batch."}),
    ("--micro", "micro", {"type": int, "help": "Micro-batches per mini-batch: computing overlaps transfer."}),
    ("--average-every", "average_every", {"type": int, "help": "Rounds between two averagings."}),
    ("--seed", "seed", {"type": int, "help": "Weights, partition and order of the data depend on it alone."}),
    ("--data", "data", {"help": DATA_HELP}),
    ("--partition", "partition", {"help": PARTITION_HELP}),
    ("--model", "model", {"help": "A model of the zoo, or your own as package.module:function.  [default: by task]"}),
    ("--policy", "policy", {"help": "Your own function in place of the planner, as package.module:function."}),
    ("--codec", "codec", {"type": click.Choice(["fp32", "bf16", "int8", "auto"]),
                          "help": "How segments travel; fp32 is exact, int8 takes a quarter of the bytes; auto: as "
                                  "each edge's plan is shortest, while accuracy holds."}),
    ("--gradient-codec", "gradient_codec", {"type": click.Choice(["fp32", "bf16", "int8"]),
                                            "help": "How gradients travel.  [default: as segments, at least bf16]"}),
    ("--optimizer", "optimizer", {"type": click.Choice(["sgd", "momentum", "adam", "adamw"])}),
    ("--learning-rate", "learning_rate", {"type": float}),
    ("--min-cut", "min_cut", {"type": int, "help": "Fewest layers on an edge; 0 would send the raw input."}),
    ("--max-cut", "max_cut", {"type": int, "help": "Most layers on an edge.  [default: all but the last]"}),
    ("--tail-layers", "tail_layers", {"type": int,
                                      "help": "Last layers that stay on the edges with --protect-labels."}),
    ("--cuts", "cuts", {"help": 'Fixed cuts in place of planned ones: edges by comma, rounds by semicolon ("2,3;4,1"); '
                                "the last round's are kept."}),
    ("--quorum", "quorum", {"type": int,
                            "help": "Edges that are enough.  [default: all to begin, all but one to go on]"}),
    ("--ask-timeout", "ask_timeout_s", {"type": float, "help": "Seconds to wait for training requests."}),
    ("--step-timeout", "step_timeout_s", {"type": float, "help": "Seconds until a silent edge counts as lost."}),
    ("--rejoin-timeout", "rejoin_timeout_s", {"type": float,
                                              "help": "Seconds to pause for lost edges, below the quorum."}),
    ("--late", "late", {"type": click.Choice(STRAGGLER_POLICIES),
                        "help": "What a late edge meets: it is waited for, the round goes on without it, or its cut "
                                "shrinks from the next round on."}),
    ("--late-after", "late_after", {"type": float, "help": "An edge is late after so many planned steps."}),
    ("--device", "device", {"type": click.Choice(DEVICES), "help": "Where the cloud computes; auto: CUDA if present."}),
    ("--controller-retries", "controller_retries", {"type": int, "help": "Tries again at a silent controller."}),
    ("--protection", "protection", {"type": click.Choice(PROTECTIONS),
                                    "help": "What every reserved flow survives without a pause: nothing, the cut of "
                                            "any one link, or of any one duct. Spare paths take capacity, too."}),
    ("--share", "share", {"type": float, "help": "Part of the free capacity to use."}),
    ("--floor-bps", "floor_bps", {"type": float, "help": "Least rate of a flow: control frames and moving layers."}),
    ("--lease", "lease_s", {"type": float, "help": "Seconds a reservation outlives its last renewal."}),
    ("--assume-bps", "assume_bps", {"type": float, "help": "Rate to plan for where no controller tells."}),
)

_SWITCHES = {
    "--best-effort": "Reserve nothing, pace nothing: no promise is made.",
    "--protect-labels": "Labels never leave the edges: the last layers are trained there, too.",
}
_SWITCH_NAMES = [flag.removeprefix("--").replace("-", "_") for flag in _SWITCHES]


def training_options(command: F) -> F:
    """Add the shared options to a click command."""
    for flag, name, how in reversed(_OPTIONS):
        default = getattr(DEFAULTS, name)
        shown = default is not None and name != "cuts"
        command = click.option(flag, name, default=default if shown else None, show_default=shown, **how)(command)
    for flag, text in _SWITCHES.items():
        command = click.option(flag, is_flag=True, help=text)(command)
    return command


def output_options(command: F) -> F:
    """Add how much is printed."""
    command = click.option("--json", "as_json", is_flag=True, help="Print every event of the run as a line of JSON.")(
        command)
    return click.option("--quiet", is_flag=True, help="Print only how it ended.")(command)


def credential_options(command: F) -> F:
    """Add what a single node needs to be known by the others."""
    for flag, text in (
        ("--tls-ca", "Certificate of the authority that both sides trust; with --tls-cert and --tls-key, TLS 1.3."),
        ("--tls-cert", "This node's certificate; an edge's must name the edge."),
        ("--tls-key", "Its private key."),
        ("--token-file", "A secret that cloud and edges share: they prove to each other that they know it."),
    ):
        command = click.option(flag, type=click.Path(exists=True, dir_okay=False, path_type=Path), help=text)(command)
    return command


def to_settings(options: Mapping[str, Any], **fields: Any) -> RunSettings:
    """The settings from parsed options.

    Raises: UsageError with all mistakes.
    """
    values = {name: options[name] for _, name, _ in _OPTIONS}
    values["cuts"] = parse_cuts(values["cuts"]) if values["cuts"] else ()
    settings = RunSettings(**values, **{name: options[name] for name in _SWITCH_NAMES}, **fields)
    settings.check()
    return settings


def given(ctx: click.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that were written on the command line, as settings."""
    names = [*(name for _, name, _ in _OPTIONS), *_SWITCH_NAMES]
    said = {name: options[name] for name in names if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if "cuts" in said:
        said["cuts"] = parse_cuts(said["cuts"])
    return said


def to_flags(options: Mapping[str, Any]) -> list[str]:
    """The flags that repeat parsed options for another process."""
    flags = [flag for flag, name in zip(_SWITCHES, _SWITCH_NAMES, strict=True) if options.get(name)]
    for flag, name, _ in _OPTIONS:
        if options.get(name) is not None:
            flags += [flag, str(options[name])]
    return flags
