"""`paceline ledger copy`: moves a ledger to another database, makes a backup of it or restores one."""

from __future__ import annotations

import click

from controller.errors import StartError

EXAMPLES = """\b
Examples:
  paceline ledger copy sqlite:////var/tmp/paceline.db postgresql+psycopg://paceline@db.lab/paceline
  paceline ledger copy --in-use sqlite:////var/tmp/paceline.db sqlite:////var/backups/paceline.db

Exit codes: 0 copied, 2 usage error (URL, a target that is not empty), 3 a controller uses the source."""


@click.group("ledger")
def command() -> None:
    """Copy the ledger of a controller to another database."""


@command.command(epilog=EXAMPLES)
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option(
    "--in-use", is_flag=True,
    help="Copy what FROM holds at this moment although a controller uses it: as a backup. What it changes later is not "
    "in the copy.",
)  # fmt: skip
def copy(source: str, target: str, in_use: bool) -> None:
    """Copy the ledger at URL FROM to the empty database at URL TO.

    Reservations of all maps, spans out of service, tokens, the audit log and responses to idempotent requests are
    copied. To restore a backup, copy it back.
    """
    from controller.storage.ledger_copy import copy_ledger

    try:
        counts = copy_ledger(source, target, in_use)
    except StartError as error:
        click.echo(f"Error: {error.detail}", err=True)
        raise SystemExit(error.exit_code) from error
    rows = ", ".join(f"{count} {LABELS.get(name, name)}" for name, count in counts.items())
    click.echo(f"Copied {rows}.")


LABELS = {
    "reservations": "reservations", "answers": "stored responses", "closed_spans": "spans out of service",
    "tokens": "tokens", "audit": "audit entries", "streams": "streams",
}  # fmt: skip
