"""TLS of the REST API and of OpenFlow, with certificates of `paceline pki init`."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from controller.runtime.main import command as controller_command
from controller.security.pki import command as pki_command
from machine.polling import wait_until
from tests.processes.rig import MAP, Controller, OpenVSwitch, free_port, needs_open_vswitch

pytestmark = needs_open_vswitch


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki") / "lab"
    made = CliRunner().invoke(pki_command, ["init", str(directory), "--map", "pair"])
    assert made.exit_code == 0, made.output
    assert made.output.splitlines() == [
        f"{directory}/{name}.{kind}"
        for name in ("ca", "controller", "switch", "switch-s1", "switch-s2", "client", "cloud", "edge1", "edge2")
        for kind in ("key", "crt")
    ]
    return directory


@pytest.fixture(scope="module")
def controller(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    certificate, key = str(lab / "controller.crt"), str(lab / "controller.key")
    options = ["--tls-cert", certificate, "--tls-key", key]
    options += ["--openflow-cert", certificate, "--openflow-key", key, "--openflow-ca", str(lab / "ca.crt")]
    running = Controller(tmp_path_factory.mktemp("controller"), *options, authority=lab / "ca.crt")
    yield running
    running.stop()
    running.client.close()


def test_switches_with_certificates_connect_and_confirm_reservations(
    lab: Path, controller: Controller, tmp_path: Path
) -> None:
    ovs = OpenVSwitch(tmp_path)
    try:
        ovs.vsctl("set-ssl", *(str(lab / name) for name in ("switch.key", "switch.crt", "ca.crt")))
        ovs.build(controller.openflow_port, "ssl")
        wait_until(controller.in_sync)
        answer = controller.reserve()
        assert answer.status_code == 201
        assert any(answer.json()["id"][2:] in line for line in ovs.flows("s2"))
        ovs.disconnect("s1")
        wait_until(lambda: controller.switches_up() == 1)
        ovs.connect(controller.openflow_port, "ssl")
        wait_until(controller.in_sync)
        controller.client.delete(f"/v1/reservations/{answer.json()['id']}").raise_for_status()
    finally:
        ovs.stop()
    wait_until(lambda: controller.switches_up() == 0)


def test_a_switch_with_the_certificate_of_another_is_rejected_with_an_event(
    lab: Path, controller: Controller, tmp_path: Path
) -> None:
    ovs = OpenVSwitch(tmp_path)
    try:
        with controller.client.stream("GET", "/v1/events") as answer:
            ovs.vsctl("set-ssl", *(str(lab / name) for name in ("switch-s1.key", "switch-s1.crt", "ca.crt")))
            ovs.build(controller.openflow_port, "ssl")
            lines = answer.iter_lines()
            assert "event: impostor" in lines  # reads until the event arrives
            event = json.loads(next(lines).removeprefix("data: "))
        assert event == {"switch": "s2", "certificate": ["s1"], "address": "127.0.0.1", "reason": "certificate"}
        wait_until(lambda: controller.switches_up() == 1)
        assert ovs.flows("s2") == []
        refused = controller.reserve()
        assert (refused.status_code, refused.json().get("switches")) == (503, ["s2"]), refused.text
        ovs.vsctl(
            "set-ssl", *(str(lab / name) for name in ("switch.key", "switch.crt", "ca.crt"))
        )  # names both
        wait_until(controller.in_sync)
    finally:
        ovs.stop()
    wait_until(lambda: controller.switches_up() == 0)


def first_bytes(controller: Controller, context: ssl.SSLContext | None) -> bytes:
    """The first bytes that the controller sends on an OpenFlow connection."""
    with socket.create_connection(("127.0.0.1", controller.openflow_port), timeout=60) as plain:
        if context is None:
            plain.sendall(b"\x04\x00\x00\x08\x00\x00\x00\x01")  # OpenFlow 1.3, hello
            return plain.recv(8)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
            return secure.recv(8)


def test_only_a_switch_with_a_certificate_of_the_ca_reaches_openflow(
    lab: Path, controller: Controller, tmp_path: Path
) -> None:
    trusting = ssl.create_default_context(cafile=str(lab / "ca.crt"))
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        first_bytes(controller, trusting)

    assert CliRunner().invoke(pki_command, ["init", str(tmp_path / "other"), "--map", "pair"]).exit_code == 0
    trusting.load_cert_chain(tmp_path / "other/switch.crt", tmp_path / "other/switch.key")
    with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
        first_bytes(controller, trusting)

    trusting.load_cert_chain(
        lab / "controller.crt", lab / "controller.key"
    )  # a server certificate
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_CERTIFICATE"):
        first_bytes(controller, trusting)

    with pytest.raises(ConnectionResetError):
        first_bytes(controller, None)

    trusting.load_cert_chain(lab / "switch-s1.crt", lab / "switch-s1.key")
    assert first_bytes(controller, trusting)[:2] == b"\x04\x00"


def test_rest_uses_https_with_a_certificate_of_the_ca(controller: Controller) -> None:
    assert controller.greeting.startswith("Controller of pair: REST on https://127.0.0.1:")
    assert "over TLS" in controller.greeting
    health = controller.client.get("/v1/healthz")
    assert health.json()["switches_expected"] == len(MAP.switches)
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(str(controller.client.base_url.join("/v1/healthz")))


def test_a_ca_is_never_overwritten(lab: Path) -> None:
    again = CliRunner().invoke(pki_command, ["init", str(lab)])
    assert again.exit_code == 2
    assert f"{lab}/ca.key exists already" in again.output
    assert (lab / "ca.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tls-cert", "ca.crt"], "both --tls-cert and --tls-key"),
        (["--tls-cert", "ca.crt", "--tls-key", "client.key"], "are not a certificate and its key"),
        (["--openflow-ca", "ca.crt"], "all of --openflow-ca, --openflow-cert and --openflow-key"),
    ],
)
def test_tls_files_that_do_not_match_are_reported(lab: Path, options: list[str], words: str) -> None:
    files = [option if option.startswith("--") else str(lab / option) for option in options]
    ports = ["--listen", f"127.0.0.1:{free_port()}", "--openflow", f"127.0.0.1:{free_port()}"]
    refused = CliRunner().invoke(controller_command, ["pair", "--ledger", "sqlite://", *ports, *files])
    assert refused.exit_code == 2
    assert words in refused.output
