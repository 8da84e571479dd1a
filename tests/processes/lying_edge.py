"""An edge that speaks the protocol and lies in one kind of message; started as `lying edge KIND ARGUMENTS`."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trainer.cli.main import run_command_line
from trainer.edge import training_loop
from trainer.protocol import messages
from trainer.transport import connection
from trainer.transport.connection import Connection
from trainer.transport.pacing import SentFrame


def lie(
    kind: str, message: messages.Message, tensors: Mapping[str, Tensor]
) -> tuple[messages.Message, Mapping[str, Tensor]]:
    """Return what the edge sends instead of a message."""
    match kind, message:
        case "min-cut", messages.JoinRequest():
            return message.model_copy(update={"min_cut": 0}), tensors
        case "slow", messages.JoinRequest():
            profile = replace(message.profile, flops_per_s=message.profile.flops_per_s / 1000,
                              bytes_per_s=message.profile.bytes_per_s / 1000)
            return message.model_copy(update={"profile": profile}), tensors
        case "count", messages.Evaluated():
            return message.model_copy(update={"sums": (10.0**6,)}), tensors
        case "held out", messages.HeldOut():
            return message, {**tensors, "labels": torch.full_like(tensors["labels"], 200)}
        case "layers", messages.ModelUpdate():
            return message, {name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}
        case "scale", messages.ModelUpdate():
            return message, {name: 1000 * tensor if tensor.is_floating_point() else tensor
                             for name, tensor in tensors.items()}
        case "moments", messages.ModelUpdate():
            return message, {name: -tensor if "exp_avg_sq" in name else tensor for name, tensor in tensors.items()}
        case "segment", messages.Segment():
            return message, {**tensors, "segment": torch.full_like(tensors["segment"], torch.nan)}
        case ("die before its masked layers", messages.MaskedUpdate()) | ("die after them", messages.Unmasking()):
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError("killed")
        case "model", messages.StepDone():
            return messages.Failed(reason="layer 2 fails.\x1b[2J", of_model=True), {}
        case _:
            return message, tensors


class LyingConnection(Connection):
    """A connection that sends lies; `kind` is set before it connects."""

    kind = ""

    def send(self, message: messages.Message, tensors: Mapping[str, Tensor] | None = None) -> SentFrame:
        """Send a frame, or the lie in its place."""
        return super().send(*lie(self.kind, message, tensors or {}))


def run(arguments: Sequence[str]) -> object:
    """Run `paceline edge` with a lying connection."""
    LyingConnection.kind, *rest = arguments
    original = connection.connect

    def connect(*args: Any, **keywords: Any) -> Connection:
        connected = original(*args, **keywords)
        connected.__class__ = LyingConnection
        return connected

    vars(training_loop)["connect"] = connect
    return run_command_line(rest)
