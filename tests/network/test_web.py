"""The page of an emulation in a real browser: a run followed to its end, a cut link, a reservation on the switches."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from emulation.fault_injection import FaultInjector
from machine.polling import wait_until
from tests.browser import Browser, browser
from tests.network.conftest import ROOT, Network, started
from topologies import running_emulation
from topologies.map_file.loader import load_map

SPAN = "r2-r3"
"""A span that no run uses: the shortest way of every edge to the cloud is r6-r1-r2."""
AT_ONCE_S = 20.0
"""For what takes a fraction of a second on an idle machine."""
RUN_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Site:
    """An emulation that was started with `--web`, and the address of its page."""

    network: Network
    address: str
    runs: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("page")
    with started(["metro", "--no-prompt", "--web"], directory / "start.log", directory=directory) as start:
        note = running_emulation.read()
        assert note is not None
        told = re.search(r"^page: (http://127\.0\.0\.1:\d+/)$", start.text(), re.MULTILINE)
        assert told is not None, start.text()
        with httpx.Client(base_url="http://127.0.0.1:8080", timeout=20) as api:
            yield Site(Network(load_map(note.map_path), note, api), told[1], directory / "runs")


@pytest.fixture
def page(site: Site) -> Iterator[Browser]:
    with browser() as opened:
        opened.resize(1280, 900)
        open_live(opened, site.address)
        yield opened
        assert opened.messages == []


def open_live(page: Browser, address: str) -> None:
    page.open(address)
    page.wait_for("document.body.dataset.connection === 'open'")


@pytest.mark.usefixtures("no_emulation")
def test_the_demo_prints_an_address_at_which_its_network_is_seen(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "mininet/demo.py"), "--runs-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        try:
            assert demo.stdout is not None
            told = next(match for line in demo.stdout if (match := re.fullmatch(r"watch it at (\S+) while .*\n", line)))
            with browser() as page:
                open_live(page, told[1])
                page.wait_for(f"document.querySelector('[data-span={SPAN}]')")
                assert page.messages == []
        finally:
            demo.send_signal(signal.SIGINT)
            demo.communicate()
    with pytest.raises(httpx.ConnectError):
        httpx.get(told[1])


def test_a_run_started_on_the_page_is_followed_to_its_end(site: Site, page: Browser) -> None:
    open_live(page, f"{site.address}runs")
    page.evaluate("document.querySelector('.start [name=rounds]').value = '2'")
    page.evaluate("document.querySelector('.start button').click()")
    page.wait_for("location.pathname.startsWith('/runs/') && document.getElementById('run-state')", RUN_TIMEOUT_S)
    page.wait_for("document.querySelector('#run-state .tag.running')", RUN_TIMEOUT_S)
    page.wait_for("document.querySelector('#run-state progress')", RUN_TIMEOUT_S)
    page.wait_for("document.querySelector('#run-state .tag.done')", RUN_TIMEOUT_S)
    assert page.wait_for("document.querySelectorAll('#rounds tbody tr').length === 2")
    assert page.evaluate("document.querySelectorAll('#gantt .bar.sending').length") > 0
    (run,) = site.runs.iterdir()
    promises = json.loads((run / "summary.json").read_text())["promises"]
    assert promises["made"] > 0
    shown = page.evaluate("document.getElementById('run-state').innerText")
    assert f"{promises['kept']} of {promises['made']}" in shown


def test_a_cut_link_turns_red_and_comes_back(site: Site, page: Browser) -> None:
    line = f"document.querySelector('[data-span={SPAN}]')"
    colour = f"getComputedStyle({line}.querySelector('.fibre')).stroke"
    page.wait_for(f"{line}?.classList.contains('load-0')")
    before = page.evaluate(colour)
    faults = FaultInjector(site.network.topology, site.network.note.ovs_directory)
    try:
        faults.set_span(SPAN, up=False)
        page.wait_for(f"{line}.classList.contains('down')", AT_ONCE_S)
        red, green, blue = (int(part) for part in re.findall(r"\d+", page.evaluate(colour)))
        assert red > 2 * max(green, blue)
        page.wait_for(f"document.getElementById('alarms').innerText.includes('{SPAN}')", AT_ONCE_S)
    finally:
        faults.set_span(SPAN, up=True)
    page.wait_for(f"{line}.classList.contains('load-0')", AT_ONCE_S)
    assert page.evaluate(colour) == before


def test_what_flows_is_seen_where_it_flows(site: Site, page: Browser) -> None:
    network, cloud = site.network, site.network.topology.ip("cloud")
    page.wait_for(f"document.querySelector('[data-span={SPAN}] .flow.level-0')", AT_ONCE_S)
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with network.running_in("cloud", ["iperf3", "-s", "-p", "5999"], **quiet):
        wait_until(lambda: ":5999" in network.run_in("cloud", ["ss", "-ltnH"]))
        load = ["iperf3", "-c", cloud, "-p", "5999", "-u", "-l", "8000", "-b", "40M", "-t", "0"]
        with network.running_in("edge1", load, **quiet):
            for span in ("r1-r6", "r1-r2"):
                page.wait_for(f"document.querySelector('[data-span={span}] .flow.level-3')", AT_ONCE_S)
            assert "Mb/s" in page.evaluate("document.querySelector('[data-flows=r1-r6]').innerText")
            assert page.evaluate(f"document.querySelector('[data-span={SPAN}] .flow.level-0') !== null")
    page.wait_for("document.querySelector('[data-span=r1-r6] .flow.level-0')", AT_ONCE_S)


def test_a_reservation_made_on_a_telephone_exists_on_the_switches(site: Site, page: Browser) -> None:
    page.resize(390, 844)
    open_live(page, site.address)
    page.wait_for("document.querySelectorAll('[name=source] option').length > 4")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for field, value in {"source": "edge1", "destination": "cloud", "rate_mbps": "7", "source_port": "9001"}.items():
        page.evaluate(f"document.querySelector('.flow [name={field}]').value = '{value}'")
    page.evaluate("document.querySelector('button[value=\"/actions/reserve\"]').click()")
    identity = page.wait_for("document.querySelector('.form-result a')?.textContent")
    reservation = site.network.api.get(f"/v1/reservations/{identity}").json()
    assert reservation["state"] == "active"
    path = [name for name in reservation["flows"][0]["path"] if name.startswith("r")]
    rate_kbps = str(reservation["flows"][0]["reserved_bps"] // 1000)
    assert f"rate={rate_kbps} " in site.network.switch("dump-meters", path[0])
    assert "tp_src=9001" in site.network.switch("dump-flows", path[0])
    open_live(page, f"{site.address}reservations/{identity}")
    page.wait_for("document.querySelector('#counters tbody tr')")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate("document.getElementById('release').click()")
    page.wait_for("document.querySelector('#reservation .tag.released')", AT_ONCE_S)
    assert "tp_src=9001" not in site.network.switch("dump-flows", path[0])
    assert f"rate={rate_kbps} " not in site.network.switch("dump-meters", path[0])
