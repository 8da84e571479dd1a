"""The page that is kept up to date by pieces is at any time what a fresh one would be."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from fastapi import FastAPI

from tests.browser import Browser, browser
from tests.unit.controller.simulated_switches import serving
from tests.unit.trainer.web.records import network, reservation
from trainer.reservation.controller_client import ControllerClient
from trainer.web.app import STATIC, add_file
from trainer.web.live import Wakeups
from trainer.web.network_state import NetworkState
from trainer.web.network_views import NetworkViews
from trainer.web.pages import Pages

NOWHERE = "http://127.0.0.1:9"
SHOWN = ("map", "links", "reservations")
AS_FRESH = """
async function asFresh(ids) {
  const text = await (await fetch(location.href)).text();
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const plain = (root) => { const copy = root.cloneNode(true);
    copy.querySelectorAll(".flow").forEach((line) => line.removeAttribute("class"));
    return copy.innerHTML.replace(/\\s+/g, " ").replace(/> </g, "><").trim(); };
  return ids.filter((id) => plain(document.getElementById(id)) !== plain(fresh.getElementById(id)));
}
"""


@contextmanager
def served(state: NetworkState, wakeups: Wakeups) -> Iterator[str]:
    """The pages about a network that the test changes; yields their address."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> Any:
        wakeups.bind()
        yield
        wakeups.close()

    app = FastAPI(lifespan=lifespan)
    pages = Pages(lambda: state.versions, wakeups)
    NetworkViews(state, NOWHERE, lambda: ControllerClient(NOWHERE, 0, lambda _: None), lambda _: None).add_to(pages)
    app.include_router(pages.router)
    for name, media_type in STATIC.items():
        add_file(app, name, media_type)
    with serving(app) as client:
        yield str(client.base_url)
        wakeups.close()


@pytest.fixture
def page() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def change(state: NetworkState, chance: random.Random) -> None:
    """Change something as events do: reservations that come, go on and end, links that fail and fill."""
    rows = dict(state.reservations)
    for _ in range(chance.randint(1, 4)):
        id_, second = f"r-{chance.randrange(12):08x}", chance.randrange(60)
        kind = chance.choice(("active", "degraded", "released", "gone"))
        if kind == "gone":
            rows.pop(id_, None)
        else:
            rows[id_] = reservation(id_, state=kind, created_at=f"2026-01-01T00:00:{second:02}Z")
    state.replace(reservations=rows)
    assert state.network is not None
    links = [
        {**link, "up": chance.random() > 0.3, "reserved_bps": chance.choice((0, 30_000_000, 70_000_000))}
        for link in state.network["links"]
    ]
    nodes = [{**node, "up": chance.random() > 0.1} for node in state.network["nodes"]]
    state.replace(network={**state.network, "links": links, "nodes": nodes if chance.random() < 0.2 else
                           state.network["nodes"]})  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2])
def test_after_any_changes_the_page_is_a_fresh_one(page: Browser, seed: int) -> None:
    state, wakeups, chance = NetworkState(network=network()), Wakeups(), random.Random(seed)
    with served(state, wakeups) as address:
        page.open(address)
        page.wait_for("document.body.dataset.connection === 'open'")
        page.evaluate(f"{AS_FRESH}; 0")
        page.evaluate("document.getElementById('row-s1-s2').marked = 1; 0")
        for _ in range(25):
            change(state, chance)
            wakeups.wake()
            page.wait_for(f"asFresh({list(SHOWN)}).then((ids) => ids.length === 0)", 20)
        assert page.evaluate("document.getElementById('row-s1-s2').marked") == 1  # rows stay the elements that they are
        assert page.messages == []


def test_what_has_the_focus_keeps_it_while_rows_come_and_go(page: Browser) -> None:
    rows = {f"r-{n:08x}": reservation(f"r-{n:08x}", created_at=f"2026-01-01T00:00:{n:02}Z") for n in range(8)}
    state, wakeups = NetworkState(network=network(), reservations=rows), Wakeups()
    with served(state, wakeups) as address:
        page.open(address)
        page.wait_for("document.body.dataset.connection === 'open'")
        page.evaluate("document.getElementById('release-r-00000003').focus(); 0")
        state.put_reservations({"r-000000ff": reservation("r-000000ff", created_at="2026-01-02T00:00:00Z")})
        wakeups.wake()
        page.wait_for("document.getElementById('row-r-000000ff')")
        state.put_reservations({"r-00000007": reservation("r-00000007", state="released")})
        wakeups.wake()
        page.wait_for("document.querySelector('#row-r-00000007.over')")
        assert page.evaluate("document.activeElement.id") == "release-r-00000003"
        order = page.evaluate("[...document.querySelectorAll('#reservations tbody tr')].map((row) => row.id)")
        assert (order[0], order[-1]) == ("row-r-000000ff", "row-r-00000007")
