"""The training loop of an edge: join, prepare, then process the cloud's messages. Its samples never leave it.

When the connection to the cloud is lost, the edge reconnects and is restored from the last averaging.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from trainer.config.partitioning import IID, Partitioning, task_of
from trainer.data import dataset, standardization
from trainer.data.collect import Collector, Limits
from trainer.data.growing_sources import Share
from trainer.data.load import load_local
from trainer.edge.cloud_connection import CloudConnection
from trainer.edge.collecting import collect
from trainer.edge.evaluation import Evaluation
from trainer.edge.secure_update import SecureUpdates
from trainer.edge.training_step import EdgeStep, StepAbortedError
from trainer.errors import (
    ConnectionLostError,
    DivergedError,
    ModelFailedError,
    NetworkError,
    ProtocolError,
    TrainerError,
    TrainingFailedError,
    UserCodeError,
)
from trainer.models.boundary import Boundary
from trainer.models.building import build_layers, build_model
from trainer.models.frozen import digest, initial_digest
from trainer.models.lora_ranks import narrowed, set_rank
from trainer.models.objective import build_loss, confusion_counts, metric_size, metric_sums
from trainer.models.optimizer import OptimizerConfig
from trainer.models.split_model import ClientModel, tail_protects_labels
from trainer.models.stage import Stage
from trainer.plugins import describe_error, is_plugin_name
from trainer.processes.malloc import retain_freed_memory
from trainer.profiling import profiler
from trainer.profiling.stopwatch import Stopwatch
from trainer.protocol import messages, segments
from trainer.transport.backoff import pauses_s
from trainer.transport.connection import ReceivedFrame, connect
from trainer.transport.credentials import NO_CREDENTIALS, TransportCredentials

log = logging.getLogger(__name__)

CONNECT_ATTEMPT_S = 5.0
REPORT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """Name, cloud address and data share of an edge.

    `model`, `loss`, `metric`: the only `package.module:function` that the edge imports for each at the cloud's request;
    other losses and metrics are given by name. `protect_labels`: neither labels nor class counts are sent; the edge
    refuses a cloud that requires labels. `secure_aggregation`: the edge refuses a cloud that requires its own layers.
    `min_cut`: the edge refuses a plan with fewer layers on it; with 0 the cloud may receive raw inputs. `collect`: the
    data grows, and this number of training samples is enough to join. `connect_timeout_s`: how long to try to connect,
    at the start and after every loss. `cgroups`: directories to join after all libraries are loaded, because importing
    them under an emulated CPU limit takes half a minute.
    """

    name: str
    cloud: tuple[str, int]
    index: int
    edges: int
    source_port: int | None = None
    data: str = "traffic-lights"
    sharing: Partitioning = IID
    model: str | None = None
    loss: str | None = None
    metric: str | None = None
    protect_labels: bool = False
    secure_aggregation: bool = False
    min_cut: int = 1
    seed: int = 1
    collect: int | None = None
    connect_timeout_s: float = 60.0
    cgroups: tuple[Path, ...] = ()
    credentials: TransportCredentials = NO_CREDENTIALS


def run(settings: EdgeSettings, notify: Callable[[str], None] = log.info) -> str:
    """Train until the cloud ends the run; return its reason. `notify` receives a sentence on every loss.

    Raises: DataError, NetworkError, TrainingFailedError.
    """
    torch.set_num_threads(1)
    retain_freed_memory()
    collector = None
    if settings.collect is None:
        data = load_local(settings.data, settings.sharing, settings.name, settings.index, settings.edges, settings.seed)
    else:
        share = Share(settings.name, settings.index, settings.edges, settings.seed)
        collector, data = collect(settings.data, share, settings.collect, settings.cloud, settings.credentials, notify)
    warm_up()
    _join_cgroups(settings.cgroups)
    edge = Edge(settings, data, _join_request(settings, data), collector)
    deadline_s = time.monotonic() + settings.connect_timeout_s
    pauses = pauses_s(settings.name)
    while True:
        try:
            return edge.train()
        except ConnectionLostError as error:
            if edge.was_prepared:  # the cloud was reached: restart the timeout
                deadline_s = time.monotonic() + settings.connect_timeout_s
                pauses = pauses_s(settings.name)
            if (remaining_s := deadline_s - time.monotonic()) <= 0:
                raise NetworkError(f"{error} Retried for {settings.connect_timeout_s:g} s.") from error
            notify(f"{error} Reconnecting for at most {remaining_s:.0f} s.")
            time.sleep(min(next(pauses), remaining_s))


@functools.cache
def warm_up() -> None:
    """Load what torch imports on first use of layers and optimizers; without autograd, so a process may fork then."""
    part = Stage(build_layers("signal-cnn", 0, (3, 32, 32), 3), 0, 0, OptimizerConfig())
    part.step()


def _join_cgroups(cgroups: tuple[Path, ...]) -> None:
    for directory in cgroups:
        try:
            (directory / "cgroup.procs").write_text(str(os.getpid()))
        except OSError as error:
            raise TrainingFailedError(f"Cannot join the CPU limit {directory}: {error}.") from error


def _statistics(settings: EdgeSettings, data: dataset.LocalData) -> standardization.Statistics:
    """Return what the cloud is told of the samples; without the counts of their classes if labels are protected."""
    statistics = standardization.summarize(data.train.inputs, data.train.labels, data.classes)
    if data.vocabulary is not None:
        return replace(statistics, class_counts=())
    if settings.protect_labels:
        return replace(statistics, class_counts=(0,) * len(statistics.class_counts))
    return statistics


def _join_request(settings: EdgeSettings, data: dataset.LocalData) -> messages.JoinRequest:
    return messages.JoinRequest(
        nonce="0" * 32,
        edge=settings.name,
        task=task_of(settings.data),
        samples=len(data.train),
        held_out=len(data.held_out),
        collects=settings.collect is not None,
        class_names=data.class_names,
        sample_shape=tuple(data.train.inputs.shape[1:]),
        statistics=_statistics(settings, data),
        whole_numbers=data.train.inputs.dtype == torch.int64,
        min_cut=settings.min_cut,
        target_shape=dataset.target_shape(data.train),
        class_shape=dataset.class_shape(data.train),
        binary_targets=dataset.is_binary(data.train),
        vocabulary=data.vocabulary,
        profile=profiler.benchmark_node(),
    )


def _standardized(inputs: Tensor, recipe: messages.Prepare) -> Tensor:
    """Return inputs as the model takes them: whole numbers, or single precision."""
    values = standardization.standardize(inputs, recipe.standardization)
    return values if recipe.integers is not None else values.to(torch.float32)


class Edge:
    """An edge across all its connections to the cloud."""

    def __init__(
        self, settings: EdgeSettings, data: dataset.LocalData, request: messages.JoinRequest,
        collector: Collector | None = None,
    ) -> None:
        """`collector`: where more samples come from."""
        self._settings = settings
        self._data = data
        self._collector = collector
        self._has_new_model = False
        self._averaged_layers = 0
        """Of the global model, while it arrives."""
        self._request = request
        self._prepared: tuple[messages.Prepare, Tensor] | None = None
        self.was_prepared = False
        self._sums = SecureUpdates(settings.name, settings.edges)
        self._evaluated = Stopwatch()
        self._cloud: CloudConnection
        self._model: ClientModel
        self._step: EdgeStep
        self._first_runs: profiler.FirstRuns
        self._evaluation: Evaluation
        self._boundaries: Sequence[Boundary]
        self._recipe: messages.Prepare
        self._plan: messages.Plan

    def train(self) -> str:
        """Connect, join, and process messages until the end; return the cloud's reason for it.

        Raises: ConnectionLostError if the cloud is lost, NetworkError if it refuses.
        """
        self.was_prepared = False
        settings, data = self._settings, self._data
        if (len(data.train), len(data.held_out)) != (self._request.samples, self._request.held_out):
            self._request = self._request.model_copy(update={
                "samples": len(data.train), "held_out": len(data.held_out), "statistics": _statistics(settings, data)})
        self._connect(settings.cloud)
        try:
            self._cloud.join(self._request)
            received = self._cloud.receive()
            if isinstance(redirect := received.frame.message, messages.Redirect):
                self._cloud.close()
                self._connect((redirect.host, redirect.port))
                self._cloud.join(self._request)
                received = self._cloud.receive()
            return self._process_messages(received)
        except (ConnectionLostError, NetworkError):
            raise
        except TrainerError as error:
            self._report(str(error), isinstance(error, ModelFailedError | UserCodeError))
            raise
        except Exception as error:
            log.exception("edge=%s", settings.name)
            sentence = f"Internal error of {settings.name}: {describe_error(error)}."
            self._report(sentence)
            raise TrainingFailedError(sentence) from error
        finally:
            self._cloud.close()

    def _report(self, reason: str, of_model: bool = False) -> None:
        """Tell the cloud why this edge ends, and wait until it has read it."""
        with contextlib.suppress(TrainerError):
            self._cloud.connection.send(messages.Failed(reason=reason, of_model=of_model))
            self._cloud.await_end(REPORT_TIMEOUT_S)

    def _connect(self, address: tuple[str, int]) -> None:
        """Connect to the cloud, or to one of its workers.

        Raises: ConnectionLostError, NetworkError.
        """
        settings, credentials = self._settings, self._settings.credentials
        connection = connect(
            address, settings.source_port, min(CONNECT_ATTEMPT_S, settings.connect_timeout_s),
            context=credentials.context, server_name=credentials.cloud_name if credentials.context else "",
        )
        self._cloud = CloudConnection(connection, credentials.shared_secret)

    def _process_messages(self, received: ReceivedFrame) -> str:
        """Process the cloud's messages until it ends the run; return its reason."""
        while not isinstance(received.frame.message, messages.Stop):
            try:
                self._handle(received)
                received = self._cloud.receive()
            except StepAbortedError as error:
                received = error.received
        self._log_cost()
        return received.frame.message.reason

    def _log_cost(self) -> None:
        """Log what the run cost this edge: CPU time in layers and in evaluations, and the largest memory."""
        if self.was_prepared:
            peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            log.info("edge=%s computed_s=%.3f evaluated_s=%.3f peak_memory_bytes=%d", self._settings.name,
                     self._step.computed_s, self._evaluated.cpu_s, peak_bytes)

    def _handle(self, received: ReceivedFrame) -> None:
        match received.frame.message:
            case messages.Prepare() as recipe:
                self._prepare(recipe)
            case messages.Restore() as restore:
                self._restore(restore, received)
            case messages.Ping() as ping:
                self._answer_ping(ping, received)
            case messages.Plan() as plan:
                self._apply_plan(plan, received)
            case messages.StartStep() as start:
                self._step.run(start, self._plan)
            case messages.CollectModel() as collect:
                self._require_plain("its layers")
                if collect.pace_bytes_per_s is not None:
                    self._cloud.connection.pace(collect.pace_bytes_per_s)
                self._cloud.connection.send(messages.ModelUpdate(),
                                            narrowed(self._model.export_layers(), self._plan.rank))
            case messages.SumRequest() | messages.SumPeers() | messages.SumShares() | messages.Unmask() as message:
                self._answer_in_sum(message)
            case messages.CollectHeldOut() as collect:
                self._send_held_out(collect.first)
            case messages.GlobalModel() as averaged:
                self._continue_from(averaged, received)
            case other:
                raise ProtocolError(f"The cloud sent an unexpected {type(other).__name__}.")

    def _continue_from(self, averaged: messages.GlobalModel, received: ReceivedFrame) -> None:
        """Load layers of the global model and evaluate them as far as they have come; continue from it when all have.

        Raises: ProtocolError if they do not follow those before.
        """
        stage = self._model.stage
        layers = len(stage.layers)
        last = layers if averaged.last is None else averaged.last
        if averaged.first not in (0, self._averaged_layers) or not averaged.first < last <= layers:
            raise ProtocolError(f"The cloud sent layers {averaged.first} to {last} of {layers} of the global model; "
                                f"{self._averaged_layers} have come.")
        if averaged.first == 0:
            self._evaluation.restart()
        stage.load_layers(averaged.first, last, received.frame.tensors)
        self._averaged_layers = last % layers
        if last < layers:
            with self._evaluated:
                self._evaluation.advance(self._data.held_out.inputs, last)
            return
        stage.continue_from_loaded()
        if self._recipe.secure_aggregation:
            self._sums.remember_values(self._model)
            self._sums.remember_state(averaged.round, self._model)
        self._evaluate()
        self._has_new_model = True

    def _prepare(self, recipe: messages.Prepare) -> None:
        """Build the model; standardize the data unless done with the same settings before."""
        for option, name, allowed in (
            ("--model", recipe.model, self._settings.model),
            ("--loss", recipe.objective.loss, self._settings.loss),
            ("--metric", recipe.objective.metric, self._settings.metric),
        ):
            if is_plugin_name(name) and name != allowed:
                raise TrainingFailedError(
                    f"The cloud requires {self._settings.name} to import {name}; if you trust it, start the edge "
                    f"with {option} {name}."
                )
        if self._settings.protect_labels and recipe.tail is None:
            raise TrainingFailedError(
                f"The cloud requires the labels of {self._settings.name}, which are protected; start the cloud with "
                "--protect-labels, or the edge without."
            )
        if self._settings.secure_aggregation and not recipe.secure_aggregation:
            raise TrainingFailedError(
                f"The cloud requires the layers of {self._settings.name}, which sends them in secure sums only; start "
                "the cloud with --secure-aggregation, or the edge without."
            )
        built = build_model(recipe.model, recipe.seed, recipe.sample_shape, recipe.classes, recipe.integers,
                            objective=recipe.objective, tuning=recipe.tuning)
        layers = built.layers
        if (own := digest(layers, built.unchanging)) != recipe.frozen_digest:
            raise TrainingFailedError(
                f"The frozen values of {recipe.model} on {self._settings.name} are not those of the cloud (SHA-256 "
                f"{(own or 'none')[:12]} and {(recipe.frozen_digest or 'none')[:12]}); both must load the same."
            )
        if recipe.tail is not None and not tail_protects_labels(layers, recipe.tail):
            raise TrainingFailedError(
                f"The cloud requires a tail from layer {recipe.tail} of {len(layers)}; it has no trained parameters, "
                "so its gradient would reveal the labels."
            )
        self._recipe = recipe
        initial = initial_digest(layers, built.unchanging)
        self._model = ClientModel(Stage(layers, 0, 0, recipe.optimizer, built.unchanging), recipe.tail,
                                  build_loss(recipe.objective.loss))
        self._boundaries = built.boundaries
        self._evaluation = Evaluation(self._model.stage, partial(_standardized, recipe=recipe))
        if self._prepared is not None and self._prepared[0] == recipe:
            inputs = self._prepared[1]
        else:
            inputs = _standardized(self._data.train.inputs, recipe)
        self._step = EdgeStep(self._cloud, self._model, inputs, self._data.train.labels, recipe, built.boundaries,
                              self._settings.name, self._settings.index)
        self._first_runs = profiler.FirstRuns(layers, self._step.micro_batch, recipe.optimizer)
        if recipe.secure_aggregation:
            self._sums.remember_values(self._model)
        self._prepared = recipe, inputs
        self.was_prepared = True
        self._cloud.connection.send(messages.Ready(data_order=self._step.data_order, initial_digest=initial))
        self._first_runs.run(len(layers), lambda: self._cloud.has_message)  # while the cloud plans

    def _restore(self, restore: messages.Restore, received: ReceivedFrame) -> None:
        """Restore the state after an averaging."""
        tensors = received.frame.tensors
        if self._recipe.secure_aggregation:
            tensors = {**tensors, **self._sums.state_after(restore.round)}
        self._model.restore(restore.cut, tensors)
        self._averaged_layers = 0
        self._step.forget_sent()
        if self._recipe.secure_aggregation:
            self._sums.remember_values(self._model)
        self._cloud.connection.send(messages.Restored(round=restore.round))

    def _answer_ping(self, ping: messages.Ping, received: ReceivedFrame) -> None:
        self._cloud.connection.send(
            messages.Pong(number=ping.number, ping_sent_s=received.frame.sent_s, ping_received_s=received.arrival_s)
        )

    def _apply_plan(self, plan: messages.Plan, received: ReceivedFrame) -> None:
        """Move the cut: layers are received with the plan or sent with the reply.

        Raises: TrainingFailedError if fewer layers would run here than this edge requires.
        """
        if plan.cut < self._settings.min_cut:
            what = "its raw inputs" if plan.cut == 0 else f"the outputs of only {plan.cut} layers"
            raise TrainingFailedError(
                f"The cloud planned cut {plan.cut} for {self._settings.name}, which would send {what}; the edge "
                f"requires at least {self._settings.min_cut}. If you trust the cloud, start the edge with "
                f"--min-cut {plan.cut}."
            )
        self._cloud.connection.pace(plan.pace_bytes_per_s)
        if plan.round == 1:  # both sides have built the same model, so no layers are sent
            self._model.stage.last = plan.cut
        if plan.cut < self._model.cut:
            self._require_plain(f"its layers from {plan.cut} on")
        leaving = self._model.move_cut(plan.cut, received.frame.tensors)
        set_rank(self._model.stage.layers, plan.rank)
        self._plan = plan
        self._first_runs.run(plan.cut if self._recipe.tail is None else len(self._model.stage.layers))
        self._step.keep_sent(plan)
        applied = messages.PlanApplied(round=plan.round)
        if self._collector is not None:
            if self._has_new_model:
                self._take_new_samples(self._collector)
            applied = messages.PlanApplied(round=plan.round, samples=len(self._data.train),
                                           held_out=len(self._data.held_out))
        self._cloud.connection.send(applied, leaving)

    def _take_new_samples(self, collector: Collector) -> None:
        """Train from here on with what was collected since the last averaging, too; the mini-batch keeps its size."""
        self._has_new_model = False
        recipe, known = self._recipe, len(self._data.train)
        is_class = recipe.objective.target_shape is None
        collector.limits = Limits(recipe.classes if is_class else None, recipe.integers, self._request.binary_targets)
        if (data := collector.take()) is None:
            return
        self._data = data
        assert self._prepared is not None
        inputs = torch.cat([self._prepared[1], _standardized(data.train.inputs[known:], recipe)])
        self._prepared = recipe, inputs
        self._step.replace_data(inputs, data.train.labels)

    def _require_plain(self, what: str) -> None:
        """Refuse to send layers outside secure sums if the run has these.

        Raises: TrainingFailedError.
        """
        if self._recipe.secure_aggregation:
            raise TrainingFailedError(f"The cloud requires {what} from {self._settings.name}, which sends its layers "
                                      "in secure sums only.")

    def _answer_in_sum(
        self, message: messages.SumRequest | messages.SumPeers | messages.SumShares | messages.Unmask
    ) -> None:
        if isinstance(message, messages.SumRequest) and message.pace_bytes_per_s is not None:
            self._cloud.connection.pace(message.pace_bytes_per_s)
        self._cloud.connection.send(*self._sums.reply(message, self._model))

    def _send_held_out(self, first: int) -> None:
        """Send the segments of a batch of held-out samples, with their targets, for the cloud to evaluate.

        Raises: TrainingFailedError if this edge protects its labels, ProtocolError if there is no such sample.
        """
        self._require_plain("the segments of its held-out samples")
        recipe, held_out, name = self._recipe, self._data.held_out, self._settings.name
        if self._settings.protect_labels or recipe.tail is not None:
            raise TrainingFailedError(f"The cloud requires the labels of {name}, which are protected.")
        inputs = held_out.inputs[first : first + recipe.batch]
        if not len(inputs):
            raise ProtocolError(f"The cloud requires held-out sample {first} of {name}, which has {len(held_out)}.")
        cut = self._model.cut
        with self._evaluated:
            values = self._model.stage.evaluate(_standardized(inputs, recipe), 0, cut)
        tensors = segments.encode_segment("segment", values, self._boundaries[cut], len(inputs), self._plan.codec)
        labels = held_out.labels[first : first + recipe.batch]
        tensors["labels"] = segments.encode_labels(labels, recipe.objective.class_bytes)
        self._cloud.connection.send(messages.HeldOut(first=first), tensors)

    def _evaluate(self) -> None:
        """Send the metric's sums over the held-out samples of this edge under the global model."""
        held_out, objective = self._data.held_out, self._recipe.objective
        with self._evaluated:
            outputs = self._evaluation.outputs(held_out.inputs)
        sums = [0.0] * metric_size(objective, self._recipe.classes) if outputs is None else metric_sums(
            objective, outputs, held_out.labels)
        if not all(map(math.isfinite, sums)):
            raise DivergedError(f"The {objective.metric} of the global model is not finite: training has diverged. "
                                "Lower --learning-rate.")
        confusion: list[int] = []
        classes = self._recipe.classes
        private = self._recipe.tail is not None or self._recipe.secure_aggregation
        shown = objective.target_shape is None and not private and classes <= messages.MAX_CONFUSION_CLASSES
        if outputs is not None and shown:
            confusion = confusion_counts(outputs, held_out.labels, classes)
        self._cloud.connection.send(messages.Evaluated(
            sums=tuple(sums), total=len(held_out), confusion=tuple(confusion)))
