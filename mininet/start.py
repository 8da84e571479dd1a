"""Starts the emulation of a map: `sudo .venv/bin/python mininet/start.py metro`."""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from emulation.capacity_measurement import measure_capacity
from emulation.console import MininetConsole
from emulation.cross_traffic import Flood, bottleneck_bps, parse_percentage
from emulation.network import EmulationSettings
from emulation.page_process import page
from emulation.session import clean_up, clean_up_after_crash, describe, emulate
from machine.errors import EmulationError
from machine.forwarding_capacity import check_map_fits, fitting_scale, load_capacity
from topologies.catalogue import adapt_map, resolve_map
from topologies.map_file.loader import load_map
from topologies.option_types import FiniteRange
from topologies.options import map_options, published_network_options
from topologies.plants.published import is_plant
from topologies.problems import MapError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("map_name", metavar="[MAP]", default="pair")
@published_network_options
@click.option("--duct", "ducts", metavar="[NAME=]A-B,C-D…", multiple=True,
              help="Spans that share a duct and fail together; may be repeated.")  # fmt: skip
@click.option("--measure-capacity", "measure_only", is_flag=True,
              help="Measure how much this machine can forward, store it for later starts, and exit.")  # fmt: skip
@click.option("--no-prompt", is_flag=True, help="Run until Ctrl-C instead of opening the Mininet prompt.")
@click.option("--controller", type=click.Choice(["own", "remote"]), default="own", show_default=True,
              help="own: start a controller; remote: connect the switches to yours at --openflow.")  # fmt: skip
@click.option("--openflow", "targets", metavar="HOST:PORT", multiple=True, default=["127.0.0.1:6653"],
              show_default=True,
              help="OpenFlow address of the controller; with --controller remote repeatable, for its standby.")
@click.option(
    "--rest-port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port of the REST API."
)
@click.option("--cross-traffic", metavar="PERCENT",
              help="UDP load between the map's load hosts, as a share of the bottleneck, like 150%.")  # fmt: skip
@click.option("--datapath", type=click.Choice(["user", "kernel"]), default="user", show_default=True,
              help="Datapath of Open vSwitch; kernel needs the openvswitch module.")  # fmt: skip
@click.option("--tls", is_flag=True, help="Use TLS for REST and OpenFlow, with certificates of a test authority.")
@click.option("--web", is_flag=True, help="Serve a page with the network and runs in runs/, live (`paceline web`).")
@click.option("--timeout", "timeout_s", type=FiniteRange(0.1, 600), default=30, show_default=True,
              metavar="SECONDS", help="Time limit for the start of the controller and the switches.")  # fmt: skip
@click.option("-c", "--clean", "clean_only", is_flag=True, help="Clean up after a crash, and exit.")
def main(
    map_name: str, ducts: tuple[str, ...],
    measure_only: bool, no_prompt: bool, controller: str, targets: tuple[str, ...], rest_port: int,
    cross_traffic: str | None,
    datapath: str, tls: bool, web: bool, timeout_s: float, clean_only: bool, **values: Any,
) -> None:  # fmt: skip
    """Emulate MAP on a private Open vSwitch, with its controller, and open a prompt.

    MAP: pair, metro, waves, a YAML file, or a published network: a name of topohub (sndlib/nobel-us), or a file in one
    of the formats that `paceline maps` reads.

    Example: sudo .venv/bin/python mininet/start.py sndlib/nobel-us --edges 4 --cloud Pittsburgh
    """
    try:
        if clean_only:
            return clean_up(click.echo)
        if measure_only:
            clean_up_after_crash(click.echo)
            capacity = measure_capacity(click.echo).mbps_hops(9000)
            return click.echo(f"capacity for maps with an MTU of 9000 bytes: {capacity:.0f} Mb/s x switches")
        addresses, share = tuple(map(_parse_address, targets)), _parse_share(cross_traffic)
        if controller == "own" and len(addresses) > 1:
            raise click.UsageError(f"--openflow {' and '.join(targets)}: several are for --controller remote")
        options = map_options(values)
        with tempfile.TemporaryDirectory(prefix="paceline-") as maps:
            path = adapt_map(resolve_map(map_name, options, Path(maps)), Path(maps), None, ducts)
            for note in load_map(str(path)).notes:
                click.echo(f"note: {note}", err=True)
            if datapath == "user":
                may_shrink = options.placement.scale_mbps_per_gbps is None and is_plant(map_name)
                path = _fit_to_machine(path, Path(maps), may_shrink)
            settings = EmulationSettings(path, datapath, addresses, rest_port, timeout_s, tls)
            _run(settings, controller == "own", share, no_prompt, web)
    except (MapError, EmulationError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo("")


def _fit_to_machine(path: Path, directory: Path, may_shrink: bool) -> Path:
    """The map's file, at a scale at which this machine forwards the largest load of its hosts.

    Raises: EmulationError if the scale is too large and must not shrink.
    """
    topology, capacity = load_map(str(path)), load_capacity()
    if may_shrink:
        return adapt_map(path, directory, fitting_scale(topology, capacity))
    check_map_fits(topology, capacity)
    return path


def _run(settings: EmulationSettings, own_controller: bool, share: float | None, no_prompt: bool, web: bool) -> None:
    if share:
        bottleneck_bps(load_map(str(settings.map_path)))  # raises if the map defines no cross-traffic
    with emulate(settings, own_controller) as emulation, contextlib.ExitStack() as stack:
        describe(emulation, click.echo)
        if web:
            click.echo(f"page: {stack.enter_context(page(emulation, Path('runs')))}")
        if share:
            flood = stack.enter_context(Flood(emulation, share))
            click.echo(f"cross-traffic: {flood.rate_bps / 1e6:g} Mb/s of UDP")
        if no_prompt:
            click.echo("ready; press Ctrl-C to end")
            while True:
                time.sleep(3600)
        click.echo("type `help` for the commands, `exit` to end")
        MininetConsole(emulation).cmdloop_until_end()


def _parse_share(percentage: str | None) -> float | None:
    try:
        return parse_percentage(percentage) if percentage else None
    except EmulationError as error:
        raise click.UsageError(str(error)) from error


def _parse_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise click.UsageError(f"--openflow {text!r}: give HOST:PORT, like 127.0.0.1:6653")
    return host, int(port)


if __name__ == "__main__":
    main()
