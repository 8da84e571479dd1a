"""Outages in a running emulation: a link goes dark, a switch loses its power and with it all that it held, the
controller is killed.

From another terminal: `sudo .venv/bin/python mininet/outages.py link r1 r2 down`, `… duct NAME down`, `… switch r3
down`, `… controller down`, and `up` again.
"""

from __future__ import annotations

import sys

import click

from emulation.fault_injection import of_running_emulation
from machine.errors import EmulationError
from topologies.problems import MapError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("kind", type=click.Choice(["link", "duct", "switch", "controller"]))
@click.argument("names", nargs=-1)
@click.argument("state", type=click.Choice(["up", "down"]))
def main(kind: str, names: tuple[str, ...], state: str) -> None:
    """Bring a link (two names), a duct or a switch (one name) or the controller of the emulation down or up."""
    try:
        outages = of_running_emulation()
        if kind == "link" and len(names) == 2:
            outages.link(*names, up=state == "up")
        elif kind == "duct" and len(names) == 1:
            outages.duct(*names, up=state == "up")
        elif kind == "switch" and len(names) == 1:
            outages.switch(*names, up=state == "up")
        elif kind == "controller" and not names:
            outages.controller(up=state == "up")
        else:
            raise EmulationError("write `link r1 r2 down`, `duct east down`, `switch r3 down` or `controller down`")
    except (MapError, EmulationError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
