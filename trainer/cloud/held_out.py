"""Evaluation in the cloud: the segments of edges' held-out samples are sent once, where those in training are kept.

The part of such an edge is frozen, so the segments stay what they are; the cloud runs its layers on them after every
averaging, and the edge needs neither the global model nor any computing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from trainer.cloud.edge_manager import EdgeManager
from trainer.cloud.edge_replica import EdgeReplica
from trainer.cloud.kept_segments import KeepingSpace
from trainer.config.settings import RunSettings
from trainer.errors import ConnectionLostError, ProtocolError
from trainer.models.building import random_batch
from trainer.models.values import tensors_of
from trainer.protocol import messages, segments
from trainer.records.run_record import RunRecord

TRIAL_SAMPLES = 2


class HeldOutSegments:
    """Asks edges for the segments of their held-out samples, and evaluates on them."""

    def __init__(
        self, settings: RunSettings, edge_manager: EdgeManager, record: RunRecord, recipe: messages.Prepare,
        space: KeepingSpace,
    ) -> None:
        self._settings = settings
        self._edge_manager = edge_manager
        self._record = record
        self._recipe = recipe
        self._space = space
        self._fitting: dict[int, bool] = {}
        """Cuts at which the segment of an evaluation has the tensors of one in training."""

    def are_used(self, replica: EdgeReplica) -> bool:
        """Return whether the held-out samples of an edge are evaluated in the cloud.

        Not with updates that are private or summed in secret, or a proximal term, for which the edge must know the
        global model; nor if what crosses the cut in evaluation is not what does in training.
        """
        settings = self._settings
        return (replica.kept is not None and replica.session.held_out > 0 and settings.dp is None
                and not settings.secure_aggregation and not settings.proximal and self._fits(replica))

    def _fits(self, replica: EdgeReplica) -> bool:
        if replica.cut not in self._fitting:
            recipe, device = self._recipe, replica.device
            samples = random_batch(TRIAL_SAMPLES, recipe.sample_shape, recipe.integers).to(device)
            try:
                values = replica.model.stage.evaluate(samples, 0, replica.cut)
                replica.boundary.join(tensors_of(values), TRIAL_SAMPLES)
                self._fitting[replica.cut] = True
            except ProtocolError:
                self._fitting[replica.cut] = False
        return self._fitting[replica.cut]

    def missing_bytes(self, replica: EdgeReplica) -> int:
        """Return the bytes that an edge sends before its held-out samples can be evaluated; 0 if it has sent them."""
        kept = replica.kept
        if kept is None or replica.has_held_out:
            return 0
        held_out = replica.session.held_out
        return (segments.segment_bytes(replica.boundary, held_out, kept.codec)
                + held_out * self._recipe.objective.target_bytes)

    def collect(self, replicas: Sequence[EdgeReplica]) -> list[EdgeReplica]:
        """Receive the segments that are missing; return the edges whose held-out samples can be evaluated."""
        missing = [replica for replica in replicas if not replica.has_held_out and self._allocate(replica)]
        first = size = 0
        while remaining := [replica for replica in missing if first < replica.session.held_out]:
            for replica in remaining:
                self._edge_manager.send(replica.session, messages.CollectHeldOut(first=first))
            by_name = {replica.name: replica for replica in remaining}
            for session, message, received in self._edge_manager.collect(
                messages.HeldOut, self._settings.step_timeout_s, among=[replica.session for replica in remaining]
            ):
                size += received.frame.size_bytes
                try:
                    self._take(by_name[session.name], message, received.frame.tensors, first)
                except ConnectionLostError as error:
                    self._edge_manager.drop(session, str(error))
                except ProtocolError as error:
                    self._edge_manager.exclude(session, f"it sent a HeldOut that is not possible: {error}")
            first += self._recipe.batch
        if missing:
            self._record.event("held_out_kept", edges=[replica.name for replica in missing], bytes=size)
        return [replica for replica in replicas if replica.has_held_out]

    def evaluate(self, replicas: Sequence[EdgeReplica]) -> list[messages.Evaluated]:
        """Return what these edges would count; one whose worker is lost is left out.

        Raises: DivergedError if the metric is not finite.
        """
        counts = []
        for replica in replicas:
            try:
                counts.append(replica.evaluate_held_out())
            except ConnectionLostError as error:
                self._edge_manager.drop(replica.session, str(error))
        return counts

    def _allocate(self, replica: EdgeReplica) -> bool:
        """Make room for an edge's held-out segments; return whether there is."""
        try:
            replica.keep_held_out(self._space)
        except (OSError, RuntimeError, ConnectionLostError):
            return False
        return True

    def _take(
        self, replica: EdgeReplica, message: messages.HeldOut, tensors: Mapping[str, torch.Tensor], first: int
    ) -> None:
        """Keep segments that have arrived.

        Raises: ProtocolError, ConnectionLostError.
        """
        if message.first != first:
            raise ProtocolError(f"it begins with sample {message.first}; it must begin with {first}.")
        replica.add_held_out(torch.arange(first, min(first + self._recipe.batch, replica.session.held_out)), tensors)
