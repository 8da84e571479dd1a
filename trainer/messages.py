"""What cloud and edges say to each other, in the order it is said. Tensors travel beside a message, by name."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from trainer.codec import Codec
from trainer.predictor import ComputeProfile, LayerSeconds
from trainer.recipe import OptimizerRecipe
from trainer.standardize import Standardization, Statistics

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,200}$")]
SampleShape = Annotated[tuple[Annotated[int, Field(ge=1, le=2**16)], ...], Field(min_length=1, max_length=3)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Seconds = Annotated[float, Field(allow_inf_nan=False)]


class Message(BaseModel):
    """The root; `kind` is the byte that names the type in a frame."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")
    kind: ClassVar[int]


class Ask(Message):
    """Edge: the training request. Nothing in it is raw data."""

    kind = 1
    edge: Name
    task: Name
    samples: Annotated[int, Field(ge=1, le=10**9)]
    held_out: Count
    sample_shape: SampleShape
    statistics: Statistics
    profile: ComputeProfile


class Refuse(Message):
    """Cloud: this request cannot be served, and why."""

    kind = 2
    reason: str


class Prepare(Message):
    """Cloud: model, standardization and recipe, the same for all edges."""

    kind = 3
    model: ModelName
    sample_shape: SampleShape
    classes: Annotated[int, Field(ge=1, le=256)]
    seed: int
    optimizer: OptimizerRecipe
    standardization: Standardization
    batch: Annotated[int, Field(ge=1)]
    micro: Annotated[int, Field(ge=1)]


class Ready(Message):
    """Edge: prepared; what every layer took in one rehearsed micro-batch here."""

    kind = 4
    layers: LayerSeconds


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

    `pace_bytes_per_s` is None where nothing is reserved.
    """

    kind = 7
    round: Count
    cut: Count
    codec: Codec
    training_delay_s: Seconds
    pace_bytes_per_s: Seconds | None


class Planned(Message):
    """Edge: ready for the round. Tensors: the layers that go to the cloud, if the cut shrank."""

    kind = 8
    round: Count


class Start(Message):
    """Cloud: begin step `step` of the round at `start_s`, on the edge's clock."""

    kind = 9
    step: Count
    start_s: Seconds


class Segment(Message):
    """Edge: one micro-batch. Tensors: `segment` and `labels`."""

    kind = 10
    step: Count
    micro: Count
    batch_samples: Count


class Gradient(Message):
    """Cloud: the gradient of that segment. Tensor: `gradient`."""

    kind = 11
    step: Count
    micro: Count


class StepDone(Message):
    """Edge: the step is over. Times in seconds: computing (wall clock), and when each gradient was sent by the
    cloud and received here (each on its own clock)."""

    kind = 12
    step: Count
    forward_s: Seconds
    backward_s: Seconds
    late_s: Seconds
    gradients_received_s: list[Seconds]


class Collect(Message):
    """Cloud: send your layers, the models are averaged now."""

    kind = 13


class Collected(Message):
    """Edge: the parameters and buffers of its layers, as tensors."""

    kind = 14


class Global(Message):
    """Cloud: the global model, as tensors. Go on from it and count its right answers on your held-out data."""

    kind = 15
    round: Count


class Counted(Message):
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
    for message in (Ask, Refuse, Prepare, Ready, Ping, Pong, Plan, Planned, Start, Segment, Gradient, StepDone,
                    Collect, Collected, Global, Counted, Stop, Failed)
}
"""Every message by its byte."""
