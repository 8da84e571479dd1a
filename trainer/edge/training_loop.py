"""The edge: ask, prepare, then do what each round's plan says. Its images never leave it.

When the cloud is lost it connects again and again; the cloud then gives it the state to go on from.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from trainer.config.partitioning import IID, Partitioning, task_of
from trainer.data import dataset, standardization
from trainer.data.load import load_local
from trainer.edge.cloud_connection import CloudLink
from trainer.edge.training_step import EdgeStep, StepGivenUpError
from trainer.errors import ConnectionLostError, NetworkError, ProtocolError, TrainerError, TrainingFailedError
from trainer.models.optimizer import OptimizerConfig
from trainer.models.split_model import ClientModel, tail_protects_labels
from trainer.models.stage import Stage
from trainer.models.zoo import build_layers
from trainer.plugins import is_plugin_name
from trainer.processes.malloc import retain_freed_memory
from trainer.profiling import profiler
from trainer.profiling.predictor import LayerSeconds
from trainer.protocol import messages
from trainer.transport.backoff import pauses_s
from trainer.transport.connection import Received, connect
from trainer.transport.credentials import NOBODY, TransportCredentials

log = logging.getLogger(__name__)

CONNECT_TRY_S = 5.0


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """Who this edge is, where the cloud is, and which share of the data is its own.

    `model`: the one `package.module:function` that the cloud may ask for; code is imported on nobody else's word.
    `protect_labels`: no label is sent, nor how many samples have which; a cloud that wants labels is refused.
    `connect_timeout_s`: how long to try, at the start and again whenever the cloud was lost. `cgroups`: directories to
    join once everything is loaded. An emulated device is slow at computing; that it would also need half a minute to
    import its libraries helps nobody.
    """

    name: str
    cloud: tuple[str, int]
    index: int
    edges: int
    source_port: int | None = None
    data: str = "traffic-lights"
    sharing: Partitioning = IID
    model: str | None = None
    protect_labels: bool = False
    seed: int = 1
    connect_timeout_s: float = 60.0
    cgroups: tuple[Path, ...] = ()
    credentials: TransportCredentials = NOBODY


def run(settings: EdgeSettings, say: Callable[[str], None] = log.info) -> str:
    """Train until the cloud says stop; returns its reason. `say` hears about every loss.

    Raises: DataError, NetworkError, TrainingFailedError.
    """
    torch.set_num_threads(1)
    retain_freed_memory()
    data = load_local(settings.data, settings.sharing, settings.name, settings.index, settings.edges, settings.seed)
    _load_the_rest()
    _join(settings.cgroups)
    edge = Edge(settings, data, _ask(settings, data))
    deadline_s = time.monotonic() + settings.connect_timeout_s
    pauses = pauses_s(settings.name)
    while True:
        try:
            return edge.train()
        except ConnectionLostError as error:
            if edge.was_prepared:  # the cloud was there: patience begins anew
                deadline_s = time.monotonic() + settings.connect_timeout_s
                pauses = pauses_s(settings.name)
            if (left_s := deadline_s - time.monotonic()) <= 0:
                raise NetworkError(f"{error} Tried again for {settings.connect_timeout_s:g} s.") from error
            say(f"{error} Connecting again, for {left_s:.0f} s at most.")
            time.sleep(min(next(pauses), left_s))


def _load_the_rest() -> None:
    """What torch imports only when it is first used: optimisers, and the kernels of a small model."""
    part = Stage(build_layers("signal-cnn", 0, (3, 32, 32), 3), 0, 0, OptimizerConfig())
    part.step()


def _join(cgroups: tuple[Path, ...]) -> None:
    for directory in cgroups:
        try:
            (directory / "cgroup.procs").write_text(str(os.getpid()))
        except OSError as error:
            raise TrainingFailedError(f"Cannot join the CPU limit {directory}: {error}.") from error


def _ask(settings: EdgeSettings, data: dataset.LocalData) -> messages.JoinRequest:
    statistics = standardization.summarize(data.train.inputs, data.train.labels, data.classes)
    if settings.protect_labels:
        statistics = replace(statistics, class_counts=(0,) * data.classes)
    return messages.JoinRequest(
        nonce="0" * 32,
        edge=settings.name,
        task=task_of(settings.data),
        samples=len(data.train),
        held_out=len(data.held_out),
        sample_shape=tuple(data.train.inputs.shape[1:]),
        statistics=statistics,
        profile=profiler.measure_profile(),
    )


class Edge:
    """One edge, over as many connections as it takes."""

    def __init__(self, settings: EdgeSettings, data: dataset.LocalData, ask: messages.JoinRequest) -> None:
        self._settings = settings
        self._data = data
        self._ask = ask
        self._rehearsed: tuple[messages.Prepare, LayerSeconds, Tensor] | None = None
        self.was_prepared = False
        self._link: CloudLink
        self._half: ClientModel
        self._step: EdgeStep
        self._recipe: messages.Prepare
        self._plan: messages.Plan

    def train(self) -> str:
        """Connect, ask, and follow until the end; returns the cloud's reason for it.

        Raises: ConnectionLostError if the cloud is lost, NetworkError if it refuses.
        """
        self.was_prepared = False
        settings = self._settings
        secret = settings.credentials
        connection = connect(
            settings.cloud, settings.source_port, min(CONNECT_TRY_S, settings.connect_timeout_s),
            context=secret.context, server_name=secret.cloud_name if secret.context else "",
        )
        self._link = CloudLink(connection, secret.token)
        try:
            self._link.ask(self._ask)
            return self._follow()
        except (ConnectionLostError, NetworkError):
            raise
        except TrainerError as error:
            with contextlib.suppress(ConnectionLostError):
                connection.send(messages.Failed(reason=str(error)))
            raise
        finally:
            self._link.close()

    def _follow(self) -> str:
        """Every message of the cloud, and what the edge does about it."""
        received = self._link.receive()
        while not isinstance(received.frame.message, messages.Stop):
            try:
                self._act(received)
                received = self._link.receive()
            except StepGivenUpError as error:
                received = error.received
        return received.frame.message.reason

    def _act(self, received: Received) -> None:
        match received.frame.message:
            case messages.Prepare() as recipe:
                self._prepare(recipe)
            case messages.Restore() as restore:
                self._restore(restore, received)
            case messages.Ping() as ping:
                self._answer_ping(ping, received)
            case messages.Plan() as plan:
                self._adopt(plan, received)
            case messages.Start() as start:
                self._step.run(start, self._plan)
            case messages.CollectModel() as collect:
                if collect.pace_bytes_per_s is not None:
                    self._link.connection.pace(collect.pace_bytes_per_s)
                self._link.connection.send(messages.ModelUpdate(), self._half.export_layers())
            case messages.GlobalModel():
                self._half.stage.load_state_dict(received.frame.tensors)
                self._count_right()
            case other:
                raise ProtocolError(f"The cloud sent {type(other).__name__} out of turn.")

    def _prepare(self, recipe: messages.Prepare) -> None:
        """Build the model, standardize the data, rehearse every layer; the second time only the model."""
        if is_plugin_name(recipe.model) and recipe.model != self._settings.model:
            raise TrainingFailedError(
                f"The cloud asks {self._settings.name} to import {recipe.model}; start the edge with --model "
                f"{recipe.model} if you trust it."
            )
        if self._settings.protect_labels and recipe.tail is None:
            raise TrainingFailedError(
                f"The cloud wants the labels of {self._settings.name}, which are protected; start the cloud with "
                "--protect-labels, or the edge without."
            )
        layers = build_layers(recipe.model, recipe.seed, recipe.sample_shape, recipe.classes)
        if recipe.tail is not None and not tail_protects_labels(layers, recipe.tail):
            raise TrainingFailedError(
                f"The cloud asks for a tail from layer {recipe.tail} of {len(layers)} on; it has no parameters, so its "
                "gradient would tell the labels."
            )
        self._recipe = recipe
        self._half = ClientModel(Stage(layers, 0, 0, recipe.optimizer), recipe.tail)
        known = self._rehearsed if self._rehearsed is not None and self._rehearsed[0] == recipe else None
        images = known[2] if known else standardization.standardize(self._data.train.inputs, recipe.standardization)
        self._step = EdgeStep(self._link, self._half, images, self._data.train.labels, recipe, self._settings.name,
                              self._settings.index)
        seconds = known[1] if known else profiler.rehearse(
            layers, self._step.micro_batch, recipe.optimizer, recipe.micro
        )
        self._rehearsed = recipe, seconds, images
        self.was_prepared = True
        self._link.connection.send(messages.Ready(layers=seconds))

    def _restore(self, restore: messages.Restore, received: Received) -> None:
        """Forget what came after an averaging; go on from there."""
        self._half.restore(restore.cut, received.frame.tensors)
        self._link.connection.send(messages.Restored(round=restore.round))

    def _answer_ping(self, ping: messages.Ping, received: Received) -> None:
        self._link.connection.send(
            messages.Pong(number=ping.number, ping_sent_s=received.frame.sent_s, ping_received_s=received.arrival_s)
        )

    def _adopt(self, plan: messages.Plan, received: Received) -> None:
        """Move the cut: layers come with the plan, or go with the answer."""
        self._link.connection.pace(plan.pace_bytes_per_s)
        if plan.round == 1:  # both sides have built the same model: nothing moves
            self._half.stage.last = plan.cut
        leaving = self._half.move_cut(plan.cut, received.frame.tensors)
        self._plan = plan
        self._link.connection.send(messages.Planned(round=plan.round), leaving)

    def _count_right(self) -> None:
        """Count the global model's right answers on this edge's own held-out images."""
        images = standardization.standardize(self._data.held_out.inputs, self._recipe.standardization)
        layers = self._half.stage.layers
        with torch.no_grad():
            for layer in layers:
                images = layer.eval()(images)
                layer.train()
        correct = int((images.argmax(dim=1) == self._data.held_out.labels).sum())
        self._link.connection.send(messages.Evaluated(correct=correct, total=len(self._data.held_out)))
