"""`paceline report` and `paceline compare`: results of finished runs."""

from __future__ import annotations

from pathlib import Path

import click

DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(epilog="Example: paceline report runs/2026-01-01T00-00-00Z")
@click.argument("run", type=DIRECTORY)
@click.option("--output", type=click.Path(file_okay=False, path_type=Path),
              help="Directory for report.html and the plots.  [default: RUN]")
def report(run: Path, output: Path | None) -> None:
    """Write an HTML report of a run, and its plots as PNG files."""
    from trainer.records.html_report import write_report
    from trainer.records.run_reader import read_run

    directory = output or run
    directory.mkdir(parents=True, exist_ok=True)
    for file in write_report(read_run(run), directory / "report.html", directory / "report"):
        click.echo(file)


@click.command(epilog="Example: paceline compare runs/reserved runs/best-effort")
@click.argument("runs", type=DIRECTORY, nargs=-1, required=True)
def compare(runs: tuple[Path, ...]) -> None:
    """Compare runs side by side."""
    from rich.console import Console
    from rich.table import Table

    from trainer.records.run_reader import key_figures, read_run

    columns = [key_figures(read_run(run)) for run in runs]
    table = Table(box=None, padding=(0, 3, 0, 0))
    table.add_column("")
    for run in runs:
        table.add_column(run.name, overflow="fold")
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add_row(name, *(column.get(name, "-") for column in columns))
    Console().print(table, highlight=False, markup=False)
