"""Takeover by a standby while reservations are made: how long it takes, and whether anything is lost or granted twice.

Six switches of real Open vSwitch in a row, connected to two controllers with one ledger on PostgreSQL (Debian's, same
machine). 1,000 live reservations (200 with --quick), and a client that makes one after the other through both
controllers. In turn the active controller is killed (kill -9) and frozen (SIGSTOP); afterwards it is started again as
the next standby.

`takeover_s`: from the signal to the first change that the other controller accepts. `client_gap_s`: between two
reservations of the client, which leaves a frozen controller after 3 s. `double_grants`: keys or 5-tuples with more than
one live reservation. `lost`: reservations that were confirmed and are not there, or not as they were at the switches.

    sudo .venv/bin/python bench/takeover.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import httpx
from rich.table import Table

from harness import report
from control_plane.dummy_switches import DummySwitches, free_port
from control_plane.switch_row import flow_body, row_of_switches, switches_in_sync
from emulation.controller_process import ControllerProcess
from machine.polling import wait_until
from machine.postgresql_server import PostgreSQL
from machine.quantile import quantile
from trainer.reservation.failover_transport import FailoverTransport
from trainer.reservation.http_transport import TransportErrors

RATE_BPS = 40_000
QUEUE_BYTES = 500_000_000
FIRST_PROBE = 40_000
SIGNALS = (signal.SIGKILL, signal.SIGSTOP)


class Client(threading.Thread):
    """Makes small reservations one after the other, with idempotency keys, until `stopping` is set."""

    def __init__(self, urls: list[str], first: int) -> None:
        super().__init__(daemon=True)
        self.stopping = threading.Event()
        self.promised: dict[int, str] = {}
        self.answered_s: list[float] = []
        self._transport = FailoverTransport(urls, {}, lambda _: None)
        self._next = first

    def run(self) -> None:
        """Make reservations; one that got no answer is asked for again with its key."""
        while not self.stopping.is_set():
            key, body = str(uuid.uuid4()), {"flows": [flow_body(self._next, RATE_BPS)], "lease_s": 86_400}
            while not self.stopping.is_set():
                try:
                    response = self._transport.request(
                        "POST", "/v1/reservations", body, headers={"Idempotency-Key": key}
                    )
                except TransportErrors:
                    continue
                if response.status == 201:
                    content: Any = response.json_object()
                    self.promised[self._next] = content["id"]
                    self.answered_s.append(time.monotonic())
                    break
                time.sleep(0.02)
            self._next += 1
            time.sleep(0.01)


@contextmanager
def two_controllers(switches: DummySwitches, map_file: Path, ledger: str) -> Iterator[list[ControllerProcess]]:
    """An active controller, and its standby; the switches are connected to both."""
    pair = []
    try:
        for name in ("one", "two"):
            log = map_file.parent / f"{name}.log"
            addresses = ("127.0.0.1", free_port()), [("127.0.0.1", free_port())]
            controller = ControllerProcess(map_file, *addresses, ledger, log, options=["--standby"])
            pair.append(controller)
            wait_until(lambda: status(pair[-1]) is not None, 60)
        targets = [f"tcp:127.0.0.1:{controller.openflow_port}" for controller in pair]
        for node in switches.plan.switches:
            switches.vsctl("set-controller", node.name, *targets)
        with httpx.Client(base_url=pair[0].url) as api:
            wait_until(lambda: switches_in_sync(api), 60)
        wait_for_roles(switches)
        yield pair
    finally:
        for controller in pair:
            controller.stop()


def wait_for_roles(switches: DummySwitches) -> None:
    """Wait until every switch has a master and a slave: one that has lost a controller tries again after seconds."""

    def roles() -> list[str]:
        return sorted(switches.vsctl("--bare", "--columns=role", "list", "controller").split())

    count = len(switches.plan.switches)
    wait_until(lambda: roles() == ["master"] * count + ["slave"] * count, 60)


def status(controller: ControllerProcess) -> str | None:
    """What a controller says of its health; None: nothing."""
    try:
        return str(httpx.get(f"{controller.url}/v1/healthz", timeout=1).json()["status"])
    except httpx.TransportError:
        return None


def takeover_s(pair: list[ControllerProcess], number: signal.Signals, probe: int) -> float:
    """Send a signal to the active controller; the time until the other one accepts a reservation."""
    active, standby = pair
    body = {"flows": [flow_body(probe, RATE_BPS)], "lease_s": 86_400}
    with httpx.Client(base_url=standby.url, timeout=5) as api:
        began_s = time.monotonic()
        active.process.send_signal(number)
        while api.post("/v1/reservations", json=body).status_code != 201:
            time.sleep(0.01)
        return time.monotonic() - began_s


def restart_as_standby(controller: ControllerProcess) -> None:
    """Wait for the end of a deposed controller, and start it again."""
    controller.process.send_signal(signal.SIGCONT)
    controller.process.wait(60)
    controller.start()
    wait_until(lambda: status(controller) == "standby", 60)


def faults(api: httpx.Client, promised: dict[int, str]) -> tuple[int, int]:
    """The numbers of double grants, and of reservations that were confirmed and are lost."""
    wait_until(lambda: switches_in_sync(api), 60)
    live: list[dict[str, Any]] = []
    path = "/v1/reservations?state=active"
    while path:
        page = api.get(path).raise_for_status().json()
        live, path = live + page["reservations"], page.get("next", "")
    ports = Counter(each["flows"][0]["match"]["source_port"] for each in live)
    ids = {each["id"] for each in live}
    is_consistent = api.get("/v1/consistency").json()["consistent"]
    return sum(count > 1 for count in ports.values()), len(set(promised.values()) - ids) + (not is_consistent)


@click.command()
@click.option("--quick", is_flag=True, help="200 reservations and 3 trials of each kind; about two minutes.")
@click.option("--trials", type=click.IntRange(1), help="Trials of each kind.  [default: 20]")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, trials: int | None, out: Path | None) -> None:
    """Measure takeovers."""
    count, turns = (200 if quick else 1000), trials or (3 if quick else 20)
    took: dict[str, list[float]] = {number.name: [] for number in SIGNALS}
    doubles = lost = 0
    server = PostgreSQL()
    try:
        with (
            row_of_switches(QUEUE_BYTES) as (switches, map_file),
            two_controllers(switches, map_file, server.create("takeover")) as pair,
        ):
            client = Client([controller.url for controller in pair], 0)
            client.start()
            wait_until(lambda: len(client.promised) >= count, 600)
            for turn in range(turns):
                for kind, number in enumerate(SIGNALS):
                    took[number.name].append(takeover_s(pair, number, FIRST_PROBE + 2 * turn + kind))
                    pair.reverse()
                    restart_as_standby(pair[1])
                    wait_for_roles(switches)
                    with httpx.Client(base_url=pair[0].url, timeout=60) as api:
                        found = faults(api, dict(client.promised))
                    doubles, lost = doubles + found[0], lost + found[1]
            client.stopping.set()
            client.join(60)
    finally:
        server.remove()
    gaps = [after - before for before, after in zip(client.answered_s, client.answered_s[1:], strict=False)]
    everything = [each for values in took.values() for each in values]
    claims = {
        "takeover_p99_s": report.at_most(quantile(everything, 0.99), "s", 1.5),
        "takeover_p50_s": report.Claim(quantile(everything, 0.5), "s"),
        "client_gap_max_s": report.Claim(max(gaps), "s"),
        "double_grants": report.at_most(doubles, "", 0),
        "lost": report.at_most(lost, "", 0),
    }
    table = Table("end of the active one", "trials", "p50 s", "max s", title=f"{count} live reservations and more")
    for name, values in took.items():
        table.add_row(name, f"{len(values)}", f"{quantile(values, 0.5):.2f}", f"{max(values):.2f}")
    samples = {"takeover_s": took, "reservations": len(client.promised)}
    report.publish("takeover", claims, samples, [table], out)


if __name__ == "__main__":
    main()
