"""`paceline bounds`: delay bounds of the flows of a network file, by every method."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from topologies.option_types import FiniteRange

if TYPE_CHECKING:
    from controller.calculus.output_port_bounds import FlowBounds
    from controller.calculus.output_port_network import OutputPortNetwork


@click.command("bounds", epilog="Example: paceline bounds ring.json --json")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--write", "out", type=click.Path(dir_okay=False, path_type=Path),
              help="Also write the network into this file, every number with its unit.")  # fmt: skip
@click.option("--forests", type=click.IntRange(1, 64), default=4, show_default=True,
              help="How many ways of cutting the network the linear programmes try.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1, 16), default=2, show_default=True,
              help="How often each of them is tried, with what was proven before.")  # fmt: skip
@click.option("--limit", "limit_s", type=FiniteRange(0, min_open=True), default=60.0, show_default=True,
              metavar="SECONDS", help="Time for the linear programmes; what is proven by then counts.")  # fmt: skip
def command(file: Path, as_json: bool, out: Path | None, forests: int, rounds: int, limit_s: float) -> None:
    """Print delay bounds for all flows of FILE, an output-port network in the JSON format of Saihu.

    TFA is total-flow analysis with line shaping, LP the linear programmes of docs/guarantees.md. If the network has
    packets (packetizer), the bounds of the same network as a fluid are printed beside them.
    """
    from controller.calculus.output_port_network import NetworkFileError, network_from_json, network_to_json

    try:
        network = network_from_json(json.loads(file.read_text()))
    except NetworkFileError as error:
        raise click.ClickException("\n".join(f"{file}: {mistake}" for mistake in error.mistakes)) from error
    except (ValueError, OSError, RecursionError) as error:
        raise click.ClickException(f"{file} is no JSON document: {error}") from error
    if out is not None:
        _write(out, json.dumps(network_to_json(network), indent=1) + "\n")
    methods = bounds_by_method(network, (forests, rounds), limit_s)
    if as_json:
        click.echo(json.dumps(_document(network, methods), indent=1))
    else:
        _print_table(network, methods)


def bounds_by_method(
    network: OutputPortNetwork, effort: tuple[int, int], limit_s: float
) -> dict[str, list[float | None]]:
    """Return the bounds of all flows in us by the name of the method. `effort`: forests and rounds."""
    from controller.calculus.output_port_bounds import output_port_bounds

    bounds = output_port_bounds(network, _countdown(limit_s), *effort)
    methods = _columns(bounds, "")
    if network.packetizer:
        fluid = replace(network, packetizer=False)
        methods |= _columns(output_port_bounds(fluid, _countdown(limit_s), *effort), " fluid")
    return methods


def _columns(bounds: list[FlowBounds], suffix: str) -> dict[str, list[float | None]]:
    return {
        f"TFA{suffix}": [bound.total_flow_us for bound in bounds],
        f"LP{suffix}": [bound.linear_program_us for bound in bounds],
    }


def _countdown(limit_s: float) -> Callable[[], float]:
    end_s = time.monotonic() + limit_s
    return lambda: end_s - time.monotonic()


def _write(out: Path, text: str) -> None:
    try:
        out.write_text(text)
    except OSError as error:
        raise click.ClickException(f"{out} cannot be written: {error.strerror}") from error


def _document(network: OutputPortNetwork, methods: dict[str, list[float | None]]) -> dict[str, Any]:
    return {
        "network": network.name,
        "flows": [
            {
                "name": flow.name,
                "path": list(flow.path),
                "bounds_us": {
                    method: None if bounds[number] is None else round(bounds[number] or 0.0, 3)
                    for method, bounds in methods.items()
                },
            }
            for number, flow in enumerate(network.flows)
        ],
    }


def _print_table(network: OutputPortNetwork, methods: dict[str, list[float | None]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("flow", "path", title=f"{network.name}: delay bounds in us")
    for method in methods:
        table.add_column(method, justify="right")
    for number, flow in enumerate(network.flows):
        values = [bounds[number] for bounds in methods.values()]
        cells = ["none" if value is None else f"{value:.3f}" for value in values]
        table.add_row(flow.name, " ".join(flow.path), *cells)
    Console().print(table)
