"""The training loop of the cloud: plan, reserve, train and average, round after round.

Edges may be lost at any time: the round continues while the quorum is met, and edges that rejoin are added at the next
averaging. Below the quorum the run pauses and returns to the last averaging.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from trainer.cloud import edge_checks
from trainer.cloud.edge_manager import EdgeManager, Workers
from trainer.cloud.edge_session import EdgeSession
from trainer.cloud.made_ahead import MadeAhead
from trainer.cloud.membership import PAUSE_POLL_S, Membership, QuorumLostError, check_exclusions
from trainer.cloud.rehearsal import rehearse
from trainer.cloud.round_record import plan_event, round_event, round_row
from trainer.cloud.step_timing import StepResult
from trainer.cloud.training_state import TrainingState
from trainer.cloud.training_step import CloudStep
from trainer.config.settings import RunSettings
from trainer.errors import ConnectionLostError, ProtocolError, TrainerError, TrainingFailedError
from trainer.planning.custom_policy import CustomPolicy
from trainer.plugins import describe_error
from trainer.processes.malloc import retain_freed_memory
from trainer.protocol import messages
from trainer.records.checkpoint import Checkpoint
from trainer.records.run_control import is_pause_asked
from trainer.records.run_record import RunRecord, milliseconds
from trainer.reservation.bandwidth import BandwidthProvider, EdgeEndpoint, Grant
from trainer.reservation.partition_check import FindPartition, no_partition
from trainer.transport.credentials import NO_CREDENTIALS, TransportCredentials
from trainer.transport.pacing import pace_bytes_per_s

log = logging.getLogger(__name__)

Notify = Callable[[str], None]
BandwidthFactory = Callable[[Sequence[EdgeSession]], BandwidthProvider]


def run(
    settings: RunSettings, address: tuple[str, int], make_bandwidth: BandwidthFactory, record: RunRecord,
    resumed: Checkpoint | None = None, credentials: TransportCredentials = NO_CREDENTIALS,
    find_partition: FindPartition = no_partition,
    start_workers: Callable[[Notify], contextlib.AbstractContextManager[Workers]] | None = None,
) -> None:
    """Run a whole training; the record is completed however the run ends.

    `find_partition` tells while edges are awaited which of them cannot come. `start_workers`: starts the workers that
    serve the edges; None: this process does.

    Raises: TrainerError.
    """
    torch.set_num_threads(1)
    retain_freed_memory()
    try:
        policy = None if settings.policy is None else CustomPolicy(settings.policy)
        excluded = record.summary["excluded"] if resumed else {}
        check_exclusions(settings, excluded)
        edge_manager = EdgeManager(
            address, settings.edges, settings.task, resumed.samples if resumed else None, credentials, excluded
        )
    except TrainerError as error:
        record.finish("failed", str(error), error.code)
        raise
    reason, code = "the cloud was stopped.", "stopped"
    failed = True
    closing = contextlib.ExitStack()
    try:
        if start_workers is not None:
            edge_manager.workers = closing.enter_context(
                start_workers(lambda sentence: record.event("said", sentence=sentence)))
        for edge, why in excluded.items():
            record.event("said", sentence=f"{edge} stays excluded from the run: {why}")
        record.event("waiting", edges=[edge for edge in settings.edges if edge not in excluded],
                     address=f"{address[0]}:{address[1]}")
        edge_manager.on_collecting = lambda report: record.event("collecting", edge=report.edge, samples=report.samples,
                                                                 held_out=report.held_out, wanted=report.wanted,
                                                                 sentence=edge_checks.printable(report.sentence))
        made = rehearse(settings)  # while the edges load and join
        sessions = edge_manager.gather(settings.quorum, settings.ask_timeout_s, find_partition)
        record.event("gathered", edges=[session.name for session in sessions])
        bandwidth = make_bandwidth(sessions)
        record.describe(assumed_bps=bandwidth.assumed_bps)
        try:
            reason = TrainingLoop(
                settings, edge_manager, bandwidth, record, resumed, policy, find_partition, made
            ).train()
            failed = False
            edge_manager.close(reason, failed)  # while the edges' flows are reserved, so that it arrives at once
        finally:
            bandwidth.release()
            record.event("released")
            record.describe(controller={
                "url": settings.controller,
                "reserved": settings.controller is not None and not settings.best_effort,
                "unreachable_rounds": bandwidth.unreachable_rounds,
                "broken_rounds": bandwidth.broken_rounds,
            })
    except TrainerError as error:
        reason, code = str(error), error.code
        raise
    except Exception as error:
        log.exception("cloud")
        reason, code = f"Internal error of the cloud: {describe_error(error)}.", TrainingFailedError.code
        raise TrainingFailedError(reason) from error
    finally:
        edge_manager.close(reason, failed)
        closing.close()
        record.describe(strangers_refused=edge_manager.connections_refused)
        record.finish("failed" if failed else "done", *((reason, code) if failed else ()))


class TrainingLoop:
    """The rounds of a run, after the edges have joined."""

    def __init__(
        self,
        settings: RunSettings,
        edge_manager: EdgeManager,
        bandwidth: BandwidthProvider,
        record: RunRecord,
        resumed: Checkpoint | None,
        policy: CustomPolicy | None = None,
        find_partition: FindPartition = no_partition,
        made: MadeAhead | None = None,
    ) -> None:
        self._settings = settings
        self._edge_manager = edge_manager
        self._bandwidth = bandwidth
        self._record = record
        self._is_resumed = resumed is not None
        self._state = TrainingState(settings, edge_manager, record, bandwidth.offers_to, resumed, policy, made)
        for session in edge_manager.sessions:
            if session.cloud_port is not None:  # it has moved to a worker
                bandwidth.add_edge(EdgeEndpoint(
                    session.name, session.source_port, session.cloud_port, session.cloud_node))
        self._membership = Membership(settings, edge_manager, self._state, bandwidth, record, find_partition)
        self._step_in_progress: CloudStep | None = None
        self._ahead: tuple[int, Grant] | None = None

    def train(self) -> str:
        """Train until the target or the last round; return the reason for the end.

        Raises: TrainerError.
        """
        self._state.start_preparing()
        if not self._is_resumed:  # the first round needs no more than the edges have joined with
            self._ahead = 1, self._bandwidth.acquire(partial(self._state.plan_round, 1))
        self._state.await_prepared()
        number = self._state.checkpoint.round
        if self._is_resumed:
            self._membership.restore(self._edge_manager.sessions)
        try:
            while number < self._settings.rounds:
                if self._target_reached():
                    objective = self._state.recipe.objective
                    return (f"{objective.metric} {self._state.checkpoint.metric:.4f} reached the target "
                            f"{self._settings.target:g} in round {number}.")
                if (account := self._state.privacy) is not None and account.is_spent:
                    return (f"the privacy budget is spent in round {number}: {account.releases} averagings, repeated "
                            "ones included.")
                try:
                    self._pause_if_asked(number + 1)
                    self._round(number + 1)
                    number += 1
                except QuorumLostError as error:
                    self._record_unfinished()
                    number = self._membership.pause(number + 1, error)
            return f"all {self._settings.rounds} rounds are done."
        finally:
            self._record_unfinished()

    def _pause_if_asked(self, number: int) -> None:
        """Wait before a round as long as the run is to pause; the reservation is kept.

        Raises: QuorumLostError if the quorum is lost meanwhile.
        """
        if not is_pause_asked(self._record.directory):
            return
        self._record.event("paused", round=number, reason="It was asked to.", deadline_s=None)
        while is_pause_asked(self._record.directory):
            self._edge_manager.receive(time.monotonic() + PAUSE_POLL_S)
        self._record.event("continued", round=number, joined=[])

    def _round(self, number: int) -> None:
        """Plan, reserve, train, and average if due.

        Raises: QuorumLostError if the quorum is lost; the round then does not count.
        """
        began = time.perf_counter()
        self._membership.begin_round()
        grant = self._grant(number)
        self._distribute_plan(number, grant)
        steps: list[StepResult] = []
        for step in range(self._settings.steps):
            grant = self._bandwidth.with_present_bounds(grant)
            steps.append(self._step(number, step, grant, steps[-1] if steps else None))
        self._state.update_forecasts(steps, complete=not self._membership.lost)
        averaged = number % self._settings.average_every == 0 or number == self._settings.rounds
        trained = time.perf_counter()
        after = self._average(number) if averaged else None
        ended = time.perf_counter()
        self._record_round(number, grant, steps, ended - began, after, ended - trained if averaged else None)
        if after is not None:
            self._state.save_checkpoint(after)
            self._membership.readmit()

    def _average(self, number: int) -> Checkpoint:
        """Average after a round, and meanwhile plan the next, unless its result changes what may be planned."""
        rates = self._bandwidth.acquire_for_averaging(self._state.volumes())
        codecs = self._state.codec_selector.allowed_codecs()

        def plan_next() -> None:
            if number < self._settings.rounds:
                self._bandwidth.plan_ahead(partial(self._state.plan_round, number + 1))

        after = self._state.average(number, rates, plan_next)
        if self._state.codec_selector.allowed_codecs() != codecs:
            self._bandwidth.forget_plan()
        return after

    def _grant(self, number: int) -> Grant:
        """Return the grant made ahead for a round, if the edges are still the same, or acquire one."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            made_for, grant = ahead
            if made_for == number and {edge.edge for edge in grant.plan.edges} == self._state.replicas.keys():
                return grant
        return self._bandwidth.acquire(partial(self._state.plan_round, number))

    def _distribute_plan(self, number: int, grant: Grant) -> None:
        """Send every edge its cut and pace; layers between the old and the new cut change sides."""
        self._record.event("plan", **plan_event(number, grant))
        replicas = self._state.replicas
        for edge in grant.plan.edges:
            if (replica := replicas.get(edge.edge)) is None:
                continue  # lost since the plan was made
            self._state.codec_selector.record_use(edge.codec)
            up, down = grant.up[edge.edge], grant.down[edge.edge]
            mss = replica.session.mss_bytes
            replica.session.connection.pace(
                pace_bytes_per_s(down.rate_bps, mss) if grant.reserved and down.rate_bps else None)
            if number == 1:
                replica.start_at(edge.cut)
            self._state.forecaster.fix_rank(edge.edge, edge.rank)
            replica.set_rank(self._state.forecaster.rank_of(edge.edge))
            try:
                layers = replica.layers_to_send(edge.cut)
            except ConnectionLostError as error:
                self._edge_manager.drop(replica.session, str(error))
                continue
            self._edge_manager.send(
                replica.session,
                messages.Plan(
                    round=number, cut=edge.cut, codec=edge.codec, period_s=grant.plan.period_s,
                    gradient_codec=self._state.codec_selector.gradient_codec_for(edge.codec),
                    pace_bytes_per_s=pace_bytes_per_s(up.rate_bps, mss) if grant.reserved and up.rate_bps else None,
                    keep=self._state.keep_segments(replica, edge),
                    rank=replica.rank,
                ),
                layers,
            )
        cuts = {edge.edge: edge.cut for edge in grant.plan.edges}
        max_steps = (number - 1) * self._settings.steps
        for session, applied, received in self._edge_manager.collect(
            messages.PlanApplied, self._settings.step_timeout_s
        ):
            try:
                if applied.round != number:
                    raise ProtocolError(f"it applied the plan of round {applied.round}; this is round {number}.")
                replicas[session.name].move_cut(cuts[session.name], received.frame.tensors, max_steps)
                self._state.count_samples(session, applied, number)
            except ProtocolError as error:
                self._edge_manager.exclude(session, str(error))
            except ConnectionLostError as error:
                self._edge_manager.drop(session, str(error))
        self._edge_manager.synchronize(self._settings.step_timeout_s)

    def _step(self, number: int, step: int, grant: Grant, previous: StepResult | None) -> StepResult:
        """Run one mini-batch on every edge."""
        self._record.event("step", round=number, step=step, of=self._settings.steps)
        plan, state = grant.plan, self._state
        forward_s = {edge.edge: edge.allowed_s for edge in plan.edges}
        gradient_codecs = {edge.edge: state.codec_selector.gradient_codec_for(edge.codec) for edge in plan.edges}
        earliest_s = time.time() + plan.training_delay_s if previous is None else previous.next_ready_s(forward_s)
        cloud_step = self._step_in_progress = CloudStep(
            number, step, grant, self._edge_manager, state.replicas, gradient_codecs, state.recipe.seed,
            state.recipe.steps,
            lambda edge, step: self._record.event("late", edge=edge, round=number, step=step,
                                                  policy=self._settings.late),
            earliest_s, self._settings.step_timeout_s, state.pool,
        )
        result = cloud_step.run(self._settings.late, self._settings.late_after)
        self._record_unfinished()
        return result

    def _record_round(
        self, number: int, grant: Grant, steps: Sequence[StepResult], duration_s: float, after: Checkpoint | None,
        averaging_s: float | None,
    ) -> None:
        batches = {name: replica.batch for name, replica in self._state.replicas.items()}
        sizes = {edge.edge: self._state.forecaster.sizes(edge.edge, edge.cut, edge.codec)
                 for edge in grant.plan.edges if edge.edge in batches}
        metric = after.metric if after else None
        row = round_row(number, grant, steps, sizes, batches, duration_s, metric, after is not None)
        row["accuracy"] = metric if self._state.recipe.objective.metric == "accuracy" else None
        row["averaging_ms"] = milliseconds(averaging_s)
        row["lost"] = list(self._membership.lost)
        for edge in row["edges"]:
            session = self._state.replicas[edge["edge"]].session
            edge["local_samples"] = session.samples
            if session.worker is not None:
                edge |= {"worker": session.worker, "node": session.cloud_node}
        row["epsilon_spent"] = self._state.privacy.spent if self._state.privacy is not None else None
        self._record.add_round(row)
        self._record.event("round_done", **round_event(row))

    def _record_unfinished(self) -> None:
        """Record the transfers in progress when a step ends or is aborted; they are never measured."""
        if self._step_in_progress is not None:
            self._record.add_unfinished(self._step_in_progress.unfinished())
            self._step_in_progress = None

    def _target_reached(self) -> bool:
        target, after = self._settings.target, self._state.checkpoint
        return (after.round >= max(1, self._settings.min_rounds) and after.metric is not None and target is not None
                and self._state.recipe.objective.is_reached(after.metric, target))
