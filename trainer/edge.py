"""The edge: ask, prepare, then do what each round's plan says. Its images never leave it."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from trainer import benchmark, codec, datasets, messages, standardize
from trainer.errors import ConnectionLostError, NetworkError, ProtocolError, TrainerError, TrainingFailedError
from trainer.halves import EdgeHalf
from trainer.loading import load_local
from trainer.models import build_layers
from trainer.own import is_own
from trainer.parts import Part, split_evenly
from trainer.randomness import RandomStream
from trainer.recipe import OptimizerRecipe
from trainer.sharing import IID, Sharing, task_of
from trainer.transport import Connection, Inbound, Lost, Received, connect

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """Who this edge is, where the cloud is, and which share of the data is its own.

    `model`: the one `package.module:function` that the cloud may ask for; code is imported on nobody else's word.

    `cgroups`: directories to join once everything is loaded. An emulated device is slow at computing; that it
    would also need half a minute to import its libraries helps nobody.
    """

    name: str
    cloud: tuple[str, int]
    index: int
    edges: int
    source_port: int | None = None
    data: str = "traffic-lights"
    sharing: Sharing = IID
    model: str | None = None
    seed: int = 1
    connect_timeout_s: float = 60.0
    cgroups: tuple[Path, ...] = ()


def run(settings: EdgeSettings) -> str:
    """Train until the cloud says stop; returns its reason.

    Raises: DataError, NetworkError, TrainingFailedError.
    """
    torch.set_num_threads(1)
    data = load_local(settings.data, settings.sharing, settings.name, settings.index, settings.edges, settings.seed)
    _load_the_rest()
    _join(settings.cgroups)
    ask = _ask(settings, data)
    connection = connect(settings.cloud, settings.source_port, settings.connect_timeout_s)
    try:
        return Edge(settings, data, connection).train(ask)
    except ConnectionLostError:
        raise
    except TrainerError as error:
        with contextlib.suppress(ConnectionLostError):
            connection.send(messages.Failed(reason=str(error)))
        raise
    finally:
        connection.close()


def _load_the_rest() -> None:
    """What torch imports only when it is first used: optimisers, and the kernels of a small model."""
    part = Part(build_layers("signal-cnn", 0, (3, 32, 32), 3), 0, 0, OptimizerRecipe())
    part.step()


def _join(cgroups: tuple[Path, ...]) -> None:
    for directory in cgroups:
        try:
            (directory / "cgroup.procs").write_text(str(os.getpid()))
        except OSError as error:
            raise TrainingFailedError(f"Cannot join the CPU limit {directory}: {error}.") from error


def _ask(settings: EdgeSettings, data: datasets.LocalData) -> messages.Ask:
    return messages.Ask(
        edge=settings.name,
        task=task_of(settings.data),
        samples=len(data.train),
        held_out=len(data.held_out),
        sample_shape=tuple(data.train.inputs.shape[1:]),
        statistics=standardize.summarize(data.train.inputs, data.train.labels, data.classes),
        profile=benchmark.measure_profile(),
    )


@dataclass
class _Times:
    """What one step took, in seconds of wall clock."""

    forward_s: float = 0.0
    backward_s: float = 0.0
    late_s: float = 0.0
    gradients_received_s: list[float] = field(default_factory=list)


class Edge:
    """One edge during one run."""

    def __init__(self, settings: EdgeSettings, data: datasets.LocalData, connection: Connection) -> None:
        self._settings = settings
        self._data = data
        self._cloud = connection
        self._inbox: queue.Queue[Inbound] = queue.Queue()
        self._steps_done = 0
        self._half: EdgeHalf
        self._recipe: messages.Prepare
        self._plan: messages.Plan

    def train(self, ask: messages.Ask) -> str:
        """The whole run: every message of the cloud, and what the edge does about it."""
        self._cloud.start(self._inbox.put)
        self._cloud.send(ask)
        while True:
            received = self._receive()
            match received.frame.message:
                case messages.Prepare() as recipe:
                    self._prepare(recipe)
                case messages.Ping() as ping:
                    self._answer_ping(ping, received)
                case messages.Plan() as plan:
                    self._adopt(plan, received)
                case messages.Start() as start:
                    self._step(start)
                case messages.Collect():
                    part = self._half.part
                    self._cloud.send(messages.Collected(), part.values(part.first, part.last))
                case messages.Global():
                    self._half.part.load_values(received.frame.tensors)
                    self._count_right()
                case messages.Stop() as stop:
                    return stop.reason
                case other:
                    raise ProtocolError(f"The cloud sent {type(other).__name__} out of turn.")

    def _receive(self) -> Received:
        inbound = self._inbox.get()
        if isinstance(inbound, Lost):
            raise ConnectionLostError(f"The cloud was lost: {inbound.reason}")
        match inbound.frame.message:
            case messages.Refuse() as refuse:
                raise NetworkError(f"The cloud refused: {refuse.reason}")
            case messages.Failed() as failed:
                raise TrainingFailedError(f"The cloud gave up: {failed.reason}")
        return inbound

    def _prepare(self, recipe: messages.Prepare) -> None:
        """Build the model, standardize the data, rehearse every layer."""
        self._recipe = recipe
        if is_own(recipe.model) and recipe.model != self._settings.model:
            raise TrainingFailedError(
                f"The cloud asks {self._settings.name} to import {recipe.model}; start the edge with --model "
                f"{recipe.model} if you trust it."
            )
        layers = build_layers(recipe.model, recipe.seed, recipe.sample_shape, recipe.classes)
        self._images = standardize.apply(self._data.train.inputs, recipe.standardization)
        self._batch = min(recipe.batch, len(self._data.train))
        self._micros = split_evenly(self._batch, recipe.micro)
        self._half = EdgeHalf(Part(layers, 0, 0, recipe.optimizer))
        rehearsed = benchmark.rehearse(layers, self._images[self._micros[-1]])
        self._cloud.send(messages.Ready(layers=rehearsed))

    def _answer_ping(self, ping: messages.Ping, received: Received) -> None:
        self._cloud.send(
            messages.Pong(number=ping.number, ping_sent_s=received.frame.sent_s, ping_received_s=received.arrival_s)
        )

    def _adopt(self, plan: messages.Plan, received: Received) -> None:
        """Move the cut: layers come with the plan, or go with the answer."""
        self._cloud.pace(plan.pace_bytes_per_s)
        if plan.round == 1:  # both sides have built the same model: nothing moves
            self._half.part.last = plan.cut
        leaving = self._half.move(plan.cut, received.frame.tensors)
        self._plan = plan
        self._cloud.send(messages.Planned(round=plan.round), leaving)

    def _step(self, start: messages.Start) -> None:
        """One mini-batch: forward, wait for the common training delay, send, take the gradients back, learn."""
        times = _Times()
        samples = self._next_batch()
        wait_until(start.start_s)
        began = time.perf_counter()
        segments = [
            self._half.forward(self._images[samples[micro]], self._stream(start.step, number))
            for number, micro in enumerate(self._micros)
        ]
        times.forward_s = time.perf_counter() - began
        send_at_s = start.start_s + self._plan.training_delay_s
        times.late_s = max(0.0, time.time() - send_at_s)
        wait_until(send_at_s)
        for micro, segment in enumerate(segments):
            tensors = {
                **codec.encode("segment", segment, self._plan.codec),
                "labels": self._data.train.labels[samples[self._micros[micro]]].to(torch.uint8),
            }
            self._cloud.send(messages.Segment(step=start.step, micro=micro, batch_samples=self._batch), tensors)
        for micro in range(len(segments)):
            self._take_gradient(start.step, micro, times)
        began = time.perf_counter()
        self._half.step()
        times.backward_s += time.perf_counter() - began
        self._cloud.send(
            messages.StepDone(step=start.step, forward_s=times.forward_s, backward_s=times.backward_s,
                              late_s=times.late_s, gradients_received_s=times.gradients_received_s)
        )

    def _stream(self, step: int, micro: int) -> RandomStream:
        return RandomStream(self._recipe.seed, self._settings.name, self._plan.round, step, micro)

    def _next_batch(self) -> torch.Tensor:
        seed = self._recipe.seed * 1009 + self._settings.index
        places = datasets.batch_places(len(self._data.train), self._batch, seed, self._steps_done)
        self._steps_done += 1
        return places

    def _take_gradient(self, step: int, micro: int, times: _Times) -> None:
        received = self._receive()
        message = received.frame.message
        if not isinstance(message, messages.Gradient) or (message.step, message.micro) != (step, micro):
            raise ProtocolError(f"The cloud sent {message!r} in place of the gradient {micro} of step {step}.")
        times.gradients_received_s.append(received.arrival_s)
        began = time.perf_counter()
        self._half.backward(micro, codec.decode("gradient", received.frame.tensors))
        times.backward_s += time.perf_counter() - began

    def _count_right(self) -> None:
        """Count the global model's right answers on this edge's own held-out images."""
        images = standardize.apply(self._data.held_out.inputs, self._recipe.standardization)
        layers = self._half.part.layers
        with torch.no_grad():
            for layer in layers:
                images = layer.eval()(images)
                layer.train()
        correct = int((images.argmax(dim=1) == self._data.held_out.labels).sum())
        self._cloud.send(messages.Counted(correct=correct, total=len(self._data.held_out)))


def wait_until(instant_s: float) -> None:
    """Sleep until that time of day."""
    while (left := instant_s - time.time()) > 0:
        time.sleep(left)
