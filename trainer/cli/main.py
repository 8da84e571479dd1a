"""`paceline …`: the trainer's commands, and those other packages add by the entry points `paceline.commands`.

Errors become one sentence on stderr and an exit code here, and only here. Nothing heavy is imported before a
command needs it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from trainer.errors import EXIT_NETWORK, EXIT_TRAINING, EXIT_USAGE, TrainerError

PLUGINS = "paceline.commands"

OWN_COMMANDS = {
    "train": ("trainer.cli.train", "train", "Train on the running emulation, or with --local right here."),
    "cloud": ("trainer.cli.train", "cloud", "Be the cloud of a training run, on any machine."),
    "edge": ("trainer.cli.train", "edge", "Be one edge of a training run, on any machine."),
    "plan": ("trainer.cli.plan", "plan", "Print every cut with its cost and time; starts nothing."),
    "report": ("trainer.cli.report", "report", "Write what a run did as an HTML page with pictures."),
    "compare": ("trainer.cli.report", "compare", "Print what runs come to, side by side."),
    "reservations": ("trainer.cli.network", "reservations", "List, show or release reservations."),
    "network": ("trainer.cli.network", "network", "Print the links with what is reserved and free."),
}
"""Name -> module, attribute and one line of help, so that listing the commands imports none of them."""


class LazyGroup(click.Group):
    """Loads a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The names of all commands, without importing any."""
        return [*OWN_COMMANDS, *sorted(entry.name for entry in importlib.metadata.entry_points(group=PLUGINS))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name."""
        if cmd_name in OWN_COMMANDS:
            module, attribute, _ = OWN_COMMANDS[cmd_name]
            return _as_command(getattr(importlib.import_module(module), attribute))
        for entry in importlib.metadata.entry_points(group=PLUGINS, name=cmd_name):
            return _as_command(entry.load())
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and one line each; a plugin's line is not known without loading it."""
        rows = []
        for name in self.list_commands(ctx):
            known = OWN_COMMANDS.get(name)
            rows.append((name, known[2] if known else f"See: paceline {name} --help"))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _as_command(thing: Any) -> click.Command:
    assert isinstance(thing, click.Command)
    return thing


@click.command(
    cls=LazyGroup,
    epilog=f"Exit codes: 0 done; {EXIT_USAGE} wrong usage; {EXIT_NETWORK} network or controller; "
    f"{EXIT_TRAINING} training failed; 130 interrupted.",
)
@click.version_option(package_name="paceline")
@click.option("--verbose", is_flag=True, help="Log to stderr.")
def paceline(verbose: bool) -> None:
    """Split training of neural networks over reserved, deterministic network flows.

    Example: paceline train --local
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.ERROR,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)


def main() -> NoReturn:
    """Run the command line and exit."""
    act(sys.argv[1:])


def act(arguments: Sequence[str]) -> NoReturn:
    """Do what these say and exit. A command finds this as its context's `obj`, to have others done."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        paceline.main(list(arguments), standalone_mode=False, obj=act)
        sys.exit(0)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USAGE)
    except TrainerError as error:
        click.echo(f"paceline: {error}", err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("paceline: interrupted.", err=True)
        sys.exit(130)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    """SIGTERM ends like Ctrl-C does, so that reservations are released."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
