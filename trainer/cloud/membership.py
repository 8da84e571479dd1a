"""Membership of edges: losses, rejoins and the quorum.

Below the quorum the run pauses; once the quorum is restored it continues from the last averaging.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.cloud.edge_manager import EdgeManager
from trainer.cloud.edge_session import EdgeSession
from trainer.cloud.training_state import TrainingState
from trainer.config.settings import RunSettings
from trainer.errors import QuorumError, TrainingFailedError
from trainer.records.run_record import RunRecord
from trainer.reservation.bandwidth import BandwidthProvider, EdgeEndpoint
from trainer.reservation.partition_check import FindPartition, no_partition

PAUSE_POLL_S = 0.2
"""Interval at which a paused run checks for edges that rejoined."""


def check_exclusions(settings: RunSettings, excluded: Mapping[str, str]) -> None:
    """Check that a run which resumes can reach its quorum without the edges that were excluded before.

    Raises: QuorumError with the reasons.
    """
    if excluded and len(settings.edges) - len(excluded) < settings.quorum_in_training:
        reasons = " ".join(f"{edge} is excluded: {reason}" for edge, reason in excluded.items())
        raise QuorumError(f"{reasons} {len(excluded)} of {len(settings.edges)} edges are excluded, "
                          f"{settings.quorum_in_training} are required.")


class QuorumLostError(TrainingFailedError):
    """Fewer edges than the quorum are left, so the round is aborted."""

    code = "quorum_lost"


class Membership:
    """Keeps training state and bandwidth consistent with the active edges.

    `lost`: the edges lost in this round, as in the run record.
    """

    def __init__(
        self,
        settings: RunSettings,
        edge_manager: EdgeManager,
        state: TrainingState,
        bandwidth: BandwidthProvider,
        record: RunRecord,
        find_partition: FindPartition = no_partition,
    ) -> None:
        self._settings = settings
        self._edge_manager = edge_manager
        self._state = state
        self._bandwidth = bandwidth
        self._record = record
        self._find_partition = find_partition
        self._paused = False
        self.lost: list[dict[str, Any]] = []
        edge_manager.on_lost = self._on_lost

    def begin_round(self) -> None:
        """Start a round without losses.

        Raises: QuorumLostError if too few edges are active.
        """
        self.lost = []
        self._require_quorum()

    def readmit(self) -> None:
        """Add the waiting edges with the state of the last averaging."""
        if joining := self._edge_manager.admit_waiting():
            for session in joining:
                self._record.event("joined", edge=session.name, round=self._state.checkpoint.round)
            self.restore(joining)

    def restore(self, sessions: Sequence[EdgeSession]) -> None:
        """Restore these edges from the last averaging and add them to the bandwidth."""
        for session in sessions:
            self._bandwidth.add_edge(EdgeEndpoint(
                session.name, session.source_port, session.cloud_port, session.cloud_node))
        self._state.restore(sessions)

    def pause(self, number: int, error: QuorumLostError) -> int:
        """Wait until the quorum is restored, then return to the last averaging; returns its round.

        Raises: QuorumError at the deadline.
        """
        settings, after = self._settings, self._state.checkpoint
        self._paused = True
        self._record.event("paused", round=number, reason=str(error), deadline_s=settings.rejoin_timeout_s)
        present = {*(session.name for session in self._edge_manager.sessions), *self._edge_manager.waiting}
        missing = [edge for edge in settings.edges if edge not in present]
        self._find_partition(self._edge_manager.nodes_for(missing))  # it tells what it finds
        deadline_s = time.monotonic() + settings.rejoin_timeout_s
        while len(self._edge_manager.sessions) + len(self._edge_manager.waiting) < settings.quorum_in_training:
            if time.monotonic() >= deadline_s:
                raise QuorumError(
                    f"{error} No edge rejoined within {settings.rejoin_timeout_s:g} s. The model of round "
                    f"{after.round} is saved; resume with: paceline train --resume {self._record.directory}"
                )
            self._edge_manager.receive(time.monotonic() + PAUSE_POLL_S)
        joining = self._edge_manager.admit_waiting()
        self._record.event("continued", round=after.round + 1, joined=[session.name for session in joining])
        self._record.drop_rounds_after(after.round)
        self.restore(self._edge_manager.sessions)
        self._paused = False
        return after.round

    def _on_lost(self, session: EdgeSession, reason: str) -> None:
        """Release the bandwidth of a lost edge; abort the round if the quorum is lost."""
        replicas = self._state.replicas
        replicas.pop(session.name, None)
        self.lost.append({"edge": session.name, "reason": reason, "excluded": session.excluded})
        if session.excluded:
            self._record.describe(excluded=self._edge_manager.excluded)
        self._record.event("lost", edge=session.name, reason=reason, excluded=session.excluded, left=len(replicas))
        self._bandwidth.remove_edge(session.name)
        self._require_edges_that_can_join(session)
        self._require_quorum()

    def _require_edges_that_can_join(self, session: EdgeSession) -> None:
        """End the run if so many edges are excluded that the quorum cannot be reached again.

        Raises: the failure of the model if it led to that, else QuorumError.
        """
        settings, excluded = self._settings, len(self._edge_manager.excluded)
        if not session.excluded or len(settings.edges) - excluded >= settings.quorum_in_training:
            return
        if session.failure is not None:
            raise session.failure
        raise QuorumError(f"{self._reasons()} {excluded} of {len(settings.edges)} edges are excluded, "
                          f"{settings.quorum_in_training} are required.")

    def _reasons(self) -> str:
        return " ".join(f"{loss['edge']} was {'excluded' if loss['excluded'] else 'lost'}: {loss['reason']}"
                        for loss in self.lost)

    def _require_quorum(self) -> None:
        required, left = self._settings.quorum_in_training, len(self._state.replicas)
        if left < required and not self._paused:
            raise QuorumLostError(f"{self._reasons()} {left} of {len(self._settings.edges)} edges are left, "
                                  f"{required} are required.".strip())
