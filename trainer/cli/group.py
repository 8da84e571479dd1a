"""The click group `paceline`: loads a command when it is called."""

from __future__ import annotations

import importlib
import logging
import sys

import click

from trainer.cli.overview import COMMANDS, overview, plugin_commands


class LazyGroup(click.Group):
    """A group that imports a command only to run it or to print its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of all commands."""
        return [*COMMANDS, *sorted(plugin_commands().keys() - COMMANDS.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return a command; None if there is none of that name."""
        if cmd_name in COMMANDS:
            module, attribute, _ = COMMANDS[cmd_name]
        elif (target := plugin_commands().get(cmd_name)) is not None:
            module, attribute = target
        else:
            return None
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def get_help(self, ctx: click.Context) -> str:  # noqa: ARG002
        """Return the overview."""
        return overview().rstrip("\n")


@click.command(cls=LazyGroup)
@click.version_option(package_name="paceline")
@click.option("--verbose", is_flag=True, help="Log to stderr.")
def paceline(verbose: bool) -> None:
    """Split training of neural networks over reserved, deterministic network flows."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.ERROR,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
