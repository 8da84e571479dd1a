"""EdgeManager: missing edges are named, unknown edges are refused, lost edges may rejoin."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from trainer.cloud.edge_manager import EdgeManager
from trainer.cloud.membership import check_exclusions
from trainer.config.settings import RunSettings
from trainer.data.standardization import Moments, Standardization, Statistics
from trainer.errors import NetworkError, PartitionError, QuorumError
from trainer.models.optimizer import OptimizerConfig
from trainer.profiling.predictor import ComputeProfile
from trainer.protocol import messages
from trainer.transport.connection import Connection, connect
from trainer.transport.sockets import listen

MOMENTS = Moments(5 * 32 * 32, (100.0,) * 3, (1.0,) * 3, (0.0,) * 3, (99.0,) * 3, (101.0,) * 3)


def join_request(name: str, task: str = "traffic-lights") -> messages.JoinRequest:
    return messages.JoinRequest(nonce="0" * 32, edge=name, task=task, samples=5, held_out=2, sample_shape=(3, 32, 32),
                        profile=ComputeProfile(1e9, 1e9),
                        statistics=Statistics(MOMENTS, MOMENTS, (1, 2, 2)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def edge_manager(port: int) -> Iterator[EdgeManager]:
    manager = EdgeManager(("127.0.0.1", port), ["edge1", "edge2"], "traffic-lights")
    yield manager
    manager.close("the test is over.", failed=False, timeout_s=0.1)


def join(port: int, request: messages.Message) -> Connection:
    connection = connect(("127.0.0.1", port), None, 5)
    assert isinstance(connection.receive().frame.message, messages.Hello)
    connection.send(request)
    return connection


def joined(port: int, name: str) -> Connection:
    connection = join(port, join_request(name))
    assert isinstance(connection.receive().frame.message, messages.JoinAccepted)
    return connection


def refusal(connection: Connection) -> messages.JoinRefused:
    answer = connection.receive().frame.message
    assert isinstance(answer, messages.JoinRefused)
    return answer


def in_5_s() -> float:
    return time.monotonic() + 5


def test_all_expected_edges_join(edge_manager: EdgeManager, port: int) -> None:
    connections = [joined(port, name) for name in ("edge2", "edge1")]
    assert [session.name for session in edge_manager.gather(None, 5)] == ["edge1", "edge2"]
    for connection in connections:
        connection.close()


def test_a_missing_edge_is_named(edge_manager: EdgeManager, port: int) -> None:
    connection = joined(port, "edge1")
    with pytest.raises(QuorumError, match=r"edge2 did not join within 0\.5 s: 1 of 2 edges joined, 2 are required"):
        edge_manager.gather(None, 0.5)
    connection.close()


def test_a_partition_that_leaves_too_few_edges_is_told_at_once(edge_manager: EdgeManager, port: int) -> None:
    connection = joined(port, "edge1")
    sentence = "No path from edge2 to cloud: r1-r2 is down."
    with pytest.raises(PartitionError, match=f"{sentence} 1 of 2 edges can join, 2 are required"):
        edge_manager.gather(None, 3600, lambda edges: dict.fromkeys(edges, sentence))
    connection.close()


def test_edges_that_are_cut_off_are_not_awaited_where_the_others_are_enough(
    edge_manager: EdgeManager, port: int
) -> None:
    connection = joined(port, "edge1")
    sessions = edge_manager.gather(1, 3600, lambda edges: {edge: "cut off" for edge in edges if edge == "edge2"})
    assert [session.name for session in sessions] == ["edge1"]
    connection.close()


def test_edges_excluded_before_the_run_resumed_are_neither_awaited_nor_admitted(port: int) -> None:
    manager = EdgeManager(("127.0.0.1", port), ["edge1", "edge2"], "traffic-lights", excluded={"edge1": "it lied."})
    refused = join(port, join_request("edge1"))
    answer = refusal(refused)
    assert (answer.reason, answer.retry) == ("edge1 is excluded from this run: it lied.", False)
    connection = joined(port, "edge2")
    assert [session.name for session in manager.gather(None, 3600)] == ["edge2"]
    for each in (refused, connection):
        each.close()
    manager.close("the test is over.", failed=False)


def test_a_resumed_run_ends_at_once_if_too_many_edges_are_excluded() -> None:
    settings = RunSettings(edges=("edge1", "edge2", "edge3"))
    check_exclusions(settings, {"edge1": "it lied."})
    with pytest.raises(QuorumError, match=r"edge1 is excluded: it lied\. edge3 is excluded: so did it\. 2 of 3 edges "
                       "are excluded, 2 are required"):
        check_exclusions(settings, {"edge1": "it lied.", "edge3": "so did it."})


def test_an_edge_that_disconnected_before_the_start_counts_as_missing(edge_manager: EdgeManager, port: int) -> None:
    joined(port, "edge1").close()
    with pytest.raises(QuorumError, match="edge1, edge2 did not join"):
        edge_manager.gather(1, 0.5)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [(join_request("edge9"), "edge9 is not an edge of this run; its edges are edge1, edge2"),
     (join_request("edge1", "cats"), "the task of this run is traffic-lights, not cats")],
)
@pytest.mark.usefixtures("edge_manager")
def test_an_unknown_edge_or_task_is_refused_with_a_reason(
    port: int, request_: messages.JoinRequest, reason: str
) -> None:
    connection = join(port, request_)
    answer = refusal(connection)
    assert reason in answer.reason
    assert not answer.retry
    connection.close()


@pytest.mark.usefixtures("edge_manager")
def test_a_second_edge_of_the_same_name_may_retry_later(port: int) -> None:
    first = joined(port, "edge1")
    second = join(port, join_request("edge1"))
    answer = refusal(second)
    assert "is still connected" in answer.reason
    assert answer.retry
    first.close()
    second.close()


def test_an_edge_lost_during_training_is_removed_and_reported(
    edge_manager: EdgeManager, port: int,
) -> None:
    connections = [joined(port, name) for name in ("edge1", "edge2")]
    edge_manager.gather(None, 5)
    lost: list[tuple[str, str]] = []
    edge_manager.on_lost = lambda session, reason: lost.append((session.name, reason))
    connections[0].close()
    assert edge_manager.receive(in_5_s()) is None
    assert [name for name, _ in lost] == ["edge1"]
    assert "closed the connection" in lost[0][1]
    assert [session.name for session in edge_manager.sessions] == ["edge2"]
    connections[1].close()


def test_a_silent_edge_is_dropped_and_the_others_stay(edge_manager: EdgeManager, port: int) -> None:
    silent, speaking = joined(port, "edge1"), joined(port, "edge2")
    edge_manager.gather(None, 5)
    reasons: list[str] = []
    edge_manager.on_lost = lambda session, reason: reasons.append(f"{session.name}: {reason}")
    speaking.send(messages.PlanApplied(round=1))
    assert [session.name for session, _, _ in edge_manager.collect(messages.PlanApplied, 0.3)] == ["edge2"]
    assert reasons == ["edge1: it did not send PlanApplied within 0.3 s."]
    for connection in (silent, speaking):
        connection.close()


def test_an_edge_that_sends_another_message_is_dropped(edge_manager: EdgeManager, port: int) -> None:
    connection = joined(port, "edge1")
    edge_manager.gather(1, 0.3)
    connection.send(messages.Evaluated(sums=(1.0,), total=1))
    assert edge_manager.collect(messages.PlanApplied, 5) == []
    connection.close()


PREPARE = messages.Prepare(
    model="signal-cnn", sample_shape=(3, 32, 32), classes=3, seed=1, optimizer=OptimizerConfig(),
    standardization=Standardization("normalize", (False,), (0.0,), (1.0,), ""), batch=4, micro=1, steps=1,
)
READY = messages.Ready(initial_digest="0" * 64)


def join_and_prepare(port: int, name: str) -> Connection:
    connection = joined(port, name)
    assert isinstance(connection.receive().frame.message, messages.Prepare)
    connection.send(READY)
    return connection


def wait_until_waiting(edge_manager: EdgeManager, names: list[str]) -> None:
    deadline = in_5_s()
    while edge_manager.waiting != names and time.monotonic() < deadline:
        edge_manager.receive(time.monotonic() + 0.01)
    assert edge_manager.waiting == names


def one_active_and_one_waiting(edge_manager: EdgeManager, port: int) -> tuple[Connection, Connection]:
    """edge2 is active; edge1 joined later."""
    first = joined(port, "edge2")
    edge_manager.gather(1, 0.3)
    first.send(READY)
    edge_manager.prepare(PREPARE, 1000, 5)
    edge_manager.await_prepared()
    late = join_and_prepare(port, "edge1")
    wait_until_waiting(edge_manager, ["edge1"])
    return first, late


def test_an_edge_that_joins_late_is_prepared_and_waits_for_an_averaging(edge_manager: EdgeManager, port: int) -> None:
    first, late = one_active_and_one_waiting(edge_manager, port)
    assert [session.name for session in edge_manager.sessions] == ["edge2"]
    assert [session.name for session in edge_manager.admit_waiting()] == ["edge1"]
    assert [session.name for session in edge_manager.sessions] == ["edge1", "edge2"]
    for connection in (first, late):
        connection.close()


def test_a_waiting_edge_that_disconnects_is_removed(edge_manager: EdgeManager, port: int) -> None:
    first, late = one_active_and_one_waiting(edge_manager, port)
    late.close()
    wait_until_waiting(edge_manager, [])
    first.close()


def test_an_edge_that_rejoins_with_other_data_is_refused(edge_manager: EdgeManager, port: int) -> None:
    connections = [joined(port, name) for name in ("edge1", "edge2")]
    edge_manager.gather(None, 5)
    connections[0].close()
    assert edge_manager.receive(in_5_s()) is None
    rejoining = join(port, join_request("edge1").model_copy(update={"samples": 6}))
    assert "had 5 samples and 2 held out when the run started; now it has 6 and 2" in refusal(rejoining).reason
    for connection in (rejoining, connections[1]):
        connection.close()


def test_a_port_in_use_is_named() -> None:
    port = free_port()
    taken = listen(("127.0.0.1", port))
    with pytest.raises(NetworkError, match=f"Cannot listen on 127.0.0.1:{port}"):
        EdgeManager(("127.0.0.1", port), ["edge1"], "traffic-lights")
    taken.close()


def test_an_unreachable_cloud_is_named() -> None:
    port = free_port()
    with pytest.raises(NetworkError, match=f"No cloud at 127.0.0.1:{port}"):
        connect(("127.0.0.1", port), None, 0.2)


def test_an_edge_reads_the_end_although_it_sent_what_nobody_has_read(port: int) -> None:
    manager = EdgeManager(("127.0.0.1", port), ["edge1"], "traffic-lights")
    edge = joined(port, "edge1")
    (session,) = manager.gather(None, 60)
    assert isinstance(session.connection, Connection)
    blocked = threading.Event()
    manager._deliver = lambda *_event: (blocked.wait(), None)[1]  # type: ignore[method-assign]
    for _ in range(3):
        edge.send(messages.Keepalive())
    session.connection.pace(200_000)
    manager.send(session, messages.Plan(round=1, cut=0, codec="fp32", gradient_codec="fp32", period_s=0,
                                        pace_bytes_per_s=None), {"segment": torch.zeros(40_000)})
    end = threading.Thread(target=manager.close, args=("the run is over.", False))
    end.start()
    for expected in (messages.Plan, messages.Stop):
        assert isinstance(edge.receive().frame.message, expected)
    blocked.set()
    edge.close()
    end.join()


def test_edges_that_have_stopped_reading_hold_no_other_up(port: int) -> None:
    names = [f"edge{number}" for number in range(1, 5)]
    manager = EdgeManager(("127.0.0.1", port), names, "traffic-lights")
    edges = [joined(port, name) for name in names]
    manager.gather(None, 60)
    sessions = manager.sessions
    for session in sessions[:3]:  # the kernel takes no more for these
        assert isinstance(session.connection, Connection)
        fill(session.connection)
    last = threading.Thread(target=manager.close, args=("the run is over.", False, 600.0), daemon=True)
    last.start()
    by_name = dict(zip(names, edges, strict=True))
    assert isinstance(by_name[sessions[3].name].receive().frame.message, messages.Stop)
    for edge in edges:
        edge.abort()
    last.join()


def fill(connection: Connection) -> None:
    """Send until the peer, who reads nothing, has no room left."""
    sock = connection._socket
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(65536))
    sock.setblocking(True)
