"""What cloud and edges say to each other, in the order it is said. Tensors travel beside a message, by name."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from trainer.data.standardization import Standardization, Statistics
from trainer.models.optimizer import OptimizerConfig
from trainer.profiling.predictor import ComputeProfile, LayerSeconds
from trainer.profiling.slowdown import CpuLimit, StepTimes
from trainer.protocol.codec import Codec

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,200}$")]
SampleShape = Annotated[tuple[Annotated[int, Field(ge=1, le=2**16)], ...], Field(min_length=1, max_length=3)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Seconds = Annotated[float, Field(allow_inf_nan=False)]


class Message(BaseModel):
    """The root; `kind` is the byte that names the type in a frame."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")
    kind: ClassVar[int]


Nonce = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Proof = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Hello(Message):
    """Cloud: the first frame of every connection. `wants_proof`: the edge must know the token."""

    kind = 19
    nonce: Nonce
    wants_proof: bool


class JoinRequest(Message):
    """Edge: the training request. Nothing in it is raw data. `proof` and `nonce` as in `shared_secret`."""

    kind = 1
    nonce: Nonce
    proof: Proof | None = None
    edge: Name
    task: Name
    samples: Annotated[int, Field(ge=1, le=10**9)]
    held_out: Count
    sample_shape: SampleShape
    statistics: Statistics
    profile: ComputeProfile


class JoinAccepted(Message):
    """Cloud: the request was taken; what follows is the preparation. `proof`: the cloud knows the token, too."""

    kind = 20
    proof: Proof | None = None


class JoinRefused(Message):
    """Cloud: this request cannot be served, and why; `retry`: it may be later."""

    kind = 2
    reason: str
    retry: bool = False


class Prepare(Message):
    """Cloud: model, standardization and recipe, the same for all edges.

    `tail`: the layers from this one on stay on the edges, with the labels; None: labels travel with the segments.
    """

    kind = 3
    model: ModelName
    sample_shape: SampleShape
    classes: Annotated[int, Field(ge=1, le=256)]
    seed: int
    optimizer: OptimizerConfig
    standardization: Standardization
    batch: Annotated[int, Field(ge=1)]
    micro: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    tail: Count | None = None


class Ready(Message):
    """Edge: prepared; what every layer took in one rehearsed micro-batch here."""

    kind = 4
    layers: LayerSeconds


class Restore(Message):
    """Cloud: begin from the state after round `round`, whatever came before.

    Tensors: the whole model, and the optimiser state of the layers that the edge trains, as `Part.export_layers` names
    them.
    """

    kind = 21
    round: Count
    cut: Count


class Restored(Message):
    """Edge: that is its state now. What it sent before belongs to no round any more."""

    kind = 22
    round: Count


class Alive(Message):
    """Cloud: it is still there, and there is nothing to do."""

    kind = 23


class Ping(Message):
    """Cloud: what time is it there?"""

    kind = 5
    number: Count


class Pong(Message):
    """Edge: the answer; the frame carries when it was sent."""

    kind = 6
    number: Count
    ping_sent_s: Seconds
    ping_received_s: Seconds


class Plan(Message):
    """Cloud: the next round. Tensors: the layers that come to the edge, if the cut grew.

    `beat_s` is the period in which segments leave. `pace_bytes_per_s` is None where nothing is reserved.
    `gradient_codec` is that of gradients the edge sends: only where labels are protected.
    """

    kind = 7
    round: Count
    cut: Count
    codec: Codec
    gradient_codec: Codec
    beat_s: Annotated[float, Field(ge=0, le=3600)]
    pace_bytes_per_s: Seconds | None


class Planned(Message):
    """Edge: ready for the round. Tensors: the layers that go to the cloud, if the cut shrank."""

    kind = 8
    round: Count


class Start(Message):
    """Cloud: the first segments of step `step` of the round leave at `first_s`, on the edge's clock."""

    kind = 9
    round: Count
    step: Count
    first_s: Seconds


class Segment(Message):
    """Edge: one micro-batch. Tensors: `segment`, and `labels` unless they are protected."""

    kind = 10
    step: Count
    micro: Count
    batch_samples: Count


class Gradient(Message):
    """Cloud: the gradient of that segment. Tensor: `gradient`."""

    kind = 11
    step: Count
    micro: Count


class TailInput(Message):
    """Cloud: what goes into the edge's tail for that micro-batch. Tensor: `tail_input`."""

    kind = 24
    step: Count
    micro: Count


class TailGradient(Message):
    """Edge: the gradient of it. Tensor: `tail_gradient`."""

    kind = 25
    step: Count
    micro: Count


class StepDone(Message):
    """Edge: the step is over. Times in seconds: computing by the wall clock and by the processor's, how late the
    latest segment left, and when each gradient was received (on the edge's clock).

    `cpu_limit`: the widest that held; None if there was none. With labels protected, `tail_s` is what the tail took,
    forward and backward, and `loss` the mini-batch's mean loss, which only the edge knows."""

    kind = 12
    step: Count
    forward_s: Seconds
    forward_cpu_s: Seconds
    backward_s: Seconds
    backward_cpu_s: Seconds
    late_s: Seconds
    gradients_received_s: list[Seconds]
    cpu_limit: CpuLimit | None = None
    tail_s: Seconds = 0.0
    loss: Seconds | None = None

    @property
    def times(self) -> StepTimes:
        """What the computing took."""
        return StepTimes(self.forward_s, self.forward_cpu_s, self.backward_s, self.backward_cpu_s)


class CollectModel(Message):
    """Cloud: send your layers, the models are averaged now; at `pace_bytes_per_s`, or as before if it is None."""

    kind = 13
    pace_bytes_per_s: Seconds | None = None


class ModelUpdate(Message):
    """Edge: its layers with their optimiser state, as `Part.export_layers` names them."""

    kind = 14


class GlobalModel(Message):
    """Cloud: the global model, as tensors. Go on from it and count its right answers on your held-out data."""

    kind = 15
    round: Count


class Evaluated(Message):
    """Edge: right answers of the global model among its held-out samples."""

    kind = 16
    correct: Count
    total: Count


class Stop(Message):
    """Cloud: training is over."""

    kind = 17
    reason: str


class Failed(Message):
    """Either side: it cannot go on, and why."""

    kind = 18
    reason: str


MESSAGES: dict[int, type[Message]] = {
    message.kind: message
    for message in (
        Hello,
        JoinRequest,
        JoinAccepted,
        JoinRefused,
        Prepare,
        Ready,
        Restore,
        Restored,
        Alive,
        Ping,
        Pong,
        Plan,
        Planned,
        Start,
        Segment,
        Gradient,
        TailInput,
        TailGradient,
        StepDone,
        CollectModel,
        ModelUpdate,
        GlobalModel,
        Evaluated,
        Stop,
        Failed,
    )
}
"""Every message by its byte."""
