"""TLS and tokens: authenticated edges train, with the same pacing; others are refused with a reason."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from controller.security.pki import command as pki_command
from tests.processes.training import free_ports
from trainer.cloud.edge_manager import EdgeManager
from trainer.data.standardization import Moments, Statistics
from trainer.edge.cloud_connection import CloudConnection
from trainer.errors import NetworkError, TrainerError, UsageError
from trainer.profiling.predictor import ComputeProfile
from trainer.protocol import messages
from trainer.transport.connection import Connection, ReceivedFrame, connect
from trainer.transport.credentials import TransportCredentials, load_credentials
from trainer.transport.pacing import mss_within_tls_bytes, tls_bytes, wire_bits
from trainer.transport.shared_secret import SharedSecret, read_shared_secret
from trainer.transport.sockets import listen

RUN = ("--rounds", "2", "--steps", "1", "--batch", "16", "--average-every", "1", "--seed", "5")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of two authorities, a token and a wrong token."""
    directory = tmp_path_factory.mktemp("lab")
    for authority in ("ours", "other"):
        nodes = ["--cloud", "cloud", "--edge", "edge1", "--edge", "edge2"]
        made = CliRunner().invoke(pki_command, ["init", str(directory / authority), *nodes])
        assert made.exit_code == 0, made.output
    (directory / "token").write_text("0123456789abcdef\n")
    (directory / "wrong").write_text("0123456789abcdeX\n")
    return directory


def credentials_of(lab: Path, name: str, authority: str = "ours", listens: bool = False) -> TransportCredentials:
    files = lab / authority
    return load_credentials(
        listens or name == "cloud", files / "ca.crt", files / f"{name}.crt", files / f"{name}.key", None
    )


@contextlib.contextmanager
def pair(ours: TransportCredentials, theirs: TransportCredentials) -> Iterator[tuple[Connection, Connection]]:
    """Edge and cloud, connected."""
    listener = listen(("127.0.0.1", 0))
    cloud: list[Connection] = []

    def accept() -> None:
        sock, _ = listener.accept()
        try:
            cloud.append(Connection(sock, theirs.context))
        except TrainerError:
            sock.close()

    thread = threading.Thread(target=accept)
    thread.start()
    edge = None
    try:
        edge = connect(listener.getsockname()[:2], None, 5, context=ours.context, server_name="cloud")
        thread.join()
        yield edge, cloud[0]
    finally:
        thread.join()
        listener.close()
        for connection in (edge, *cloud):
            if connection is not None:
                connection.close()


def test_the_sizes_under_tls_are_those_on_the_wire_and_the_pace_holds(lab: Path) -> None:
    with pair(credentials_of(lab, "edge1"), credentials_of(lab, "cloud")) as (edge, cloud):
        assert cloud.peer_names == frozenset({"edge1"})
        received: list[ReceivedFrame] = []
        thread = threading.Thread(target=lambda: received.extend(cloud.receive() for _ in range(22)))
        thread.start()
        for number in range(20):  # the kernel does not pace a connection's first ten packets
            edge.send(messages.Ping(number=number))
        edge.pace(2e6)
        tensor = torch.arange(200_000, dtype=torch.float32)
        sent = [edge.send(messages.ModelUpdate(), {"a": tensor}) for _ in range(2)]
        thread.join()
        assert [arrival.frame.size_bytes for arrival in received[20:]] == [frame.size_bytes for frame in sent]
        assert sent[0].size_bytes == tls_bytes(sent[0].size_bytes - 22 * 49)
        assert torch.equal(received[-1].frame.tensors["a"], tensor)
        assert received[-1].arrival_s - sent[0].send_s > 0.7  # 1.6 MB at 2 MB/s; load on the machine can only delay it


def test_the_bits_planned_for_a_segment_under_tls_are_those_its_records_need() -> None:
    for mss_bytes in (1448, 8948):
        planned = wire_bits(1_000_000, mss_within_tls_bytes(mss_bytes))
        assert planned == pytest.approx(wire_bits(tls_bytes(1_000_000), mss_bytes), rel=1e-4)


def test_the_certificate_of_an_edge_is_not_accepted_from_a_cloud(lab: Path) -> None:
    with (pytest.raises((NetworkError, IndexError)),
          pair(credentials_of(lab, "edge1"), credentials_of(lab, "edge2", listens=True)) as (edge, _)):
        edge.receive()


@pytest.mark.parametrize("foreign", ["the edge", "the cloud"])
def test_a_certificate_of_another_authority_is_refused(lab: Path, foreign: str) -> None:
    ours = credentials_of(lab, "edge1", "other" if foreign == "the edge" else "ours")
    theirs = credentials_of(lab, "cloud", "other" if foreign == "the cloud" else "ours")
    with pytest.raises((NetworkError, IndexError)), pair(ours, theirs) as (edge, _):
        edge.receive()


@pytest.mark.parametrize(
    ("nodes", "sentence"),
    [(["--edge", "../edge1"], "'../edge1' is not a node name"),
     (["--edge", "client"], "two certificates named client"),
     (["--cloud", "a", "--edge", "a"], "two certificates named a")],
)
def test_an_invalid_node_name_is_refused_before_anything_is_written(
    tmp_path: Path, nodes: list[str], sentence: str
) -> None:
    made = CliRunner().invoke(pki_command, ["init", str(tmp_path / "lab"), *nodes])
    assert made.exit_code == 2
    assert sentence in made.output
    assert not (tmp_path / "lab").exists()


def test_the_proof_of_a_token_is_valid_for_one_connection_and_the_token_is_not_printed() -> None:
    token = SharedSecret(b"0123456789abcdef")
    proof = token.proof("edge", "a" * 32, "b" * 32, "edge1")
    assert token.verify(proof, "edge", "a" * 32, "b" * 32, "edge1")
    for other in (("cloud", "a" * 32, "b" * 32, "edge1"), ("edge", "c" * 32, "b" * 32, "edge1"),
                  ("edge", "a" * 32, "b" * 32, "edge2")):
        assert not token.verify(proof, *other)
    assert not token.verify(None, "edge", "a" * 32, "b" * 32, "edge1")
    assert "0123" not in repr(token)


def test_a_token_file_that_is_too_short_or_missing_is_reported(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("short")
    with pytest.raises(UsageError, match="has 5 bytes; at least 16"):
        read_shared_secret(tmp_path / "token")
    with pytest.raises(UsageError, match="cannot be read"):
        read_shared_secret(tmp_path / "nothing")


def test_incomplete_or_mismatched_tls_files_are_reported(lab: Path) -> None:
    with pytest.raises(UsageError, match="all three"):
        load_credentials(True, lab / "ours" / "ca.crt", None, None, None)
    with pytest.raises(UsageError, match="cannot be used"):
        load_credentials(True, lab / "ours" / "ca.crt", lab / "ours" / "edge1.crt", lab / "ours" / "edge2.key", None)


MOMENTS = Moments(5 * 32 * 32, (100.0,) * 3, (1.0,) * 3, (0.0,) * 3, (99.0,) * 3, (101.0,) * 3)
JOIN_REQUEST = messages.JoinRequest(
    nonce="0" * 32, edge="edge1", task="traffic-lights", samples=5, held_out=2, sample_shape=(3, 32, 32),
    profile=ComputeProfile(1e9, 1e9), statistics=Statistics(MOMENTS, MOMENTS, (5,)),
)


@pytest.fixture
def edge_manager(lab: Path) -> Iterator[tuple[EdgeManager, int]]:
    """A cloud that requires certificates and the token."""
    port = free_ports(1)
    credentials = replace(credentials_of(lab, "cloud"), shared_secret=read_shared_secret(lab / "token"))
    manager = EdgeManager(("127.0.0.1", port), ["edge1", "edge2"], "traffic-lights", credentials=credentials)
    yield manager, port
    manager.close("the test is over.", failed=False)


@pytest.mark.parametrize(
    ("certificate", "token", "reason"),
    [("edge2", "token", "the certificate is issued for edge2, not for edge1"),
     ("client", "token", "the certificate is issued for paceline client, not for edge1"),
     ("edge1", "wrong", "edge1 does not have the token of this run"),
     ("edge1", None, "start the edge with --token-file"),
     ("edge1", "token", None)],
)
def test_an_edge_must_have_its_own_certificate_and_the_token(
    lab: Path, edge_manager: tuple[EdgeManager, int], certificate: str, token: str | None, reason: str | None
) -> None:
    manager, port = edge_manager
    link = CloudConnection(
        connect(("127.0.0.1", port), None, 5, context=credentials_of(lab, certificate).context, server_name="cloud"),
        read_shared_secret(lab / token) if token else None,
    )
    try:
        if reason is None:
            link.join(JOIN_REQUEST)
            assert [session.name for session in manager.gather(1, 0.2)] == ["edge1"]
        else:
            with pytest.raises(NetworkError, match=reason):
                link.join(JOIN_REQUEST)
    finally:
        link.close()


def test_an_edge_with_a_token_refuses_a_cloud_without_it(lab: Path) -> None:
    port = free_ports(1)
    impostor = EdgeManager(("127.0.0.1", port), ["edge1"], "traffic-lights")
    link = CloudConnection(connect(("127.0.0.1", port), None, 5), read_shared_secret(lab / "token"))
    with pytest.raises(NetworkError, match="it is not the cloud of this run"):
        link.join(JOIN_REQUEST)
    link.close()
    impostor.close("the test is over.", failed=False)


def test_a_run_over_tls_and_token_trains(lab: Path, tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "trainer.cli.main", "train", "--local", "--edges", "2", "--port", str(free_ports(3)),
         *RUN,
         "--tls-dir", str(lab / "ours"), "--token-file", str(lab / "token"), "--runs-dir", str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=200,
    )
    assert process.returncode == 0, process.stderr
    assert "done: global accuracy" in process.stdout
