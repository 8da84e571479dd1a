"""What reserved traffic notices when the controller is killed or a link is cut, and how soon all is as it should be.

1. A reserved stream (1000 numbered datagrams a second) runs through the metro map while the controller is killed
   (kill -9) and started again: how many datagrams are lost, and how long none came.
2. Reserved transfers of four edges, one after the other beside a flood, over the same: each against its proven bound.
3. 1,000 reservations in the ledger and on six switches; kill -9; from the new process's start until every switch has
   been read back and found to be as it should.
4. A link of the stream's path is cut: the longest silence of a protected stream, and of one that must be placed anew.

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
from topologies.loader import map_path

SETTLE_S = 1.5








def over_a_restart(emulation: Emulation, api: httpx.Client, directory: Path) -> Arrivals:
    """A stream while the controller is killed and started again."""
    outages = FaultInjector(emulation.topology, str(emulation.vswitch.directory))
    with reserved_stream(api, "none"), datagram_stream(emulation, 8.0, directory) as result:
        outages.set_controller(up=False)
        time.sleep(SETTLE_S)  # some time without any controller
        outages.set_controller(up=True)
        wait_until(lambda: switches_in_sync(api), 30)
    return result[0]


def over_a_cut(emulation: Emulation, api: httpx.Client, directory: Path, protection: str) -> Arrivals:
    """A stream while a link between switches on its path is cut."""
    outages = FaultInjector(emulation.topology, str(emulation.vswitch.directory))
    with reserved_stream(api, protection) as reservation:
        span = list(pairwise(reservation["flows"][0]["path"]))[-2]
        try:
            with datagram_stream(emulation, 5.0, directory) as result:
                time.sleep(SETTLE_S)
                outages.set_link(*span, up=False)
        finally:
            outages.set_link(*span, up=True)
            wait_until(lambda: not _links_down(api), 30)
    return result[0]


def _links_down(api: httpx.Client) -> bool:
    return any(not link["up"] for link in api.get("/v1/network").json()["links"])


def seconds_to_consistent(count: int) -> float:
    """From the start of a controller that was killed with so many reservations until everything is as it should be."""
    with row_of_switches() as (switches, map_file), controller_of(switches, map_file) as (controller, api):
        for number in range(count):
            reserve(api, range(number, number + 1))
        controller.kill()
        began_s = time.perf_counter()
        controller.start()
        wait_until_in_sync(controller, api)
        took_s = time.perf_counter() - began_s
        found = api.get("/v1/consistency").json()
        if not found["consistent"]:
            raise RuntimeError(f"it says that it is in step, and is not: {found}")
    return took_s


@click.command()
@click.option("--quick", is_flag=True, help="Each outage once; about a minute.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure what outages cost."""
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
    met = [transfer for transfer in transfers if any(kill.overlaps(transfer) for kill in kills)]
    protected, unprotected = cuts["link_disjoint"], cuts["none"]
    claims = {
        "reserved_packets_lost": report.at_most(sum(each.lost for each in restarts), "", 0),
        "restart_silence_ms": report.Claim(max(each.silence_ms for each in restarts), "ms"),
        **claims_of(met),
        "seconds_to_consistent_1000": report.at_most(consistent_s, "s", 5),
        "protected_gap_ms": report.at_most(max(each.gap_ms for each in protected), "ms", 50),
        "protected_gap_while_machine_ran_ms": report.at_most(
            max(each.gap_while_machine_ran_ms(watch.stalls) for each in protected), "ms", 50
        ),
        "unprotected_ms": report.at_most(max(each.gap_ms for each in unprotected), "ms", 500),
    }
    table = Table("outage", "times", "datagrams", "lost", "longest gap ms", "longest silence ms")
    for what, runs in (("restart", restarts), ("cut, protected", protected), ("cut, unprotected", unprotected)):
        sent, lost = sum(each.sent for each in runs), sum(each.lost for each in runs)
        worst = f"{max(each.gap_ms for each in runs):.1f}", f"{max(each.silence_ms for each in runs):.1f}"
        table.add_row(what, str(len(runs)), str(sent), str(lost), *worst)
    samples: dict[str, object] = {
        what: [asdict(each) for each in runs]
        for what, runs in (("restart", restarts), ("protected", protected), ("unprotected", unprotected))
    }
    samples["transfers_over_restart"] = [asdict(transfer) for transfer in met]
    samples["machine_stalls"] = [asdict(stall) for stall in watch.stalls]
    click.echo(describe_stalls(watch.stalls))
    report.publish("survival", claims, samples, [table, table_of(met)], out)


if __name__ == "__main__":
    main()
