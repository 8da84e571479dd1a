"""The cloud: gathers the edges, prepares, then plans, reserves, trains and averages, round after round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer import benchmark, codec, messages
from trainer.averaging import average
from trainer.crew import Crew, Member
from trainer.errors import ProtocolError, TrainerError, TrainingFailedError
from trainer.exchange import EdgeExchange, StepResult
from trainer.halves import CloudHalf
from trainer.models import build_layers
from trainer.outlook import Outlook
from trainer.pacing import SentFrame, pace_bytes_per_s
from trainer.parts import Part, split_evenly
from trainer.planner import Offer, RoundPlan, plan_round
from trainer.preparation import Preparation, codec_name, prepare
from trainer.randomness import RandomStream
from trainer.record import RunRecord, milliseconds
from trainer.roads import Grant, Road
from trainer.rows import round_row
from trainer.settings import RunSettings
from trainer.transport import Received

START_LEAD_S = 0.02
"""How far ahead a common start is announced, so that every edge hears of it in time."""

RoadTo = Callable[[Sequence[Member]], Road]


def run(settings: RunSettings, address: tuple[str, int], road_to: RoadTo, record: RunRecord) -> None:
    """A whole run, from the first request to the last goodbye; the record is finished however it ends.

    Raises: TrainerError.
    """
    torch.set_num_threads(1)
    try:
        crew = Crew(address, settings.edges, settings.task)
    except TrainerError as error:
        record.finish("failed", str(error))
        raise
    reason = "the cloud was stopped."
    failed = True
    try:
        record.event("waiting", edges=list(settings.edges), address=f"{address[0]}:{address[1]}")
        members = crew.gather(settings.quorum, settings.ask_timeout_s)
        record.event("gathered", edges=[member.name for member in members])
        road = road_to(members)
        try:
            reason = Cloud(settings, crew, road, record).train()
            failed = False
        finally:
            road.release()
            record.event("released")
            record.describe(controller={
                "url": settings.controller,
                "reserved": settings.controller is not None and not settings.best_effort,
                "unreachable_rounds": road.unreachable_rounds,
            })
    except TrainerError as error:
        reason = str(error)
        raise
    except Exception as error:
        reason = f"the cloud has a bug: {type(error).__name__}: {error}."
        raise
    finally:
        crew.close(reason, failed)
        record.describe(strangers_refused=crew.strangers_refused)
        record.finish("failed" if failed else "done", reason if failed else None)


@dataclass
class Apprentice:
    """What the cloud holds for one edge: its half of the model, and how many samples a mini-batch has."""

    member: Member
    half: CloudHalf
    batch: int
    micros: int
    round: int = 0

    @property
    def name(self) -> str:
        """The edge's name."""
        return self.member.name

    @property
    def cut(self) -> int:
        """The first layer that runs here."""
        return self.half.cut


class Cloud:
    """One run, once the edges are there."""

    def __init__(self, settings: RunSettings, crew: Crew, road: Road, record: RunRecord) -> None:
        self._settings = settings
        self._crew = crew
        self._road = road
        self._record = record
        self._codec = codec_name(settings.codec)
        asked = settings.gradient_codec
        self._gradient_codec = codec.gradient_codec(self._codec) if asked is None else codec_name(asked)
        self._preparation: Preparation = prepare([member.ask for member in crew.members], settings)
        recipe = self._preparation.message
        self._apprentices = {member.name: self._apprentice(member, recipe) for member in crew.members}
        self._outlook: Outlook

    def train(self) -> str:
        """The whole training; returns why it stopped.

        Raises: TrainerError.
        """
        self._prepare()
        for number in range(1, self._settings.rounds + 1):
            began = time.perf_counter()
            grant = self._road.secure(lambda offer, number=number: self._plan(number, offer))  # type: ignore[misc]
            self._announce(number, grant)
            steps = [self._step(step, grant) for step in range(self._settings.steps)]
            self._learn(steps)
            averaged = number % self._settings.average_every == 0 or number == self._settings.rounds
            accuracy = self._average(number) if averaged else None
            self._write_round(number, grant, steps, time.perf_counter() - began, accuracy, averaged)
            if self._has_arrived(number, accuracy):
                return f"accuracy {accuracy:.4f} reached the target {self._settings.target:g} in round {number}."
        return f"all {self._settings.rounds} rounds are done."

    def _has_arrived(self, number: int, accuracy: float | None) -> bool:
        target = self._settings.target
        return (number >= self._settings.min_rounds and accuracy is not None and target is not None
                and accuracy >= target)

    def _apprentice(self, member: Member, recipe: messages.Prepare) -> Apprentice:
        layers = build_layers(recipe.model, recipe.seed, recipe.sample_shape, recipe.classes)
        batch = min(recipe.batch, member.ask.samples)
        part = Part(layers, 0, len(layers), recipe.optimizer)
        return Apprentice(member, CloudHalf(part), batch, len(split_evenly(batch, recipe.micro)))

    def _prepare(self) -> None:
        """Send what was decided; hear what every layer takes on every edge, and try it here."""
        recipe, members = self._preparation.message, self._crew.members
        self._record.describe(
            model=recipe.model,
            data={"task": self._settings.task,
                  "edges": {m.name: {"samples": m.ask.samples, "held_out": m.ask.held_out} for m in members}},
            preparation=self._preparation.reasons,
        )
        self._crew.send_all(recipe)
        ready = {m.name: message.layers
                 for m, message, _ in self._crew.collect(messages.Ready, self._settings.step_timeout_s)}
        micro_samples = -(-recipe.batch // recipe.micro)
        layers = build_layers(recipe.model, recipe.seed, recipe.sample_shape, recipe.classes)
        here = benchmark.rehearse(layers, torch.zeros(micro_samples, *recipe.sample_shape))
        batches = {name: one.batch for name, one in self._apprentices.items()}
        state_bytes = [4 * recipe.optimizer.copies * cost.stored_values for cost in self._preparation.costs]
        self._outlook = Outlook(ready, here, self._preparation.segment_shapes, batches, recipe.micro, state_bytes)
        self._record.event("prepared", model=recipe.model, **self._preparation.reasons)

    def _plan(self, number: int, offer: Offer) -> RoundPlan:
        """The plan of a round for what the network offers; fixed cuts if the settings say so."""
        settings, apprentices = self._settings, list(self._apprentices.values())
        if settings.cuts:
            row = settings.cuts[min(number, len(settings.cuts)) - 1]
            by_name = dict(zip(settings.edges, row, strict=True))
            cuts = {one.name: range(by_name[one.name], by_name[one.name] + 1) for one in apprentices}
        else:
            last = len(self._preparation.costs) - 1 if settings.max_cut is None else settings.max_cut
            cuts = {one.name: range(settings.min_cut, last + 1) for one in apprentices}
        mss_bytes = {one.name: one.member.mss_bytes for one in apprentices}
        forecasts = self._outlook.forecasts(mss_bytes, cuts, {self._codec: self._gradient_codec})
        current = [one.cut for one in apprentices] if number > 1 else None
        return plan_round(forecasts, offer, max(one.micros for one in apprentices), current, settings.steps)

    def _announce(self, number: int, grant: Grant) -> None:
        """Tell every edge its cut and pace; the layers between the old cut and the new change sides."""
        plan = grant.plan
        self._record.event(
            "plan", round=number, cuts={edge.edge: edge.cut for edge in plan.edges},
            training_delay_ms=milliseconds(plan.micros * plan.training_delay_s),
            transmission_delay_ms=milliseconds(plan.micros * plan.transmission_delay_s),
            step_ms=milliseconds(plan.step_s),
            reserved=grant.reserved, adaptations=list(grant.adaptations),
        )
        for edge in plan.edges:
            one = self._apprentices[edge.edge]
            up, down = grant.up[edge.edge], grant.down[edge.edge]
            mss = one.member.mss_bytes
            one.round = number
            one.member.connection.pace(pace_bytes_per_s(down.rate_bps, mss) if grant.reserved else None)
            if number == 1:  # both sides have built the same model: nothing moves
                one.half.part.first = edge.cut
            one.member.connection.send(
                messages.Plan(
                    round=number, cut=edge.cut, codec=self._codec,
                    training_delay_s=plan.micros * plan.training_delay_s,
                    pace_bytes_per_s=pace_bytes_per_s(up.rate_bps, mss) if grant.reserved else None,
                ),
                one.half.leaving(edge.cut),
            )
        cuts = {edge.edge: edge.cut for edge in plan.edges}
        for member, _, received in self._crew.collect(messages.Planned, self._settings.step_timeout_s):
            self._apprentices[member.name].half.move(cuts[member.name], received.frame.tensors)
        self._crew.synchronize(self._settings.step_timeout_s)

    def _step(self, step: int, grant: Grant) -> StepResult:
        """One mini-batch on every edge: a common start, then answer every segment the moment it is here."""
        exchanges = {
            name: EdgeExchange(one.member.offset_s, one.member.mss_bytes, grant.up[name], grant.down[name])
            for name, one in self._apprentices.items()
        }
        began = time.perf_counter()
        start_s = time.time() + START_LEAD_S
        for one in self._apprentices.values():
            one.member.connection.send(messages.Start(step=step, start_s=start_s + one.member.offset_s))
        while busy := [name for name, exchange in exchanges.items() if exchange.done is None]:
            member, received = self._crew.receive(self._settings.step_timeout_s, f"step {step} of {', '.join(busy)}")
            match received.frame.message:
                case messages.Segment() as segment if segment.step == step:
                    self._answer(segment, received, self._apprentices[member.name], exchanges[member.name])
                case messages.StepDone() as done if done.step == step:
                    if len(done.gradients_received_s) != self._apprentices[member.name].micros:
                        raise TrainingFailedError(f"{member.name} ended step {step} before it had all gradients.")
                    exchanges[member.name].done = done
                case other:
                    raise TrainingFailedError(f"{member.name} sent {type(other).__name__} in the middle of a step.")
        return StepResult(step, time.perf_counter() - began, exchanges)

    def _answer(
        self, segment: messages.Segment, received: Received, one: Apprentice, exchange: EdgeExchange
    ) -> None:
        """Forward and backward of one micro-batch; its gradient goes back at once."""
        exchange.sent_up.append(SentFrame(received.frame.sent_s, received.frame.size_bytes))
        exchange.arrived_s = received.arrival_s
        began = time.perf_counter()
        try:
            tensors = received.frame.tensors
            values, labels = codec.decode("segment", tensors), tensors["labels"].to(torch.int64)
            stream = RandomStream(self._settings.seed, one.name, one.round, segment.step, segment.micro)
            gradient, loss = one.half.train(values, labels, one.batch, stream)
        except (KeyError, RuntimeError, IndexError, ValueError) as error:
            raise ProtocolError(f"{one.name} sent a segment that does not fit cut {one.cut}: {error}.") from error
        exchange.cloud_s += time.perf_counter() - began
        exchange.loss += loss
        sent = one.member.connection.send(
            messages.Gradient(step=segment.step, micro=segment.micro),
            codec.encode("gradient", gradient, self._gradient_codec),
        )
        exchange.sent_down.append(SentFrame(sent.send_s, sent.size_bytes))
        if len(exchange.sent_up) == one.micros:
            one.half.step()

    def _learn(self, steps: Sequence[StepResult]) -> None:
        """Feed the round's measurements to the predictors."""
        for name, one in self._apprentices.items():
            done = [step.edges[name].done for step in steps]
            self._outlook.learn_edge(name, one.cut, [d.forward_s for d in done if d], [d.backward_s for d in done if d])
        cuts = {name: one.cut for name, one in self._apprentices.items()}
        self._outlook.learn_cloud(cuts, [sum(e.cloud_s for e in step.edges.values()) for step in steps])

    def _average(self, number: int) -> float:
        """One global model from all edges' models, to all edges; returns its accuracy, counted by them."""
        self._crew.send_all(messages.Collect())
        models: list[dict[str, Tensor]] = []
        weights: list[float] = []
        for member, _, received in self._crew.collect(messages.Collected, self._settings.step_timeout_s):
            part = self._apprentices[member.name].half.part
            models.append({**received.frame.tensors, **part.values(part.first, part.last)})
            weights.append(member.ask.samples)
        model = average(models, weights)
        for one in self._apprentices.values():
            one.half.part.load_values(model)
        self._crew.send_all(messages.Global(round=number), model)
        counts = [c for _, c, _ in self._crew.collect(messages.Counted, self._settings.step_timeout_s)]
        self._record.save_model(model)
        return sum(count.correct for count in counts) / max(1, sum(count.total for count in counts))

    def _write_round(
        self, number: int, grant: Grant, steps: Sequence[StepResult], duration_s: float, accuracy: float | None,
        averaged: bool,
    ) -> None:
        batches = {name: one.batch for name, one in self._apprentices.items()}
        sizes = {name: self._outlook.segment_bytes(name, one.cut, self._codec)
                 for name, one in self._apprentices.items()}
        row = round_row(number, grant.plan, grant, steps, sizes, batches, self._codec, duration_s, accuracy, averaged)
        self._record.add_round(row)
        judged = [transfer["kept"] for transfer in row["transfers"] if transfer["kept"] is not None]
        self._record.event(
            "round_done", round=number, duration_ms=row["duration_ms"], loss=row["loss"], accuracy=accuracy,
            averaged=averaged, cuts={name: one.cut for name, one in self._apprentices.items()},
            promises={"made": len(judged), "kept": sum(judged)},
            training_ms={edge["edge"]: edge["training_ms"] for edge in row["edges"]},
            uplink_ms={edge["edge"]: edge["uplink_ms"] for edge in row["edges"]},
            spread_ms=row["spread_ms"],
        )
