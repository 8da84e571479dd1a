"""`paceline token add|list|revoke`: who may use the REST interface."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from controller.errors import StartError
from controller.security.access import Quota, Scope
from controller.security.tokens import TokenStore

F = TypeVar("F", bound=Callable[..., Any])


def _where(function: F) -> F:
    function = click.option("--ledger", metavar="URL", help="The controller's ledger, if it is not the default one.")(
        function
    )
    return click.option("--map", "map_name", metavar="MAP", help="The map whose default ledger is meant.")(function)


@contextlib.contextmanager
def _tokens(map_name: str | None, ledger: str | None) -> Iterator[TokenStore]:
    from controller.runtime.environment import default_ledger, load_network

    if (map_name is None) == (ledger is None):
        raise click.UsageError("Say whose tokens: either --map MAP or --ledger URL.")
    try:
        tokens = TokenStore(ledger or default_ledger(load_network(map_name or "").name))
        try:
            yield tokens
        finally:
            tokens.close()
    except StartError as error:
        click.echo(f"Error: {error.detail}", err=True)
        raise SystemExit(error.exit_code) from error


@click.group("token", epilog="Example: paceline token add lab --map metro --scope reserve")
def command() -> None:
    """Give, list and revoke the tokens of the REST interface.

    As soon as there is a token, every request but /v1/healthz needs one.
    """


@command.command(epilog="Example: paceline token add lab --map metro --scope reserve --max-bps 100000000")
@click.argument("name")
@_where
@click.option("--tenant", help="Whose reservations it may see and change.  [default: NAME]")
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice([str(s) for s in Scope]), default=["reserve"],
    show_default=True, help="read: look; reserve: also reserve for the tenant; operate: everything of everybody.",
)  # fmt: skip
@click.option("--max-reservations", type=click.IntRange(1), help="The most live reservations of the tenant.")
@click.option("--max-bps", type=click.IntRange(1), help="The most bit/s the tenant may ask for in all.")
def add(
    name: str,
    map_name: str | None,
    ledger: str | None,
    tenant: str | None,
    scopes: tuple[str, ...],
    max_reservations: int | None,
    max_bps: int | None,
) -> None:
    """Make a token and print it, this once."""
    for word in (name, tenant or name):
        if not 1 <= len(word) <= 64:
            raise click.UsageError(f"{word!r} is no name of 1 to 64 characters.")
    with _tokens(map_name, ledger) as tokens:
        held = frozenset(Scope(scope) for scope in scopes)
        click.echo(tokens.add(name, tenant or name, held, Quota(max_reservations, max_bps)))
    click.echo("Keep it: only its digest is stored.", err=True)


@command.command("list", epilog="Example: paceline token list --map metro")
@_where
def list_tokens(map_name: str | None, ledger: str | None) -> None:
    """List all tokens, those revoked too."""
    with _tokens(map_name, ledger) as tokens:
        every = tokens.list()
    for token in every:
        caller, quota = token.caller, token.caller.quota
        limits = [f"{quota.reservations} reservations"] if quota.reservations else []
        limits += [f"{quota.bandwidth_bps / 1e6:g} Mb/s"] if quota.bandwidth_bps else []
        state = f"revoked {token.revoked_at:%Y-%m-%d %H:%M}Z" if token.revoked_at else "valid"
        click.echo(
            f"{token.name:<16} tenant {caller.tenant:<12} {','.join(sorted(caller.scopes)):<16} "
            f"{', '.join(limits) or 'no limit':<28} {state}"
        )
    if not every:
        click.echo("No tokens: the REST interface is for this machine and the management network only.")


@command.command(epilog="Example: paceline token revoke lab --map metro")
@click.argument("name")
@_where
def revoke(name: str, map_name: str | None, ledger: str | None) -> None:
    """End a token for ever; a running controller notices within a second."""
    with _tokens(map_name, ledger) as tokens:
        tokens.revoke(name)
    click.echo(f"{name} is revoked.")
