"""The segments of a step: which are to arrive, and which micro-batches the cloud can train.

A micro-batch is ready when the cloud has its segment: it arrived, or all its samples' segments were kept before. Where
edges share frozen layers, ready ones wait until the cloud has time, and one pass takes several of the same cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.cloud.edge_replica import EdgeReplica
from trainer.cloud.kept_segments import KeptSegments
from trainer.cloud.step_timing import StepTransfers
from trainer.errors import ProtocolError
from trainer.models.split_model import MiddleModel
from trainer.models.values import Values
from trainer.protocol import messages
from trainer.protocol.segments import segment_bytes


@dataclass(frozen=True, slots=True, eq=False)
class ReadyMicroBatch:
    """A micro-batch of an edge; without `arrived` its segment is kept. `rows`: its samples, where segments are kept."""

    replica: EdgeReplica
    micro: int
    arrived: tuple[Values, Tensor | None] | None = None
    rows: Tensor | None = None

    @property
    def samples(self) -> int:
        """Its number of samples."""
        return self.replica.samples_of(self.micro)

    def load(self) -> tuple[Values, Tensor | None]:
        """Return segment and targets.

        Raises: ProtocolError if the edge sent no targets.
        """
        if self.arrived is not None:
            return self.arrived
        kept, rows = self.replica.kept, self.rows
        assert isinstance(kept, KeptSegments) and rows is not None
        return kept.values(rows), None if isinstance(self.replica.model, MiddleModel) else kept.targets(rows)


class StepSegments:
    """What has arrived and is to arrive in mini-batch `number` of the run."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._arrived: deque[ReadyMicroBatch] = deque()
        self._kept: deque[ReadyMicroBatch] = deque()
        self._deferred: dict[str, list[ReadyMicroBatch]] = {}
        """Of an edge: micro-batches that need nothing but segments of others in this step."""
        self._rows: dict[str, list[Tensor]] = {}
        """Of edges whose segments are kept: their samples in every micro-batch."""
        self._missing: dict[str, dict[int, Tensor]] = {}
        """Of every edge: the samples of every micro-batch whose segments are to arrive, in order."""

    def expect(self, replica: EdgeReplica) -> int:
        """Find which segments will arrive: all, or of samples whose segments are not kept yet; return the bytes saved.
        """
        name, kept = replica.name, replica.kept
        if kept is None:
            self._missing[name] = {micro: torch.empty(replica.samples_of(micro))
                                   for micro in range(replica.micro_batches)}
            return 0
        rows = self._rows[name] = replica.micro_batches_of(self._number)
        missing = kept.sent.take(rows)
        self._missing[name] = {micro: samples for micro, samples in enumerate(missing) if len(samples)}
        arriving = torch.cat(missing)
        complete = [self._kept_one(replica, micro) for micro, samples in enumerate(missing) if not len(samples)]
        self._deferred[name] = [ready for ready in complete if bool(torch.isin(rows[ready.micro], arriving).any())]
        self._kept += [ready for ready in complete if ready not in self._deferred[name]]
        return sum(segment_bytes(replica.boundary, len(all_rows), kept.codec)
                   - (segment_bytes(replica.boundary, len(samples), kept.codec) if len(samples) else 0)
                   for all_rows, samples in zip(rows, missing, strict=True))

    def count(self, name: str) -> int:
        """Return how many segments of an edge were to arrive in all."""
        return len(self._missing[name])

    def samples_awaited(self, name: str, micro: int) -> int:
        """Return of how many samples the segment of a micro-batch consists."""
        return len(self._missing[name][micro])

    def check_order(self, message: messages.Segment, transfers: StepTransfers, replica: EdgeReplica) -> None:
        """Count a segment, which must be of the next micro-batch of which one must arrive.

        Raises: ProtocolError.
        """
        awaited = list(self._missing[replica.name])[transfers.segments_sent : transfers.segments_sent + 1]
        if [message.micro] != awaited:
            which = f"instead of {awaited[0]}" if awaited else "although none is awaited"
            raise ProtocolError(f"it sent a Segment of micro-batch {message.micro} {which}.")
        transfers.segments_sent += 1

    def add(
        self, replica: EdgeReplica, micro: int, tensors: Mapping[str, Tensor], values: Values, labels: Tensor | None,
        is_last: bool,
    ) -> None:
        """Take a segment that has arrived; `values` are its decoded `tensors`, `is_last`: no other will arrive."""
        if replica.kept is None:
            self._arrived.append(ReadyMicroBatch(replica, micro, (values, labels)))
            return
        assert isinstance(replica.kept, KeptSegments)
        replica.kept.add(self._missing[replica.name][micro], tensors, labels)
        self._arrived.append(self._kept_one(replica, micro))
        if is_last:
            self._kept += self._deferred.pop(replica.name)

    @property
    def has_ready(self) -> bool:
        """Whether a micro-batch can be trained."""
        return bool(self._arrived or self._kept)

    @property
    def arrived(self) -> int:
        """Micro-batches that have arrived in this step and are not trained yet."""
        return len(self._arrived)

    @property
    def arrived_samples(self) -> int:
        """Samples of the micro-batches that have arrived in this step and are not trained yet."""
        return sum(ready.samples for ready in self._arrived)

    def take_passes(self, max_samples: int, number: int) -> list[list[ReadyMicroBatch]]:
        """Take micro-batches for so many passes at most, of which no two have micro-batches of the same edge."""
        passes: list[list[ReadyMicroBatch]] = []
        taken: set[str] = set()
        while len(passes) < number and (batches := self.take(max_samples, without=taken)):
            passes.append(batches)
            taken |= {ready.replica.name for ready in batches}
        return passes

    def take(
        self, max_samples: int, first_of: EdgeReplica | None = None, without: AbstractSet[str] = frozenset()
    ) -> list[ReadyMicroBatch]:
        """Take micro-batches for one pass: those that arrived first, then kept ones; empty if there is none.

        Several are of one cut, share their frozen layers and have `max_samples` together at most. `first_of`: begin
        with this edge's, and take nothing without. `without`: names of edges whose micro-batches stay.
        """
        queue = [ready for ready in (*self._arrived, *self._kept) if ready.replica.name not in without]
        if first_of is not None:
            queue.sort(key=lambda ready: ready.replica is not first_of)
            if not queue or queue[0].replica is not first_of:
                return []
        taken: list[ReadyMicroBatch] = []
        for ready in queue:
            if taken and not _can_join(taken[0].replica, ready.replica):
                continue
            if taken and sum(other.samples for other in taken) + ready.samples > max_samples:
                break
            taken.append(ready)
            if not ready.replica.shares_trunk:
                break
        self._keep_if(lambda ready: ready not in taken)
        return taken

    def forget(self, replica: EdgeReplica) -> None:
        """Drop what is ready of an edge that is lost."""
        self._keep_if(lambda ready: ready.replica is not replica)

    def _keep_if(self, stays: Callable[[ReadyMicroBatch], bool]) -> None:
        self._arrived, self._kept = (deque(filter(stays, queue)) for queue in (self._arrived, self._kept))

    def _kept_one(self, replica: EdgeReplica, micro: int) -> ReadyMicroBatch:
        return ReadyMicroBatch(replica, micro, rows=self._rows[replica.name][micro])


def _can_join(leading: EdgeReplica, other: EdgeReplica) -> bool:
    return leading.shares_trunk and other.shares_trunk and leading.cut == other.cut
