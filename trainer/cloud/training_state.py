"""What the cloud holds of the model: an apprentice for every edge, what was learnt of them, the last averaging."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trainer.cloud.edge_manager import EdgeManager
from trainer.cloud.edge_replica import EdgeReplica, apprentice_of
from trainer.cloud.edge_session import EdgeSession
from trainer.cloud.preparation import Preparation, prepare
from trainer.cloud.round_planning import draft_plan
from trainer.cloud.step_timing import StepResult
from trainer.config.settings import RunSettings
from trainer.config.stragglers import relaxed_cap
from trainer.errors import ProtocolError
from trainer.models.averaging import average
from trainer.models.device import select_device
from trainer.models.zoo import build_layers
from trainer.planning.codec_selection import CodecSelector
from trainer.planning.custom_policy import CustomPolicy
from trainer.planning.forecasts import StepForecaster
from trainer.planning.plan import Offer, RoundPlan
from trainer.profiling import profiler
from trainer.protocol import messages
from trainer.records import checkpoint
from trainer.records.checkpoint import Checkpoint
from trainer.records.run_record import RunRecord
from trainer.reservation.averaging_rates import Rates, Volumes
from trainer.transport.pacing import l2_bits, pace_bytes_per_s


class TrainingState:
    """The halves of the model, from what the edges asked for to the last averaging.

    `checkpoint`: the last averaging, from which a run goes on; `outlook`: what the next step would take.
    """

    checkpoint: Checkpoint
    outlook: StepForecaster

    def __init__(
        self, settings: RunSettings, crew: EdgeManager, record: RunRecord, resumed: Checkpoint | None,
        policy: CustomPolicy | None = None,
    ) -> None:
        """Decide what is trained, and how, from what the edges asked for.

        Raises: UsageError if the settings do not fit the model, TrainingFailedError if the requests do not.
        """
        self._settings = settings
        self._crew = crew
        self._record = record
        self._resumed = resumed
        self._policy = policy
        self._device = select_device(settings.device)
        self._preparation: Preparation = prepare([member.ask for member in crew.members], settings)
        self.guard = CodecSelector(settings.codec, settings.gradient_codec)
        self.recipe = resumed.recipe if resumed else self._preparation.message
        self.apprentices: dict[str, EdgeReplica] = {
            member.name: apprentice_of(member, self.recipe, self._device) for member in crew.members
        }

    def open(self) -> None:
        """Send every edge what was decided, hear what every layer takes there; then there is a checkpoint."""
        recipe, crew = self.recipe, self._crew
        self._record.describe(
            model=recipe.model,
            data={"task": self._settings.task,
                  "edges": {m.name: {"samples": m.ask.samples, "held_out": m.ask.held_out} for m in crew.members}},
            labels={"protected": recipe.tail is not None, "tail": recipe.tail},
            preparation=self._preparation.reasons,
        )
        crew.prepare(recipe, self._largest_payload(), self._settings.step_timeout_s)
        self.outlook = self._look_out(recipe)
        self._record.event("prepared", model=recipe.model, device=str(self._device), tail=recipe.tail,
                           **self._preparation.reasons)
        if self._resumed is None:
            model = next(iter(self.apprentices.values())).initial_values()
            self.keep(self._snapshot(0, model, {}, None))
        else:
            self.checkpoint = self._resumed
            self.outlook.load_state_dict(self._resumed.history)

    def draft(self, number: int, offer: Offer, keep_cuts: bool = True) -> RoundPlan:
        """Plan a round for the network's offer; `keep_cuts` as in `trainer.reservation.bandwidth.PlanForOffer`.

        Raises: PlanError, UsageError if the user's policy chooses what cannot be.
        """
        layers = len(self._preparation.costs)
        return draft_plan(number, offer, self._settings, self.apprentices, self.outlook, layers,
                          self._policy, keep_cuts)

    def learn(self, steps: Sequence[StepResult], complete: bool) -> None:
        """Feed a round's measurements to the predictors; `complete`: all its edges were there to the end."""
        for name, one in self.apprentices.items():
            mine = [step.edges[name] for step in steps if name in step.edges]
            self.outlook.update_edge(name, one.cut, [exchange.done.times for exchange in mine if exchange.done],
                                    [exchange.done.tail_s for exchange in mine if exchange.done])
            late = one.cap is not None and one.cap < one.cut
            one.cap = relaxed_cap(one.cap, late, len(self._preparation.costs))
        if complete:
            cuts = {name: one.cut for name, one in self.apprentices.items()}
            self.outlook.update_cloud(cuts, [sum(e.cloud_s for e in step.edges.values()) for step in steps])

    def volumes(self) -> Volumes:
        """What an averaging sends now: every edge's layers with their optimiser state, and the model back."""
        state, values = self._state_bytes(), sum(4 * cost.stored_values for cost in self._preparation.costs)
        tail = len(state) if self.recipe.tail is None else self.recipe.tail
        volumes = {}
        for name, one in self.apprentices.items():
            mss_bytes = one.member.planning_mss_bytes
            up, down = sum(state[: one.cut]) + sum(state[tail:]), values
            volumes[name] = max(1, int(l2_bits(up, mss_bytes) / 8)), max(1, int(l2_bits(down, mss_bytes) / 8))
        return volumes

    def average(self, number: int, rates: Rates | None = None) -> Checkpoint:
        """One global model from the models of all that are there, back to them; they count its accuracy.

        `rates`: those reserved for it; None: each goes on as it is paced.
        """
        timeout_s = self._settings.step_timeout_s
        self._record.event("averaging", round=number, rates_bps=rates)
        self._collect(rates or {})
        models: list[dict[str, Tensor]] = []
        weights: list[float] = []
        states = dict(self.checkpoint.states)
        for member, _, received in self._crew.collect(messages.ModelUpdate, timeout_s):
            try:
                values, states[member.name] = self.apprentices[member.name].whole(received.frame.tensors)
            except ProtocolError as error:
                self._crew.drop(member, str(error))
                continue
            models.append(values)
            weights.append(member.ask.samples)
        model = average(models, weights)
        for one in self.apprentices.values():
            one.half.stage.load_state_dict(model)
        self._crew.send_all(messages.GlobalModel(round=number), model)
        counts = [count for _, count, _ in self._crew.collect(messages.Evaluated, timeout_s)]
        accuracy = sum(count.correct for count in counts) / max(1, sum(count.total for count in counts))
        self.guard.update(accuracy)
        return self._snapshot(number, model, states, accuracy)

    def _collect(self, rates: Rates) -> None:
        for member in self._crew.members:
            pace = None
            if member.name in rates:
                up_bps, down_bps = rates[member.name]
                pace = pace_bytes_per_s(up_bps, member.mss_bytes)
                member.connection.pace(pace_bytes_per_s(down_bps, member.mss_bytes))
            self._crew.send(member, messages.CollectModel(pace_bytes_per_s=pace))

    def keep(self, after: Checkpoint) -> None:
        """Write an averaging down: from now on a cloud that is killed goes on from here."""
        self.checkpoint = after
        if after.round:
            self._record.save_model(after.model, after.accuracy)
        self._record.event("checkpointing", round=after.round)
        checkpoint.write(self._record.directory, after)
        self._record.event("checkpoint", round=after.round)

    def restore(self, members: Sequence[EdgeSession]) -> None:
        """Give these edges, and the cloud's halves for them, the state of the checkpoint."""
        after = self.checkpoint
        for member in members:
            one = self.apprentices[member.name] = apprentice_of(member, self.recipe, self._device)
            one.restore(after)
            assert member.layers is not None
            self.outlook.add_edge(member.name, member.layers, one.batch)
            tensors = one.of_the_edge(after.layers_of(member.name))
            self._crew.send(member, messages.Restore(round=after.round, cut=one.cut), tensors)
        self._crew.collect(messages.Restored, self._settings.step_timeout_s, among=members, stale=True)

    def _look_out(self, recipe: messages.Prepare) -> StepForecaster:
        built = build_layers(recipe.model, recipe.seed, recipe.sample_shape, recipe.classes)
        samples = torch.zeros(-(-recipe.batch // recipe.micro), *recipe.sample_shape)
        here = profiler.rehearse(built, samples, recipe.optimizer, recipe.micro)
        layers = {member.name: member.layers for member in self._crew.members if member.layers is not None}
        batches = {name: one.batch for name, one in self.apprentices.items()}
        return StepForecaster(layers, here, self._preparation.segment_shapes, batches, recipe.micro,
                       self._state_bytes(), self.guard, recipe.tail)

    def _state_bytes(self) -> list[int]:
        return [4 * self.recipe.optimizer.values_per_parameter * cost.stored_values for cost in self._preparation.costs]

    def _largest_payload(self) -> int:
        """No frame of an honest edge carries more: all layers with their state, or a segment in the widest codec."""
        segment = 8 * max(map(math.prod, self._preparation.segment_shapes)) * self.recipe.batch
        return 2 * max(sum(self._state_bytes()), segment) + 2**20

    def _snapshot(
        self, number: int, model: Mapping[str, Tensor], states: Mapping[str, Mapping[str, Tensor]],
        accuracy: float | None,
    ) -> Checkpoint:
        old = self.checkpoint if number else None
        cuts = {name: one.cut for name, one in self.apprentices.items()} if number else {}
        samples = {name: (one.member.ask.samples, one.member.ask.held_out) for name, one in self.apprentices.items()}
        return Checkpoint(
            number, self.recipe, accuracy, {**(old.cuts if old else {}), **cuts},
            {**(old.samples if old else {}), **samples}, self.outlook.state_dict(), model, states,
        )
