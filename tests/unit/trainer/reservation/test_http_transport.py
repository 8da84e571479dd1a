"""URLs that a user may type, and what answers there without being a controller."""

from __future__ import annotations

import socket
import threading

import pytest

from trainer.errors import ControllerUnreachableError, UsageError
from trainer.reservation.controller_client import ApiCredentials, ControllerClient
from trainer.reservation.http_transport import HttpTransport

NO_URLS = (
    "", "nonsense", "127.0.0.1:8080", "ftp://lab", "http://", "http:///v1", "http://lab:99999", "http://lab:x",
    "http://[::1", "http://a b", "http://lab\n", "http://exämple", f"http://{64 * 'a'}", "http://a..b",
)  # fmt: skip


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_no_url_of_a_server_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match=r"--controller is .* it must be a URL such as"):
        HttpTransport(url, {}, 1, None)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "http://[::1]:8080/", "https://lab.example/paceline"])
def test_a_url_of_a_server_is_taken(url: str) -> None:
    HttpTransport(url, {}, 1, None).close()


def test_the_option_that_gave_it_is_named() -> None:
    with pytest.raises(UsageError, match="--url is 'x'"):
        HttpTransport("x", {}, 1, None, "--url")


def test_a_port_that_does_not_speak_http_is_told_without_its_bytes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"\x04\x00\x00\x10\x1b[31m\x00\x01\x00\x08\x00\x00\x00\x10\n")

        thread = threading.Thread(target=greet)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        client = ControllerClient(url, 0, print, credentials=ApiCredentials(), advice="Start it.")
        with pytest.raises(ControllerUnreachableError) as caught:
            client.network_json()
        thread.join()
        client.close()
    sentence = f"The controller at {url} does not answer (what listens there does not speak HTTP). Start it."
    assert str(caught.value) == sentence


@pytest.mark.parametrize("token", ["a b", "a\nb", "ä", "\x1b"])
def test_a_token_that_cannot_be_one_is_a_usage_error(token: str) -> None:
    with pytest.raises(UsageError, match="PACELINE_TOKEN is not a token"):
        ControllerClient("http://127.0.0.1:1", 0, print, credentials=ApiCredentials(token))
