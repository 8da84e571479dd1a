"""A tenant's reservations while strangers, or a hostile switch, do what the limits of the controller are against.

Six switches of real Open vSwitch in a row, a controller process, one client over a keep-alive connection. Each form of
attack runs in a process of its own from another loopback address, against the default limits. Quiet and attacked blocks
follow each other; the claim is the 99th percentile of all attacked ones over that of all quiet ones, in one run. Every
form stays far below what the machine or Open vSwitch could not stand; none reaches anything but this controller.

A stranger has a machine of its own, here it shares the cores: its process only gets what no other one wants
(SCHED_IDLE). `controller's share`: CPU time that the controller spends on the attack alone, of one core. `steps/s`: of
the attack, so that one that was starved shows.

    .venv/bin/python bench/under_attack.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean

import click
import httpx
from rich.table import Table

from harness import report
from control_plane.http_client import KeepAliveClient
from control_plane.raw_switch import FLOW, RawSwitch, flow_stats, multipart_part, port_status
from control_plane.switch_row import controller_of, reservation_body, row_of_switches
from emulation.controller_process import ControllerProcess
from machine.quantile import quantile

STRANGER = "127.0.0.2"
SETTLE_S = 1.0
REST_CONNECTIONS = 1100
RENEWAL_S = 0.02
"""Between new connections when all are open: the controller closes the oldest ones."""
PACE_S = 0.002
"""Between the steps of an attack."""
BLOCKS = 4
"""Quiet and attacked blocks of each form."""
FORK = multiprocessing.get_context("fork")
STEPS = FORK.Value("Q", 0, lock=False)
"""Steps of the present attack."""

Attack = Callable[[int, int], None]
"""Attacks a REST port and an OpenFlow port until its process is ended."""


def pace(steps: int = 1) -> None:
    """Pause after so many steps of an attack."""
    STEPS.value += steps
    time.sleep(steps * PACE_S)


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
        pace()


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
                pace()
        pace()


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
                pace()
        switch.close()
        pace(10)


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
        pace(10)


ATTACKS: tuple[Attack, ...] = (
    idle_connections, silent_switches, bodies_to_open_paths, bodies_of_quotes, endless_header, event_streams,
    endless_reply, port_statuses, malformed_messages, impostor,
)  # fmt: skip


@dataclass
class Form:
    """What was measured of one form of attack; `shares`: CPU time of the controller per second, one for each block."""

    quiet_ms: list[float] = field(default_factory=list)
    attacked_ms: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    steps_per_s: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The 99th percentile under attack over the quiet one."""
        return quantile(self.attacked_ms, 0.99) / quantile(self.quiet_ms, 0.99)


@contextlib.contextmanager
def under(attack: Attack, controller: ControllerProcess, rest: int, form: Form) -> Iterator[None]:
    """Run an attack in a process of its own; measure what it costs the controller while there is nothing else."""

    def run() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        attack(rest, controller.openflow_port)

    STEPS.value = 0
    process = FORK.Process(target=run, daemon=True)
    process.start()
    began_s, began_cpu_s = time.monotonic(), cpu_s(controller.process.pid)
    time.sleep(SETTLE_S)
    form.shares.append((cpu_s(controller.process.pid) - began_cpu_s) / (time.monotonic() - began_s))
    try:
        yield
    finally:
        form.steps_per_s.append(STEPS.value / (time.monotonic() - began_s))
        process.kill()
        process.join()
        time.sleep(SETTLE_S)


def cpu_s(pid: int) -> float:
    """CPU time of a process since its start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
@click.option("--quick", is_flag=True, help="Fewer reservations; about three minutes.")
@click.option(
    "--form", "names", type=click.Choice([attack.__name__ for attack in ATTACKS]), multiple=True,
    help="Only this form; repeatable.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, names: tuple[str, ...], out: Path | None) -> None:
    """Measure a tenant's reservations under attack."""
    count = 100 if quick else 400
    forms = {attack: Form() for attack in ATTACKS if not names or attack.__name__ in names}
    with row_of_switches() as (switches, map_file), controller_of(switches, map_file) as (controller, api):
        rest = api.base_url.port or 0
        reservation_ms(api, 20, 0)  # warm-up
        for attack, form in forms.items():
            for _ in range(BLOCKS):
                form.quiet_ms += reservation_ms(api, count // BLOCKS, 0)
                with under(attack, controller, rest, form):
                    form.attacked_ms += reservation_ms(api, count // BLOCKS, 0)
    columns = (
        "form", "quiet p50 ms", "p99", "attacked p50 ms", "p99", "ratio of p99", "controller's share", "steps/s",
    )  # fmt: skip
    table = Table(*columns, title=f"{count} reservations of each kind")
    claims = {}
    for attack, form in forms.items():
        name = attack.__name__
        claims[f"{name}_p99_ratio"] = report.at_most(form.ratio, "", 2)
        claims[f"{name}_share"] = report.Claim(fmean(form.shares), "")
        times = (quantile(values, share) for values in (form.quiet_ms, form.attacked_ms) for share in (0.5, 0.99))
        others = f"{form.ratio:.2f}", f"{fmean(form.shares):.2f}", f"{fmean(form.steps_per_s):.0f}"
        table.add_row(name, *(f"{value:.1f}" for value in times), *others)
    samples: dict[str, object] = {attack.__name__: asdict(form) for attack, form in forms.items()}
    report.publish("under_attack", claims, samples, [table], out)


if __name__ == "__main__":
    main()
