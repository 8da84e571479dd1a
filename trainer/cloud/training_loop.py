"""The cloud: gathers the edges, prepares, then plans, reserves, trains and averages, round after round.

Edges may be lost at any time: the round goes on while a quorum is there, and who comes back is taken in at the next
averaging. Below the quorum the run pauses and goes back to the last averaging.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from trainer.cloud.edge_manager import EdgeManager
from trainer.cloud.edge_session import EdgeSession
from trainer.cloud.membership import Membership, QuorumLostError
from trainer.cloud.round_record import plan_event, round_event, round_row
from trainer.cloud.step_timing import StepResult
from trainer.cloud.training_state import TrainingState
from trainer.cloud.training_step import CloudStep
from trainer.config.settings import RunSettings
from trainer.errors import ProtocolError, TrainerError
from trainer.planning.custom_policy import CustomPolicy
from trainer.processes.malloc import retain_freed_memory
from trainer.protocol import messages
from trainer.records.checkpoint import Checkpoint
from trainer.records.run_record import RunRecord, milliseconds
from trainer.reservation.bandwidth import BandwidthProvider, Grant
from trainer.transport.credentials import NOBODY, TransportCredentials
from trainer.transport.pacing import pace_bytes_per_s

RoadTo = Callable[[Sequence[EdgeSession]], BandwidthProvider]


def run(
    settings: RunSettings, address: tuple[str, int], road_to: RoadTo, record: RunRecord,
    resumed: Checkpoint | None = None, credentials: TransportCredentials = NOBODY,
) -> None:
    """A whole run, from the first request to the last goodbye; the record is finished however it ends.

    Raises: TrainerError.
    """
    torch.set_num_threads(1)
    retain_freed_memory()
    try:
        policy = None if settings.policy is None else CustomPolicy(settings.policy)
        crew = EdgeManager(address, settings.edges, settings.task, resumed.samples if resumed else None, credentials)
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
            reason = Cloud(settings, crew, road, record, resumed, policy).train()
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


class Cloud:
    """One run, once the edges are there."""

    def __init__(
        self,
        settings: RunSettings,
        crew: EdgeManager,
        road: BandwidthProvider,
        record: RunRecord,
        resumed: Checkpoint | None,
        policy: CustomPolicy | None = None,
    ) -> None:
        self._settings = settings
        self._crew = crew
        self._road = road
        self._record = record
        self._resumed = resumed is not None
        self._workshop = TrainingState(settings, crew, record, resumed, policy)
        self._attendance = Membership(settings, crew, self._workshop, road, record)
        self._current: CloudStep | None = None

    def train(self) -> str:
        """The whole training; returns why it stopped.

        Raises: TrainerError.
        """
        self._workshop.open()
        number = self._workshop.checkpoint.round
        if self._resumed:
            self._attendance.restore(self._crew.members)
        try:
            while number < self._settings.rounds:
                if self._has_arrived():
                    return (f"accuracy {self._workshop.checkpoint.accuracy:.4f} reached the target "
                            f"{self._settings.target:g} in round {number}.")
                try:
                    self._round(number + 1)
                    number += 1
                except QuorumLostError as error:
                    self._note_unfinished()
                    number = self._attendance.pause(number + 1, error)
            return f"all {self._settings.rounds} rounds are done."
        finally:
            self._note_unfinished()

    def _round(self, number: int) -> None:
        """Plan, reserve, train, and average if it is time.

        Raises: QuorumLostError if too few edges are left; the round does not count then.
        """
        began = time.perf_counter()
        self._attendance.begin_round()
        grant = self._road.acquire(partial(self._workshop.draft, number))
        self._announce(number, grant)
        steps: list[StepResult] = []
        for step in range(self._settings.steps):
            steps.append(self._step(number, step, grant, steps[-1] if steps else None))
        self._workshop.learn(steps, complete=not self._attendance.lost)
        averaged = number % self._settings.average_every == 0 or number == self._settings.rounds
        trained = time.perf_counter()
        after = (
            self._workshop.average(number, self._road.acquire_for_averaging(self._workshop.volumes()))
            if averaged
            else None
        )
        ended = time.perf_counter()
        self._write_round(number, grant, steps, ended - began, after, ended - trained if averaged else None)
        if after is not None:
            self._workshop.keep(after)
            self._attendance.readmit()

    def _announce(self, number: int, grant: Grant) -> None:
        """Tell every edge its cut and pace; the layers between the old cut and the new change sides."""
        self._record.event("plan", **plan_event(number, grant))
        apprentices = self._workshop.apprentices
        for edge in grant.plan.edges:
            if (one := apprentices.get(edge.edge)) is None:
                continue  # lost a moment ago
            self._workshop.guard.record_use(edge.codec)
            up, down = grant.up[edge.edge], grant.down[edge.edge]
            mss = one.member.mss_bytes
            one.member.connection.pace(pace_bytes_per_s(down.rate_bps, mss) if grant.reserved else None)
            if number == 1:  # both sides have built the same model: nothing moves
                one.half.stage.first = edge.cut
            self._crew.send(
                one.member,
                messages.Plan(
                    round=number, cut=edge.cut, codec=edge.codec, beat_s=grant.plan.period_s,
                    gradient_codec=self._workshop.guard.gradient_codec_for(edge.codec),
                    pace_bytes_per_s=pace_bytes_per_s(up.rate_bps, mss) if grant.reserved else None,
                ),
                one.half.layers_to_send(edge.cut),
            )
        cuts = {edge.edge: edge.cut for edge in grant.plan.edges}
        for member, _, received in self._crew.collect(messages.Planned, self._settings.step_timeout_s):
            try:
                apprentices[member.name].half.move_cut(cuts[member.name], received.frame.tensors)
            except ProtocolError as error:
                self._crew.drop(member, str(error))
        self._crew.synchronize(self._settings.step_timeout_s)

    def _step(self, number: int, step: int, grant: Grant, before: StepResult | None) -> StepResult:
        """One mini-batch on every edge."""
        self._record.event("step", round=number, step=step, of=self._settings.steps)
        plan, workshop = grant.plan, self._workshop
        forward_s = {edge.edge: edge.allowed_s for edge in plan.edges}
        gradient_codecs = {edge.edge: workshop.guard.gradient_codec_for(edge.codec) for edge in plan.edges}
        earliest_s = time.time() + plan.training_delay_s if before is None else before.next_ready_s(forward_s)
        one = self._current = CloudStep(
            number, step, grant, self._crew, workshop.apprentices, gradient_codecs, workshop.recipe.seed,
            lambda edge, step: self._record.event("late", edge=edge, round=number, step=step,
                                                  policy=self._settings.late),
            earliest_s,
        )
        result = one.run(self._settings.late, self._settings.late_after, self._settings.step_timeout_s)
        self._note_unfinished()
        return result

    def _write_round(
        self, number: int, grant: Grant, steps: Sequence[StepResult], duration_s: float, after: Checkpoint | None,
        averaging_s: float | None,
    ) -> None:
        batches = {name: one.batch for name, one in self._workshop.apprentices.items()}
        sizes = {edge.edge: self._workshop.outlook.sizes(edge.edge, edge.cut, edge.codec)
                 for edge in grant.plan.edges if edge.edge in batches}
        accuracy = after.accuracy if after else None
        row = round_row(number, grant, steps, sizes, batches, duration_s, accuracy, after is not None)
        row["averaging_ms"] = milliseconds(averaging_s)
        row["lost"] = list(self._attendance.lost)
        self._record.add_round(row)
        self._record.event("round_done", **round_event(row))

    def _note_unfinished(self) -> None:
        """What is under way when a step ends or is given up goes into the record: it will never be measured."""
        if self._current is not None:
            self._record.add_unfinished(self._current.unfinished())
            self._current = None

    def _has_arrived(self) -> bool:
        target, after = self._settings.target, self._workshop.checkpoint
        return (after.round >= max(1, self._settings.min_rounds) and after.accuracy is not None and target is not None
                and after.accuracy >= target)
