"""`paceline sweep`: many training runs as tasks of Ray, with the search and the early stopping of Ray Tune."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from topologies import running_emulation
from trainer.cli.options import to_settings, training_options
from trainer.cli.preflight import check_names
from trainer.config.sweep_file import LOCAL, Sweep, read_sweep
from trainer.errors import NetworkError, TrainingFailedError, UsageError
from trainer.processes import limits
from trainer.records.run_control import registered

PLACE = "edges", "map"
"""What a run has beside the options that `paceline cloud` has, too."""


@click.command(epilog="Example: paceline sweep sweep.yaml")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              help="Directory of the records, the table and the plot.  [default: sweeps/NAME of the file]")
@click.option("--ray", "address", default="local", show_default=True,
              help="Ray cluster: IP:PORT, auto (the one of this machine), or local (start one). Its machines share "
              "--out.")
@click.option("--parallel", type=click.IntRange(1), help="Runs at a time.  [default: that of the file, or one for each "
              "CPU of the cluster; 1 in an emulation]")
def sweep(file: Path, out: Path | None, address: str, parallel: int | None) -> None:
    """Train every combination of settings in a YAML file, and compare the results.

    Called again, it skips the runs that are finished.
    """
    described = read_sweep(file)
    running = _check(file, described)
    from trainer.cli.sweep_runs import run_sweep

    directory = (out or Path("sweeps") / file.stem).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    at_once = parallel or described.parallel or (None if running is None else 1)
    with registered(directory, "The sweep in"):
        failed = run_sweep(described, directory, address, at_once, running, click.echo)
    if failed:
        raise TrainingFailedError(f"{failed} of {described.runs} runs have failed; the column sentence of "
                           f"{directory / 'results.csv'} says why. The same command runs them again.")


def _check(file: Path, described: Sweep) -> str | None:
    """Check the settings of all runs; return the map of the emulation that runs here, if one is needed.

    Raises: UsageError, NetworkError.
    """
    running = None
    for config in described.examples():
        edges, place = config.get("edges", 4), config.get("map", LOCAL)
        if type(edges) is not int or edges < 1:
            raise UsageError(f"{file}: edges is {edges!r}; it must be a whole number of at least 1.")
        limits.check(edges)
        _check_options(file, config, edges)
        if place != LOCAL:
            if "edges" in config:
                raise UsageError(f"{file}: edges belongs to runs on loopback; on a map they are those of the map.")
            running = running or running_emulation.read()
            if running is None:
                raise NetworkError(f"{file} has runs on the map {place}, and no emulation is running. Start it: sudo "
                                   f"mininet/start.py --map {place}")
    return None if running is None else running.map_name


def _check_options(file: Path, config: Mapping[str, Any], edges: int) -> None:
    """Check the settings of a run as `paceline train` does.

    Raises: UsageError.
    """
    parser = click.Command("train", params=vars(training_options(lambda: None))["__click_params__"])
    try:
        options = parser.make_context("sweep", flags_of(config), resilient_parsing=False).params
    except click.NoSuchOption as error:
        raise UsageError(f"{file}: {error.option_name.removeprefix('--').replace('-', '_')} is no setting of paceline "
                         "train, nor edges or map.") from error
    except click.ClickException as error:
        raise UsageError(f"{file}: {error.format_message()}") from error
    try:
        check_names(to_settings(options, edges=tuple(f"edge{number}" for number in range(1, edges + 1))))
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error


def flags_of(config: Mapping[str, Any]) -> list[str]:
    """Return the options of a run for its settings."""
    flags = []
    for name, value in config.items():
        if name in PLACE or value is None or value is False:
            continue
        flag = f"--{name.replace('_', '-')}"
        flags += [flag] if value is True else [flag, str(value)]
    return flags
