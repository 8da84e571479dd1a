"""How long a confirmed reservation takes, against Ryu's own ofctl_rest telling switches the same entries unconfirmed.

Six switches of real Open vSwitch in a row, a controller process, REST over keep-alive connections. A reservation is
decided, proven, installed on six switches with best effort shrunk on seven links, confirmed by barriers, and written to
the ledger. ofctl_rest is sent the same meter and flow entries, a request each (it has no other way): the flow's meter,
the best-effort meters that shrink, seven flow entries. It decides, confirms and remembers nothing.

Both are asked by the same clients over connections that stay open, for as many reservations one beside the other: one
after the other for how long one takes, and for how many a second by 1, 2, 4, 8 and 16 clients at once, each three
times; of either side the rate with as many clients as suit it best counts. A reservation counts when its last answer
is there; taking it away again is counted on neither side.

Servers are what is compared, so the clients do next to nothing (keepalive.py). With a client of everyday, httpx, which
takes longer over 14 requests than ofctl_rest over their answers, the ratio is another: `rate_ratio_with_httpx`. The
floor (floor.py) is what FastAPI and the switches alone cost: no controller in one Python process can be faster.

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
from topologies.loader import load_map

GROUP = 16










# Ours ----------------------------------------------------------------------------------------------------------------




def sequence(api: httpx.Client, count: int, group: int) -> list[float]:
    """Milliseconds of so many reservations, one after the other, each beside the ones before; then all are released."""
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
    """Where a client's server listens."""
    assert api.base_url.port is not None
    return api.base_url.port


def release_all(api: httpx.Client) -> None:
    """Release whatever is live."""
    for each in api.get("/v1/reservations?state=active").json()["reservations"]:
        api.delete(f"/v1/reservations/{each['id']}").raise_for_status()


def reservations(numbers: range) -> list[WorkUnit]:
    """A reservation of one flow each."""
    return [[("/v1/reservations", reservation_body(range(number, number + 1)))] for number in numbers]


# The peer ------------------------------------------------------------------------------------------------------------


def peer_figures(switches: DummySwitches, network: Network, count: int) -> tuple[list[float], RequestRates]:
    """Milliseconds for each reservation's requests, and how many a second."""
    first, *others = [peer_requests(network, number, RATE_BPS) for number in range(count + 1)]
    with ofctl_rest(switches, HOPS) as api:
        client, took_ms = KeepAliveClient(port_of(api)), []

        def ask(requests: WorkUnit) -> None:
            for path, body in requests:
                client.post(path, body)

        def work() -> list[WorkUnit]:
            wait_until(lambda: switches.ofctl("dump-flows", "s1").count("cookie=0x9ace") == 2 * (count + 1))
            switches.clear()
            ask(first)  # it makes the meters that the others change
            return others

        ask(first)
        for requests in others:
            began_s = time.perf_counter()
            ask(requests)
            took_ms.append((time.perf_counter() - began_s) * 1e3)
        found = measure_rates(port_of(api), work)
        client.close()
    return took_ms, found


# All of it -----------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--quick", is_flag=True, help="Fewer reservations; about half a minute.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure confirmed reservations against ofctl_rest."""
    count = 60 if quick else 300
    with row_of_switches() as (switches, map_file):
        network = network_from_map(load_map(str(map_file)))
        with controller_of(switches, map_file) as (_, api):
            sequence(api, 10, 1)  # nobody measures a first time
            one_ms = sequence(api, count, 1)

            def work() -> list[WorkUnit]:
                release_all(api)
                return reservations(range(count))

            own = measure_rates(port_of(api), work)
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
    title = f"{HOPS} switches, {count} each; per second by so many clients at once"
    table = Table(
        "", "p50 ms", "p99 ms", *(f"{clients}" for clients in CLIENTS), f"{HTTPX_CLIENTS} of httpx", title=title
    )
    for what, values, per_s in (("confirmed", one_ms, own), ("ofctl_rest", peer_ms, peer)):
        quantiles = (f"{quantile(values, share):.1f}" for share in (0.5, 0.99))
        table.add_row(what, *quantiles, *(f"{per_s.minimal[n]:.0f}" for n in CLIENTS), f"{per_s.httpx:.0f}")
    table.add_row(f"{GROUP} flows at once", *(f"{quantile(group_ms, share):.1f}" for share in (0.5, 0.99)))
    samples: dict[str, object] = {
        "confirmed_ms": one_ms, "ofctl_rest_ms": peer_ms, "group16_ms": group_ms,
        "confirmed_per_second": own.minimal, "ofctl_rest_per_second": peer.minimal,
    }  # fmt: skip
    report.publish("reservation_setup", claims, samples, [table], out)


if __name__ == "__main__":
    main()
