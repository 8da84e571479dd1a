"""Packets of a reservation through a row of dummy switches, counted where they leave it."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import httpx

from control_plane.dummy_switches import DummySwitches
from machine.polling import wait_until

PERIOD_S = 0.05
AT_ONCE = 4
FIRST_SOURCE_PORT, DESTINATION_PORT = 2_000, 7_900
RATE_BPS = 400_000


class ReservedPackets(threading.Thread):
    """Sends AT_ONCE packets of a reservation every PERIOD_S from edge1, and best-effort ones never."""

    def __init__(self, switches: DummySwitches, api: httpx.Client, number: int) -> None:
        """Make the reservation; `number`: one of several."""
        super().__init__(daemon=True)
        self._switches, self._stopping, self.sent = switches, threading.Event(), 0
        plan = switches.plan
        self._first, self._last = plan.switches[0].name, plan.switches[-1].name
        self._entrance = plan.port(self._first, "edge1")
        ends = ",".join(f"{name}={{}}" for name in ("src", "dst"))
        hosts = "edge1", "cloud"
        self._packet = (
            f"in_port({self._entrance.number}),eth({ends.format(*map(plan.mac, hosts))}),eth_type(0x0800),"
            f"ipv4({ends.format(*map(plan.ip, hosts))},proto=17,tos=0,ttl=64,frag=no),"
            f"udp(src={FIRST_SOURCE_PORT + number},dst={DESTINATION_PORT})"
        )
        match = {"protocol": "udp", "source_port": FIRST_SOURCE_PORT + number, "destination_port": DESTINATION_PORT}
        requirement = {"min_bandwidth_bps": RATE_BPS, "burst_bytes": 9014}
        flow = {"name": "counted", "source": "edge1", "destination": "cloud", "match": match}
        body: dict[str, Any] = {"flows": [{**flow, "requirement": requirement}], "lease_s": 86_400}
        self._id = api.post("/v1/reservations", json=body).raise_for_status().json()["id"]

    def run(self) -> None:
        """Send until `lost` is called."""
        while not self._stopping.wait(PERIOD_S):
            self._switches.appctl("netdev-dummy/receive", self._entrance.interface, *[self._packet] * AT_ONCE)
            self.sent += AT_ONCE

    def lost(self) -> int:
        """Stop; the number of packets that the last switch has not handled as those of the reservation."""
        self._stopping.set()
        self.join()
        cookie = f"cookie=0x9ace{self._id[2:]}0000/0xffffffffffff0000"
        arrived, deadline_s = -1, time.monotonic() + 5

        def counted() -> bool:
            nonlocal arrived
            dump = self._switches.ofctl("dump-flows", self._last, cookie)
            before, arrived = arrived, max((int(n) for n in re.findall(r"n_packets=(\d+)", dump)), default=0)
            # Open vSwitch gathers the counters of its entries twice a second.
            return arrived >= self.sent or (arrived == before and time.monotonic() > deadline_s)

        wait_until(counted, 30)
        return self.sent - arrived
