"""Start a Mininet network from a map: `sudo .venv/bin/python mininet/start.py metro`."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from pathlib import Path

import click

from emulation.capacity_measurement import measure
from emulation.console import Prompt
from emulation.cross_traffic import Flood, bottleneck_bps, parse_percentage
from emulation.network import EmulationSettings
from emulation.session import clean, clear_the_way, describe, emulate
from machine.errors import EmulationError
from machine.forwarding_capacity import check, fitting_scale, of_this_machine
from topologies.catalogue import adapted, found_map
from topologies.commands import edges_wanted
from topologies.loader import load_map
from topologies.placement import Wishes
from topologies.problems import MapError
from topologies.published import is_plant


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("map_name", metavar="[MAP]", default="pair")
@click.option("--edges", default="4", show_default=True, metavar="N|SITE,SITE…",
              help="How many edges, or at which sites (for published networks).")  # fmt: skip
@click.option("--cloud", metavar="SITE", help="Where the cloud is; without it the most central site.")
@click.option("--scale", type=click.FloatRange(0, 1000, min_open=True), metavar="MBPS",
              help="Emulated Mb/s for each real Gb/s, instead of the map's; without it a published network gets 0.2, "
                   "or less if this machine cannot forward so much.")  # fmt: skip
@click.option("--duct", "ducts", metavar="[NAME=]A-B,C-D…", multiple=True,
              help="Spans that lie in one duct and are cut together; may be repeated.")  # fmt: skip
@click.option("--measure-capacity", is_flag=True, help="Measure how much this machine forwards; start nothing.")
@click.option("--no-prompt", is_flag=True, help="Run until Ctrl-C instead of giving a Mininet prompt.")
@click.option("--controller", type=click.Choice(["own", "remote"]), default="own", show_default=True,
              help="Start a controller, or let the switches look for yours at --openflow.")  # fmt: skip
@click.option("--openflow", metavar="HOST:PORT", default="127.0.0.1:6653", show_default=True,
              help="Where the switches find the controller.")  # fmt: skip
@click.option(
    "--rest-port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port of the REST API."
)
@click.option("--cross-traffic", metavar="PERCENT", help="UDP load between the map's load hosts, like 150%.")
@click.option("--datapath", type=click.Choice(["user", "kernel"]), default="user", show_default=True,
              help="Open vSwitch's datapath; kernel needs the openvswitch module.")  # fmt: skip
@click.option("--tls", is_flag=True, help="TLS for REST and OpenFlow, switches with certificates of a test authority.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.1, 600), default=30, show_default=True,
              metavar="SECONDS", help="How long to wait for controller and switches.")  # fmt: skip
@click.option("-c", "--clean", "only_clean", is_flag=True, help="Clean up after a crash, start nothing.")
def main(
    map_name: str, edges: str, cloud: str | None, scale: float | None, ducts: tuple[str, ...],
    measure_capacity: bool, no_prompt: bool, controller: str, openflow: str, rest_port: int, cross_traffic: str | None,
    datapath: str, tls: bool, timeout_s: float, only_clean: bool,
) -> None:  # fmt: skip
    """Bring up MAP on a private Open vSwitch, with its controller.

    MAP: pair, metro, a YAML file, or a published network: a name of topohub (sndlib/nobel-us), a GraphML, node-link
    JSON or GNPy JSON file. `paceline maps` lists them.

    Example: sudo .venv/bin/python mininet/start.py sndlib/nobel-us --edges 4 --cloud Pittsburgh
    """
    try:
        if only_clean:
            return clean(click.echo)
        if measure_capacity:
            clear_the_way(click.echo)
            room = measure(click.echo).mbps_hops(9000)
            return click.echo(f"maps with frames of 9000 bytes may ask for {room:.0f} Mb/s x switches")
        wishes = Wishes(edges_wanted(edges), cloud)
        with tempfile.TemporaryDirectory(prefix="paceline-") as maps:
            path = adapted(found_map(map_name, wishes, Path(maps)), Path(maps), scale, ducts)
            if datapath == "user":
                path = _checked(path, Path(maps), may_shrink=scale is None and is_plant(map_name))
            settings = EmulationSettings(path, datapath, _address(openflow), rest_port, timeout_s, tls)
            _run(settings, controller == "own", cross_traffic, no_prompt)
    except (MapError, EmulationError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("")


def _checked(path: Path, directory: Path, may_shrink: bool) -> Path:
    """The map's file, at a scale at which this machine forwards whatever its hosts send."""
    plan, room = load_map(str(path)), of_this_machine()
    if may_shrink:
        return adapted(path, directory, fitting_scale(plan, room))
    check(plan, room)
    return path


def _run(settings: EmulationSettings, own_controller: bool, cross_traffic: str | None, no_prompt: bool) -> None:
    share = parse_percentage(cross_traffic) if cross_traffic else None
    if share:
        bottleneck_bps(load_map(str(settings.map_path)))
    with emulate(settings, own_controller) as emulation, contextlib.ExitStack() as stack:
        describe(emulation, click.echo)
        if share:
            flood = stack.enter_context(Flood(emulation, share))
            click.echo(f"cross-traffic: {flood.rate_bps / 1e6:g} Mb/s of UDP")
        if no_prompt:
            click.echo("ready; Ctrl-C ends it", nl=True)
            while True:
                time.sleep(3600)
        Prompt(emulation).cmdloop_until_end()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise EmulationError(f"--openflow {text!r}: give HOST:PORT, like 127.0.0.1:6653")
    return host, int(port)


if __name__ == "__main__":
    main()
