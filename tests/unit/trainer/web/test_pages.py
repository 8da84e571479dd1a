"""Pages are whole, escape what others named, and follow records that grow."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.unit.trainer.web.records import network, reservation, round_row, write_run
from trainer.reservation.controller_client import ApiCredentials, ControllerClient
from trainer.web.app import make_app
from trainer.web.live import Fragment, Wakeups, stream
from trainer.web.network_state import NetworkState
from trainer.web.network_views import NetworkViews
from trainer.web.pages import Pages
from trainer.web.templating import HINT, PIECES, Parts

SCRIPT = "<script>alert(1)</script>"
NO_CONTROLLER = "http://127.0.0.1:9"


def get(app: Any, path: str, method: str = "GET", **arguments: Any) -> httpx.Response:
    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8090") as client:
            return await client.request(method, path, **arguments)

    return asyncio.run(request())


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_run(tmp_path / "a", [round_row(1), round_row(2)])
    write_run(tmp_path / "b", [], status="failed", error=f"It failed: {SCRIPT}")
    (tmp_path / "not a run").mkdir()
    return tmp_path


@pytest.fixture
def app(runs: Path) -> Any:
    return make_app(NO_CONTROLLER, ApiCredentials(), runs, None)


@pytest.mark.parametrize("path", ["/", "/spectrum", "/runs", "/runs/a", "/runs/b", "/runs/compare?run=a&run=b"])
def test_every_page_has_its_language_title_and_landmarks(app: Any, path: str) -> None:
    text = get(app, path).text
    assert '<html lang="en">' in text
    assert "<h1>" in text
    assert "<main" in text
    assert SCRIPT not in text
    assert not re.search(r"""\b(?:style|on\w+)=["']|<script>|https?://(?!127\.0\.0\.1)""", text)


@pytest.mark.parametrize(
    "path", ["/nothing", "/runs/c", "/runs/..%2f..", "/runs/not%20a%20run", "/reservations/r-9", "/links/a-b"]
)
def test_what_does_not_exist_is_not_found(app: Any, path: str) -> None:
    assert get(app, path).status_code == 404


def test_a_form_with_mistakes_says_which(app: Any) -> None:
    answer = get(app, "/actions/reserve", "POST", json={"source": "edge1", "rate_mbps": SCRIPT})
    assert answer.status_code == 422
    assert "destination: Field required" in answer.text
    assert SCRIPT not in answer.text


def test_without_a_controller_the_page_says_so(app: Any) -> None:
    answer = get(app, "/actions/reserve", "POST", json={"source": "edge1", "destination": "cloud", "rate_mbps": "5"})
    assert answer.status_code == 502
    assert "does not answer" in answer.text


def client() -> ControllerClient:
    return ControllerClient(NO_CONTROLLER, 0, lambda _: None)


def test_what_others_named_is_escaped() -> None:
    named = reservation("r-00000001", owner=SCRIPT, reason=SCRIPT)
    state = NetworkState(network=network(map=SCRIPT, complaints=[SCRIPT]), reservations={"r-00000001": named})
    pages, asked = Pages(lambda: state.versions, Wakeups()), list[str]()
    NetworkViews(state, "http://x", client, asked.append).add_to(pages)
    app = FastAPI()
    app.include_router(pages.router)
    for path in ("/", "/reservations/r-00000001", "/links/s1-s2"):
        answer = get(app, path)
        assert answer.status_code == 200
        assert SCRIPT not in answer.text
        assert "&lt;script&gt;" in answer.text or path.startswith("/links")


def test_a_stream_sends_all_fragments_and_then_what_changed() -> None:
    versions, content = {"network": 0}, {"a": "one", "b": "two"}
    fragments = [Fragment("a", frozenset({"network"}), lambda: content["a"]),
                 Fragment("b", frozenset(), lambda: content["b"])]  # fmt: skip

    async def events(source: AsyncIterator[str], count: int) -> list[Any]:
        found: list[Any] = []
        async for text in source:
            if text.startswith("event: fragment"):
                found.append(json.loads(text.partition("data: ")[2]))
            if len(found) == count:
                return found
        return found

    async def watch() -> tuple[list[Any], list[Any]]:
        wakeups = Wakeups()
        wakeups.bind()
        source = stream(fragments, lambda: versions, wakeups)
        first = await events(source, 2)
        content["a"], versions["network"] = "three", 1
        wakeups.wake()
        return first, await events(source, 1)

    first, then = asyncio.run(watch())
    assert first == [{"id": "a", "html": "one"}, {"id": "b", "html": "two"}]
    assert then == [{"id": "a", "html": "three"}]


def test_of_many_pieces_those_are_told_that_have_changed() -> None:
    before = Parts(f"<ul>{PIECES}</ul>{HINT}", {"a": "<li id=a>1", "b": "<li id=b>2"}, ("n", "two"))
    assert str(before) == "<ul><li id=a>1<li id=b>2</ul>two"
    changed = replace(before, pieces={"a": "<li id=a>1", "b": "<li id=b>3"})
    assert changed.changes_since(before) == {"changed": {"b": "<li id=b>3"}, "svg": False}
    longer = replace(before, pieces={"c": "<li id=c>0", **before.pieces}, hint=("n", "three"))
    assert longer.changes_since(before) == {
        "changed": {"c": "<li id=c>0", "n": "three"}, "svg": False, "order": ["c", "a", "b"],
    }  # fmt: skip
    unlike: tuple[dict[str, Any], ...] = ({"shell": "<ol>"}, {"pieces": {}}, {"pieces": {"d": "<li id=d>"}})
    for other in (replace(before, **values) for values in unlike):
        assert other.changes_since(before) is None
        assert before.changes_since(other) is None


def test_a_run_is_followed_while_it_grows(app: Any, runs: Path) -> None:
    assert "Round 2: 1.50 s" in get(app, "/runs/a").text
    with (runs / "a/rounds.jsonl").open("a") as file:
        file.write(json.dumps(round_row(3)) + "\n" + json.dumps(round_row(4))[:50])
    text = get(app, "/runs/a").text
    assert "Round 3: 1.50 s" in text
    assert "8 of 8" not in text
    assert "6 of 6" in text
