"""The cloud's edges: who is missing is named, who does not belong is refused, who is lost may come back."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from trainer.cloud.edge_manager import EdgeManager
from trainer.data.standardization import Moments, Standardization, Statistics
from trainer.errors import NetworkError, QuorumError
from trainer.models.optimizer import OptimizerConfig
from trainer.profiling.predictor import ComputeProfile, LayerSeconds
from trainer.protocol import messages
from trainer.transport.connection import Connection, connect
from trainer.transport.sockets import listen

MOMENTS = Moments(10, (100.0,), (1.0,), (0.0,), (99.0,), (101.0,))


def ask(name: str, task: str = "traffic-lights") -> messages.JoinRequest:
    return messages.JoinRequest(nonce="0" * 32, edge=name, task=task, samples=5, held_out=2, sample_shape=(3, 32, 32),
                        profile=ComputeProfile(1e9, 1e9),
                        statistics=Statistics(MOMENTS, MOMENTS, (1, 2, 2)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def crew() -> Iterator[tuple[EdgeManager, int]]:
    port = free_port()
    crew = EdgeManager(("127.0.0.1", port), ["edge1", "edge2"], "traffic-lights")
    yield crew, port
    crew.close("the test is over.", failed=False)


def join(port: int, request: messages.Message) -> Connection:
    connection = connect(("127.0.0.1", port), None, 5)
    assert isinstance(connection.receive().frame.message, messages.Hello)
    connection.send(request)
    return connection


def admitted(port: int, name: str) -> Connection:
    connection = join(port, ask(name))
    assert isinstance(connection.receive().frame.message, messages.JoinAccepted)
    return connection


def refusal(connection: Connection) -> messages.JoinRefused:
    answer = connection.receive().frame.message
    assert isinstance(answer, messages.JoinRefused)
    return answer


def soon() -> float:
    return time.monotonic() + 5


def test_everybody_asked(crew: tuple[EdgeManager, int]) -> None:
    one, port = crew
    connections = [admitted(port, name) for name in ("edge2", "edge1")]
    assert [member.name for member in one.gather(None, 5)] == ["edge1", "edge2"]
    for connection in connections:
        connection.close()


def test_who_never_asked_is_named(crew: tuple[EdgeManager, int]) -> None:
    one, port = crew
    connection = admitted(port, "edge1")
    with pytest.raises(QuorumError, match=r"edge2 never asked to train within 0\.5 s: 1 of 2 edges did, 2 must"):
        one.gather(None, 0.5)
    connection.close()


def test_who_asked_and_left_again_has_not_asked(crew: tuple[EdgeManager, int]) -> None:
    one, port = crew
    admitted(port, "edge1").close()
    with pytest.raises(QuorumError, match="edge1, edge2 never asked"):
        one.gather(1, 0.5)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [(ask("edge9"), "edge9 is not expected here; expected are edge1, edge2"),
     (ask("edge1", "cats"), "the task here is traffic-lights, not cats")],
)
def test_who_does_not_belong_is_told_why(
    crew: tuple[EdgeManager, int], request_: messages.JoinRequest, reason: str
) -> None:
    connection = join(crew[1], request_)
    answer = refusal(connection)
    assert reason in answer.reason
    assert not answer.retry
    connection.close()


def test_a_second_edge_of_the_same_name_may_only_try_again_later(crew: tuple[EdgeManager, int]) -> None:
    _, port = crew
    first = admitted(port, "edge1")
    second = join(port, ask("edge1"))
    answer = refusal(second)
    assert "is still connected" in answer.reason
    assert answer.retry
    first.close()
    second.close()


def test_an_edge_lost_in_the_middle_leaves_the_crew_at_once_and_is_told_of(crew: tuple[EdgeManager, int]) -> None:
    one, port = crew
    connections = [admitted(port, name) for name in ("edge1", "edge2")]
    one.gather(None, 5)
    lost: list[tuple[str, str]] = []
    one.on_lost = lambda member, reason: lost.append((member.name, reason))
    connections[0].close()
    assert one.receive(soon()) is None
    assert [name for name, _ in lost] == ["edge1"]
    assert "closed the connection" in lost[0][1]
    assert [member.name for member in one.members] == ["edge2"]
    connections[1].close()


def test_who_answers_nothing_is_dropped_and_the_others_are_not(crew: tuple[EdgeManager, int]) -> None:
    one, port = crew
    silent, speaking = admitted(port, "edge1"), admitted(port, "edge2")
    one.gather(None, 5)
    reasons: list[str] = []
    one.on_lost = lambda member, reason: reasons.append(f"{member.name}: {reason}")
    speaking.send(messages.Planned(round=1))
    assert [member.name for member, _, _ in one.collect(messages.Planned, 0.3)] == ["edge2"]
    assert reasons == ["edge1: no Planned came from it within 0.3 s."]
    for connection in (silent, speaking):
        connection.close()


def test_who_answers_something_else_is_dropped(crew: tuple[EdgeManager, int]) -> None:
    one, port = crew
    connection = admitted(port, "edge1")
    one.gather(1, 0.3)
    connection.send(messages.Evaluated(correct=1, total=1))
    assert one.collect(messages.Planned, 5) == []
    connection.close()


RECIPE = messages.Prepare(
    model="signal-cnn", sample_shape=(3, 32, 32), classes=3, seed=1, optimizer=OptimizerConfig(),
    standardization=Standardization("normalize", (False,), (0.0,), (1.0,), ""), batch=4, micro=1, steps=1,
)
READY = messages.Ready(layers=LayerSeconds((1.0,), (1.0,)))


def prepared(port: int, name: str) -> Connection:
    connection = admitted(port, name)
    assert isinstance(connection.receive().frame.message, messages.Prepare)
    connection.send(READY)
    return connection


def until_waiting(one: EdgeManager, names: list[str]) -> None:
    deadline = soon()
    while one.waiting != names and time.monotonic() < deadline:
        one.receive(time.monotonic() + 0.01)
    assert one.waiting == names


def one_in_and_one_waiting(one: EdgeManager, port: int) -> tuple[Connection, Connection]:
    """edge2 trains, edge1 came later."""
    first = admitted(port, "edge2")
    one.gather(1, 0.3)
    first.send(READY)
    one.prepare(RECIPE, 1000, 5)
    late = prepared(port, "edge1")
    until_waiting(one, ["edge1"])
    return first, late


def test_who_comes_in_the_middle_is_prepared_and_waits_for_an_averaging(crew: tuple[EdgeManager, int]) -> None:
    one, port = crew
    first, late = one_in_and_one_waiting(one, port)
    assert [member.name for member in one.members] == ["edge2"]
    assert [member.name for member in one.readmit()] == ["edge1"]
    assert [member.name for member in one.members] == ["edge1", "edge2"]
    for connection in (first, late):
        connection.close()


def test_who_waits_and_leaves_does_not_wait_any_more(crew: tuple[EdgeManager, int]) -> None:
    one, port = crew
    first, late = one_in_and_one_waiting(one, port)
    late.close()
    until_waiting(one, [])
    first.close()


def test_who_comes_back_with_other_data_is_refused(crew: tuple[EdgeManager, int]) -> None:
    one, port = crew
    connections = [admitted(port, name) for name in ("edge1", "edge2")]
    one.gather(None, 5)
    connections[0].close()
    assert one.receive(soon()) is None
    back = join(port, ask("edge1").model_copy(update={"samples": 6}))
    assert "had 5 samples and 2 held out when the run began; now it has 6 and 2" in refusal(back).reason
    for connection in (back, connections[1]):
        connection.close()


def test_a_port_in_use_is_named() -> None:
    port = free_port()
    taken = listen(("127.0.0.1", port))
    with pytest.raises(NetworkError, match=f"Cannot listen on 127.0.0.1:{port}"):
        EdgeManager(("127.0.0.1", port), ["edge1"], "traffic-lights")
    taken.close()


def test_a_cloud_that_is_not_there_is_named() -> None:
    port = free_port()
    with pytest.raises(NetworkError, match=f"No cloud at 127.0.0.1:{port}"):
        connect(("127.0.0.1", port), None, 0.2)
