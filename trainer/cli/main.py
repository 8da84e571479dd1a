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

EXIT_INTERNAL = 1
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
        _print_overview()

    import signal

    import click

    from trainer.cli.group import paceline

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        paceline.main(list(arguments), prog_name="paceline", standalone_mode=False, obj=run_command_line)
        sys.stdout.flush()
        sys.exit(0)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USAGE)
    except TrainerError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        _end_without_reader()
    except OSError as error:
        if not error.strerror:
            _end_of_bug(error)
        place = "" if error.filename is None else f"{error.filename}: "
        click.echo(f"Error: {place}{error.strerror}.", err=True)
        _flush_or_discard()
        sys.exit(EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - a user gets a sentence, the traceback is in a file
        _end_of_bug(error)


def _print_overview() -> NoReturn:
    try:
        print(overview(), end="", flush=True)
    except BrokenPipeError:
        _end_without_reader()
    except OSError as error:
        print(f"Error: {error.strerror}.", file=sys.stderr)
        _flush_or_discard()
        sys.exit(EXIT_USAGE)
    sys.exit(0)


def _end_without_reader() -> NoReturn:
    """Exit after the reader of the output has ended."""
    _discard_output()
    sys.exit(EXIT_BROKEN_PIPE)


def _flush_or_discard() -> None:
    """Write the rest of the output; discard it if that fails, or Python would at its end, with a code of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        _discard_output()


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_of_bug(error: Exception) -> NoReturn:
    """Exit with a sentence; the traceback is in a file that it names."""
    import tempfile
    import traceback

    lines = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile("w", prefix="paceline-error-", suffix=".txt", delete=False) as file:
            file.write(lines)
        where = f"{file.name} says where; please report it."
    except OSError:
        where = f"Please report it:\n{lines}"
    print(f"Error: this is a bug in Paceline: {type(error).__name__}: {error}. {where}", file=sys.stderr)
    sys.exit(EXIT_INTERNAL)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    """Handle SIGTERM like Ctrl-C, so that reservations are released."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
