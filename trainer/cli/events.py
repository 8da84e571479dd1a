"""`paceline events`: what happens in the network, line by line."""

from __future__ import annotations

import json
import os
import sys

import click

from trainer.cli.controller_access import controller_option, json_option, open_controller

FROM_THE_BEGINNING = "0-0"


@click.command(epilog="Example: paceline events --follow")
@click.option("--follow", is_flag=True, help="Print events as they happen, until interrupted.")
@click.option("--after", metavar="ID", help="Only events after this one (0-0: all that the controller still has).")
@controller_option
@json_option
def events(follow: bool, after: str | None, url: str | None, as_json: bool) -> None:
    """Print the events that the controller still has, or with --follow those that happen from now on.

    With --json each event is one line with `id`, `event` and `data`.
    """
    start = after if follow else after or FROM_THE_BEGINNING
    try:
        with open_controller(url) as client:
            for event in client.events(start, follow):
                if event.kind == "missed" and start == FROM_THE_BEGINNING:
                    continue  # nothing was expected before the first one
                if as_json:
                    line = json.dumps({"id": event.id, "event": event.kind, "data": event.data})
                else:
                    facts = (f"{name} {value}" for name, value in event.data.items() if value is not None)
                    line = f"{event.kind:<12} {'  '.join(facts)}"
                click.echo(line)
                sys.stdout.flush()
    except BrokenPipeError:  # `paceline events --follow | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
