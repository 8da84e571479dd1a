"""`paceline token add|list|revoke`: bearer tokens of the REST API."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click
from sqlalchemy.exc import SQLAlchemyError

from controller.domain.names import LONGEST_NAME, NAME_PATTERN, NAME_RULE
from controller.errors import StartError
from controller.security.access import Quota, Scope
from controller.security.tokens import TokenStore
from controller.storage.database import without_passwords

MAX_RESERVATIONS = 10**9
MAX_BPS = 10**15
"""The largest quotas; every database has columns for them."""

F = TypeVar("F", bound=Callable[..., Any])


def _ledger_options(function: F) -> F:
    function = click.option("--ledger", metavar="URL", help="Ledger of the controller, if not the default of a map.")(
        function
    )
    text = "Use the ledger of this map's controller: of a running emulation, else the default one."
    return click.option("--map", "map_name", metavar="MAP", help=text)(function)


@contextlib.contextmanager
def _open_tokens(map_name: str | None, ledger: str | None) -> Iterator[TokenStore]:
    from controller.runtime.environment import ledger_in_use, load_network

    if (map_name is None) == (ledger is None):
        raise click.UsageError("Give either --map MAP or --ledger URL.")
    try:
        tokens = TokenStore(ledger or ledger_in_use(load_network(map_name or "").name))
        try:
            yield tokens
        finally:
            tokens.close()
    except StartError as error:
        click.echo(f"Error: {error.detail}", err=True)
        raise SystemExit(error.exit_code) from error
    except SQLAlchemyError as error:
        reason = without_passwords(str(error).splitlines()[0])
        click.echo(f"Error: The ledger cannot be read or written now: {reason}. Try again.", err=True)
        raise SystemExit(3) from error


@click.group("token", epilog="Example: paceline token add lab --map metro --scope reserve")
def command() -> None:
    """Add, list and revoke bearer tokens of the REST API.

    Once a token exists, every request except GET /v1/healthz needs one.
    """


@command.command(epilog="Example: paceline token add lab --map metro --scope reserve --max-bps 100000000")
@click.argument("name")
@_ledger_options
@click.option("--tenant", help="Tenant whose reservations the token may see and change.  [default: NAME]")
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice([str(s) for s in Scope]), default=["reserve"],
    show_default=True, help="read: read only; reserve: also reserve for the tenant; operate: all rights, all tenants.",
)  # fmt: skip
@click.option("--max-reservations", type=click.IntRange(1, MAX_RESERVATIONS),
              help="Quota of live reservations of the tenant.")
@click.option(
    "--max-bps", type=click.IntRange(1, MAX_BPS), help="Quota of the total requested bandwidth of the tenant, in bit/s."
)
def add(
    name: str,
    map_name: str | None,
    ledger: str | None,
    tenant: str | None,
    scopes: tuple[str, ...],
    max_reservations: int | None,
    max_bps: int | None,
) -> None:
    """Create a token and print it; it cannot be printed again."""
    for label in (name, tenant or name):
        if not 1 <= len(label) <= LONGEST_NAME:
            raise click.UsageError(f"The name {label!r} must have 1 to {LONGEST_NAME} characters.")
        if re.fullmatch(NAME_PATTERN, label) is None:
            raise click.UsageError(f"The name {label!r} is not possible: {NAME_RULE}.")
    with _open_tokens(map_name, ledger) as tokens:
        granted = frozenset(Scope(scope) for scope in scopes)
        click.echo(tokens.add(name, tenant or name, granted, Quota(max_reservations, max_bps)))
    click.echo("Store it now: only its digest is kept.", err=True)


@command.command("list", epilog="Example: paceline token list --map metro")
@_ledger_options
def list_tokens(map_name: str | None, ledger: str | None) -> None:
    """List all tokens, including revoked ones."""
    with _open_tokens(map_name, ledger) as tokens:
        listed = tokens.list()
    for token in listed:
        caller, quota = token.caller, token.caller.quota
        limits = [f"{quota.reservations} reservations"] if quota.reservations else []
        limits += [f"{quota.bandwidth_bps / 1e6:g} Mb/s"] if quota.bandwidth_bps else []
        state = f"revoked {token.revoked_at:%Y-%m-%d %H:%M}Z" if token.revoked_at else "valid"
        click.echo(
            f"{token.name:<16} tenant {caller.tenant:<12} {','.join(sorted(caller.scopes)):<16} "
            f"{', '.join(limits) or 'no limit':<28} {state}"
        )
    if not listed:
        click.echo("No tokens configured: the REST API is open to this machine and the management network only.")


@command.command(short_help="Revoke a token permanently, within a second.",
                 epilog="Example: paceline token revoke lab --map metro")
@click.argument("name")
@_ledger_options
def revoke(name: str, map_name: str | None, ledger: str | None) -> None:
    """Revoke a token permanently; a running controller applies it within a second."""
    with _open_tokens(map_name, ledger) as tokens:
        tokens.revoke(name)
    click.echo(f"Revoked token {name}.")
