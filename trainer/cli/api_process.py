"""The process of a run that `trainer.train` starts: `paceline train` with its error as a line of JSON.

    python -m trainer.cli.api_process PARENT FLAGS...
"""

from __future__ import annotations

import json
import signal
import sys

import click

from trainer.cli.main import EXIT_INTERRUPTED, run_command_line
from trainer.cli.train import train
from trainer.errors import EXIT_USAGE, TrainerError, UsageError
from trainer.processes.fork import terminate_with


def main() -> None:
    """Run the command line of this process and exit."""
    terminate_with(int(sys.argv[1]))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        train.main(sys.argv[2:], prog_name="train", standalone_mode=False, obj=run_command_line)
    except click.ClickException as error:
        _fail(UsageError.code, error.format_message(), EXIT_USAGE)
    except TrainerError as error:
        _fail(error.code, str(error), error.exit_code)
    except OSError as error:
        if not error.strerror:
            raise
        place = "" if error.filename is None else f"{error.filename}: "
        _fail(UsageError.code, f"{place}{error.strerror}.", EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(EXIT_INTERRUPTED)


def _fail(code: str, sentence: str, exit_code: int) -> None:
    print(json.dumps({"event": "error", "code": code, "sentence": sentence}), flush=True)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
