"""Everything that can go wrong in the trainer: one tree; each error has a stable code and an exit code."""

from __future__ import annotations

from typing import ClassVar

EXIT_USAGE = 2
EXIT_NETWORK = 3
EXIT_TRAINING = 4


class TrainerError(Exception):
    """The root. Its text is a sentence for a person: what was wrong, with which value, what would be right."""

    code: ClassVar[str] = "trainer_error"
    exit_code: ClassVar[int] = EXIT_TRAINING


class UsageError(TrainerError):
    """A setting or an argument that cannot work."""

    code = "usage"
    exit_code = EXIT_USAGE


class NetworkError(TrainerError):
    """The controller or a connection could not be had."""

    code = "network"
    exit_code = EXIT_NETWORK


class ControllerUnreachableError(NetworkError):
    """The controller gave no answer in time, after all retries."""

    code = "controller_unreachable"


class ReservationRefusedError(NetworkError):
    """The controller refused a reservation.

    `problem` is its answer: problem details after RFC 9457, with the contract's own fields.
    """

    code = "reservation_refused"

    def __init__(self, sentence: str, problem: dict[str, object] | None = None) -> None:
        super().__init__(sentence)
        self.problem = problem or {}


class ConnectionLostError(NetworkError):
    """The other side of a training connection went away."""

    code = "connection_lost"


class NoCloudError(ConnectionLostError):
    """Nobody listens where the cloud should be."""

    code = "no_cloud"


class ProtocolError(TrainerError):
    """The other side sent what no trainer sends: close that connection, and only that one."""

    code = "protocol"


class DataError(TrainerError):
    """The training data is missing or not as described."""

    code = "data"


class QuorumError(TrainerError):
    """Too few edges asked to train before the deadline."""

    code = "quorum"


class CheckpointError(TrainerError):
    """There is no checkpoint to resume from, or it does not fit."""

    code = "checkpoint"
    exit_code = EXIT_USAGE


class PlanError(NetworkError):
    """No plan fits the network: a flow has no path, or a link no room for the least rate of its flows."""

    code = "no_plan"


class TrainingFailedError(TrainerError):
    """Training started and could not go on."""

    code = "training_failed"


class DivergedError(TrainingFailedError):
    """A segment or gradient is not a number any more."""

    code = "diverged"
