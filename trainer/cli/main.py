"""Entry point of `paceline`: prints the overview or runs a command; maps errors to messages and exit codes.

Importing click takes longer than printing the overview, so it is imported only to run a command.
"""

from __future__ import annotations

import os
import sys

from trainer.cli.overview import overview
from trainer.errors import EXIT_USAGE, TrainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    run_command_line(sys.argv[1:])


def run_command_line(arguments: Sequence[str]) -> NoReturn:
    """Run a command line and exit.

    Commands find this function as `obj` of their context, to run other command lines in child processes.
    """
    if list(arguments) == ["--help"]:
        print(overview(), end="")
        sys.exit(0)

    import signal

    import click

    from trainer.cli.group import paceline

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        paceline.main(list(arguments), prog_name="paceline", standalone_mode=False, obj=run_command_line)
        sys.exit(0)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USAGE)
    except TrainerError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of the output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_BROKEN_PIPE)
    except OSError as error:
        if error.filename is None:
            raise
        click.echo(f"Error: {error.filename}: {error.strerror}.", err=True)
        sys.exit(EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(EXIT_INTERRUPTED)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    """Handle SIGTERM like Ctrl-C, so that reservations are released."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
