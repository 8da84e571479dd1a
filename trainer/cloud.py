"""The cloud: gathers the edges, prepares, then plans, reserves, trains and averages, round after round.

Edges may be lost at any time: the round goes on while a quorum is there, and who comes back is taken in at the next
averaging. Below the quorum the run pauses and goes back to the last averaging.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from trainer import benchmark, checkpoint, messages
from trainer.apprentice import Apprentice, apprentice_of
from trainer.averaging import average
from trainer.checkpoint import Checkpoint
from trainer.cloud_step import CloudStep
from trainer.credentials import NOBODY, Credentials
from trainer.crew import Crew, Member
from trainer.device import device_of
from trainer.drafting import draft_plan
from trainer.errors import ProtocolError, QuorumError, TrainerError, TrainingFailedError
from trainer.exchange import StepResult
from trainer.guard import CodecGuard
from trainer.lateness import eased
from trainer.models import build_layers
from trainer.outlook import Outlook
from trainer.pacing import pace_bytes_per_s
from trainer.preparation import Preparation, prepare
from trainer.record import RunRecord, milliseconds
from trainer.roads import Grant, Road
from trainer.rows import round_row
from trainer.settings import RunSettings

RoadTo = Callable[[Sequence[Member]], Road]
PAUSE_POLL_S = 0.2
"""Below the quorum, so often it is looked whether somebody came back."""


def run(
    settings: RunSettings, address: tuple[str, int], road_to: RoadTo, record: RunRecord,
    resumed: Checkpoint | None = None, credentials: Credentials = NOBODY,
) -> None:
    """A whole run, from the first request to the last goodbye; the record is finished however it ends.

    Raises: TrainerError.
    """
    torch.set_num_threads(1)
    try:
        crew = Crew(address, settings.edges, settings.task, resumed.samples if resumed else None, credentials)
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
            reason = Cloud(settings, crew, road, record, resumed).train()
            failed = False
        finally:
            road.release()
            record.event("released")
            record.describe(controller={
                "url": settings.controller,
                "reserved": settings.controller is not None and not settings.best_effort,
                "unreachable_rounds": road.unreachable_rounds,
                "broken_rounds": road.broken_rounds,
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


class QuorumLostError(TrainingFailedError):
    """So many edges were lost that the round cannot count."""

    code = "quorum_lost"


class Cloud:
    """One run, once the edges are there."""

    def __init__(
        self, settings: RunSettings, crew: Crew, road: Road, record: RunRecord, resumed: Checkpoint | None
    ) -> None:
        self._settings = settings
        self._crew = crew
        self._road = road
        self._record = record
        self._resumed = resumed
        self._device = device_of(settings.device)
        self._guard = CodecGuard(settings.codec, settings.gradient_codec)
        self._preparation: Preparation = prepare([member.ask for member in crew.members], settings)
        self._recipe = resumed.recipe if resumed else self._preparation.message
        self._apprentices: dict[str, Apprentice] = {
            member.name: apprentice_of(member, self._recipe, self._device) for member in crew.members
        }
        self._paused = False
        self._current: CloudStep | None = None
        self._lost: list[dict[str, str]] = []
        self._outlook: Outlook
        self._checkpoint: Checkpoint
        crew.on_lost = self._take_leave

    def train(self) -> str:
        """The whole training; returns why it stopped.

        Raises: TrainerError.
        """
        number = self._begin()
        try:
            while number < self._settings.rounds:
                if self._has_arrived():
                    return (f"accuracy {self._checkpoint.accuracy:.4f} reached the target {self._settings.target:g} "
                            f"in round {number}.")
                try:
                    self._round(number + 1)
                    number += 1
                except QuorumLostError as error:
                    number = self._pause(number + 1, error)
            return f"all {self._settings.rounds} rounds are done."
        finally:
            self._note_unfinished()

    def _round(self, number: int) -> None:
        """Plan, reserve, train, and average if it is time.

        Raises: QuorumLostError if too few edges are left; the round does not count then.
        """
        began = time.perf_counter()
        self._lost = []
        self._need_quorum()
        grant = self._road.secure(
            lambda offer: draft_plan(number, offer, self._settings, self._apprentices, self._outlook,
                                     self._layers)
        )
        self._announce(number, grant)
        steps: list[StepResult] = []
        for step in range(self._settings.steps):
            steps.append(self._step(number, step, grant, steps[-1] if steps else None))
        self._learn(steps)
        averaged = number % self._settings.average_every == 0 or number == self._settings.rounds
        after = self._average(number) if averaged else None
        self._write_round(number, grant, steps, time.perf_counter() - began, after)
        if after is not None:
            self._keep(after)
            self._readmit()

    @property
    def _layers(self) -> int:
        return len(self._preparation.costs)

    def _has_arrived(self) -> bool:
        target, after = self._settings.target, self._checkpoint
        return (after.round >= max(1, self._settings.min_rounds) and after.accuracy is not None and target is not None
                and after.accuracy >= target)

    # --- the beginning

    def _begin(self) -> int:
        """Send what was decided, hear what every layer takes everywhere; returns the round already done."""
        recipe, crew = self._recipe, self._crew
        self._record.describe(
            model=recipe.model,
            data={"task": self._settings.task,
                  "edges": {m.name: {"samples": m.ask.samples, "held_out": m.ask.held_out} for m in crew.members}},
            preparation=self._preparation.reasons,
        )
        crew.prepare(recipe, self._largest_payload(), self._settings.step_timeout_s)
        self._need_quorum()
        self._outlook = self._look_out(recipe)
        self._record.event("prepared", model=recipe.model, device=str(self._device), **self._preparation.reasons)
        if self._resumed is None:
            model = next(iter(self._apprentices.values())).initial_values()
            self._keep(self._snapshot(0, model, {}, None))
            return 0
        self._checkpoint = self._resumed
        self._outlook.recall(self._resumed.history)
        self._restore(crew.members)
        return self._resumed.round

    def _look_out(self, recipe: messages.Prepare) -> Outlook:
        micro_samples = -(-recipe.batch // recipe.micro)
        built = build_layers(recipe.model, recipe.seed, recipe.sample_shape, recipe.classes)
        here = benchmark.rehearse(built, torch.zeros(micro_samples, *recipe.sample_shape))
        layers = {member.name: member.layers for member in self._crew.members if member.layers is not None}
        batches = {name: one.batch for name, one in self._apprentices.items()}
        return Outlook(layers, here, self._preparation.segment_shapes, batches, recipe.micro,
                       self._state_bytes(), self._guard)

    def _state_bytes(self) -> list[int]:
        return [4 * self._recipe.optimizer.copies * cost.stored_values for cost in self._preparation.costs]

    def _largest_payload(self) -> int:
        """No frame of an honest edge carries more: all layers with their state, or a segment in the widest codec."""
        segment = 8 * max(map(math.prod, self._preparation.segment_shapes)) * self._recipe.batch
        return 2 * max(sum(self._state_bytes()), segment) + 2**20

    # --- one round

    def _announce(self, number: int, grant: Grant) -> None:
        """Tell every edge its cut and pace; the layers between the old cut and the new change sides."""
        plan = grant.plan
        self._record.event(
            "plan", round=number, cuts={edge.edge: edge.cut for edge in plan.edges},
            training_delay_ms=milliseconds(plan.last_leaves_s), beat_ms=milliseconds(plan.beat_s),
            transmission_delay_ms=milliseconds(plan.uplink_s),
            step_ms=milliseconds(plan.step_s), codecs={edge.edge: edge.codec for edge in plan.edges},
            rates_bps={edge.edge: grant.up[edge.edge].rate_bps for edge in plan.edges},
            reservation=grant.reservation_id, reserved=grant.reserved, adaptations=list(grant.adaptations),
        )
        for edge in plan.edges:
            if (one := self._apprentices.get(edge.edge)) is None:
                continue  # lost a moment ago
            self._guard.use(edge.codec)
            up, down = grant.up[edge.edge], grant.down[edge.edge]
            mss = one.member.mss_bytes
            one.member.connection.pace(pace_bytes_per_s(down.rate_bps, mss) if grant.reserved else None)
            if number == 1:  # both sides have built the same model: nothing moves
                one.half.part.first = edge.cut
            self._crew.send(
                one.member,
                messages.Plan(
                    round=number, cut=edge.cut, codec=edge.codec, beat_s=plan.beat_s,
                    pace_bytes_per_s=pace_bytes_per_s(up.rate_bps, mss) if grant.reserved else None,
                ),
                one.half.leaving(edge.cut),
            )
        cuts = {edge.edge: edge.cut for edge in plan.edges}
        for member, _, received in self._crew.collect(messages.Planned, self._settings.step_timeout_s):
            try:
                self._apprentices[member.name].half.move(cuts[member.name], received.frame.tensors)
            except ProtocolError as error:
                self._crew.drop(member, str(error))
        self._crew.synchronize(self._settings.step_timeout_s)

    def _step(self, number: int, step: int, grant: Grant, before: StepResult | None) -> StepResult:
        self._record.event("step", round=number, step=step, of=self._settings.steps)
        plan = grant.plan
        forward_s = {edge.edge: edge.allowed_s for edge in plan.edges}
        gradient_codecs = {edge.edge: self._guard.gradient_of(edge.codec) for edge in plan.edges}
        earliest_s = time.time() + plan.training_delay_s if before is None else before.next_ready_s(forward_s)
        one = self._current = CloudStep(
            number, step, grant, self._crew, self._apprentices, gradient_codecs, self._recipe.seed,
            lambda edge, step: self._record.event("late", edge=edge, round=number, step=step,
                                                  policy=self._settings.late),
            earliest_s,
        )
        result = one.run(self._settings.late, self._settings.late_after, self._settings.step_timeout_s)
        self._note_unfinished()
        return result

    def _note_unfinished(self) -> None:
        """What is under way when a step ends or is given up goes into the record: it will never be measured."""
        if self._current is not None:
            self._record.add_unfinished(self._current.unfinished())
            self._current = None

    def _learn(self, steps: Sequence[StepResult]) -> None:
        """Feed the round's measurements to the predictors."""
        for name, one in self._apprentices.items():
            mine = [step.edges[name] for step in steps if name in step.edges]
            self._outlook.learn_edge(name, one.cut, [e.done.forward_s for e in mine if e.done],
                                     [e.steady_backward_s for e in mine if e.done])
            late = one.cap is not None and one.cap < one.cut
            one.cap = eased(one.cap, late, self._layers)
        if not self._lost:
            cuts = {name: one.cut for name, one in self._apprentices.items()}
            self._outlook.learn_cloud(cuts, [sum(e.cloud_s for e in step.edges.values()) for step in steps])

    def _average(self, number: int) -> Checkpoint:
        """One global model from the models of all that are there, back to them; they count its accuracy."""
        timeout_s = self._settings.step_timeout_s
        self._record.event("averaging", round=number)
        self._crew.send_all(messages.Collect())
        models: list[dict[str, Tensor]] = []
        weights: list[float] = []
        states = dict(self._checkpoint.states)
        for member, _, received in self._crew.collect(messages.Collected, timeout_s):
            try:
                values, states[member.name] = self._apprentices[member.name].whole(received.frame.tensors)
            except ProtocolError as error:
                self._crew.drop(member, str(error))
                continue
            models.append(values)
            weights.append(member.ask.samples)
        self._need_quorum()
        model = average(models, weights)
        for one in self._apprentices.values():
            one.half.part.load_values(model)
        self._crew.send_all(messages.Global(round=number), model)
        counts = [count for _, count, _ in self._crew.collect(messages.Counted, timeout_s)]
        accuracy = sum(count.correct for count in counts) / max(1, sum(count.total for count in counts))
        self._guard.learn(accuracy)
        return self._snapshot(number, model, states, accuracy)

    def _write_round(
        self, number: int, grant: Grant, steps: Sequence[StepResult], duration_s: float, after: Checkpoint | None
    ) -> None:
        accuracy = after.accuracy if after else None
        batches = {name: one.batch for name, one in self._apprentices.items()}
        stayed = tuple(edge for edge in grant.plan.edges if edge.edge in self._apprentices)
        plan = dataclasses.replace(grant.plan, edges=stayed)
        sizes = {edge.edge: self._outlook.segment_bytes(edge.edge, edge.cut, edge.codec) for edge in stayed}
        row = round_row(number, plan, grant, steps, sizes, batches, duration_s, accuracy, after is not None)
        row["lost"] = list(self._lost)
        if grant.broken:
            for transfer in row["transfers"]:
                transfer["kept"] = False
        self._record.add_round(row)
        judged = [transfer["kept"] for transfer in row["transfers"] if transfer["kept"] is not None]
        self._record.event(
            "round_done", round=number, duration_ms=row["duration_ms"], loss=row["loss"], accuracy=accuracy,
            averaged=after is not None, cuts={name: one.cut for name, one in self._apprentices.items()},
            promises={"made": len(judged), "kept": sum(judged)},
            training_ms={edge["edge"]: edge["training_ms"] for edge in row["edges"]},
            uplink_ms={edge["edge"]: edge["uplink_ms"] for edge in row["edges"]},
            spread_ms=row["spread_ms"],
        )

    # --- who is there

    def _take_leave(self, member: Member, reason: str) -> None:
        """An edge is gone: its bandwidth is given back, and the round goes on without it if a quorum is left."""
        self._apprentices.pop(member.name, None)
        self._lost.append({"edge": member.name, "reason": reason})
        self._record.event("lost", edge=member.name, reason=reason, left=len(self._apprentices))
        self._road.leave(member.name)
        self._need_quorum()

    def _need_quorum(self) -> None:
        wanted = self._settings.quorum_in_training
        if len(self._apprentices) < wanted and not self._paused:
            why = " ".join(f"{one['edge']} was lost: {one['reason']}" for one in self._lost)
            raise QuorumLostError(f"{why} {len(self._apprentices)} of {len(self._settings.edges)} edges are left, "
                                  f"{wanted} must be there.".strip())

    def _readmit(self) -> None:
        """Take in whoever came (back), with the state of this averaging."""
        if not (coming := self._crew.readmit()):
            return
        for member in coming:
            self._record.event("joined", edge=member.name, round=self._checkpoint.round)
        self._restore(coming)

    def _restore(self, members: Sequence[Member]) -> None:
        """Give these edges, and the cloud's halves for them, the state of the checkpoint."""
        after = self._checkpoint
        for member in members:
            one = self._apprentices[member.name] = apprentice_of(member, self._recipe, self._device)
            one.restore(after)
            assert member.layers is not None
            self._outlook.welcome(member.name, member.layers, one.batch)
            self._road.join(member.name, member.source_port)
            tensors = {name: tensor for name, tensor in after.layers_of(member.name).items()
                       if ".value." in name or int(name.split(".", 1)[0]) < one.cut}
            self._crew.send(member, messages.Restore(round=after.round, cut=one.cut), tensors)
        self._crew.collect(messages.Restored, self._settings.step_timeout_s, among=members, stale=True)

    def _pause(self, number: int, error: QuorumLostError) -> int:
        """Wait until a quorum is there again, then go back to the last averaging; returns its round.

        Raises: QuorumError when the deadline has passed.
        """
        settings, wanted = self._settings, self._settings.quorum_in_training
        self._paused = True
        self._note_unfinished()
        self._record.event("paused", round=number, reason=str(error), deadline_s=settings.rejoin_timeout_s)
        deadline_s = time.monotonic() + settings.rejoin_timeout_s
        while len(self._crew.members) + len(self._crew.waiting) < wanted:
            if time.monotonic() >= deadline_s:
                raise QuorumError(
                    f"{error} Nobody came back within {settings.rejoin_timeout_s:g} s. The model of round "
                    f"{self._checkpoint.round} is saved; go on with: paceline train --resume {self._record.directory}"
                )
            self._crew.receive(time.monotonic() + PAUSE_POLL_S)
        coming = self._crew.readmit()
        self._record.event("continued", round=self._checkpoint.round + 1, joined=[member.name for member in coming])
        self._record.forget_after(self._checkpoint.round)
        self._restore(self._crew.members)
        self._paused = False
        return self._checkpoint.round

    # --- what is kept

    def _snapshot(
        self, number: int, model: Mapping[str, Tensor], states: Mapping[str, Mapping[str, Tensor]],
        accuracy: float | None,
    ) -> Checkpoint:
        old = self._checkpoint if number else None
        cuts = {name: one.cut for name, one in self._apprentices.items()} if number else {}
        samples = {name: (one.member.ask.samples, one.member.ask.held_out) for name, one in self._apprentices.items()}
        return Checkpoint(
            number, self._recipe, accuracy, {**(old.cuts if old else {}), **cuts},
            {**(old.samples if old else {}), **samples}, self._outlook.history(), model, states,
        )

    def _keep(self, after: Checkpoint) -> None:
        """Write it down: from now on a cloud that is killed goes on from here."""
        self._checkpoint = after
        if after.round:
            self._record.save_model(after.model, after.accuracy)
        self._record.event("checkpointing", round=after.round)
        checkpoint.write(self._record.directory, after)
        self._record.event("checkpoint", round=after.round)
