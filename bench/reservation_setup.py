"""Time and rate of confirmed reservations, against the same entries installed by Ryu's ofctl_rest without confirmation.

Six switches of real Open vSwitch in a row, a controller process, REST over keep-alive connections. A reservation is
decided with its bounds, installed on six switches with best effort reduced on seven links, confirmed by barriers, and
written to the ledger. ofctl_rest receives the same meter and flow entries, one request each (it has no batch request):
the flow's meter, the best-effort meters that are reduced, seven flow entries. It decides, confirms and stores nothing.

Both servers get the same number of reservations from the same clients over open connections: one after the other for
the time of a reservation, and concurrently from 1, 2, 4, 8 and 16 clients for the rate, three times each; for either
server the rate with its best number of clients counts. A reservation is complete with its last response; releases are
not measured on either side.

The clients have little overhead (control_plane/http_client.py), since the servers are compared. httpx needs more time
for 14 requests than ofctl_rest for their responses, so the ratio differs: `rate_ratio_with_httpx`. The floor
(control_plane/lower_bound.py) is the rate of FastAPI and the switches alone: the upper limit for a controller in one
Python process.

    .venv/bin/python bench/reservation_setup.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import httpx
from rich.table import Table

from harness import report
from control_plane.dummy_switches import DummySwitches
from control_plane.http_client import KeepAliveClient
from control_plane.load_generator import (
    CLIENTS,
    HTTPX_CLIENTS,
    RequestRates,
    WorkUnit,
    completed_per_s,
    measure_rates,
)
from control_plane.lower_bound import lower_bound_server
from control_plane.ofctl_rest_peer import ofctl_rest, peer_requests
from control_plane.switch_row import HOPS, RATE_BPS, controller_of, reservation_body, row_of_switches
from controller.domain.network import Network, network_from_map
from machine.polling import wait_until
from machine.quantile import quantile
from topologies.map_file.loader import load_map

GROUP = 16


# The controller -------------------------------------------------------------------------------------------------------


def sequence(api: httpx.Client, count: int, group: int) -> list[float]:
    """Make `count` reservations of `group` flows in sequence, then release them; return the milliseconds of each."""
    bodies = [reservation_body(range(i * group, (i + 1) * group)) for i in range(count)]
    client, took_ms = KeepAliveClient(port_of(api)), []
    for body in bodies:
        began_s = time.perf_counter()
        client.post("/v1/reservations", body)
        took_ms.append((time.perf_counter() - began_s) * 1e3)
    client.close()
    release_all(api)
    return took_ms


def port_of(api: httpx.Client) -> int:
    """Return the port of the client's server."""
    assert api.base_url.port is not None
    return api.base_url.port


def release_all(api: httpx.Client) -> None:
    """Release all active reservations."""
    for reservation in api.get("/v1/reservations?state=active").json()["reservations"]:
        api.delete(f"/v1/reservations/{reservation['id']}").raise_for_status()


def reservations(numbers: range) -> list[WorkUnit]:
    """Return requests for reservations of one flow each."""
    return [[("/v1/reservations", reservation_body(range(number, number + 1)))] for number in numbers]


# The peer ------------------------------------------------------------------------------------------------------------


def peer_figures(switches: DummySwitches, network: Network, count: int) -> tuple[list[float], RequestRates]:
    """Return the milliseconds of each reservation's requests, and the rates."""
    first, *others = [peer_requests(network, number, RATE_BPS) for number in range(count + 1)]
    with ofctl_rest(switches, HOPS) as api:
        client, took_ms = KeepAliveClient(port_of(api)), []

        def post_all(requests: WorkUnit) -> None:
            for path, body in requests:
                client.post(path, body)

        def prepare() -> list[WorkUnit]:
            wait_until(lambda: switches.ofctl("dump-flows", "s1").count("cookie=0x9ace") == 2 * (count + 1))
            switches.clear()
            post_all(first)  # creates the meters that the others change
            return others

        post_all(first)
        for requests in others:
            began_s = time.perf_counter()
            post_all(requests)
            took_ms.append((time.perf_counter() - began_s) * 1e3)
        rates = measure_rates(port_of(api), prepare)
        client.close()
    return took_ms, rates


# Measurement ---------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--quick", is_flag=True, help="Fewer reservations; about half a minute.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure confirmed reservations against ofctl_rest."""
    count = 60 if quick else 300
    with row_of_switches() as (switches, map_file):
        network = network_from_map(load_map(str(map_file)))
        with controller_of(switches, map_file) as (_, api):
            sequence(api, 10, 1)  # warm-up
            one_ms = sequence(api, count, 1)

            def prepare() -> list[WorkUnit]:
                release_all(api)
                return reservations(range(count))

            own = measure_rates(port_of(api), prepare)
            release_all(api)
            group_ms = sequence(api, max(10, count // 10), GROUP)
        switches.clear()
        peer_ms, peer = peer_figures(switches, network, count)
        switches.clear()
        with lower_bound_server(switches, map_file, count * len(CLIENTS), RATE_BPS) as port:
            floor_rate = max(
                completed_per_s(reservations(range(count)), [KeepAliveClient(port) for _ in range(clients)])
                for clients in CLIENTS
            )
    claims = {
        "confirmed_p50_ms": report.at_most(quantile(one_ms, 0.5), "ms", 10),
        "confirmed_p99_ms": report.Claim(quantile(one_ms, 0.99), "ms"),
        "ofctl_rest_p50_ms": report.Claim(quantile(peer_ms, 0.5), "ms"),
        "confirmed_per_second": report.Claim(own.best, "1/s"),
        "ofctl_rest_per_second": report.Claim(peer.best, "1/s"),
        "floor_per_second": report.Claim(floor_rate, "1/s"),
        "rate_ratio_to_ofctl_rest": report.at_least(own.best / peer.best, "", 4),
        "floor_ratio_to_ofctl_rest": report.Claim(floor_rate / peer.best, ""),
        "rate_ratio_with_httpx": report.Claim(own.httpx / peer.httpx, ""),
        "flow_ratio_in_groups": report.Claim(GROUP * 1e3 / quantile(group_ms, 0.5) / peer.best, ""),
        "group16_ms": report.at_most(quantile(group_ms, 0.5), "ms", 60),
    }
    title = f"{HOPS} switches, {count} reservations each; per second by number of clients"
    table = Table(
        "", "p50 ms", "p99 ms", *(f"{clients}" for clients in CLIENTS), f"{HTTPX_CLIENTS} of httpx", title=title
    )
    for what, values, per_s in (("confirmed", one_ms, own), ("ofctl_rest", peer_ms, peer)):
        quantiles = (f"{quantile(values, share):.1f}" for share in (0.5, 0.99))
        table.add_row(what, *quantiles, *(f"{per_s.minimal[n]:.0f}" for n in CLIENTS), f"{per_s.httpx:.0f}")
    table.add_row(f"{GROUP} flows in one request", *(f"{quantile(group_ms, share):.1f}" for share in (0.5, 0.99)))
    samples: dict[str, object] = {
        "confirmed_ms": one_ms, "ofctl_rest_ms": peer_ms, "group16_ms": group_ms,
        "confirmed_per_second": own.minimal, "ofctl_rest_per_second": peer.minimal,
    }  # fmt: skip
    report.publish("reservation_setup", claims, samples, [table], out)


if __name__ == "__main__":
    main()
