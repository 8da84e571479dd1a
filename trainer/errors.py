"""The trainer's error tree: every error has a stable code and an exit code."""

from __future__ import annotations

import contextlib
from typing import ClassVar

EXIT_USAGE = 2
EXIT_NETWORK = 3
EXIT_TRAINING = 4


class TrainerError(Exception):
    """Base class. The text is a sentence for the user: what was wrong, with which value, what would be right."""

    code: ClassVar[str] = "trainer_error"
    exit_code: ClassVar[int] = EXIT_TRAINING

    @staticmethod
    def of_code(code: str, sentence: str) -> TrainerError:
        """Return the error of another process; of an unknown code a TrainerError with that code."""
        kinds: list[type[TrainerError]] = [TrainerError]
        while kinds:
            kind = kinds.pop()
            if kind.code == code:
                with contextlib.suppress(TypeError):  # its constructor needs more
                    return kind(sentence)
            kinds += kind.__subclasses__()
        error = TrainerError(sentence)
        error.code = code  # type: ignore[misc]
        return error


class UsageError(TrainerError):
    """A setting or argument is invalid."""

    code = "usage"
    exit_code = EXIT_USAGE


class DirectoryInUseError(UsageError):
    """Another process trains in the directory of a run, or makes the runs of a sweep."""

    code = "directory_in_use"


class UserCodeError(UsageError):
    """A user's function or module failed; the text names it, its error, its file and line."""

    code = "user_code"


class NetworkError(TrainerError):
    """The controller or a connection is not available."""

    code = "network"
    exit_code = EXIT_NETWORK


class ControllerUnreachableError(NetworkError):
    """The controller did not answer in time, after all retries."""

    code = "controller_unreachable"


class PartitionError(NetworkError):
    """Links that are down separate edges from the cloud, so that too few are left."""

    code = "partition"


class RayUnavailableError(NetworkError):
    """Ray is not installed, there is no cluster at the address, or it has no room for the workers."""

    code = "ray_unavailable"


class ReservationRefusedError(NetworkError):
    """The controller refused a reservation.

    `problem`: the problem details of its response (RFC 9457), with the extension fields of the REST contract.
    """

    code = "reservation_refused"

    def __init__(self, sentence: str, problem: dict[str, object] | None = None) -> None:
        super().__init__(sentence)
        self.problem = problem or {}


class ConnectionLostError(NetworkError):
    """The peer of a training connection disconnected."""

    code = "connection_lost"


class CloudUnreachableError(ConnectionLostError):
    """No process listens on the cloud's address."""

    code = "no_cloud"


class ProtocolError(TrainerError):
    """The peer violated the protocol; only its connection is closed."""

    code = "protocol"


class DataError(TrainerError):
    """The training data is missing or not as described."""

    code = "data"
    exit_code = EXIT_USAGE


class ApiProcessError(TrainerError):
    """The process of a run that was started from Python ended without saying why."""

    code = "run_process"


class QuorumError(TrainerError):
    """Too few edges requested training before the deadline."""

    code = "quorum"


class CheckpointError(TrainerError):
    """There is no checkpoint to resume from, or it does not fit."""

    code = "checkpoint"
    exit_code = EXIT_USAGE


class PlanError(NetworkError):
    """No plan fits the network: a flow has no path, or a link lacks capacity for the least rate of its flows."""

    code = "no_plan"


class TrainingFailedError(TrainerError):
    """Training started and could not continue."""

    code = "training_failed"


class DivergedError(TrainingFailedError):
    """A segment or gradient is not finite."""

    code = "diverged"


class ModelFailedError(TrainingFailedError):
    """The model failed on valid input: its error would return whichever edge computes it, so no edge is at fault."""

    code = "model_failed"
