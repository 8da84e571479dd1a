"""How soon an event is on the page, and what the page's process takes, with 1,000 reservations and 100 spans.

36 switches of real Open vSwitch in a grid with hosts, a controller process, `paceline web`, and the network page in a
headless Chromium. In turn a span is cut or repaired at its switches, and a reservation is made or released by REST; the
latency counts from the controller's event, as another reader of its stream gets it, to the moment when the browser has
painted what shows it (a class of the span, a row). Then the same events go on at one a second, and the processor time
of `paceline web` is read at begin and end.

    .venv/bin/python bench/live_page.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import httpx
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from harness import report  # noqa: E402
from control_plane.dummy_switches import DummySwitches, free_port  # noqa: E402
from control_plane.switch_row import wait_until_in_sync  # noqa: E402
from emulation.controller_process import ControllerProcess  # noqa: E402
from machine.quantile import quantile  # noqa: E402
from tests.browser import Browser, browser  # noqa: E402
from topologies.map_file.loader import load_map  # noqa: E402
from trainer.errors import TrainerError  # noqa: E402
from trainer.reservation.controller_client import ControllerClient  # noqa: E402

SIDE, SPANS = 6, 100
RESERVATIONS = 1000
RATE_BPS = 100_000
EVENTS, LOADED_S = 200, 60.0
QUICK_EVENTS, QUICK_LOADED_S = 24, 15.0
PAUSE_S = 0.3, 1.3
SETTLE_S = 3.0

WATCH = """
window.watch = condition => new Promise(resolve => {
  const look = () => { if (condition()) { observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => resolve(Date.now()))); return true; } };
  const observer = new MutationObserver(look);
  observer.observe(document.body, { subtree: true, childList: true, attributes: true });
  look();
}); 0
"""

@dataclass(frozen=True, slots=True)
class Expected:
    """What is true on the page when it shows an event, and that event: kind, value of a field of it, and the number of
    such events that make it up."""

    shown: str
    kind: str
    values: dict[str, object]
    number: int = 1


Event = Callable[[], Expected]
"""Lets something happen, and returns what is to come of it."""


class EventLog(threading.Thread):
    """Reads the controller's events and notes when each came (Unix time)."""

    def __init__(self, url: str) -> None:
        super().__init__(name="events", daemon=True)
        self._client = ControllerClient(url, 0, lambda _: None)
        self._came: list[tuple[float, str, dict[str, object]]] = []

    def run(self) -> None:
        """Read until the controller ends."""
        with contextlib.suppress(TrainerError):
            for event in self._client.events(None, follow=True):
                self._came.append((time.time(), event.kind, event.data))

    def came_at_s(self, expected: Expected, since_s: float) -> float:
        """When the event came; waits for it."""
        while True:
            found = [
                at_s for at_s, kind, data in tuple(self._came)
                if at_s >= since_s and kind == expected.kind and expected.values.items() <= data.items()
            ]  # fmt: skip
            if len(found) >= expected.number:
                return found[expected.number - 1]
            time.sleep(0.01)


def grid_map() -> str:
    """A map of SIDE times SIDE switches, a host at each but the last, a cloud there, and diagonals up to SPANS."""
    places = [(x, y) for y in range(SIDE) for x in range(SIDE)]
    name = {place: f"s{number}" for number, place in enumerate(places, 1)}
    ends = [(name[x, y], name[x + 1, y]) for x, y in places if x + 1 < SIDE]
    ends += [(name[x, y], name[x, y + 1]) for x, y in places if y + 1 < SIDE]
    hosts = [f"edge{number}" for number in range(1, len(places))] + ["cloud"]
    ends += list(zip(hosts, name.values(), strict=True))
    ends += [(name[n, n], name[n + 1, n + 1]) for n in range(SPANS - len(ends))]
    nodes = [f"  - {{name: {name[x, y]}, kind: switch, position_km: [{10 * x}, {10 * y}]}}" for x, y in places]
    for host, (x, y) in zip(hosts, places, strict=True):
        kind, share = ("cloud", 1) if host == "cloud" else ("edge", 0.1)
        place = f"position_km: [{10 * x + 3}, {10 * y + 3}]"
        nodes.append(f"  - {{name: {host}, kind: {kind}, {place}, cpu_share: {share}}}")
    links = [f"  - {{ends: [{a}, {b}], length_km: 10, channels: 1, channel_rate_gbps: 100}}" for a, b in ends]
    head = ["name: grid", "description: A grid of switches.", "scale_mbps_per_gbps: 8", "mtu_bytes: 9000"]
    return "\n".join([*head, "nodes:", *nodes, "links:", *links, ""])


class Rig:
    """The switches, their controller and the page's server; `page_pid` is that of the server."""

    def __init__(self, directory: Path) -> None:
        map_file = directory / "grid.yaml"
        map_file.write_text(grid_map())
        self.plan = load_map(str(map_file))
        self._rng = random.Random(1)
        self.switches = DummySwitches(self.plan, directory)
        openflow, rest = (("127.0.0.1", free_port()) for _ in range(2))
        ledger = f"sqlite:///{directory}/ledger.db"
        self.controller = ControllerProcess(map_file, openflow, [rest], ledger, directory / "controller.log")
        self.api = httpx.Client(base_url=self.controller.url, timeout=60)
        self.switches.connect(self.controller.openflow_port)
        wait_until_in_sync(self.controller, self.api)
        command = [sys.executable, "-m", "trainer.cli.main", "web", "--port", "0", "--runs", str(directory / "runs"),
                   "--controller", self.controller.url]  # fmt: skip
        self._web = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._web.stdout is not None
        self.address = self._web.stdout.readline().removeprefix("page: ").strip()
        self.page_pid = self._web.pid
        self._ports = itertools.count(1024)
        self._newest = ""

    def stop(self) -> None:
        """End everything."""
        self._web.terminate()
        self._web.wait(10)
        self.api.close()
        self.controller.stop()
        self.switches.stop()

    def pause_s(self) -> float:
        """A random time until the next event."""
        return self._rng.uniform(*PAUSE_S)

    def reserve(self) -> str:
        """Make a reservation between two random hosts; returns its id."""
        hosts = [node.name for node in self.plan.nodes if node.kind != "switch"]
        source, destination = self._rng.sample(hosts, 2)
        match = {"protocol": "udp", "source_port": next(self._ports), "destination_port": 7800}
        flow = {"name": "f", "source": source, "destination": destination, "match": match,
                "requirement": {"min_bandwidth_bps": RATE_BPS, "burst_bytes": 9014}}  # fmt: skip
        answer = self.api.post("/v1/reservations", json={"flows": [flow], "lease_s": 3600})
        answer.raise_for_status()
        identity: str = answer.json()["id"]
        return identity

    def events(self) -> Iterator[Event]:
        """Endless events, of four kinds in turn."""
        names = {node.name for node in self.plan.switches}
        spans = [link.ends for link in self.plan.links if set(link.ends) <= names]
        for number in itertools.count():
            ends = spans[number % len(spans)]
            yield partial(self._set_span, ends, False)
            yield self._made
            yield partial(self._set_span, ends, True)
            yield self._released

    def _set_span(self, ends: tuple[str, str], up: bool) -> Expected:
        """Cut or repair a span."""
        self.switches.set_span(ends, up)
        line = f"document.querySelector('[data-span=\"{'-'.join(sorted(ends))}\"]')"
        shown = f"{'!' if up else ''}{line}.classList.contains('down')"
        return Expected(shown, "link", {"up": up}, 2 if up else 1)  # up when both directions are, down when one is

    def _made(self) -> Expected:
        self._newest = self.reserve()
        row = f"document.getElementById('release-{self._newest}')"
        return Expected(row, "reservation", {"id": self._newest, "state": "active"})

    def _released(self) -> Expected:
        self.api.delete(f"/v1/reservations/{self._newest}").raise_for_status()
        row = f"document.getElementById('release-{self._newest}')"
        return Expected(f"!{row}", "reservation", {"id": self._newest, "state": "released"})


@contextmanager
def running_rig() -> Iterator[Rig]:
    """The rig within the block."""
    with tempfile.TemporaryDirectory() as name:
        rig = Rig(Path(name))
        try:
            yield rig
        finally:
            rig.stop()


def latency_ms(page: Browser, log: EventLog, event: Event) -> float:
    """Let an event happen; return how long after it came from the controller the browser had painted it."""
    began_s = time.time()
    expected = event()
    painted_ms: float = page.evaluate(f"window.watch(() => {expected.shown})")
    return max(0.0, painted_ms - log.came_at_s(expected, began_s) * 1e3)


def processor_s(pid: int) -> float:
    """Processor seconds that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def loaded_share(rig: Rig, events: Iterator[Event], page: Browser, log: EventLog, duration_s: float) -> float:
    """The part of a core that the page's server takes while there is an event a second."""
    begun_s, before_s = time.monotonic(), processor_s(rig.page_pid)
    while (past_s := time.monotonic() - begun_s) < duration_s:
        latency_ms(page, log, next(events))
        time.sleep(max(0.0, 1.0 - (time.monotonic() - begun_s - past_s)))
    return (processor_s(rig.page_pid) - before_s) / (time.monotonic() - begun_s)


def idle_share(rig: Rig, duration_s: float) -> float:
    """The part of a core that it takes while nothing happens, with the page open."""
    begun_s, before_s = time.monotonic(), processor_s(rig.page_pid)
    time.sleep(duration_s)
    return (processor_s(rig.page_pid) - before_s) / (time.monotonic() - begun_s)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Fewer events, a shorter load.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure and publish."""
    count, loaded_s = (QUICK_EVENTS, QUICK_LOADED_S) if quick else (EVENTS, LOADED_S)
    kinds: dict[str, list[float]] = {"cut": [], "made": [], "repaired": [], "released": []}
    with running_rig() as rig, browser() as page:
        for _ in range(RESERVATIONS):
            rig.reserve()
        page.resize(1280, 900)
        page.open(rig.address)
        page.wait_for(f"document.querySelectorAll('[data-span]').length === {SPANS}")
        page.wait_for(f"document.getElementById('reservations').innerText.includes('{RESERVATIONS} live')")
        page.evaluate(WATCH)
        events, log = rig.events(), EventLog(rig.controller.url)
        log.start()
        time.sleep(SETTLE_S)
        idle = idle_share(rig, loaded_s / 2)
        for number in range(count):
            kinds[list(kinds)[number % len(kinds)]].append(latency_ms(page, log, next(events)))
            time.sleep(rig.pause_s())
        loaded = loaded_share(rig, events, page, log, loaded_s)
    all_ms = [ms for found in kinds.values() for ms in found]
    table = Table("event", "number", "p50 ms", "p95 ms", "most ms", title="from the event to the painted page")
    for kind, found in kinds.items():
        figures = (quantile(found, 0.5), quantile(found, 0.95), max(found))
        table.add_row(kind, str(len(found)), *(f"{figure:.0f}" for figure in figures))
    claims = {
        "event_on_page_ms_p95": report.at_most(quantile(all_ms, 0.95), "ms", 500),
        "event_on_page_ms_p50": report.Claim(quantile(all_ms, 0.5), "ms"),
        "page_process_share": report.at_most(loaded, "of a core, an event a second", 0.2),
        "page_process_share_idle": report.Claim(idle, "of a core"),
    }
    report.publish("live_page", claims, {"latency_ms": kinds}, [table], out)


if __name__ == "__main__":
    main()
