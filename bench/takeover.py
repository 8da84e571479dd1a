"""Takeover by a standby while reservations are made: how long it takes, and whether anything is lost or granted twice.

Six switches of real Open vSwitch in a row, connected to two controllers with one ledger on PostgreSQL (Debian's, same
machine). 1,000 live reservations (200 with --quick), a client that makes one after the other through both controllers,
and packets of a reservation that are counted at the last switch. In turn the active controller is killed (kill -9),
frozen (SIGSTOP) and cut off: each controller is in a network namespace, whose cable to switches, database and clients
is pulled. Afterwards it is started again as the next standby.

`takeover_s`: from the end to the first change that the other controller accepts. `client_gap_s`: between two
reservations of the client, which leaves a controller that does not answer after 3 s. `double_grants`: keys or 5-tuples
with more than one live reservation. `lost`: reservations that were confirmed and are not there, or not as they were at
the switches. `reserved_packets_lost`: packets that the last switch did not handle as those of their reservation.

    sudo .venv/bin/python bench/takeover.py [--quick] [--end kill] [--trials N] [--out FILE.json]
"""

from __future__ import annotations

import math
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import httpx
from rich.table import Table

from harness import report
from control_plane.cut_off_machine import NETWORK, CutOffMachine, cut_off_machines
from control_plane.dummy_switches import DummySwitches, free_port
from control_plane.reserved_packets import ReservedPackets
from control_plane.switch_row import flow_body, row_of_switches, switches_in_sync
from emulation.controller_process import ControllerProcess
from emulation.open_vswitch import MAX_BACKOFF_MS
from machine.polling import wait_until
from machine.postgresql_server import PostgreSQL
from machine.quantile import quantile
from trainer.reservation.failover_transport import FailoverTransport
from trainer.reservation.http_transport import TransportErrors

DATABASE = "takeover"
RATE_BPS = 40_000
QUEUE_BYTES = 500_000_000
FIRST_PROBE = 50_000
ENDS = ("kill", "stop", "cut")


class Client(threading.Thread):
    """Makes small reservations one after the other, with idempotency keys, until `stopping` is set.

    When `count` of them are live it releases the oldest one for each new one.
    """

    def __init__(self, urls: list[str], count: int) -> None:
        super().__init__(daemon=True)
        self.stopping = threading.Event()
        self.promised: dict[int, str] = {}
        self.answered_s: list[float] = []
        self._transport = FailoverTransport(urls, {}, lambda _: None)
        self._next, self._count = 0, count

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
            if len(self.promised) > self._count:
                self._release(self.promised.pop(min(self.promised)))
            time.sleep(0.01)

    def _release(self, reservation_id: str) -> None:
        """Release a reservation; one whose answer is lost may be live or not."""
        with suppress(*TransportErrors):
            self._transport.request("DELETE", f"/v1/reservations/{reservation_id}")


@dataclass
class Site:
    """A controller and its machine; None: this one."""

    controller: ControllerProcess
    machine: CutOffMachine | None

    def end(self, how: str) -> None:
        """Kill it, freeze it, or cut its machine off."""
        if how == "cut":
            assert self.machine is not None
            self.machine.cut()
        else:
            self.controller.process.send_signal(signal.SIGKILL if how == "kill" else signal.SIGSTOP)

    def restart(self) -> None:
        """Let a deposed controller see that it is, wait for its end, and start it again as a standby."""
        if self.machine is not None:
            self.machine.join()
        self.controller.process.send_signal(signal.SIGCONT)
        self.controller.process.wait(60)
        self.controller.start()
        wait_until(lambda: status(self.controller) == "standby", 60)


@contextmanager
def two_sites(switches: DummySwitches, map_file: Path, server: PostgreSQL, machines: list[CutOffMachine]
              ) -> Iterator[list[Site]]:  # fmt: skip
    """An active controller, and its standby; the switches are connected to both."""
    sites: list[Site] = []
    server.create(DATABASE)
    try:
        for name, machine in zip_longest(("one", "two"), machines):
            address = machine.address if machine else "127.0.0.1"
            site = Site(
                ControllerProcess(
                    map_file, (address, free_port()), [(address, free_port())],
                    server.url(DATABASE, host=machine.peer if machine else ""), map_file.parent / f"{name}.log",
                    options=["--standby"], before=machine.before if machine else (),
                ),
                machine,
            )  # fmt: skip
            sites.append(site)
            wait_until(lambda: status(sites[-1].controller) is not None, 60)
        targets = [f"tcp:{urlsplit(each.controller.url).hostname}:{each.controller.openflow_port}" for each in sites]
        for node in switches.plan.switches:
            switches.vsctl("set-controller", node.name, *targets)
        for target in switches.vsctl("--bare", "--columns=_uuid", "list", "controller").split():
            switches.vsctl("set", "controller", target, f"max_backoff={MAX_BACKOFF_MS}")
        with httpx.Client(base_url=sites[0].controller.url) as api:
            wait_until(lambda: switches_in_sync(api), 60)
        wait_for_roles(switches)
        yield sites
    finally:
        for site in sites:
            site.controller.stop()


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


def takeover_s(sites: list[Site], how: str, probe: int) -> float:
    """End the active controller; the time until the other one accepts a reservation."""
    active, standby = sites
    body = {"flows": [flow_body(probe, RATE_BPS)], "lease_s": 86_400}
    with httpx.Client(base_url=standby.controller.url, timeout=5) as api:
        began_s = time.monotonic()
        active.end(how)
        while api.post("/v1/reservations", json=body).status_code != 201:
            time.sleep(0.01)
        return time.monotonic() - began_s


def faults(api: httpx.Client, client: Client) -> tuple[int, int]:
    """The numbers of double grants, and of reservations that were confirmed, not released meanwhile, and are lost."""
    promised = set(dict(client.promised).values())
    wait_until(lambda: switches_in_sync(api), 60)
    live: list[dict[str, Any]] = []
    path = "/v1/reservations?state=active"
    while path:
        page = api.get(path).raise_for_status().json()
        live, path = live + page["reservations"], page.get("next", "")
    ports = Counter(each["flows"][0]["match"]["source_port"] for each in live)
    ids = {each["id"] for each in live}
    promised &= set(dict(client.promised).values())
    is_consistent = api.get("/v1/consistency").json()["consistent"]
    return sum(count > 1 for count in ports.values()), len(promised - ids) + (not is_consistent)


@dataclass
class Trials:
    """What the trials have shown."""

    took_s: dict[str, list[float]]
    doubles: int = 0
    lost: int = 0
    packets_sent: int = 0
    packets_lost: int = 0

    def run(self, sites: list[Site], switches: DummySwitches, client: Client, how: str, number: int) -> None:
        """Run one trial; the roles of the sites are exchanged."""
        with httpx.Client(base_url=sites[0].controller.url, timeout=60) as api:
            packets = ReservedPackets(switches, api, number)
        packets.start()
        self.took_s[how].append(takeover_s(sites, how, FIRST_PROBE + number))
        sites.reverse()
        sites[1].restart()
        wait_for_roles(switches)
        with httpx.Client(base_url=sites[0].controller.url, timeout=60) as api:
            doubles, lost = faults(api, client)
        self.doubles, self.lost = self.doubles + doubles, self.lost + lost
        self.packets_lost += packets.lost()
        self.packets_sent += packets.sent


@click.command()
@click.option("--quick", is_flag=True, help="200 reservations and 3 trials of each kind; about two minutes.")
@click.option("--trials", type=click.IntRange(1), help="Trials of each kind.  [default: 67]")
@click.option("--minutes", type=click.FloatRange(1), help="Begin no further trial after this time.")
@click.option("--end", "ends", type=click.Choice(ENDS), multiple=True, help="How it ends; repeatable.  [default: all]")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, trials: int | None, minutes: float | None, ends: tuple[str, ...], out: Path | None) -> None:
    """Measure takeovers."""
    count, turns, ends = (200 if quick else 1000), trials or (3 if quick else 67), ends or ENDS
    done = Trials({how: [] for how in ends})
    with cut_off_machines(2 if "cut" in ends else 0) as machines, row_of_switches(QUEUE_BYTES) as (switches, map_file):
        server = PostgreSQL([machine.peer for machine in machines], NETWORK if machines else "")
        try:
            with two_sites(switches, map_file, server, machines) as sites:
                client = Client([site.controller.url for site in sites], count)
                client.start()
                wait_until(lambda: len(client.promised) >= count, 600)
                until_s = time.monotonic() + 60 * (minutes or math.inf)
                for number in range(turns * len(ends)):
                    if time.monotonic() > until_s:
                        break
                    done.run(sites, switches, client, ends[number % len(ends)], number)
                client.stopping.set()
                client.join(60)
        finally:
            server.remove()
    gaps = [after - before for before, after in zip(client.answered_s, client.answered_s[1:], strict=False)]
    everything = [each for values in done.took_s.values() for each in values]
    claims = {
        "takeover_p99_s": report.at_most(quantile(everything, 0.99), "s", 1.5),
        "takeover_p50_s": report.Claim(quantile(everything, 0.5), "s"),
        "client_gap_max_s": report.Claim(max(gaps), "s"),
        "double_grants": report.at_most(done.doubles, "", 0),
        "lost": report.at_most(done.lost, "", 0),
        "reserved_packets_sent": report.Claim(done.packets_sent, ""),
        "reserved_packets_lost": report.at_most(done.packets_lost, "", 0),
    }
    title = f"{count} live reservations"
    table = Table("end of the active one", "trials", "p50 s", "p99 s", "max s", title=title)
    for how, values in done.took_s.items():
        shown = quantile(values, 0.5), quantile(values, 0.99), max(values)
        table.add_row(how, f"{len(values)}", *(f"{value:.2f}" for value in shown))
    samples = {"takeover_s": done.took_s, "reservations": len(client.answered_s)}
    report.publish("takeover", claims, samples, [table], out)


if __name__ == "__main__":
    main()
