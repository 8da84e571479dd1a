"""Rate of confirmed reservations with the ledger on PostgreSQL, against SQLite in the same run.

Six switches of real Open vSwitch in a row, a controller process, REST over keep-alive connections, as in
bench/reservation_setup.py. The server is Debian's PostgreSQL on the same machine, by its socket, with fsync: a
reservation is on the disk when it is confirmed. SQLite commits without waiting for the disk (docs/decisions.md).
The two are measured in turn; for either the rate with its best number of clients counts.

    sudo .venv/bin/python bench/ledger_backends.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import statistics
from pathlib import Path

import click
from rich.table import Table

from harness import report
from control_plane.http_client import KeepAliveClient
from control_plane.load_generator import completed_per_s
from control_plane.switch_row import controller_of, reservation_body, row_of_switches
from machine.postgresql_server import PostgreSQL

CLIENTS = (1, 4, 8, 16)
BACKENDS = ("sqlite", "postgresql")


def rates(api_port: int, count: int, first: int) -> dict[int, float]:
    """Reservations per second by number of clients; their UDP ports begin at 10,000 + `first`."""
    found = {}
    for turn, clients in enumerate(CLIENTS):
        numbers = range(first + turn * count, first + (turn + 1) * count)
        work = [[("/v1/reservations", reservation_body(range(number, number + 1)))] for number in numbers]
        found[clients] = completed_per_s(work, [KeepAliveClient(api_port) for _ in range(clients)])
    return found


@click.command()
@click.option("--quick", is_flag=True, help="Fewer reservations; about a minute.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure confirmed reservations on PostgreSQL against SQLite."""
    count, turns = (60, 3) if quick else (200, 5)
    measured: dict[str, list[dict[int, float]]] = {backend: [] for backend in BACKENDS}
    server = PostgreSQL()
    try:
        for turn in range(turns):
            for backend in BACKENDS:
                with row_of_switches() as (switches, map_file):
                    url = server.create(f"turn{turn}") if backend == "postgresql" else None
                    with controller_of(switches, map_file, url) as (_, api):
                        assert api.base_url.port is not None
                        rates(api.base_url.port, 10, 20_000)  # warm-up
                        measured[backend].append(rates(api.base_url.port, count, 0))
    finally:
        server.remove()
    medians = {
        backend: {clients: statistics.median(each[clients] for each in found) for clients in CLIENTS}
        for backend, found in measured.items()
    }
    best = {backend: max(by_clients.values()) for backend, by_clients in medians.items()}
    claims = {
        "sqlite_per_second": report.Claim(best["sqlite"], "1/s"),
        "postgresql_per_second": report.Claim(best["postgresql"], "1/s"),
        "rate_ratio_postgres_to_sqlite": report.at_least(best["postgresql"] / best["sqlite"], "", 0.8),
    }
    title = f"Reservations per second by number of clients; median of {turns} turns of {count}"
    table = Table("ledger", *map(str, CLIENTS), title=title)
    for backend, by_clients in medians.items():
        table.add_row(backend, *(f"{rate:.0f}" for rate in by_clients.values()))
    report.publish("ledger_backends", claims, {"per_second": measured}, [table], out)


if __name__ == "__main__":
    main()
