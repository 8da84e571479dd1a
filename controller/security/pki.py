"""A test certificate authority: what a controller, its switches, clients and training nodes need to trust each other.

Good for laboratories and emulations: the authority's key lies beside the rest, unencrypted. A real network has an
authority of its own and gives the controller files of the same form.
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
"""Under these the controller is reached in an emulation and on one machine."""

_NODE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")
"""That is a DNS name: TLS libraries compare nothing else."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that can sign."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True)
class Members:
    """Who gets a certificate besides controller, switches in general, and clients. Clouds and edges are nodes of a
    training; theirs bear their names, for that is how they know each other."""

    switches: tuple[str, ...] = ()
    clouds: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises: StartError if a node has no name for a file, or the name of another certificate or a switch."""
        taken = {"ca", "controller", "client", "switch", *self.switches, *(f"switch-{one}" for one in self.switches)}
        for name in (*self.clouds, *self.edges):
            if not _NODE_NAME.fullmatch(name):
                sentence = f"{name!r} is no name of a node; write letters, digits, points and hyphens, 63 at most."
                raise StartError(sentence, exit_code=2)
            if name in taken:
                raise StartError(f"There would be two certificates named {name}; give the node another name.",
                                 exit_code=2)
            taken.add(name)


def create(directory: Path, members: Members, controller_names: Sequence[str], days: int) -> list[Path]:
    """Write an authority and the certificates of `controller`, `switch`, `client` and the members, with their keys.

    Each switch has one in its own name; `switch` is in the names of all, for one Open vSwitch that holds them all.
    `controller_names`: host names and addresses besides the usual ones. Returns the files. Nothing is overwritten.

    Raises: StartError if something is there already or cannot be written, or a name cannot be.
    """
    members.check()
    taken = directory / "ca.key"
    if taken.exists():
        raise StartError(f"{taken} exists already; choose another directory or remove it.", exit_code=2)
    until = datetime.now(UTC) + timedelta(days=days)
    authority = _authority(until)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        written = _write(directory, "ca", authority.key, authority.certificate)
        names = [*CONTROLLER_NAMES, *controller_names]
        serves, asks = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
        written += _issue(directory, authority, "controller", until, serves, names)
        if members.switches:
            written += _issue(directory, authority, "switch", until, asks, members.switches)
        for switch in members.switches:
            written += _issue(directory, authority, f"switch-{switch}", until, asks, [switch], switch)
        written += _issue(directory, authority, "client", until, asks, [])
        for nodes, purpose in ((members.clouds, serves), (members.edges, asks)):
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
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(n) for n in names]), critical=False)
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
        .not_valid_before(datetime.now(UTC) - timedelta(minutes=5))  # clocks in a laboratory differ a little
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


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(
    directory: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> list[Path]:
    plain = serialization.NoEncryption()
    encoded = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    key_path, certificate_path = directory / f"{name}.key", directory / f"{name}.crt"
    with os.fdopen(os.open(key_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(encoded)
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return [key_path, certificate_path]


@click.group("pki", epilog="Example: paceline pki init lab --map metro")
def command() -> None:
    """Make certificates for a laboratory."""


@command.command("init", epilog="""\b
Example:
  paceline pki init lab --map metro
  paceline controller metro --tls-cert lab/controller.crt --tls-key lab/controller.key \\
    --openflow-ca lab/ca.crt --openflow-cert lab/controller.crt --openflow-key lab/controller.key
  curl --cacert lab/ca.crt https://127.0.0.1:8080/v1/healthz
  ovs-vsctl set-ssl lab/switch-r1.key lab/switch-r1.crt lab/ca.crt -- set-controller r1 ssl:127.0.0.1:6653
  paceline train --tls-dir lab

A switch is let in with a certificate in its own name only. `switch.crt` is in the names of all switches of the map, for
one Open vSwitch that holds them all.""")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--map", "map_name", help="Make a certificate for each switch, cloud and edge of this map.")
@click.option("--cloud", "clouds", multiple=True, help="Make a certificate for a cloud of this name; may be repeated.")
@click.option("--edge", "edges", multiple=True, help="The same for an edge.")
@click.option("--name", "names", multiple=True, help="A host name or address of the controller; may be repeated.")
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="How long they are valid.")
def init(
    directory: Path, map_name: str | None, clouds: tuple[str, ...], edges: tuple[str, ...], names: tuple[str, ...],
    days: int,
) -> None:
    """Write a test authority and certificates for controller, switches, clients and training nodes to DIRECTORY."""
    try:
        of_map = _members(map_name) if map_name else Members()
        members = Members(of_map.switches, tuple(dict.fromkeys((*of_map.clouds, *clouds))),
                          tuple(dict.fromkeys((*of_map.edges, *edges))))
        written = create(directory, members, names, days)
    except StartError as error:
        click.echo(f"Error: {error.detail}", err=True)
        raise SystemExit(error.exit_code) from error
    for path in written:
        click.echo(path)


def _members(map_name: str) -> Members:
    from topologies.loader import load_map
    from topologies.problems import MapError

    try:
        found = load_map(map_name)
    except MapError as error:
        raise StartError(str(error), exit_code=2) from error
    clouds = () if found.cloud is None else (found.cloud.name,)
    return Members(tuple(node.name for node in found.switches), clouds, tuple(node.name for node in found.edges))


if __name__ == "__main__":
    command()
