"""A step that workers compute, from the training loop."""

from __future__ import annotations

from trainer.cloud.edge_replica import EdgeReplica
from trainer.cloud.remote_edge import shifted
from trainer.cloud.remote_replica import link_of
from trainer.cloud.server_step import ServerStep
from trainer.cloud.step_timing import StepTransfers
from trainer.errors import ProtocolError
from trainer.protocol import messages
from trainer.transport.connection import ReceivedFrame


class RemoteStep(ServerStep):
    """A step that workers compute."""

    def add(self, replica: EdgeReplica, transfers: StepTransfers) -> None:
        """Begin the step of an edge in its worker; it ends with the edge's StepDone."""
        super().add(replica, transfers)
        link = link_of(replica)
        link.tell("begin", self.plan, shifted(transfers, link.worker.offset_s))

    @property
    def has_ready(self) -> bool:
        """Whether there is work here: the workers have it."""
        return False

    def awaits(self, message: messages.Message) -> bool:
        """Return whether a message ends the step of an edge; its segments went to the worker."""
        return isinstance(message, messages.StepDone) and message.step == self.plan.step

    def handle(self, name: str, received: ReceivedFrame) -> None:
        """Take over what the worker has recorded of an edge's complete step."""
        del received
        link = link_of(self._replicas[name])
        if link.finished is None:
            self._give_up(self._replicas[name], ProtocolError(f"it completed step {self.plan.step} twice."))
        else:
            self.transfers[name], link.finished = link.finished, None
