"""The process: what it says when it cannot start, and that it works inside somebody else's Ryu."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from controller.main import command

RYU_MANAGER = """
import sys, warnings
warnings.simplefilter("ignore")
import eventlet.wsgi
eventlet.wsgi.ALREADY_HANDLED = object()  # ryu-manager does not start without it
from ryu.cmd.manager import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def refused(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, [*arguments, "--ledger", "sqlite://"])
    return result.exit_code, result.output


def test_an_unknown_map_is_told_which_there_are() -> None:
    code, words = refused("nosuch")
    assert code == 2
    assert "nosuch" in words
    assert "metro, pair" in words


def test_an_address_that_is_none_is_told_how_to_write_one() -> None:
    code, words = refused("pair", "--listen", "localhost")
    assert code == 2
    assert "write it as 127.0.0.1:8080" in words


@pytest.mark.parametrize("option", ["--listen", "--openflow"])
def test_a_port_in_use_is_named(taken_port: int, option: str) -> None:
    other = "--openflow" if option == "--listen" else "--listen"
    code, words = refused("pair", option, f"127.0.0.1:{taken_port}", other, f"127.0.0.1:{free_port()}")
    assert code == 3
    assert f"127.0.0.1:{taken_port}: Address already in use" in words


def test_a_ledger_that_cannot_be_opened_is_named() -> None:
    result = CliRunner().invoke(command, ["pair", "--ledger", "nonsense://x"])
    assert result.exit_code == 2
    assert "nonsense://x" in result.output


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_without_tokens_it_listens_to_no_strangers(address: str) -> None:
    listen = f"[{address}]:{free_port()}" if ":" in address else f"{address}:{free_port()}"
    code, words = refused("pair", "--listen", listen, "--openflow", f"127.0.0.1:{free_port()}")
    assert code == 2
    assert f"may not listen on {address} as long as there are no tokens" in words


def test_help_shows_an_example() -> None:
    assert "paceline controller metro" in CliRunner().invoke(command, ["--help"]).output


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    listen = ["--listen", f"127.0.0.1:{free_port()}", "--openflow", f"127.0.0.1:{free_port()}", "--ledger", "sqlite://"]
    command_line = [sys.executable, "-m", "controller.main", "pair", *listen, *arguments]
    return subprocess.run(command_line, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("module", "words"), [("no.such.app", "cannot be loaded"), ("json", "no Ryu application in json")]
)
def test_a_ryu_app_that_is_none_is_named_and_nothing_goes_on_running(module: str, words: str) -> None:
    ended = run("--ryu-app", module)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def started(command_line: list[str], rest_port: int, log: Path, **environment: str) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        process = subprocess.Popen(command_line, stdout=output, stderr=output, env={**os.environ, **environment})
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        try:
            httpx.get(f"http://127.0.0.1:{rest_port}/v1/healthz")
            return process
        except httpx.TransportError:
            time.sleep(0.05)
    process.kill()
    process.wait()
    raise AssertionError(log.read_text())


def test_another_ryu_app_runs_beside_it_and_both_end_with_one_signal(tmp_path: Path) -> None:
    rest, openflow, ryu = free_port(), free_port(), free_port()
    ports = {"--listen": rest, "--openflow": openflow, "--ryu-rest": ryu}
    options = [word for name, port in ports.items() for word in (name, f"127.0.0.1:{port}")]
    main = [sys.executable, "-m", "controller.main", "pair", "--ledger", "sqlite://", "--ryu-app", "ryu.app.ofctl_rest"]
    process = started([*main, *options], rest, tmp_path / "log")
    try:
        assert httpx.get(f"http://127.0.0.1:{ryu}/stats/switches").json() == []
        assert httpx.get(f"http://127.0.0.1:{rest}/v1/healthz").json()["switches_expected"] == 2
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0, (tmp_path / "log").read_text()


def test_it_runs_as_an_application_of_ryu_manager(tmp_path: Path) -> None:
    rest, openflow = free_port(), free_port()
    config = tmp_path / "ryu.conf"
    config.write_text(f"[DEFAULT]\npaceline_listen = 127.0.0.1:{rest}\npaceline_ledger = sqlite://\n")
    listen = ["--ofp-listen-host", "127.0.0.1", "--ofp-tcp-listen-port", str(openflow)]
    manager = [sys.executable, "-c", RYU_MANAGER, *listen, "--config-file", str(config), "controller.southbound"]
    process = started(manager, rest, tmp_path / "log", PACELINE_MAP="pair")
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{rest}") as client:
            assert client.get("/v1/healthz").json() == {"status": "degraded", "switches_up": 0, "switches_expected": 2}
            assert client.get("/v1/network").json()["complaints"][0].startswith("Switch s1 ")
            answer = client.post("/v1/reservations", content=b"{", headers={"content-type": "application/json"})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
            assert client.post("/v1/reservations", content=b"x" * (1 << 21)).status_code == 413
            assert client.get("/openapi.json").status_code == 200
            for path in ("/metrics", "/v1/consistency", "/v1/audit", "/v1/reservations"):
                assert client.get(path).status_code == 200, path
            stream = client.get("/v1/events")
            assert (stream.status_code, stream.json()["code"]) == (501, "not_available")
            with socket.create_connection(("127.0.0.1", openflow)) as switch:
                assert switch.recv(8)[:2] == b"\x04\x00"  # OpenFlow 1.3, hello
    finally:
        process.terminate()  # not SIGINT: a greenlet of Ryu's may swallow the KeyboardInterrupt
        process.wait(15)
