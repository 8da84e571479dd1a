"""Test certificate authority (CA) for a controller, its switches, clients and training nodes: `paceline pki`.

For laboratories and emulations only: the key of the CA is stored unencrypted beside the certificates. In production
the controller is given files of the same form from the operator's own CA.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controller.errors import StartError
from topologies.maps import MANAGEMENT_GATEWAY

CONTROLLER_NAMES = ("localhost", "127.0.0.1", "::1", MANAGEMENT_GATEWAY)
"""Subject alternative names of the controller: its addresses in an emulation and on one machine."""

_NODE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")
"""A DNS name: TLS libraries match names of peers as DNS names."""


@dataclass(frozen=True, slots=True)
class Authority:
    """Key and certificate of a CA."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def check_host_names(names: Sequence[str]) -> None:
    """Raises: StartError if one is neither an IP address nor a DNS name, of which the first label may be *."""
    for name in names:
        try:
            ipaddress.ip_address(name)
        except ValueError as error:
            if not _NODE_NAME.fullmatch(name.removeprefix("*.")):
                sentence = f"--name is {name!r}; it must be an address or a host name, such as lab.example.org."
                raise StartError(sentence, exit_code=2) from error


@dataclass(frozen=True, slots=True)
class Subjects:
    """Subjects of certificates besides `controller`, `switch` and `client`.

    Clouds and edges are training nodes; they authenticate each other by the node name in the certificate.
    """

    switches: tuple[str, ...] = ()
    clouds: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises: StartError if a node name is not a DNS name, or is the name of another certificate or a switch."""
        taken = {
            "ca",
            "controller",
            "client",
            "switch",
            *self.switches,
            *(f"switch-{switch}" for switch in self.switches),
        }
        for name in (*self.clouds, *self.edges):
            if not _NODE_NAME.fullmatch(name):
                sentence = f"{name!r} is not a node name; use letters, digits, dots and hyphens, at most 63."
                raise StartError(sentence, exit_code=2)
            if name in taken:
                raise StartError(f"There would be two certificates named {name}; rename the node.", exit_code=2)
            taken.add(name)


def create_authority(
    directory: Path, subjects: Subjects, controller_names: Sequence[str], days: int
) -> list[Path]:
    """Write a CA and certificates with keys for `controller`, `switch`, `client` and the subjects; return the files.

    Each switch gets a certificate with its own name; `switch` has the names of all switches, for an Open vSwitch that
    runs all of them. `controller_names`: host names and addresses besides CONTROLLER_NAMES. No file is overwritten.

    Raises: StartError if a file exists or cannot be written, or a name is invalid.
    """
    subjects.check()
    check_host_names(controller_names)
    authority_key = directory / "ca.key"
    if authority_key.exists():
        raise StartError(f"{authority_key} exists already; choose another directory or remove it.", exit_code=2)
    until = datetime.now(UTC) + timedelta(days=days)
    authority = _authority(until)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        written = _write(directory, "ca", authority.key, authority.certificate)
        names = [*CONTROLLER_NAMES, *controller_names]
        server, client = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
        written += _issue(directory, authority, "controller", until, server, names)
        if subjects.switches:
            written += _issue(directory, authority, "switch", until, client, subjects.switches)
        for switch in subjects.switches:
            written += _issue(directory, authority, f"switch-{switch}", until, client, [switch], switch)
        written += _issue(directory, authority, "client", until, client, [])
        for nodes, purpose in ((subjects.clouds, server), (subjects.edges, client)):
            for name in nodes:
                written += _issue(directory, authority, name, until, purpose, [name], name)
    except OSError as error:
        sentence = f"The certificates cannot be written to {directory}: {error.strerror}."
        raise StartError(sentence, exit_code=2) from error
    return written


def _authority(until: datetime) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Paceline test authority")
    builder = _builder(name, name, key.public_key(), until)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return Authority(key, builder.sign(key, hashes.SHA256()))


def _issue(
    directory: Path,
    authority: Authority,
    name: str,
    until: datetime,
    purpose: x509.ObjectIdentifier,
    names: Sequence[str],
    common_name: str | None = None,
) -> list[Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate
    builder = _builder(_name(common_name or f"paceline {name}"), issuer.subject, key.public_key(), until)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = builder.add_extension(signer, critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), critical=False)
    return _write(directory, name, key, builder.sign(authority.key, hashes.SHA256()))


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(minutes=5))  # tolerates clock skew
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(
    directory: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> list[Path]:
    unencrypted = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unencrypted)
    key_path, certificate_path = directory / f"{name}.key", directory / f"{name}.crt"
    with os.fdopen(os.open(key_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return [key_path, certificate_path]


@click.group("pki", epilog="Example: paceline pki init lab --map metro")
def command() -> None:
    """Create test certificates."""


@command.command("init", short_help="Write a test CA and certificates for all nodes.", epilog="""\b
Example:
  paceline pki init lab --map metro
  paceline controller metro --tls-cert lab/controller.crt --tls-key lab/controller.key \\
    --openflow-ca lab/ca.crt --openflow-cert lab/controller.crt --openflow-key lab/controller.key
  curl --cacert lab/ca.crt https://127.0.0.1:8080/v1/healthz
  ovs-vsctl set-ssl lab/switch-r1.key lab/switch-r1.crt lab/ca.crt -- set-controller r1 ssl:127.0.0.1:6653
  paceline train --tls-dir lab

A switch may connect only with a certificate in its own name. `switch.crt` has the names of all switches of the map, for
an Open vSwitch that runs all of them.""")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--map", "map_name", help="Create a certificate for each switch, cloud and edge of this map.")
@click.option(
    "--cloud", "clouds", multiple=True, help="Create a certificate for a cloud of this name; repeatable."
)
@click.option("--edge", "edges", multiple=True, help="Create a certificate for an edge of this name; repeatable.")
@click.option("--name", "names", multiple=True, help="Another host name or address of the controller; repeatable.")
@click.option(
    "--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="Validity of certificates."
)
def init(
    directory: Path,
    map_name: str | None,
    clouds: tuple[str, ...],
    edges: tuple[str, ...],
    names: tuple[str, ...],
    days: int,
) -> None:
    """Write a test CA and certificates for controller, switches, clients and training nodes to DIRECTORY."""
    try:
        of_map = _subjects_of_map(map_name) if map_name else Subjects()
        subjects = Subjects(of_map.switches, tuple(dict.fromkeys((*of_map.clouds, *clouds))),
                            tuple(dict.fromkeys((*of_map.edges, *edges))))
        written = create_authority(directory, subjects, names, days)
    except StartError as error:
        click.echo(f"Error: {error.detail}", err=True)
        raise SystemExit(error.exit_code) from error
    for path in written:
        click.echo(path)


def _subjects_of_map(map_name: str) -> Subjects:
    from topologies.catalogue import find_map
    from topologies.problems import MapError

    try:
        found = find_map(map_name)
    except MapError as error:
        raise StartError(str(error), exit_code=2) from error
    clouds = () if found.cloud is None else (found.cloud.name,)
    return Subjects(tuple(node.name for node in found.switches), clouds, tuple(node.name for node in found.edges))


if __name__ == "__main__":
    command()
