"""Gathering edges: who is missing is named, who does not belong is refused."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from trainer import messages
from trainer.crew import Crew
from trainer.errors import NetworkError, QuorumError, TrainingFailedError
from trainer.predictor import ComputeProfile
from trainer.standardize import Moments, Statistics
from trainer.transport import Connection, connect, listen

MOMENTS = Moments(10, (100.0,), (1.0,), (0.0,), (99.0,), (101.0,))


def ask(name: str, task: str = "traffic-lights") -> messages.Ask:
    return messages.Ask(edge=name, task=task, samples=5, held_out=2, sample_shape=(3, 32, 32),
                        profile=ComputeProfile(1e9, 1e9),
                        statistics=Statistics(MOMENTS, MOMENTS, (1, 2, 2)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def crew() -> Iterator[tuple[Crew, int]]:
    port = free_port()
    crew = Crew(("127.0.0.1", port), ["edge1", "edge2"], "traffic-lights")
    yield crew, port
    crew.close("the test is over.", failed=False)


def join(port: int, request: messages.Message) -> Connection:
    connection = connect(("127.0.0.1", port), None, 5)
    connection.send(request)
    return connection


def test_everybody_asked(crew: tuple[Crew, int]) -> None:
    one, port = crew
    connections = [join(port, ask(name)) for name in ("edge2", "edge1")]
    assert [member.name for member in one.gather(None, 5)] == ["edge1", "edge2"]
    for connection in connections:
        connection.close()


def test_who_never_asked_is_named(crew: tuple[Crew, int]) -> None:
    one, port = crew
    connection = join(port, ask("edge1"))
    with pytest.raises(QuorumError, match=r"edge2 never asked to train within 0\.5 s: 1 of 2 edges did, 2 must"):
        one.gather(None, 0.5)
    connection.close()


def test_a_quorum_is_enough_at_the_deadline(crew: tuple[Crew, int]) -> None:
    one, port = crew
    connection = join(port, ask("edge2"))
    assert [member.name for member in one.gather(1, 0.5)] == ["edge2"]
    late = join(port, ask("edge1"))
    answer = late.receive().frame.message
    assert isinstance(answer, messages.Refuse)
    assert answer.reason == "training has begun without you."
    connection.close()
    late.close()


@pytest.mark.parametrize(
    ("request_", "reason"),
    [(ask("edge9"), "edge9 is not expected here; expected are edge1, edge2"),
     (ask("edge1", "cats"), "the task here is traffic-lights, not cats")],
)
def test_who_does_not_belong_is_told_why(crew: tuple[Crew, int], request_: messages.Ask, reason: str) -> None:
    connection = join(crew[1], request_)
    answer = connection.receive().frame.message
    assert isinstance(answer, messages.Refuse)
    assert reason in answer.reason
    connection.close()


def test_a_second_edge_of_the_same_name_is_refused(crew: tuple[Crew, int]) -> None:
    one, port = crew
    first = join(port, ask("edge1"))
    with pytest.raises(QuorumError):
        one.gather(None, 0.3)
    second = join(port, ask("edge1"))
    answer = second.receive().frame.message
    assert isinstance(answer, messages.Refuse)
    assert "asked already" in answer.reason
    first.close()
    second.close()


def test_an_edge_lost_in_the_middle_is_named(crew: tuple[Crew, int]) -> None:
    one, port = crew
    connection = join(port, ask("edge1"))
    one.gather(1, 0.3)
    connection.close()
    with pytest.raises(TrainingFailedError, match="edge1 was lost"):
        one.receive(5, "anything")


def test_silence_is_named(crew: tuple[Crew, int]) -> None:
    one, port = crew
    connection = join(port, ask("edge1"))
    one.gather(1, 0.3)
    with pytest.raises(TrainingFailedError, match="waiting for Planned of edge1"):
        one.collect(messages.Planned, 0.1)
    connection.close()


def test_a_port_in_use_is_named() -> None:
    port = free_port()
    taken = listen(("127.0.0.1", port))
    with pytest.raises(NetworkError, match=f"Cannot listen on 127.0.0.1:{port}"):
        Crew(("127.0.0.1", port), ["edge1"], "traffic-lights")
    taken.close()


def test_a_cloud_that_is_not_there_is_named() -> None:
    port = free_port()
    with pytest.raises(NetworkError, match=f"No cloud at 127.0.0.1:{port}"):
        connect(("127.0.0.1", port), None, 0.2)
