"""`paceline web`: the network and the runs on a page."""

from __future__ import annotations

from pathlib import Path

import click

from topologies import running_emulation
from trainer.errors import UsageError

PORT = 8090
CONTROLLER = "http://127.0.0.1:8080"


@click.command(epilog="Example: paceline web --runs runs")
@click.option(
    "--controller",
    "url",
    help="URL of the controller.  [default: that of the running emulation, or "
    f"{CONTROLLER}]  PACELINE_CA: certificate of its authority.",
)
@click.option(
    "--runs",
    default="runs",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Parent directory of run records.",
)
@click.option("--bind", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on.")
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(0, 65535), help="0: any free port.")
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the bearer token for the controller; it is never sent to a browser.  [default: PACELINE_TOKEN]",
)
def web(url: str | None, runs: Path, bind: str, port: int, token_file: Path | None) -> None:
    """Serve a page that shows the network and the runs, live, until interrupted.

    With a token, or with a --bind that other machines reach, the page opens only at the printed address, which has a
    key.
    """
    from trainer.reservation.controller_client import ApiCredentials
    from trainer.web.server import serve

    credentials = ApiCredentials.from_environment()
    if token_file is not None:
        token = token_file.read_text().strip()
        if not token.isascii() or not token.isprintable() or not token or " " in token:
            raise UsageError(f"{token_file} must hold one token, as `paceline token add` prints it.")
        credentials = ApiCredentials(token, credentials.authority)
    running = running_emulation.read()
    serve(url or (running.controller_url if running else CONTROLLER), credentials, runs, bind, port, click.echo)
