"""Effect of controller restarts and link cuts on reserved traffic, and the time until all switches are consistent.

1. A reserved stream (1000 numbered datagrams per second) through the metro map while the controller is killed
   (kill -9) and restarted: lost datagrams, and the longest time without an arrival.
2. Consecutive reserved transfers of four edges beside a flood, during the same: each against its proven bound.
3. 1,000 reservations in the ledger and on six switches; kill -9; time from the start of the new process until every
   switch has been read back and found consistent.
4. A cut of a link on the stream's path: the longest gap of a protected stream, and of one that must be rerouted.

    sudo .venv/bin/python bench/survival.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import click
import httpx
from rich.table import Table

from harness import report
from control_plane.switch_row import controller_of, reserve, row_of_switches, switches_in_sync, wait_until_in_sync
from emulation.fault_injection import FaultInjector
from emulation.network import Emulation, EmulationSettings
from emulation.session import emulate
from harness.controller_restart import claims_of, restart_during_transfers, table_of
from harness.datagram_stream import Arrivals, datagram_stream, reserved_stream
from harness.timed_transfers import TimedTransfers
from machine.errors import EmulationError
from machine.polling import wait_until
from machine.stall_watch import StallWatch, describe_stalls
from topologies import running_emulation
from topologies.map_file.loader import map_path

SETTLE_S = 1.5


def over_a_restart(emulation: Emulation, api: httpx.Client, directory: Path) -> Arrivals:
    """Run a stream while the controller is killed and restarted."""
    faults = FaultInjector(emulation.topology, str(emulation.vswitch.directory))
    with reserved_stream(api, "none"), datagram_stream(emulation, 8.0, directory) as result:
        faults.set_controller(up=False)
        time.sleep(SETTLE_S)  # the network is without a controller
        faults.set_controller(up=True)
        wait_until(lambda: switches_in_sync(api), 30)
    return result[0]


def over_a_cut(emulation: Emulation, api: httpx.Client, directory: Path, protection: str) -> Arrivals:
    """Run a stream while a link between switches on its path is cut."""
    faults = FaultInjector(emulation.topology, str(emulation.vswitch.directory))
    with reserved_stream(api, protection) as reservation:
        span = list(pairwise(reservation["flows"][0]["path"]))[-2]
        try:
            with datagram_stream(emulation, 5.0, directory) as result:
                time.sleep(SETTLE_S)
                faults.set_link(*span, up=False)
        finally:
            faults.set_link(*span, up=True)
            wait_until(lambda: not _links_down(api), 30)
    return result[0]


def _links_down(api: httpx.Client) -> bool:
    return any(not link["up"] for link in api.get("/v1/network").json()["links"])


def seconds_to_consistent(count: int) -> float:
    """Kill a controller with `count` reservations; return the seconds from its restart until all is consistent."""
    with row_of_switches() as (switches, map_file), controller_of(switches, map_file) as (controller, api):
        for number in range(count):
            reserve(api, range(number, number + 1))
        controller.kill()
        began_s = time.perf_counter()
        controller.start()
        wait_until_in_sync(controller, api)
        took_s = time.perf_counter() - began_s
        consistency = api.get("/v1/consistency").json()
        if not consistency["consistent"]:
            raise RuntimeError(
                f"the controller reports all switches in sync, but they are not consistent: {consistency}"
            )
    return took_s


@click.command()
@click.option("--quick", is_flag=True, help="Each outage once; about a minute.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure the effect of outages on reserved traffic."""
    times = 1 if quick else 5
    count = 1000
    consistent_s = seconds_to_consistent(count)
    try:
        with (
            emulate(EmulationSettings(map_path("metro"))) as emulation,
            httpx.Client(base_url=f"http://127.0.0.1:{emulation.settings.rest_port}", timeout=30) as api,
            tempfile.TemporaryDirectory() as name,
        ):
            directory, timed = Path(name), TimedTransfers(emulation, api)
            with StallWatch() as watch:
                with timed.running():
                    kills = [restart_during_transfers(timed) for _ in range(times)]
                restarts = [over_a_restart(emulation, api, directory) for _ in range(times)]
                cuts = {
                    protection: [over_a_cut(emulation, api, directory, protection) for _ in range(times)]
                    for protection in ("link_disjoint", "none")
                }
            transfers = timed.results(watch.stalls)
            FaultInjector(emulation.topology, str(running_emulation.DIRECTORY / "ovs")).set_controller(up=False)
    except EmulationError as error:
        raise click.ClickException(str(error)) from error
    during_restart = [transfer for transfer in transfers if any(kill.overlaps(transfer) for kill in kills)]
    protected, unprotected = cuts["link_disjoint"], cuts["none"]
    claims = {
        "reserved_packets_lost": report.at_most(sum(stream.lost for stream in restarts), "", 0),
        "restart_silence_ms": report.Claim(max(stream.silence_ms for stream in restarts), "ms"),
        **claims_of(during_restart),
        "seconds_to_consistent_1000": report.at_most(consistent_s, "s", 5),
        "protected_gap_ms": report.at_most(max(stream.gap_ms for stream in protected), "ms", 50),
        "protected_gap_while_machine_ran_ms": report.at_most(
            max(stream.gap_while_machine_ran_ms(watch.stalls) for stream in protected), "ms", 50
        ),
        "unprotected_ms": report.at_most(max(stream.gap_ms for stream in unprotected), "ms", 500),
    }
    table = Table("outage", "times", "datagrams", "lost", "longest gap ms", "longest silence ms")
    for outage, runs in (("restart", restarts), ("cut, protected", protected), ("cut, unprotected", unprotected)):
        sent, lost = sum(stream.sent for stream in runs), sum(stream.lost for stream in runs)
        worst = f"{max(stream.gap_ms for stream in runs):.1f}", f"{max(stream.silence_ms for stream in runs):.1f}"
        table.add_row(outage, str(len(runs)), str(sent), str(lost), *worst)
    samples: dict[str, object] = {
        outage: [asdict(stream) for stream in runs]
        for outage, runs in (("restart", restarts), ("protected", protected), ("unprotected", unprotected))
    }
    samples["transfers_over_restart"] = [asdict(transfer) for transfer in during_restart]
    samples["machine_stalls"] = [asdict(stall) for stall in watch.stalls]
    click.echo(describe_stalls(watch.stalls))
    report.publish("survival", claims, samples, [table, table_of(during_restart)], out)


if __name__ == "__main__":
    main()
