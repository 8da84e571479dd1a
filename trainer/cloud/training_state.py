"""Training state of the cloud: a replica for every edge, the forecaster, the last checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from trainer.cloud.compute_pool import ComputePool, usable_cpus
from trainer.cloud.edge_manager import EdgeManager, Workers
from trainer.cloud.edge_replica import EdgeReplica, build_replica
from trainer.cloud.edge_session import EdgeSession
from trainer.cloud.held_out import HeldOutSegments
from trainer.cloud.keeping import Keeping
from trainer.cloud.kept_segments import KeepingSpace
from trainer.cloud.made_ahead import MadeAhead
from trainer.cloud.model_averaging import ModelAveraging
from trainer.cloud.preparation import Preparation, prepare
from trainer.cloud.private_averaging import PrivacyAccount
from trainer.cloud.rehearsal import layer_seconds, shared_model
from trainer.cloud.remote_replica import RemoteReplica
from trainer.cloud.round_planning import check_min_cut, place_on_workers, plan_training_round
from trainer.cloud.secure_averaging import value_names
from trainer.cloud.step_timing import StepResult
from trainer.config.fine_tuning import AUTO_RANKS
from trainer.config.objectives import SHARES
from trainer.config.settings import RunSettings
from trainer.config.stragglers import relaxed_cap
from trainer.errors import ConnectionLostError, ProtocolError, UsageError
from trainer.models.device import select_device
from trainer.models.frozen import initial_digest
from trainer.models.server_optimizer import ServerState
from trainer.planning.codec_selection import CodecSelector
from trainer.planning.custom_policy import CustomPolicy
from trainer.planning.forecasts import StepForecaster
from trainer.planning.plan import EdgePlan, Offer, RoundPlan
from trainer.privacy.fixed_point import ELEMENT_BYTES, length_of
from trainer.profiling import profiler
from trainer.profiling.predictor import ComputeProfile, LayerSeconds, seconds_on
from trainer.protocol import messages
from trainer.protocol.segments import segment_bytes
from trainer.records import checkpoint
from trainer.records.checkpoint import Checkpoint
from trainer.records.run_record import RunRecord
from trainer.records.trained_model import metadata_of
from trainer.reservation.averaging_rates import Rates, Volumes
from trainer.transport.pacing import l2_bits

OffersTo = Callable[[Sequence[str]], Mapping[str, Offer]]
"""Returns the network's offer towards each of these nodes of the cloud, or of some of them."""

BENCHMARK_S = 0.05
"""Of the cloud: without a CPU limit half as long as on an edge suffices."""


class TrainingState:
    """The replicas of all edges with what is needed to plan, average and restore them.

    `checkpoint`: the state after the last averaging; `forecaster`: predicts the next step.
    """

    checkpoint: Checkpoint
    forecaster: StepForecaster
    _profile: ComputeProfile
    _cloud_layers: LayerSeconds

    def __init__(
        self, settings: RunSettings, edge_manager: EdgeManager, record: RunRecord, offers_to: OffersTo,
        resumed: Checkpoint | None, policy: CustomPolicy | None = None, made: MadeAhead | None = None,
    ) -> None:
        """Derive model and settings from the join requests of the edges; `made`: by `rehearse`.

        `offers_to`: tells what the network offers towards nodes of the cloud.

        Raises: UsageError if the settings do not fit the model, TrainingFailedError if the requests do not.
        """
        self._settings = settings
        self._edge_manager = edge_manager
        self._record = record
        self._resumed = resumed
        self._policy = policy
        self._device = select_device(settings.device)
        self._made = MadeAhead() if made is None else made
        self._preparation: Preparation = prepare([session.request for session in edge_manager.sessions], settings,
                                                 self._made)
        self.codec_selector = CodecSelector(settings.codec, settings.gradient_codec)
        self.recipe = resumed.recipe if resumed else self._preparation.message
        if self.recipe.frozen_digest != self._preparation.message.frozen_digest:
            raise UsageError(f"The frozen values of {self.recipe.model} have changed since the run began; it continues "
                             "only with the same.")
        self.privacy = None if settings.dp is None else PrivacyAccount(settings.dp, settings, record)
        self._space = KeepingSpace(int(settings.keep_memory_bytes), record.directory)
        self._built = shared_model(self.recipe, self._device, self._made)
        self.pool = ComputePool(self._threads())
        self.replicas: dict[str, EdgeReplica] = {
            session.name: self._new_replica(session) for session in edge_manager.sessions
        }
        if edge_manager.workers is not None:
            self._move_to_workers(edge_manager.workers, offers_to)
        self._held_out = HeldOutSegments(settings, edge_manager, record, self.recipe, self._space)
        self._averaging = ModelAveraging(settings, edge_manager, record, self.recipe, self.replicas, self.privacy,
                                         self._held_out)

    def _threads(self) -> int:
        """Return how many threads compute for the edges: one where workers or a GPU do, or layers draw random numbers.
        """
        settings, edges = self._settings, len(self._edge_manager.sessions)
        if self._edge_manager.workers is not None or self._device.type != "cpu" or self._built.draws_random:
            return 1
        return min(settings.cloud_threads or usable_cpus(), edges)

    def _new_replica(self, session: EdgeSession) -> EdgeReplica:
        if self._edge_manager.workers is None:
            return build_replica(session, self.recipe, self._device, self._built)
        return build_replica(session, self.recipe, self._device, self._built, RemoteReplica, shares_layers=True)

    def _move_to_workers(self, workers: Workers, offers_to: OffersTo) -> None:
        """Assign the edges to workers, send them there, and build their replicas there."""
        settings = self._settings
        self._profile, self._cloud_layers = profiler.benchmark_node(BENCHMARK_S), layer_seconds(self.recipe)
        nodes = workers.nodes
        places = place_on_workers(settings, self.replicas, self._build_forecaster(self.recipe),
                                  len(self._preparation.costs), nodes, offers_to([*dict.fromkeys(nodes.values())]))
        self._edge_manager.move_to_workers(places, self.recipe, int(settings.keep_memory_bytes),
                                           settings.step_timeout_s, settings.quorum_in_training)
        model = next(iter(self.replicas.values())).initial_values()
        self.replicas = {session.name: self.replicas[session.name] for session in self._edge_manager.sessions}
        for replica in self.replicas.values():
            assert isinstance(replica, RemoteReplica)
            replica.build(model)

    def start_preparing(self) -> None:
        """Have every edge prepare, and build the forecaster from the rates they joined with."""
        recipe, edge_manager = self.recipe, self._edge_manager
        self._record.describe(
            model=recipe.model,
            metric={"name": recipe.objective.metric, "better": recipe.objective.better, "loss": recipe.objective.loss},
            labels={"protected": recipe.tail is not None, "tail": recipe.tail},
            preparation=self._preparation.reasons,
            model_bytes=sum(cost.sent_bytes for cost in self._preparation.costs),
        )
        self._describe_data()
        if self.privacy is not None:
            self._record.event("said", sentence=self.privacy.sentence)
        edge_manager.prepare(recipe, self._largest_payload(), self._settings.step_timeout_s)
        if edge_manager.workers is None:
            self._profile, self._cloud_layers = profiler.benchmark_node(BENCHMARK_S), layer_seconds(self.recipe)
        for session in edge_manager.sessions:
            self._check_min_cut(session)
        self.forecaster = self._build_forecaster(recipe)

    def await_prepared(self) -> None:
        """Wait until every edge is prepared, and set the first checkpoint."""
        recipe = self.recipe
        self._edge_manager.await_prepared()
        self._record.event("prepared", model=recipe.model, device=str(self._device), tail=recipe.tail,
                           metric=self._record.summary["metric"], **self._preparation.reasons)
        if self._resumed is None:
            model = next(iter(self.replicas.values())).initial_values()
            self.save_checkpoint(self._snapshot(0, model, {}, None))
            self._align_initial_values()
        else:
            self.checkpoint = self._resumed
            self.forecaster.load_state_dict(self._resumed.history)

    def _check_min_cut(self, session: EdgeSession) -> bool:
        """Exclude an edge that accepts no cut which can be planned; return whether it stays."""
        try:
            check_min_cut(session.request, self._settings, len(self._preparation.costs))
        except ProtocolError as error:
            self._edge_manager.exclude(session, str(error))
            return False
        return True

    def _align_initial_values(self) -> None:
        """Restore the edges whose model began with other values than the cloud's: not all of them came of the seed."""
        own = initial_digest(self._built.layers, self._built.unchanging)
        if others := [session for session in self._edge_manager.sessions if session.initial_digest != own]:
            names = ", ".join(session.name for session in others)
            self._record.event("said", sentence=f"{names} began with other values than the cloud: {self.recipe.model} "
                               "takes some from elsewhere than the seeded generators of PyTorch, NumPy and Python. All "
                               "take the cloud's.")
            self.restore(others)

    def count_samples(self, session: EdgeSession, applied: messages.PlanApplied, number: int) -> None:
        """Take over how many samples an edge that collects has from round `number` on.

        Raises: ProtocolError if it cannot have so many.
        """
        if applied.samples is None or applied.held_out is None:
            return
        samples, held_out = applied.samples, applied.held_out
        if not session.request.collects or samples < session.samples or held_out < session.held_out:
            raise ProtocolError(f"it has {samples} samples and {held_out} held out now, and had {session.samples} and "
                                f"{session.held_out}; only an edge that collects may have more, and none fewer.")
        new = samples - session.samples, held_out - session.held_out
        if any(new):
            session.samples, session.held_out = samples, held_out
            self._record.event("collected", edge=session.name, round=number, samples=samples, held_out=held_out,
                               new_samples=new[0], new_held_out=new[1])
            self._describe_data()

    def _describe_data(self) -> None:
        """Record how many samples each edge has."""
        edges = {name: {"samples": replica.session.samples, "held_out": replica.session.held_out}
                 for name, replica in self.replicas.items()}
        before = (self._record.summary["data"] or {}).get("edges", {})
        self._record.describe(data={"task": self._settings.task, "edges": {**before, **edges}})

    def plan_round(self, number: int, offer: Offer, keep_cuts: bool = True) -> RoundPlan:
        """Plan a round for the network's offer; `keep_cuts` as in `trainer.reservation.bandwidth.PlanForOffer`.

        Raises: PlanError, UsageError if the choice of the custom policy is not possible.
        """
        layers = len(self._preparation.costs)
        return plan_training_round(number, offer, self._settings, self.replicas, self.forecaster, layers,
                                   self._policy, keep_cuts, self._keeping())

    def _keeping(self) -> Keeping | None:
        settings, preparation = self._settings, self._preparation
        if settings.keep_segments == "never" or not any(preparation.constant[1:]):
            return None
        return Keeping(preparation.constant, preparation.boundaries, self._space, self.forecaster, settings.rounds,
                       settings.steps)

    def keep_segments(self, replica: EdgeReplica, planned: EdgePlan) -> bool:
        """Prepare the keeping of an edge's segments as planned; return whether they are kept."""
        kept = replica.kept
        if planned.keep and kept is not None and (kept.cut, kept.codec) == (planned.cut, planned.codec):
            return True
        replica.drop_kept()
        if planned.keep:
            try:
                replica.keep(planned.cut, planned.codec, self._space)
            except ConnectionLostError:  # its worker is lost, or it is
                return False
            except (OSError, RuntimeError) as error:
                self._record.event("said", sentence=f"The segments of {replica.name} cannot be kept ({error}); they "
                                                    "are sent anew in every epoch.")
        return replica.kept is not None

    def update_forecasts(self, steps: Sequence[StepResult], complete: bool) -> None:
        """Update the predictors with a round's measurements; `complete`: no edge was lost in it."""
        for name, replica in self.replicas.items():
            edge_steps = [step.edges[name] for step in steps if name in step.edges]
            if any(transfers.saved_bytes for transfers in edge_steps):
                continue  # it computed fewer samples than a forecast is for
            self.forecaster.update_edge(
                name,
                replica.cut,
                [transfers.done.times for transfers in edge_steps if transfers.done],
                [transfers.done.tail_s for transfers in edge_steps if transfers.done],
            )
            late = replica.max_cut is not None and replica.max_cut < replica.cut
            replica.max_cut = relaxed_cap(replica.max_cut, late, len(self._preparation.costs))
        if complete:
            cuts = {name: replica.cut for name, replica in self.replicas.items()}
            self.forecaster.update_cloud(cuts, [sum(e.cloud_s for e in step.edges.values()) for step in steps])

    def volumes(self) -> Volumes:
        """Return the bytes of an averaging: every edge's layers up, with moments that are kept; the model down.

        Of an edge that is evaluated in the cloud: held-out segments that are missing up, nothing down.
        """
        state = self._state_bytes(self.recipe.optimizer.values_per_averaged_parameter)
        values = sum(cost.sent_bytes for cost in self._preparation.costs)
        tail = len(state) if self.recipe.tail is None else self.recipe.tail
        volumes = {}
        for name, replica in self.replicas.items():
            mss_bytes = replica.session.planning_mss_bytes
            up, down = sum(state[: replica.cut]) + sum(state[tail:]), values
            if self._held_out.are_used(replica):
                up, down = up + self._held_out.missing_bytes(replica), 0
            if self.recipe.secure_aggregation:
                names = value_names(replica)
                up = ELEMENT_BYTES * length_of(replica.model.stage.state_dict(0, len(state)), names)
            elif replica.rank is not None and self._preparation.adapters is not None:
                unused = AUTO_RANKS[-1] - replica.rank
                up -= unused * sum(self._preparation.adapters.row_bytes[: replica.cut])
            volumes[name] = max(1, int(l2_bits(up, mss_bytes) / 8)), max(1, int(l2_bits(down, mss_bytes) / 8))
        return volumes

    def average(self, number: int, rates: Rates | None, meanwhile: Callable[[], None]) -> Checkpoint:
        """Average the models of all edges; the codecs are selected by the metric of the result from now on.

        `rates`: reserved for the averaging; None: the pacing of the round stays. `meanwhile` is called while the edges
        receive and evaluate the result.
        """
        after = self._averaging.average(number, self.checkpoint, rates or {}, meanwhile)
        if after.metric is not None:
            objective = self.recipe.objective
            self.codec_selector.update(after.metric, objective.better == "higher", objective.metric in SHARES)
        return self._snapshot(number, after.model, after.states, after.metric, after.server)

    def save_checkpoint(self, after: Checkpoint) -> None:
        """Write the state after an averaging to disk; a restarted cloud resumes from it."""
        self.checkpoint = after
        if after.round:
            values = {**self._preparation.unchanging, **after.model}
            named = {self._preparation.names[name]: value for name, value in values.items()}
            self._record.save_model(named, after.metric, metadata_of(self.recipe, after.metric))
        self._record.event("checkpointing", round=after.round)
        checkpoint.write(self._record.directory, after)
        self._record.event("checkpoint", round=after.round)

    def restore(self, sessions: Sequence[EdgeSession]) -> None:
        """Restore these edges and their replicas to the checkpoint."""
        after = self.checkpoint
        for session in filter(self._check_min_cut, sessions):
            replica = self._new_replica(session)
            self.replicas[session.name] = replica
            replica.restore(after)
            self.forecaster.add_edge(session.name, self._layers_of(replica), replica.batch)
            tensors = replica.layers_to_restore(after.layers_of(session.name))
            self._edge_manager.send(session, messages.Restore(round=after.round, cut=replica.cut), tensors)
        self._edge_manager.collect(messages.Restored, self._settings.step_timeout_s, among=sessions, stale=True)

    def _layers_of(self, replica: EdgeReplica) -> LayerSeconds:
        """Predict what the layers take on an edge, from FLOPs, bytes and the rates that it joined with."""
        micro, costs = self.recipe.micro, self._preparation.costs
        return seconds_on(replica.session.request.profile, -(-replica.batch // micro), costs, self._cloud_layers,
                          self._profile, -(-self.recipe.batch // micro))

    def _build_forecaster(self, recipe: messages.Prepare) -> StepForecaster:
        layers = {name: self._layers_of(replica) for name, replica in self.replicas.items()}
        batches = {name: replica.batch for name, replica in self.replicas.items()}
        state_bytes = self._state_bytes(recipe.optimizer.values_per_parameter)
        return StepForecaster(layers, self._cloud_layers, self._preparation.boundaries, batches, recipe.micro,
                              state_bytes, self.codec_selector, recipe.tail, recipe.objective.target_bytes,
                              self._preparation.adapters)

    def _state_bytes(self, values_per_parameter: int) -> list[int]:
        return [cost.sent_bytes + (values_per_parameter - 1) * cost.trained_bytes
                for cost in self._preparation.costs]

    def _largest_payload(self) -> int:
        """Return the limit of a frame's payload: all layers with their state, or segments in the widest codec."""
        segment = 2 * max(segment_bytes(part, self.recipe.batch, "fp32") for part in self._preparation.boundaries)
        targets = self.recipe.batch * self.recipe.objective.target_bytes
        stored = sum(cost.sent_bytes for cost in self._preparation.costs)
        masked = ELEMENT_BYTES * stored if self.recipe.secure_aggregation else 0  # a value has a byte at least
        state = sum(self._state_bytes(self.recipe.optimizer.values_per_parameter))
        return 2 * (max(state, segment) + targets) + masked + 2**20

    def _snapshot(
        self, number: int, model: Mapping[str, Tensor], states: Mapping[str, Mapping[str, Tensor]],
        metric: float | None, server: ServerState | None = None,
    ) -> Checkpoint:
        previous = self.checkpoint if number else None
        cuts = {name: replica.cut for name, replica in self.replicas.items()} if number else {}
        samples = {
            name: (replica.session.samples, replica.session.held_out)
            for name, replica in self.replicas.items()
        }
        return Checkpoint(
            number, self.recipe, metric, {**(previous.cuts if previous else {}), **cuts},
            {**(previous.samples if previous else {}), **samples}, self.forecaster.state_dict(), model, states,
            server or {},
        )
