"""TLS of the REST API and of OpenFlow, with certificates of `paceline pki init`."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

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


def certificate_for(lab: Path, directory: Path, usages: list[x509.ObjectIdentifier]) -> ssl.SSLContext:
    """A client's context with a certificate of the CA for s1, for these extended key usages."""
    authority = x509.load_pem_x509_certificate((lab / "ca.crt").read_bytes())
    authority_key = serialization.load_pem_private_key((lab / "ca.key").read_bytes(), None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "s1")])
    builder = x509.CertificateBuilder(authority.subject, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + timedelta(days=1))
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    certificate = builder.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    form = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (directory / "s1.pem").write_bytes(private + certificate)
    context = ssl.create_default_context(cafile=str(lab / "ca.crt"))
    context.load_cert_chain(directory / "s1.pem")
    return context


@pytest.mark.parametrize(
    ("usages", "words"),
    [
        ([], "its certificate has no extended key usage; a switch needs clientAuth"),
        ([ExtendedKeyUsageOID.SERVER_AUTH], "certificate purpose"),
        ([ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.CODE_SIGNING], "certificate purpose"),
        ([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE], "certificate purpose"),
    ],
)
def test_a_switch_certificate_that_is_not_for_clients_is_refused(
    lab: Path, controller: Controller, tmp_path: Path, usages: list[x509.ObjectIdentifier], words: str
) -> None:
    start = len(controller.log.read_text())
    with contextlib.suppress(OSError):  # the end of the connection may come as an alert or a reset
        assert first_bytes(controller, certificate_for(lab, tmp_path, usages)) == b""
    wait_until(lambda: words in controller.log.read_text()[start:])
    accepted = certificate_for(lab, tmp_path, [*usages, ExtendedKeyUsageOID.CLIENT_AUTH])
    assert first_bytes(controller, accepted)[:2] == b"\x04\x00"


def test_of_two_switches_with_one_identity_the_second_is_adopted_when_the_first_leaves(
    lab: Path, controller: Controller, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        first, second = (open_vswitch(lab, tmp_path / name, stack) for name in ("first", "second"))
        first.build(controller.openflow_port, "ssl")
        wait_until(controller.in_sync)
        reserved = controller.reserve().json()["id"]
        with controller.client.stream("GET", "/v1/events") as answer:
            lines = answer.iter_lines()
            assert next(lines)
            second.build(controller.openflow_port, "ssl")
            event = next(told for told in impostors(lines) if told["switch"] == "s1")
        peer = {"certificate": ["paceline switch", "s1", "s2"], "address": "127.0.0.1"}
        assert event == {"switch": "s1", **peer, "reason": "already_connected"}
        later = controller.reserve(edge="edge2").json()["id"]
        assert controller.in_sync()
        for number in (reserved[2:], later[2:]):
            assert any(number in line for line in first.flows("s2"))
            assert not any(number in line for line in second.flows("s2"))
        first.switch.kill()
        wait_until(lambda: all(has_entries(second, switch, (reserved[2:], later[2:])) for switch in ("s1", "s2")))
        wait_until(controller.in_sync)
        assert controller.client.get("/v1/consistency").json()["consistent"]
        for reservation_id in (reserved, later):
            assert controller.client.get(f"/v1/reservations/{reservation_id}").json()["state"] == "active"
            controller.client.delete(f"/v1/reservations/{reservation_id}").raise_for_status()
    wait_until(lambda: controller.switches_up() == 0)


def open_vswitch(lab: Path, directory: Path, stack: contextlib.ExitStack) -> OpenVSwitch:
    """A running Open vSwitch with the certificate that names all switches."""
    directory.mkdir()
    ovs = OpenVSwitch(directory)
    stack.callback(ovs.stop)
    ovs.vsctl("set-ssl", *(str(lab / name) for name in ("switch.key", "switch.crt", "ca.crt")))
    return ovs


def impostors(lines: Iterator[str]) -> Iterator[dict[str, object]]:
    """The impostor events of a stream."""
    for line in lines:
        if line == "event: impostor":
            yield json.loads(next(lines).removeprefix("data: "))


def has_entries(ovs: OpenVSwitch, switch: str, numbers: tuple[str, ...]) -> bool:
    """Whether a switch has an entry of each of these reservations."""
    installed = ovs.flows(switch)
    return all(any(number in line for line in installed) for number in numbers)


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
