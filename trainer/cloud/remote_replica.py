"""The replica of an edge that a worker serves, from the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor

from trainer.cloud.edge_replica import EdgeReplica
from trainer.cloud.kept_segments import KeepingSpace, KeptElsewhere
from trainer.cloud.remote_edge import RemoteConnection, StoredModel
from trainer.data.sending import SentSamples
from trainer.errors import ConnectionLostError
from trainer.protocol import messages
from trainer.protocol.codec import Codec
from trainer.records.checkpoint import Checkpoint


class RemoteReplica(EdgeReplica):
    """The replica of an edge in its worker; here it has the cut, and the names and sizes of the layers."""

    @property
    def _link(self) -> RemoteConnection:
        return link_of(self)

    def build(self, model: Mapping[str, Tensor]) -> None:
        """Build it in the worker, with these values of all that is trained."""
        self._link.tell("build", self._link.worker.shared(model))

    def start_at(self, cut: int) -> None:
        """Set the first cut."""
        super().start_at(cut)
        self._link.tell("start_at", cut)

    def layers_to_send(self, cut: int) -> dict[str, Tensor]:
        """Return the layers that move to the edge for a new `cut`.

        Raises: ConnectionLostError.
        """
        return cast(dict[str, Tensor], self._link.ask("layers_to_send", cut)) if cut > self.cut else {}

    def load_model(self, model: Mapping[str, Tensor]) -> None:
        """Continue from the global model."""
        self._link.tell("load_model", self._link.worker.shared(model))

    def move_cut(self, cut: int, arriving: Mapping[str, Tensor], max_steps: int) -> None:
        """Move the cut in the worker.

        Raises: ProtocolError, ConnectionLostError.
        """
        if cut != self.cut or arriving:
            self._link.ask("move_cut", cut, dict(arriving), max_steps)
        self.model.stage.first = cut

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state after an averaging in the worker."""
        cut = checkpoint.cuts.get(self.name, 0)
        self._link.tell("restore", dict(checkpoint.layers_of(self.name)), cut)
        self.model.stage.first = cut

    def keeping_room_bytes(self, space: KeepingSpace) -> int:  # noqa: ARG002 - they are kept by the worker
        """Return how many bytes of segments its worker can keep further; 0 if it is lost."""
        try:
            return int(self._link.ask("room_bytes"))
        except ConnectionLostError:
            return 0

    def keep(self, cut: int, used: Codec, space: KeepingSpace) -> None:  # noqa: ARG002
        """Have the worker keep the segments.

        Raises: OSError, RuntimeError if there is no space for them, ConnectionLostError.
        """
        self._link.ask("keep", cut, used, self.session.data_order)
        self.kept = KeptElsewhere(cut, used, SentSamples(self.session.request.samples),
                                  lambda: self._link.tell("drop_kept"))

    def keep_held_out(self, space: KeepingSpace) -> None:  # noqa: ARG002
        """Have the worker make room for the segments of the held-out samples.

        Raises: OSError, RuntimeError if there is no space for them, ConnectionLostError.
        """
        assert self.kept is not None
        self.held_out = None
        self._link.ask("keep_held_out")
        self.held_out = KeptElsewhere(self.cut, self.kept.codec, SentSamples(self.session.held_out), lambda: None)

    def add_held_out(self, rows: Tensor, tensors: Mapping[str, Tensor]) -> None:  # noqa: ARG002 - the worker has them
        """Have the worker keep the segments of held-out samples that it has received.

        Raises: ProtocolError, ConnectionLostError.
        """
        self._link.ask("add_held_out", rows)
        assert self.held_out is not None
        self.held_out.sent.take([rows])

    def evaluate_held_out(self) -> messages.Evaluated:
        """Return what the edge would count, from its worker.

        Raises: DivergedError, ConnectionLostError.
        """
        return cast(messages.Evaluated, self._link.ask("evaluate_held_out"))

    def merged_layers(
        self, from_edge: Mapping[str, Tensor], max_steps: int  # noqa: ARG002 - they are in the worker
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the layers of edge and cloud as `EdgeReplica.merged_layers` does.

        Raises: ProtocolError, ConnectionLostError.
        """
        return cast(tuple[dict[str, Tensor], dict[str, Tensor]], self._link.ask("merged_layers", max_steps))

    def merged_and_stored(self, max_steps: int) -> tuple[StoredModel, dict[str, Tensor]]:
        """Return what `merged_layers` does, but the values stay where they are.

        Raises: ProtocolError, ConnectionLostError.
        """
        return self._link.ask_stored("merged_layers", max_steps)

    def own_layers(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the cloud's layers.

        Raises: ConnectionLostError.
        """
        return cast(tuple[dict[str, Tensor], dict[str, Tensor]], self._link.ask("own_layers"))


def link_of(replica: EdgeReplica) -> RemoteConnection:
    """Return the connection of an edge that a worker serves."""
    return cast(RemoteConnection, replica.session.connection)
