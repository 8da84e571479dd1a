"""`paceline runs`: list, show, stop and read training runs, here or at a server of `paceline web`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trainer.cli.controller_access import print_json
from trainer.errors import UsageError
from trainer.records.event_sentences import event_sentence

if TYPE_CHECKING:
    from trainer.web.run_access import RunAccess

F = TypeVar("F", bound=Callable[..., Any])
FOLLOW_S = 0.3


def _where(command: F) -> F:
    """Add --runs, --url and --json."""
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON, as REST has it.")(command)
    command = click.option("--url", help="Ask a server of `paceline web` instead.  PACELINE_WEB_KEY: its key.")(command)
    return click.option(
        "--runs",
        "directory",
        default="runs",
        show_default=True,
        help="Parent directory of the runs.",
        type=click.Path(file_okay=False, path_type=Path),
    )(command)


def _access(directory: Path, url: str | None) -> RunAccess:
    from trainer.web.run_access import LocalRuns, RemoteRuns

    return LocalRuns(directory) if url is None else RemoteRuns(url)


@click.group(epilog="Example: paceline runs list")
def runs() -> None:
    """List, show, pause, resume and stop training runs, and read their events and logs."""


@runs.command("list", epilog="Example: paceline runs list")
@_where
def list_runs(directory: Path, url: str | None, as_json: bool) -> None:
    """List the runs, newest first."""
    found = _access(directory, url).all()
    if as_json:
        print_json({"runs": found})
        return
    for run in found:
        click.echo(_line(run))
    if not found:
        click.echo(f"No runs {f'at {url}' if url else f'in {directory}'}.")


@runs.command(epilog="Example: paceline runs show 2026-01-01T00-00-00Z")
@click.argument("run")
@_where
def show(run: str, directory: Path, url: str | None, as_json: bool) -> None:
    """Show a run, and the files of its record."""
    access = _access(directory, url)
    found, files = access.show(run), access.artefacts(run)
    if as_json:
        print_json({**found, "artefacts": files})
        return
    click.echo(_line(found))
    if found["error"]:
        click.echo(f"  {found['error']}")
    if found["loss"] is not None:
        click.echo(f"  loss {found['loss']:.4f}")
    click.echo("  " + "  ".join(f"{file['name']} ({file['bytes']} bytes)" for file in files))


def _action(name: str, text: str) -> None:
    @runs.command(name, help=text, epilog=f"Example: paceline runs {name} 2026-01-01T00-00-00Z")
    @click.argument("run")
    @_where
    def command(run: str, directory: Path, url: str | None, as_json: bool) -> None:
        found = _access(directory, url).act(run, name)
        if as_json:
            print_json(found)
        else:
            click.echo(
                {"pause": f"{run} pauses after this round.", "resume": f"{run} goes on."}.get(name, f"{run} ends.")
            )


_action("pause", "Have a run wait before its next round; its reservation is kept.")
_action("resume", "Have a paused run go on.")
_action("stop", "End a run as Ctrl-C does: its reservation is released, its record completed.")


@runs.command(epilog="Example: paceline runs log 2026-01-01T00-00-00Z --follow")
@click.argument("run")
@click.option("--follow", is_flag=True, help="Go on until the run has ended.")
@click.option("--of", metavar="NODE", help="Print the log of this process instead of the events: cloud, edge1, ….")
@_where
def log(run: str, follow: bool, of: str | None, directory: Path, url: str | None, as_json: bool) -> None:
    """Print what happened in a run: its events, or with --of what one of its processes printed."""
    access = _access(directory, url)
    if of is not None:
        if follow:
            raise UsageError("--follow and --of: give one of them.")
        return click.echo(access.log(run, of), nl=False)
    for event in _events(access, run, follow):
        click.echo(json.dumps(event) if as_json else _sentence(event))
    return None


def _events(access: RunAccess, run: str, follow: bool) -> Iterator[dict[str, Any]]:
    after = 0
    while True:
        is_over = access.show(run)["status"] not in ("running", "paused")
        for event in access.events(run, after):
            after = event["number"]
            yield event
        if is_over or not follow:
            return
        time.sleep(FOLLOW_S)


def _sentence(event: dict[str, Any]) -> str:
    at = datetime.fromtimestamp(event["time"], UTC).strftime("%H:%M:%S")
    return f"{at}  {event_sentence(event)}"


def _line(run: dict[str, Any]) -> str:
    metric, promises = run["metric"], run["promises"]
    value = "-" if metric["final"] is None else f"{metric['final']:.4f}"
    kept = f"{promises['kept']}/{promises['made']} kept" if promises["made"] else "no promises"
    rounds = f"{run['rounds']}/{run['of']}" if run["of"] else str(run["rounds"])
    return (
        f"{run['id']}  {run['status']:<8} {run['map'] or 'local':<10} {run['model'] or '-':<12} "
        f"rounds {rounds:<8} {metric['name']} {value}  {kept}"
    )
