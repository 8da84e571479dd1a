"""Messages between cloud and edges, in the order of a run. Tensors are attached to a message by name."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from trainer.config.fine_tuning import ALL_TRAINED, MAX_RANK, FineTuning
from trainer.config.objectives import Objective
from trainer.data.standardization import Standardization, Statistics
from trainer.models.optimizer import OptimizerConfig
from trainer.profiling.predictor import ComputeProfile
from trainer.profiling.slowdown import CpuLimit, StepTimes
from trainer.protocol.codec import Codec

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,200}$")]
SampleShape = Annotated[tuple[Annotated[int, Field(ge=1, le=2**16)], ...], Field(min_length=1, max_length=3)]
TargetShape = Annotated[tuple[Annotated[int, Field(ge=1, le=2**20)], ...], Field(min_length=1, max_length=8)]
ClassShape = Annotated[tuple[Annotated[int, Field(ge=1, le=2**20)], ...], Field(max_length=8)]
ClassNames = Annotated[tuple[Annotated[str, Field(max_length=255)], ...], Field(max_length=256)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Seconds = Annotated[float, Field(allow_inf_nan=False)]

MAX_CONFUSION_CLASSES = 64


class Message(BaseModel):
    """Base class; `kind` is the byte that identifies the message in a frame."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")
    kind: ClassVar[int]


Nonce = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[str, Field(pattern=r"^[0-9a-f]{66}$")]
EncryptedShares = Annotated[str, Field(pattern=r"^[0-9a-f]{188}$")]
Proof = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Hello(Message):
    """Cloud: the first frame of every connection. `requires_proof`: the edge must prove the shared secret."""

    kind = 19
    nonce: Nonce
    requires_proof: bool


class Collecting(Message):
    """Edge: collects samples and will request to train when it has `wanted`; sent on a connection of its own.

    `proof` and `nonce` as in `JoinRequest`; `sentence`: how far it is.
    """

    kind = 26
    nonce: Nonce
    proof: Proof | None = None
    edge: Name
    samples: Count
    held_out: Count
    wanted: Count
    sentence: str


class JoinRequest(Message):
    """Edge: requests to train. Contains no raw data. `proof` and `nonce` as in `shared_secret`.

    `collects`: its samples grow. `class_names`: if its data names its classes. `whole_numbers`: the inputs are integers
    other than the bytes of images. `min_cut`: the edge refuses a smaller cut. `target_shape`: of the values to predict
    for a sample, None: classes; `class_shape`: of its classes if it has several; `binary_targets`: all of these values
    are 0 or 1. `vocabulary`: number of token ids if the classes are the inputs' next tokens, which are not counted.
    """

    kind = 1
    nonce: Nonce
    proof: Proof | None = None
    edge: Name
    task: Name
    samples: Annotated[int, Field(ge=1, le=10**9)]
    held_out: Count
    collects: bool = False
    class_names: ClassNames = ()
    sample_shape: SampleShape
    statistics: Statistics
    whole_numbers: bool = False
    min_cut: Count = 0
    target_shape: TargetShape | None = None
    class_shape: ClassShape = ()
    binary_targets: bool = False
    vocabulary: Annotated[int, Field(ge=2, le=2**18)] | None = None
    profile: ComputeProfile


class JoinAccepted(Message):
    """Cloud: the request is accepted; Prepare follows. `proof`: the cloud's proof of the shared secret."""

    kind = 20
    proof: Proof | None = None


class Redirect(Message):
    """Cloud: this edge is served by a worker of the cloud; the edge connects there from the same port and joins again.
    """

    kind = 27
    host: Annotated[str, Field(max_length=255)]
    port: Annotated[int, Field(ge=1, le=65535)]


class JoinRefused(Message):
    """Cloud: the request is refused; `retry`: a later one may be accepted."""

    kind = 2
    reason: str
    retry: bool = False


class Prepare(Message):
    """Cloud: model, standardization and training settings, the same for all edges.

    `classes`: outputs for a sample: its classes, or the values to predict.
    `integers`: least and greatest value of the inputs if they reach the model as whole numbers. `tail`: the layers from
    this one on stay on the edges, with the labels; None: labels are sent with the segments. `frozen_digest`: of the
    values that are not trained, as in `trainer.models.frozen`; they are never sent. `secure_aggregation`: edges send
    their layers only in secure sums, so their layers never move to the cloud and it stores no optimizer state.
    """

    kind = 3
    model: ModelName
    sample_shape: SampleShape
    classes: Annotated[int, Field(ge=1, le=2**20)]
    objective: Objective = Field(default_factory=Objective)
    integers: tuple[int, int] | None = None
    tuning: FineTuning = ALL_TRAINED
    frozen_digest: Proof | None = None
    seed: int
    optimizer: OptimizerConfig
    standardization: Standardization
    batch: Annotated[int, Field(ge=1)]
    micro: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    tail: Count | None = None
    secure_aggregation: bool = False


class Ready(Message):
    """Edge: prepared; `data_order`: seed of the order of its mini-batches, from which the cloud knows which samples a
    kept segment is of; `initial_digest`: of the values that are trained, as in `trainer.models.frozen`.
    """

    kind = 4
    initial_digest: Proof
    data_order: Annotated[int, Field(ge=0, le=2**62)] = 0


class Restore(Message):
    """Cloud: restore the state after round `round`, discarding the current one.

    Tensors: the whole model, and the optimiser state of the layers that the edge trains, named as by
    `Stage.export_layers`.
    """

    kind = 21
    round: Count
    cut: Count


class Restored(Message):
    """Edge: the state is restored; everything it sent before is obsolete."""

    kind = 22
    round: Count


class Keepalive(Message):
    """Cloud: keepalive while the edge has nothing to do."""

    kind = 23


class Ping(Message):
    """Cloud: probe of the edge's clock."""

    kind = 5
    number: Count


class Pong(Message):
    """Edge: reply to a Ping; the frame carries its time of sending."""

    kind = 6
    number: Count
    ping_sent_s: Seconds
    ping_received_s: Seconds


class Plan(Message):
    """Cloud: the plan of the next round. Tensors: the layers that move to the edge, if the cut grew.

    `period_s`: interval between segments. `pace_bytes_per_s`: None without a reservation. `gradient_codec`: of
    gradients that the edge sends, with protected labels. `keep`: the cloud keeps the segments, so each sample is sent
    once as long as cut and codec stay. `rank`: how many rows of its adapters the edge trains and sends; None: all.
    """

    kind = 7
    round: Count
    cut: Count
    codec: Codec
    gradient_codec: Codec
    period_s: Annotated[float, Field(ge=0, le=3600)]
    pace_bytes_per_s: Seconds | None
    keep: bool = False
    rank: Annotated[int, Field(ge=1, le=MAX_RANK)] | None = None


class PlanApplied(Message):
    """Edge: the plan is applied. Tensors: the layers that move to the cloud, if the cut shrank.

    `samples`, `held_out`: what an edge that collects holds from this round on.
    """

    kind = 8
    round: Count
    samples: Count | None = None
    held_out: Count | None = None


class StartStep(Message):
    """Cloud: starts step `step` of the round; the first segment is sent at `first_s`, on the edge's clock."""

    kind = 9
    round: Count
    step: Count
    first_s: Seconds


class Segment(Message):
    """Edge: the segment of one micro-batch. Tensors: `segment`, `segment.1`, ..., and `labels` unless protected.

    If segments are kept: of those samples only that were not sent before, and none where there are no such samples.
    """

    kind = 10
    step: Count
    micro: Count
    batch_samples: Count


class Gradient(Message):
    """Cloud: the gradient of a segment. Tensor: `gradient`."""

    kind = 11
    step: Count
    micro: Count


class TailInput(Message):
    """Cloud: the input of the edge's tail for a micro-batch. Tensor: `tail_input`."""

    kind = 24
    step: Count
    micro: Count


class TailGradient(Message):
    """Edge: the gradient of a tail input. Tensor: `tail_gradient`."""

    kind = 25
    step: Count
    micro: Count


class StepDone(Message):
    """Edge: the step is complete. Times in seconds: wall and CPU time of the computation, largest delay of a segment
    behind its schedule, and when each gradient was received (on the edge's clock): where none is sent because the
    edge's part is frozen, each input of the tail, if there is one.

    `cpu_limit`: the loosest limit during the step; None without one. With protected labels, `tail_s` is the tail's
    time forward and backward, `tail_inputs_received_s` when its inputs were received, and `loss` the mini-batch's mean
    loss, known only to the edge.
    """

    kind = 12
    step: Count
    forward_s: Seconds
    forward_cpu_s: Seconds
    backward_s: Seconds
    backward_cpu_s: Seconds
    late_s: Seconds
    gradients_received_s: list[Seconds]
    tail_inputs_received_s: list[Seconds] = []
    cpu_limit: CpuLimit | None = None
    tail_s: Seconds = 0.0
    loss: Seconds | None = None

    @property
    def times(self) -> StepTimes:
        """Wall and CPU times of the computation."""
        return StepTimes(self.forward_s, self.forward_cpu_s, self.backward_s, self.backward_cpu_s)


class CollectModel(Message):
    """Cloud: requests the edge's layers for averaging, sent at `pace_bytes_per_s` (None: unchanged)."""

    kind = 13
    pace_bytes_per_s: Seconds | None = None


class ModelUpdate(Message):
    """Edge: its layers with their optimiser state, named as by `Stage.export_layers`."""

    kind = 14


class SumRequest(Message):
    """Cloud: requests the edge's layers for averaging in a secure sum; `SumKeys` follows.

    `session`: of this sum, as in `trainer.privacy.secure_sum`; `share`: of all samples; pace as in `CollectModel`. With
    differential privacy only the edge's trained parameters are in the sum, their changes clipped to the L2 norm `clip`,
    with noise of `noise_std` after the weight.
    """

    kind = 40
    round: Count
    session: Nonce
    share: Annotated[float, Field(gt=0, le=1)]
    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    noise_std: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    pace_bytes_per_s: Seconds | None = None


class SumKeys(Message):
    """Edge: its public keys for shares and for masks, and the hash of its own mask's seed."""

    kind = 41
    shares: Key
    masks: Key
    seed_hash: Key


class SumPeers(Message):
    """Cloud: the keys of all edges in the sum."""

    kind = 42
    keys: dict[Name, SumKeys]


class SumShares(Message):
    """Edge: its shares, by the edge for which they are encrypted. Cloud: those for this edge, by their sender."""

    kind = 43
    shares: dict[Name, EncryptedShares]


class MaskedUpdate(Message):
    """Edge: the changes of its layers, encoded and masked. Tensor: `masked`, int64."""

    kind = 44


class Unmask(Message):
    """Cloud: the edges whose masked changes arrived."""

    kind = 45
    survivors: list[Name]


class Unmasking(Message):
    """Edge: shares of the own masks of the survivors, and of the keys of those that shared theirs and dropped out."""

    kind = 46
    seeds: dict[Name, Share]
    keys: dict[Name, Share]


class GlobalModel(Message):
    """Cloud: the layers [first, last) of the global model (tensors), to continue from and to evaluate on the held-out
    samples; `last` None: all from `first` on. They come in order, and the edge evaluates layers while later ones are on
    their way.
    """

    kind = 15
    round: Count
    first: Count = 0
    last: Count | None = None


class Evaluated(Message):
    """Edge: the metric's sums over its held-out samples under the global model.

    `confusion`: the samples by true class and, within it, by predicted class; empty if targets are no classes, there
    are more than MAX_CONFUSION_CLASSES, labels are protected, or averages are secure sums.
    """

    kind = 16
    sums: Annotated[tuple[Seconds, ...], Field(max_length=3 * 2**20)]
    total: Count
    confusion: Annotated[tuple[Count, ...], Field(max_length=MAX_CONFUSION_CLASSES**2)] = ()


class CollectHeldOut(Message):
    """Cloud: requests the segments of held-out samples of an edge whose segments it keeps, a batch from `first` on."""

    kind = 47
    first: Count


class HeldOut(Message):
    """Edge: the segments of a batch of its held-out samples in evaluation mode, encoded as in training, with targets.
    """

    kind = 48
    first: Count


class Stop(Message):
    """Cloud: training has ended."""

    kind = 17
    reason: str


class Failed(Message):
    """Either side: it cannot continue; `reason` is a sentence.

    `of_model`: the model fails on valid input, so the edge is not at fault and would fail again.
    """

    kind = 18
    reason: str
    of_model: bool = False


MESSAGES: dict[int, type[Message]] = {
    message.kind: message
    for message in (
        Hello,
        Collecting,
        JoinRequest,
        JoinAccepted,
        Redirect,
        JoinRefused,
        Prepare,
        Ready,
        Restore,
        Restored,
        Keepalive,
        Ping,
        Pong,
        Plan,
        PlanApplied,
        StartStep,
        Segment,
        Gradient,
        TailInput,
        TailGradient,
        StepDone,
        CollectModel,
        ModelUpdate,
        SumRequest,
        SumKeys,
        SumPeers,
        SumShares,
        MaskedUpdate,
        Unmask,
        Unmasking,
        GlobalModel,
        CollectHeldOut,
        HeldOut,
        Evaluated,
        Stop,
        Failed,
    )
}
"""Message classes by `kind`."""
