"""A tenant's reservations while strangers, or a hostile switch, do what the limits of the controller are against.

Six switches of real Open vSwitch in a row, a controller process, one client over a keep-alive connection. Each form of
attack runs in a process of its own from another loopback address, against the default limits, between two quiet blocks:
the claim is the 99th percentile under attack over that of the quiet blocks around it, in one run. Every form stays far
below what the machine or Open vSwitch could not stand; none reaches anything but this controller.

    .venv/bin/python bench/under_attack.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import httpx
from rich.table import Table

from harness import report
from control_plane.http_client import KeepAliveClient
from control_plane.raw_switch import FLOW, RawSwitch, flow_stats, multipart_part, port_status
from control_plane.switch_row import controller_of, reservation_body, row_of_switches
from machine.quantile import quantile

STRANGER = "127.0.0.2"
SETTLE_S = 1.0
REST_CONNECTIONS = 1100
RENEWAL_S = 0.02
"""Between new connections when all are open: the controller closes the oldest ones."""
PACE_S = 0.002
"""Between the steps of an attack: it takes no more than a share of one core, which the controller needs."""

Attack = Callable[[int, int], None]
"""Attacks a REST port and an OpenFlow port until its process is ended."""


def connected(port: int, sent: bytes = b"") -> socket.socket:
    """A connection from the stranger's address."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(STRANGER, 0))
    connection.sendall(sent)
    return connection


def held_open(port: int, count: int, sent: bytes) -> None:
    """Keep opening connections that send this and nothing more; the oldest ones are closed on either side."""
    kept: list[socket.socket] = []
    while True:
        with contextlib.suppress(OSError):
            kept.append(connected(port, sent))
        if len(kept) > count:
            kept.pop(0).close()
            time.sleep(RENEWAL_S)
        time.sleep(PACE_S)


def idle_connections(rest: int, _openflow: int) -> None:
    """More idle connections than an address may have."""
    held_open(rest, REST_CONNECTIONS, b"")


def silent_switches(_rest: int, openflow: int) -> None:
    """Connections of switches that say nothing."""
    held_open(openflow, REST_CONNECTIONS, b"")


def bodies_to_open_paths(rest: int, _openflow: int) -> None:
    """Announced bodies that never come, to a path that needs no token."""
    held_open(rest, 512, b"POST /v1/healthz HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000\r\n\r\n")


def bodies_of_quotes(rest: int, _openflow: int) -> None:
    """Announced bodies that never come, to quotes."""
    held_open(rest, 512, b"POST /v1/quotes HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000\r\n\r\n{")


def endless_header(rest: int, _openflow: int) -> None:
    """Headers without end."""
    while True:
        with contextlib.suppress(OSError), connected(rest, b"GET / HTTP/1.1\r\nx: ") as connection:
            for _ in range(64):
                connection.sendall(b"x" * 4096)
                time.sleep(PACE_S)
        time.sleep(PACE_S)


def event_streams(rest: int, _openflow: int) -> None:
    """As many event streams as an address gets."""
    held_open(rest, 64, b"GET /v1/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")


def unknown_switch(openflow: int, sent: bytes) -> None:
    """Connect as a switch that is not on the map, again and again, and send this for as long as it may."""
    while True:
        switch = RawSwitch(("127.0.0.1", openflow), 0xBAD, (1, 2), STRANGER)
        switch.start()
        with contextlib.suppress(OSError):
            while switch.is_established.wait(1) and not switch.has_ended.is_set():
                switch.socket.sendall(sent)
                time.sleep(PACE_S)
        switch.close()
        time.sleep(10 * PACE_S)


def endless_reply(_rest: int, openflow: int) -> None:
    """Parts of a multipart reply that never ends."""
    unknown_switch(openflow, multipart_part(7, FLOW, flow_stats(7) * 1000, more=True))


def port_statuses(_rest: int, openflow: int) -> None:
    """The status of ever new ports."""
    unknown_switch(openflow, b"".join(port_status(number) for number in range(1000, 1050)))


def malformed_messages(_rest: int, openflow: int) -> None:
    """Port-status messages that are too short."""
    unknown_switch(openflow, b"\x04\x0c\x00\x09\0\0\0\1\2" * 50)


def impostor(_rest: int, openflow: int) -> None:
    """Connections that claim to be a switch that is connected."""
    while True:
        with contextlib.suppress(OSError):
            switch = RawSwitch(("127.0.0.1", openflow), 1, (1, 2), STRANGER)
            switch.answer()
            switch.close()
        time.sleep(10 * PACE_S)


ATTACKS: tuple[Attack, ...] = (
    idle_connections, silent_switches, bodies_to_open_paths, bodies_of_quotes, endless_header, event_streams,
    endless_reply, port_statuses, malformed_messages, impostor,
)  # fmt: skip


@contextlib.contextmanager
def under(attack: Attack, rest: int, openflow: int) -> Iterator[None]:
    """Run an attack in a process of its own, at a lower priority than the controller's."""

    def run() -> None:
        os.nice(10)
        attack(rest, openflow)

    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    process.start()
    time.sleep(SETTLE_S)
    try:
        yield
    finally:
        process.kill()
        process.join()
        time.sleep(SETTLE_S)


def reservation_ms(api: httpx.Client, count: int, first: int) -> list[float]:
    """Make and release `count` reservations one after the other; the milliseconds of each."""
    took_ms = []
    client = KeepAliveClient(api.base_url.port or 0)
    for number in range(first, first + count):
        began_s = time.perf_counter()
        client.post("/v1/reservations", reservation_body(range(number, number + 1)))
        took_ms.append((time.perf_counter() - began_s) * 1e3)
    client.close()
    for reservation in api.get("/v1/reservations?state=active").json()["reservations"]:
        api.delete(f"/v1/reservations/{reservation['id']}").raise_for_status()
    return took_ms


@click.command()
@click.option("--quick", is_flag=True, help="Fewer reservations; about a minute.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure a tenant's reservations under attack."""
    count = 100 if quick else 400
    quiet_ms: dict[str, list[float]] = {}
    attacked_ms: dict[str, list[float]] = {}
    with row_of_switches() as (switches, map_file), controller_of(switches, map_file) as (controller, api):
        rest, openflow = api.base_url.port or 0, controller.openflow_port
        reservation_ms(api, 20, 0)  # warm-up
        for attack in ATTACKS:
            name = attack.__name__
            quiet_ms[name] = reservation_ms(api, count // 2, 0)
            with under(attack, rest, openflow):
                attacked_ms[name] = reservation_ms(api, count, 0)
            quiet_ms[name] += reservation_ms(api, count // 2, 0)
    columns = ("form", "quiet p50 ms", "p99", "attacked p50 ms", "p99", "ratio of p99")
    table = Table(*columns, title=f"{count} reservations")
    claims = {}
    for name, attacked in attacked_ms.items():
        quiet = quiet_ms[name]
        ratio = quantile(attacked, 0.99) / quantile(quiet, 0.99)
        claims[f"{name}_p99_ratio"] = report.at_most(ratio, "", 2)
        times = (quantile(values, share) for values in (quiet, attacked) for share in (0.5, 0.99))
        table.add_row(name, *(f"{value:.1f}" for value in times), f"{ratio:.2f}")
    samples: dict[str, object] = {"quiet_ms": quiet_ms, "attacked_ms": attacked_ms}
    report.publish("under_attack", claims, samples, [table], out)


if __name__ == "__main__":
    main()
