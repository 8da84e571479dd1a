"""The page in a real browser: on a real service with switches that confirm at once, and on records of runs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from controller.api.app import create_app
from controller.service.reservation_service import Service
from controller.storage.ledger import IN_MEMORY, Ledger
from tests.browser import Browser, browser
from tests.unit.controller.simulated_switches import running_service, serving
from tests.unit.trainer.web.records import round_row, write_run

PAGES = ("/", "/spectrum", "/runs", "/runs/a", "/runs/compare?run=a&run=b", "/links/s1-s2")
FOCUSED = """
(e => e.tagName + ' ' + (e.id || e.name || e.getAttribute('href') || e.textContent).trim())(document.activeElement)
"""
SCRIPT = "<img src=x onerror=alert(1)>"


@contextmanager
def page_of(api: httpx.Client, runs: Path) -> Iterator[str]:
    """`paceline web` on a free port; yields its address without the last slash."""
    command = [*(sys.executable, "-m", "trainer.cli.main", "web", "--port", "0"),
               *("--controller", str(api.base_url).rstrip("/"), "--runs", str(runs))]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("page: http://127.0.0.1:")
            yield line.removeprefix("page: ").strip().rstrip("/")
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service(Ledger(IN_MEMORY, "pair")) as running:
        yield running


@pytest.fixture(scope="module")
def api(service: Service) -> Iterator[httpx.Client]:
    with serving(create_app(service)) as client:
        yield client


@pytest.fixture(scope="module")
def site(api: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    runs = tmp_path_factory.mktemp("runs")
    write_run(runs / "a", [round_row(1), round_row(2)])
    write_run(runs / "b", [round_row(1)], status="failed", error=SCRIPT)
    with page_of(api, runs) as address:
        yield address


@pytest.fixture
def page() -> Iterator[Browser]:
    with browser() as opened:
        opened.resize(1280, 900)
        yield opened
        assert opened.messages == []


def open_live(page: Browser, address: str) -> None:
    page.open(address)
    page.wait_for("document.body.dataset.connection === 'open'")


def test_every_page_is_accessible_and_fits_a_telephone(page: Browser, site: str, api: httpx.Client) -> None:
    flow = {"name": "f", "source": "edge1", "destination": "cloud", "match": {"protocol": "tcp"},
            "requirement": {"min_bandwidth_bps": 1_000_000}}  # fmt: skip
    identity = api.post("/v1/reservations", json={"owner": "lab", "flows": [flow]}).json()["id"]
    open_live(page, f"{site}/")
    page.wait_for(f"document.getElementById('release-{identity}')")
    for width in (1280, 390):
        page.resize(width, 844)
        for path in (*PAGES, f"/reservations/{identity}"):
            open_live(page, f"{site}{path}")
            page.wait_for("document.querySelector('main').innerText.length > 40")
            assert page.accessibility_mistakes() == [], (path, width)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
    assert SCRIPT in page.evaluate(f"fetch('{site}/v1/runs/b').then(r => r.text())")
    api.delete(f"/v1/reservations/{identity}")


def test_the_keyboard_reserves_and_releases(page: Browser, site: str, api: httpx.Client) -> None:
    open_live(page, f"{site}/")
    page.wait_for("document.querySelectorAll('[data-span]').length > 3")
    reached = []
    for _ in range(120):
        page.press("Tab", 9)
        reached.append(page.evaluate(FOCUSED))
        if reached[-1].startswith("BODY"):
            break
    assert {"SELECT source", "INPUT rate_mbps", "A /links/s1-s2", "BUTTON down-s1-s2"} <= set(reached)
    page.evaluate("document.querySelector('button[value=\"/actions/reserve\"]').focus()")
    page.press("Enter", 13, "\r")
    identity = page.wait_for("document.querySelector('.form-result a')?.textContent")
    assert api.get(f"/v1/reservations/{identity}").json()["state"] == "active"
    page.wait_for(f"document.getElementById('release-{identity}')")
    page.evaluate(f"document.getElementById('release-{identity}').focus()")
    page.press("Enter", 13, "\r")
    page.wait_for(f"document.getElementById('result').innerText.includes('{identity} is released')")
    assert api.get(f"/v1/reservations/{identity}").json()["state"] == "released"


def test_a_refusal_and_an_offer_are_told_in_the_page(page: Browser, site: str) -> None:
    open_live(page, f"{site}/")
    page.evaluate("document.querySelector('[name=rate_mbps]').value = '500'")
    page.evaluate("document.querySelector('button[value=\"/actions/quote\"]').click()")
    told = page.wait_for("document.querySelector('.form-result .bad')?.innerText")
    assert "needs 500 Mb/s" in told
    assert "It would be accepted now with" in told


def test_a_span_out_of_service_shows_at_once_on_map_and_page(page: Browser, site: str, api: httpx.Client) -> None:
    open_live(page, f"{site}/links/s1-s2")
    page.wait_for("document.getElementById('take-out')")
    page.evaluate("document.getElementById('take-out').click()")
    page.wait_for("document.querySelector('[data-span=s1-s2]').classList.contains('closed')")
    page.wait_for("document.getElementById('put-back')")
    page.evaluate("document.getElementById('put-back').click()")
    page.wait_for("document.getElementById('take-out')")
    assert all(link["in_service"] for link in api.get("/v1/network").json()["links"])


def some_fragment(rng: random.Random) -> str:
    """A table with rows that come, go, change and change places, beside what has no id."""
    if rng.random() < 0.1:
        return '<p class="empty">None.</p>'
    rows = "\n".join(
        f'<tr id="row-{number}"{rng.choice(("", " class=over"))}><th>{number}</th><td>{rng.randint(0, 2)}</td></tr>'
        for number in rng.sample(range(12), rng.randint(0, 10))
    )
    more = f"<details><summary>More</summary>{rng.randint(0, 9)}</details>" if rng.random() < 0.5 else ""
    drawn = f'<svg><a data-span="a-b"><line class="load-{rng.randint(0, 2)}"/></a>{rng.choice(("", "<circle/>"))}</svg>'
    return f'<p>{len(rows)}</p>\n<div class="scroll"><table>\n<tbody>\n{rows}\n</tbody></table></div>{more}{drawn}'


def test_a_fragment_that_changes_becomes_what_it_is_when_written_anew(page: Browser, site: str) -> None:
    page.open(f"{site}/nothing")
    assert page.messages.pop().startswith("Failed to load resource: the server responded with a status of 404")
    page.evaluate("document.getElementById('content').innerHTML = '<div id=part></div>'")
    rng = random.Random(1)
    for _ in range(150):
        html = json.dumps(some_fragment(rng))
        became, anew = page.evaluate(f"""(() => {{
            replaceFragment({{id: 'part', html: {html}}});
            const anew = document.createElement('div');
            anew.innerHTML = {html};
            return [document.getElementById('part'), anew].map(part => part.innerHTML.replace(/>\\s+</g, '><'));
        }})()""")
        assert became == anew


def test_what_was_opened_and_has_the_focus_stays_so(page: Browser, site: str) -> None:
    page.open(f"{site}/nothing")
    page.messages.clear()
    page.evaluate("document.getElementById('content').innerHTML = '<div id=part></div>'")
    part = '<details><summary>More</summary>%d</details><table><tbody>%s</tbody></table>'
    rows = [f'<tr id="row-{number}"><td><button>Do</button></td></tr>' for number in range(3)]
    replace = "replaceFragment({id: 'part', html: %s})"
    page.evaluate(replace % json.dumps(part % (1, "".join(rows))))
    page.evaluate("document.querySelector('details').open = true; document.querySelector('#row-2 button').focus()")
    page.evaluate(replace % json.dumps(part % (2, "".join(rows[1:]))))
    assert page.evaluate("document.querySelector('details[open]').innerText") == "More\n2"
    assert page.evaluate("document.activeElement.closest('tr').id") == "row-2"


def test_other_sites_cannot_act(site: str) -> None:
    def status(**headers: str) -> int:
        return httpx.post(f"{site}/actions/links/s1-s2/down", json={}, headers=headers).status_code

    assert status(origin="http://evil.example") == 403
    assert status(**{"sec-fetch-site": "cross-site"}) == 403
    assert status(host="evil.example") == 403
    assert status(**{"content-type": "text/plain"}) == 403
