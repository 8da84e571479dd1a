"""Injects faults into a running emulation: a link is cut, a switch loses its power and all its state, the controller is
killed.

From another terminal: `sudo .venv/bin/python mininet/outages.py link r1 r2 down`, `… duct NAME down`, `… switch r3
down`, `… controller down`, and `up` again.
"""

from __future__ import annotations

import click

from emulation.fault_injection import attach_to_running_emulation
from machine.errors import EmulationError
from topologies.problems import MapError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("kind", type=click.Choice(["link", "duct", "switch", "controller"]))
@click.argument("names", nargs=-1)
@click.argument("state", type=click.Choice(["up", "down"]))
def main(kind: str, names: tuple[str, ...], state: str) -> None:
    """Take a link, duct, switch or the controller of the running emulation down, or bring it up again.

    NAMES: the two ends of a link (r1 r2, or r1 r2.2 for their second), or the name of a duct or switch; none for the
    controller.

    Example: sudo .venv/bin/python mininet/outages.py link r1 r2 down
    """
    try:
        faults = attach_to_running_emulation()
        if kind == "link" and len(names) == 2:
            faults.set_link(*names, up=state == "up")
        elif kind == "duct" and len(names) == 1:
            faults.set_duct(*names, up=state == "up")
        elif kind == "switch" and len(names) == 1:
            faults.set_switch(*names, up=state == "up")
        elif kind == "controller" and not names:
            faults.set_controller(up=state == "up")
        else:
            raise click.UsageError("give `link r1 r2 down`, `duct east down`, `switch r3 down` or `controller down`")
    except (MapError, EmulationError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
