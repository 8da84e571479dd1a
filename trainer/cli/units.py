"""`paceline units`: the systemd units of controller, cloud and edges (docs/deploy.md)."""

from __future__ import annotations

import re
import sys
from importlib.resources import files
from pathlib import Path

import click

from trainer.errors import UsageError

PLACEHOLDER = "@PACELINE@"


@click.command(epilog="Example: paceline units --write /etc/systemd/system")
@click.option("--write", "directory", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Write the files into this directory.  [default: print them]")  # fmt: skip
@click.option("--paceline", "program", type=click.Path(path_type=Path),
              help="The program that the units start.  [default: that of this Python environment]")  # fmt: skip
def units(directory: Path | None, program: Path | None) -> None:
    """Write systemd units of controller, cloud and edges, and the files for their user and for TCP."""
    texts = unit_files(program or Path(sys.executable).with_name("paceline"))
    for name, text in texts.items():
        if directory is None:
            click.echo(f"# {name}\n{text}")
        else:
            (directory / name).write_text(text)
            click.echo(directory / name)


def unit_files(program: Path) -> dict[str, str]:
    """Return the text of every file by its name.

    Raises: UsageError if systemd could not start this program.
    """
    path = str(program)
    if not program.is_absolute() or re.search(r"[\s%$'\"\\\\]", path):
        raise UsageError(f"--paceline is {path!r}; a unit needs an absolute path without spaces, quotes, % and $.")
    shipped = sorted((each for each in (files("trainer") / "systemd").iterdir()), key=lambda each: each.name)
    return {each.name: each.read_text().replace(PLACEHOLDER, path) for each in shipped}
