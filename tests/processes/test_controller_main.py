"""The controller process: errors at the start, other Ryu applications beside it, and running inside ryu-manager."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from controller.runtime.main import command
from controller.security.pki import Subjects, create_authority
from machine.polling import wait_until

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


def test_an_unknown_map_is_reported_with_the_known_maps() -> None:
    code, output = refused("nosuch")
    assert code == 2
    assert "nosuch" in output
    assert "metro, pair" in output


def test_an_invalid_address_is_reported_with_an_example() -> None:
    code, output = refused("pair", "--listen", "localhost")
    assert code == 2
    assert "write it as 127.0.0.1:8080" in output


@pytest.mark.parametrize("option", ["--listen", "--openflow"])
def test_a_port_in_use_is_reported(taken_port: int, option: str) -> None:
    other = "--openflow" if option == "--listen" else "--listen"
    code, output = refused("pair", option, f"127.0.0.1:{taken_port}", other, f"127.0.0.1:{free_port()}")
    assert code == 3
    assert f"127.0.0.1:{taken_port}: Address already in use" in output


def test_a_ledger_that_cannot_be_opened_is_reported() -> None:
    result = CliRunner().invoke(command, ["pair", "--ledger", "nonsense://x"])
    assert result.exit_code == 2
    assert "nonsense://x" in result.output


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_without_tokens_the_controller_listens_on_management_addresses_only(address: str) -> None:
    listen = f"[{address}]:{free_port()}" if ":" in address else f"{address}:{free_port()}"
    code, output = refused("pair", "--listen", listen, "--openflow", f"127.0.0.1:{free_port()}")
    assert code == 2
    assert f"may not listen on {address} as long as there are no tokens" in output


def test_help_shows_an_example() -> None:
    assert "paceline controller metro" in CliRunner().invoke(command, ["--help"]).output


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    listen = ["--listen", f"127.0.0.1:{free_port()}", "--openflow", f"127.0.0.1:{free_port()}", "--ledger", "sqlite://"]
    command_line = [sys.executable, "-m", "controller.runtime.main", "pair", *listen, *arguments]
    return subprocess.run(command_line, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize(
    ("module", "words"), [("no.such.app", "cannot be loaded"), ("json", "no Ryu application in json")]
)
def test_an_invalid_ryu_app_is_reported_and_the_process_ends(module: str, words: str) -> None:
    process = run("--ryu-app", module)
    assert process.returncode == 2
    assert words in process.stderr
    assert "Traceback" not in process.stderr


def started(command_line: list[str], rest_port: int, log: Path, **environment: str) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        process = subprocess.Popen(command_line, stdout=output, stderr=output, env={**os.environ, **environment})
    try:
        wait_until(lambda: process.poll() is not None or listens(rest_port))
        assert process.poll() is None, log.read_text()
    except AssertionError:
        process.kill()
        process.wait()
        raise
    return process


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def inside_ryu_manager(directory: Path, rest_port: int, openflow_port: int, *settings: str) -> Iterator[Path]:
    """The controller of `pair` inside ryu-manager; yields its log file."""
    config, log = directory / "ryu.conf", directory / "log"
    options = (f"paceline_listen = 127.0.0.1:{rest_port}", "paceline_ledger = sqlite://", *settings)
    config.write_text("\n".join(("[DEFAULT]", *options, "")))
    listen = ["--ofp-listen-host", "127.0.0.1", "--ofp-tcp-listen-port", str(openflow_port)]
    manager = [sys.executable, "-c", RYU_MANAGER, *listen, "--config-file", str(config), "controller.openflow.ryu_app"]
    process = started(manager, rest_port, log, PACELINE_MAP="pair")
    try:
        yield log
    finally:
        process.terminate()  # not SIGINT: a greenlet of Ryu's may swallow the KeyboardInterrupt
        process.wait(60)


def test_another_ryu_app_runs_in_the_same_process_and_one_signal_ends_both(tmp_path: Path) -> None:
    rest, openflow, ryu = free_port(), free_port(), free_port()
    ports = {"--listen": rest, "--openflow": openflow, "--ryu-rest": ryu}
    options = [argument for name, port in ports.items() for argument in (name, f"127.0.0.1:{port}")]
    main = [sys.executable, "-m", "controller.runtime.main", "pair", "--ledger", "sqlite://",
            "--ryu-app", "ryu.app.ofctl_rest"]
    process = started([*main, *options], rest, tmp_path / "log")
    try:
        assert httpx.get(f"http://127.0.0.1:{rest}/v1/healthz", timeout=60).json()["switches_expected"] == 2
        wait_until(lambda: listens(ryu))
        assert httpx.get(f"http://127.0.0.1:{ryu}/stats/switches", timeout=60).json() == []
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, (tmp_path / "log").read_text()


def test_the_controller_runs_inside_ryu_manager(tmp_path: Path) -> None:
    rest, openflow = free_port(), free_port()
    with (
        inside_ryu_manager(tmp_path, rest, openflow) as log,
        httpx.Client(base_url=f"http://127.0.0.1:{rest}", timeout=30) as client,
    ):
        health = {"status": "degraded", "switches_up": 0, "switches_expected": 2, "audit": "ok", "ledger": "ok"}
        assert client.get("/v1/healthz").json() == health
        assert client.get("/v1/network").json()["complaints"][0].startswith("Switch s1 ")
        answer = client.post("/v1/reservations", content=b"{", headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert client.post("/v1/reservations", content=b"x" * (1 << 21)).status_code == 413
        assert client.get("/openapi.json").status_code == 200
        for path in ("/metrics", "/v1/consistency", "/v1/audit", "/v1/reservations"):
            assert client.get(path).status_code == 200, path
        stream = client.get("/v1/events")
        assert (stream.status_code, stream.json()["code"]) == (501, "not_available")
        assert "For events run `paceline controller MAP --ryu-app MODULE`" in log.read_text()
        with socket.create_connection(("127.0.0.1", openflow)) as switch:
            assert switch.recv(8)[:2] == b"\x04\x00"  # OpenFlow 1.3, hello


def test_inside_ryu_manager_rest_uses_https_and_an_idle_client_does_not_block_it(tmp_path: Path) -> None:
    create_authority(tmp_path / "lab", Subjects(), [], days=1)
    certificate, key, authority = (tmp_path / "lab" / name for name in ("controller.crt", "controller.key", "ca.crt"))
    rest, url = free_port(), "https://127.0.0.1"
    settings = (f"paceline_tls_cert = {certificate}", f"paceline_tls_key = {key}")
    with inside_ryu_manager(tmp_path, rest, free_port(), *settings) as log:
        trust = ssl.create_default_context(cafile=str(authority))
        with socket.create_connection(("127.0.0.1", rest)):  # an idle client
            health = httpx.get(f"{url}:{rest}/v1/healthz", verify=trust, timeout=30).json()
        assert health["switches_expected"] == 2
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{url}:{rest}/v1/healthz")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{rest}/v1/healthz")
        again = httpx.get(f"{url}:{rest}/v1/network", verify=trust, timeout=30)
        assert again.status_code == 200
        assert f"REST on {url}:{rest}" in log.read_text()


def test_inside_ryu_manager_a_missing_tls_option_is_an_error_at_the_start(tmp_path: Path) -> None:
    config = tmp_path / "ryu.conf"
    config.write_text(f"[DEFAULT]\npaceline_ledger = sqlite://\npaceline_tls_cert = {tmp_path / 'nosuch.crt'}\n")
    openflow = ["--ofp-listen-host", "127.0.0.1", "--ofp-tcp-listen-port", str(free_port())]
    manager = [sys.executable, "-c", RYU_MANAGER, *openflow, "--config-file", str(config),
               "controller.openflow.ryu_app"]
    environment = {**os.environ, "PACELINE_MAP": "pair"}
    process = subprocess.run(manager, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert process.returncode != 0
    assert "TLS for REST needs both paceline_tls_cert and paceline_tls_key" in process.stderr + process.stdout
