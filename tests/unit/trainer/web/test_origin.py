"""Who may ask the page's server: its own pages and programs, by a known host, with the key if there is one."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from fastapi import FastAPI
from starlette.datastructures import Headers

from trainer.web.origin import COOKIE, OwnOrigin, is_known_host, refusal

HOST = {"host": "127.0.0.1:8090"}
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8090", "[::1]:8090", "localhost", socket.gethostname()])
def test_addresses_and_own_names_are_known(host: str) -> None:
    assert is_known_host(host)


@pytest.mark.parametrize("host", ["", "evil.example", "evil.example:8090", "127.0.0.1.evil.example", "[evil]:80"])
def test_other_names_are_not(host: str) -> None:
    assert not is_known_host(host)


@pytest.mark.parametrize("headers", [
    {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:9999"},
    {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"content-type": "text/plain"},
    {"content-type": "application/x-www-form-urlencoded"},
])  # fmt: skip
def test_what_a_page_of_another_origin_can_send_is_refused(headers: dict[str, str]) -> None:
    assert refusal("POST", Headers({**HOST, **JSON, **headers})) is not None


@pytest.mark.parametrize("headers", [{}, {"origin": "http://127.0.0.1:8090", "sec-fetch-site": "same-origin"}])
def test_its_own_page_and_programs_may_act(headers: dict[str, str]) -> None:
    assert refusal("POST", Headers({**HOST, **JSON, **headers})) is None


def get(path: str, **headers: str) -> httpx.Response:
    app = FastAPI()

    @app.get("/")
    async def start() -> str:
        return "secret"

    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(OwnOrigin(app, "the-key"))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8090") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(request())


def test_the_key_opens_the_page_once_and_then_the_cookie_does() -> None:
    assert (get("/").status_code, get("/?key=wrong").status_code) == (403, 403)
    first = get("/?key=the-key")
    assert (first.status_code, first.headers["location"]) == (303, "/")
    assert {"httponly", "samesite=strict"} <= set(first.headers["set-cookie"].lower().split("; "))
    second = get("/", cookie=f"{COOKIE}=the-key")
    assert second.text == '"secret"'
    assert "script-src 'self'" in second.headers["content-security-policy"]


def test_a_program_sends_the_key_as_bearer_token() -> None:
    assert get("/", authorization="Bearer the-key").status_code == 200
    assert get("/", authorization="Bearer nothing").status_code == 403
