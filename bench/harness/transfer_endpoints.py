"""Sender and receiver of measured transfers, run inside hosts: the trainer's own transport without training.

A sender sends one segment of a given size at each common instant; the receiver records when the kernel received its
last byte.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path

import click
import torch

from trainer.errors import ConnectionLostError
from trainer.protocol.messages import Ping, Segment
from trainer.transport import connection as transport
from trainer.transport import sockets
from trainer.transport.connection import Connection
from trainer.transport.pacing import pace_bytes_per_s

UNPACED_PACKETS = 10
"""Linux does not pace the first packets of a connection; as in training, they carry small messages."""

FOLLOW_LIMIT_S = 20.0
"""Time limit of a transfer; exceeding it is an error."""


@click.group()
def main() -> None:
    """Send or receive timed transfers."""


@main.command()
@click.option("--port", type=int, required=True)
@click.option("--senders", type=int, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def receive(port: int, senders: int, out: Path) -> None:
    """Write for each sender's port a list of [send time, milliseconds, bytes]; ends with the senders or on SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    results: dict[int, list[tuple[float, float, int]]] = {}
    listener = sockets.listen(("0.0.0.0", port))
    threads = []
    click.echo("listening")
    try:
        for _ in range(senders):
            connection = Connection(listener.accept()[0])
            thread = threading.Thread(target=_collect, args=(connection, results), daemon=True)
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
    finally:
        out.write_text(json.dumps({port: list(rows) for port, rows in results.items()}))


def _collect(connection: Connection, results: dict[int, list[tuple[float, float, int]]]) -> None:
    port = connection.peer_port
    mine = results.setdefault(port, [])
    try:
        while True:
            received = connection.receive()
            frame = received.frame
            if not isinstance(frame.message, Segment):
                continue
            mine.append((frame.sent_s, (received.arrival_s - frame.sent_s) * 1e3, frame.size_bytes))
            connection.send(Ping(number=len(mine)))
    except ConnectionLostError:
        return


@main.command()
@click.argument("address")
@click.option("--port", type=int, required=True)
@click.option("--source-port", type=int, required=True)
@click.option("--segment-bytes", type=int, required=True)
@click.option("--count", type=int, required=True)
@click.option("--start-s", type=float, required=True)
@click.option("--period-s", type=float, required=True)
@click.option("--reserved-bps", type=float, default=0.0, help="Pace for this rate; 0: unpaced.")
@click.option("--limit-s", type=float, default=3600.0, help="Give up this long after the start.")
def send(
    address: str, port: int, source_port: int, segment_bytes: int, count: int, start_s: float, period_s: float,
    reserved_bps: float, limit_s: float,
) -> None:  # fmt: skip
    """Send `count` segments, one per period; a delayed one starts as soon as the previous one has arrived.

    Prints the age in ms of the transfer in progress when the limit was reached; nothing if all have arrived.
    """
    connection = transport.connect((address, port), source_port, timeout_s=10)
    if reserved_bps:
        connection.pace(pace_bytes_per_s(reserved_bps, connection.mss_bytes))
    segment = torch.rand(segment_bytes // 4)
    for number in range(UNPACED_PACKETS):
        connection.send(Ping(number=number))
    arrived = threading.Event()
    connection.start(lambda _: arrived.set())
    for number in range(count):
        time.sleep(max(0.0, start_s + number * period_s - time.time()))
        sent = connection.send(Segment(step=number, micro=0, batch_samples=1), {"segment": segment})
        if not arrived.wait(max(0.0, start_s + limit_s - time.time())):
            click.echo((time.time() - sent.send_s) * 1e3)
            break
        arrived.clear()
    connection.close()


@main.command()
@click.argument("address")
@click.option("--port", type=int, required=True)
@click.option("--source-port", type=int, required=True)
def follow(address: str, port: int, source_port: int) -> None:
    """Send the transfers read from standard input, a JSON object a line: `start_s`, `segment_bytes`, `reserved_bps`."""
    connection = transport.connect((address, port), source_port, timeout_s=10)
    for number in range(UNPACED_PACKETS):
        connection.send(Ping(number=number))
    arrived = threading.Event()
    connection.start(lambda _: arrived.set())
    click.echo("connected")
    for number, line in enumerate(sys.stdin):
        told = json.loads(line)
        segment = torch.rand(told["segment_bytes"] // 4)
        connection.pace(pace_bytes_per_s(told["reserved_bps"], connection.mss_bytes))
        time.sleep(max(0.0, told["start_s"] - time.time()))
        arrived.clear()
        connection.send(Segment(step=number, micro=0, batch_samples=1), {"segment": segment})
        if not arrived.wait(FOLLOW_LIMIT_S):
            raise SystemExit(f"transfer {number} has not arrived after {FOLLOW_LIMIT_S:g} s")
    connection.close()


if __name__ == "__main__":
    main()
