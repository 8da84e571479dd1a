"""Who is there: edges that leave, edges that come back, and whether they are enough to go on.

Below the quorum the run pauses; with a quorum again it goes on from the last averaging.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from trainer.cloud.edge_manager import EdgeManager
from trainer.cloud.edge_session import EdgeSession
from trainer.cloud.training_state import TrainingState
from trainer.config.settings import RunSettings
from trainer.errors import QuorumError, TrainingFailedError
from trainer.records.run_record import RunRecord
from trainer.reservation.bandwidth import BandwidthProvider

PAUSE_POLL_S = 0.2
"""Below the quorum, so often it is looked whether somebody came back."""


class QuorumLostError(TrainingFailedError):
    """So many edges were lost that the round cannot count."""

    code = "quorum_lost"


class Membership:
    """Keeps workshop and road in step with who is there. `lost`: who left in this round, as the record names it."""

    def __init__(
        self,
        settings: RunSettings,
        crew: EdgeManager,
        workshop: TrainingState,
        road: BandwidthProvider,
        record: RunRecord,
    ) -> None:
        self._settings = settings
        self._crew = crew
        self._workshop = workshop
        self._road = road
        self._record = record
        self._paused = False
        self.lost: list[dict[str, str]] = []
        crew.on_lost = self._take_leave

    def begin_round(self) -> None:
        """Nobody has left in it so far.

        Raises: QuorumLostError if too few are there.
        """
        self.lost = []
        self._need_quorum()

    def readmit(self) -> None:
        """Take in whoever came (back), with the state of this averaging."""
        if coming := self._crew.readmit():
            for member in coming:
                self._record.event("joined", edge=member.name, round=self._workshop.checkpoint.round)
            self.restore(coming)

    def restore(self, members: Sequence[EdgeSession]) -> None:
        """Let these edges go on from the last averaging, on the road again."""
        for member in members:
            self._road.add_edge(member.name, member.source_port)
        self._workshop.restore(members)

    def pause(self, number: int, error: QuorumLostError) -> int:
        """Wait until a quorum is there again, then go back to the last averaging; returns its round.

        Raises: QuorumError when the deadline has passed.
        """
        settings, after = self._settings, self._workshop.checkpoint
        self._paused = True
        self._record.event("paused", round=number, reason=str(error), deadline_s=settings.rejoin_timeout_s)
        deadline_s = time.monotonic() + settings.rejoin_timeout_s
        while len(self._crew.members) + len(self._crew.waiting) < settings.quorum_in_training:
            if time.monotonic() >= deadline_s:
                raise QuorumError(
                    f"{error} Nobody came back within {settings.rejoin_timeout_s:g} s. The model of round "
                    f"{after.round} is saved; go on with: paceline train --resume {self._record.directory}"
                )
            self._crew.receive(time.monotonic() + PAUSE_POLL_S)
        coming = self._crew.readmit()
        self._record.event("continued", round=after.round + 1, joined=[member.name for member in coming])
        self._record.forget_after(after.round)
        self.restore(self._crew.members)
        self._paused = False
        return after.round

    def _take_leave(self, member: EdgeSession, reason: str) -> None:
        """An edge is gone: its bandwidth is given back, and the round goes on without it if a quorum is left."""
        apprentices = self._workshop.apprentices
        apprentices.pop(member.name, None)
        self.lost.append({"edge": member.name, "reason": reason})
        self._record.event("lost", edge=member.name, reason=reason, left=len(apprentices))
        self._road.remove_edge(member.name)
        self._need_quorum()

    def _need_quorum(self) -> None:
        wanted, left = self._settings.quorum_in_training, len(self._workshop.apprentices)
        if left < wanted and not self._paused:
            why = " ".join(f"{one['edge']} was lost: {one['reason']}" for one in self.lost)
            raise QuorumLostError(f"{why} {left} of {len(self._settings.edges)} edges are left, "
                                  f"{wanted} must be there.".strip())
