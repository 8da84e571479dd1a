"""Which join requests are accepted: of expected edges, with the data they had before, and possible in themselves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from trainer.cloud.edge_acceptor import JoinRefusedError
from trainer.cloud.edge_checks import check_join_request
from trainer.errors import ProtocolError
from trainer.protocol.messages import JoinRequest


class JoinRules:
    """The rules of a run.

    `samples`: training and held-out samples of every edge that has joined; `excluded`: why an edge takes no further
    part; `refused`: why the last request of an edge was refused.
    """

    def __init__(
        self, expected: Sequence[str], task: str, samples: Mapping[str, tuple[int, int]] | None,
        excluded: Mapping[str, str] | None = None,
    ) -> None:
        self._expected = expected
        self._task = task
        self.samples = dict(samples or {})
        self.excluded = dict(excluded or {})
        self.refused: dict[str, str] = {}

    def check(self, request: JoinRequest, connected: Collection[str]) -> None:
        """Check whether an edge may join while those of `connected` are.

        Raises: JoinRefusedError.
        """
        try:
            self._check(request, connected)
            self.refused.pop(request.edge, None)
        except JoinRefusedError as error:
            if request.edge in self._expected and not error.retry:
                self.refused[request.edge] = str(error)
            raise

    def why_refused(self, edges: Collection[str]) -> str:
        """Return a sentence for each of these edges whose request was refused."""
        return "".join(f"{edge} was refused: {self.refused[edge]} " for edge in edges if edge in self.refused)

    def _check(self, request: JoinRequest, connected: Collection[str]) -> None:
        if request.edge not in self._expected:
            raise JoinRefusedError(
                f"{request.edge} is not an edge of this run; its edges are {', '.join(self._expected)}."
            )
        if (reason := self.excluded.get(request.edge)) is not None:
            raise JoinRefusedError(f"{request.edge} is excluded from this run: {reason}")
        if request.task != self._task:
            raise JoinRefusedError(f"the task of this run is {self._task}, not {request.task}.")
        if request.edge in connected:
            raise JoinRefusedError(f"an edge named {request.edge} is still connected.", retry=True)
        known = self.samples.get(request.edge)
        if not request.collects and known not in (None, (request.samples, request.held_out)):
            assert known is not None
            raise JoinRefusedError(
                f"{request.edge} had {known[0]} samples and {known[1]} held out when the run started; "
                f"now it has {request.samples} and {request.held_out}."
            )
        try:
            check_join_request(request)
        except ProtocolError as error:
            raise JoinRefusedError(str(error)) from error
