"""The averaging of all edges' models: plain, private or in a secure sum, then the evaluation of the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from trainer.cloud import edge_checks
from trainer.cloud.edge_manager import EdgeManager
from trainer.cloud.edge_replica import EdgeReplica
from trainer.cloud.edge_session import EdgeSession
from trainer.cloud.held_out import HeldOutSegments
from trainer.cloud.private_averaging import PrivacyAccount, private_mean
from trainer.cloud.remote_edge import ModelsLostError, StoredModel
from trainer.cloud.remote_replica import RemoteReplica
from trainer.cloud.secure_averaging import SecureAveraging
from trainer.config.settings import RunSettings
from trainer.errors import ConnectionLostError, ProtocolError
from trainer.models.aggregation import aggregate
from trainer.models.averaging import limited_weights
from trainer.models.lora_ranks import average_by_rank
from trainer.models.objective import metric_value
from trainer.models.server_optimizer import ServerOptimizerConfig, ServerState, parameter_names, server_step
from trainer.protocol import messages
from trainer.records.checkpoint import Checkpoint
from trainer.records.run_record import RunRecord
from trainer.reservation.averaging_rates import Rates
from trainer.transport.pacing import pace_bytes_per_s

PARTS, MIN_PART_BYTES = 8, 64 * 1024
"""Of the global model on its way to the edges, which evaluate a part while the next ones arrive."""


@dataclass(frozen=True, slots=True)
class Averaged:
    """The global model, its metric (None: no edge holds samples out), and the states as in `Checkpoint`."""

    model: Mapping[str, Tensor]
    metric: float | None
    states: Mapping[str, Mapping[str, Tensor]]
    server: ServerState


class ModelAveraging:
    """Averages the models of the replicas and their edges; all continue from the result."""

    def __init__(
        self, settings: RunSettings, edge_manager: EdgeManager, record: RunRecord, recipe: messages.Prepare,
        replicas: Mapping[str, EdgeReplica], privacy: PrivacyAccount | None, held_out: HeldOutSegments,
    ) -> None:
        """`replicas`: of all edges, as they are at the time of an averaging. `privacy`: None: the mean is not private.
        """
        self.held_out = held_out
        self._settings = settings
        self._edge_manager = edge_manager
        self._record = record
        self._recipe = recipe
        self._replicas = replicas
        self._server_optimizer = ServerOptimizerConfig(settings.server_optimizer, settings.server_learning_rate)
        self._privacy = privacy
        self._meanwhile: Callable[[], None] = _nothing
        self._limited: set[str] = set()
        """Edges whose weight was limited, said once."""

    def average(
        self, number: int, last: Checkpoint, rates: Rates, meanwhile: Callable[[], None]
    ) -> Averaged:
        """Average the models of all edges, send them the result and collect its metric.

        `last`: after the averaging before. `rates`: reserved for the averaging; of edges without, the pacing of the
        round stays. `meanwhile` is called while the result is on its way and evaluated.
        """
        self._meanwhile = meanwhile
        timeout_s = self._settings.step_timeout_s
        self._record.event("averaging", round=number, rates_bps=rates)
        if self._settings.secure_aggregation:
            return self._average_securely(number, last, rates)
        self._request_models(rates)
        models: dict[str, dict[str, Tensor]] = {}
        stored: dict[str, StoredModel] = {}
        samples: dict[str, int] = {}
        states, max_steps = dict(last.states), number * self._settings.steps
        for session, _, received in self._edge_manager.collect(messages.ModelUpdate, timeout_s):
            replica = self._replicas[session.name]
            try:
                if isinstance(replica, RemoteReplica) and self._is_plain_mean:
                    stored[session.name], states[session.name] = replica.merged_and_stored(max_steps)
                else:
                    models[session.name], states[session.name] = replica.merged_layers(received.frame.tensors,
                                                                                       max_steps)
                samples[session.name] = session.samples
            except ProtocolError as error:
                self._edge_manager.exclude(session, str(error))
            except ConnectionLostError as error:
                self._edge_manager.drop(session, str(error))
        if self._privacy is not None:
            mean = self._private_mean(self._privacy, last.model, models, samples)
            return self._adopted(number, last, mean, states)
        model, metric, server = self._evaluated_mean(number, last, stored or models, samples)
        return self._averaged(model, metric, states, server)

    def _adopted(
        self, number: int, last: Checkpoint, mean: Mapping[str, Tensor], states: Mapping[str, Mapping[str, Tensor]]
    ) -> Averaged:
        """Continue from what the server optimizer makes of a mean that cannot be made again without an edge."""
        model, server = self._server_step(last, mean)
        return self._averaged(model, self._metric(self._distribute(number, model)), states, server)

    def _averaged(
        self, model: Mapping[str, Tensor], metric: float | None, states: Mapping[str, Mapping[str, Tensor]],
        server: ServerState,
    ) -> Averaged:
        kept = states.keys() - self._edge_manager.excluded.keys()
        return Averaged(model, metric, {name: state for name, state in states.items() if name in kept}, server)

    def _private_mean(
        self, account: PrivacyAccount, previous: Mapping[str, Tensor], models: Mapping[str, Mapping[str, Tensor]],
        samples: Mapping[str, int],
    ) -> dict[str, Tensor]:
        """Return the noisy mean of the models; it is published once, so no edge can be left out of it later."""
        weights = self._said_weights({name: samples[name] for name in models})
        stage = next(iter(self._replicas.values())).model.stage
        account.spend()
        return {**previous, **private_mean(list(models.values()), weights, previous,
                                           stage.trained_names(0, len(stage.layers)), account.noise.norm,
                                           account.noise.std(weights))}

    def _average_securely(self, number: int, last: Checkpoint, rates: Rates) -> Averaged:
        """Average in a secure sum; the model cannot be made again without an edge that lies in its evaluation."""
        settings, account = self._settings, self._privacy
        secure = SecureAveraging(self._edge_manager, len(settings.edges), settings.quorum_in_training,
                                 settings.step_timeout_s)
        samples = {name: replica.session.samples for name, replica in self._replicas.items()}
        weights = dict(zip(samples, self._said_weights(samples), strict=True))
        result = secure.average(number, self._replicas, weights, dict(last.model), rates,
                                None if account is None else account.noise)
        if account is not None:
            account.spend()
        self._record.event("secure_sum", round=number, edges=list(result.edges))
        return self._adopted(number, last, result.model, {**last.states, **result.states})

    def _evaluated_mean(
        self, number: int, last: Checkpoint, models: dict[str, dict[str, Tensor]] | dict[str, StoredModel],
        samples: Mapping[str, int],
    ) -> tuple[dict[str, Tensor], float | None, ServerState]:
        """Return the global model, its metric and the server optimizer's state.

        Again without an edge that is excluded by its evaluation.
        """
        while True:
            model, server = self._server_step(last, self._mean(last.model, models, samples))
            counts = self._distribute(number, model)
            excluded = models.keys() & self._edge_manager.excluded.keys()
            if not excluded:
                self._record_confusion(number, counts)
                return model, self._metric(counts), server
            for name in excluded:
                del models[name]

    def _distribute(self, number: int, model: Mapping[str, Tensor]) -> list[messages.Evaluated]:
        """Continue from the global model on all nodes; return the edges' evaluations of it."""
        for replica in self._replicas.values():
            replica.load_model(model)
        in_cloud = {replica.name: replica for replica in self.held_out.collect(
            [replica for replica in self._replicas.values() if self.held_out.are_used(replica)])}
        others = [session for session in self._edge_manager.sessions if session.name not in in_cloud]
        layers = len(next(iter(self._replicas.values())).model.stage.layers)
        for first, last, values in parts_of(model, layers):
            for session in others:
                self._edge_manager.send(session, messages.GlobalModel(round=number, first=first, last=last), values)
        meanwhile, self._meanwhile = self._meanwhile, _nothing
        meanwhile()
        counts = self._collect_counts(others)
        return counts + self.held_out.evaluate([
            replica for name, replica in in_cloud.items() if self._replicas.get(name) is replica])

    def _record_confusion(self, number: int, counts: Sequence[messages.Evaluated]) -> None:
        """Record the held-out samples of all edges by true and predicted class, if every edge counted them."""
        counts = [count for count in counts if count.total]
        if counts and all(count.confusion for count in counts):
            classes = self._recipe.classes
            totals = [sum(cells) for cells in zip(*(count.confusion for count in counts), strict=True)]
            rows = [totals[first : first + classes] for first in range(0, len(totals), classes)]
            self._record.describe(confusion={"round": number, "counts": rows})

    def _mean(
        self, previous: Mapping[str, Tensor], models: dict[str, dict[str, Tensor]] | dict[str, StoredModel],
        samples: Mapping[str, int],
    ) -> dict[str, Tensor]:
        """Return the mean; of stored models those that are lost are removed, and their edges dropped."""
        weights = self._said_weights({name: samples[name] for name in models})
        here = {name: model for name, model in models.items() if not isinstance(model, StoredModel)}
        stored = {name: model for name, model in models.items() if isinstance(model, StoredModel)}
        if not stored:
            settings = self._settings
            ranks = [rank for name in here if (rank := self._replicas[name].rank) is not None]
            if ranks and len(ranks) == len(here):
                return average_by_rank(list(here.values()), weights, ranks, previous)
            return aggregate(settings.aggregate, list(here.values()), weights, previous, settings.tolerate,
                             settings.clip_updates)
        assert self._edge_manager.workers is not None
        try:
            return self._edge_manager.workers.mean(stored, weights)
        except ModelsLostError as error:
            for name in error.edges:
                del models[name]
                if name in self._replicas:
                    self._edge_manager.drop(self._replicas[name].session, str(error))
            return self._mean(previous, models, samples)

    @property
    def _is_plain_mean(self) -> bool:
        """Whether a global model is the mean of all models, which no rule has to see one by one."""
        settings = self._settings
        return settings.aggregate == "mean" and settings.clip_updates is None and self._privacy is None

    def _server_step(
        self, last: Checkpoint, mean: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], ServerState]:
        names = parameter_names(next(iter(self._replicas.values())).model.stage.layers)
        return server_step(self._server_optimizer, last.model, mean, names, last.server)

    def _said_weights(self, samples: Mapping[str, int]) -> list[float]:
        """Return the weights of edges with these samples; say once which edge's is limited."""
        weights = self._weights(list(samples.values()))
        for (name, count), weight in zip(samples.items(), weights, strict=True):
            if self._settings.aggregate == "mean" and weight < count and name not in self._limited:
                self._limited.add(name)
                self._record.event("said", sentence=f"{name} joined with {count} samples, more than the other edges "
                                   f"have together; it is weighted as if it had {weight:.0f}.")
        return weights

    def _weights(self, samples: Sequence[int]) -> list[float]:
        return list(map(float, samples)) if self._settings.trust_samples else limited_weights(samples)

    def _metric(self, counts: Sequence[messages.Evaluated]) -> float | None:
        """Return the metric on all held-out samples, weighted as models are; None if no edge holds any out."""
        counts = [count for count in counts if count.total]
        if not counts:
            return None
        weights = self._weights([count.total for count in counts])
        # In this order the quotients are exact, so that an accuracy of 1 is 1.
        rows = [[weight * value / count.total for value in count.sums]
                for weight, count in zip(weights, counts, strict=True)]
        return metric_value(self._recipe.objective, [sum(column) for column in zip(*rows, strict=True)], sum(weights))

    def _collect_counts(self, sessions: Sequence[EdgeSession]) -> list[messages.Evaluated]:
        counts = []
        for session, count, _ in self._edge_manager.collect(messages.Evaluated, self._settings.step_timeout_s,
                                                            among=sessions):
            try:
                edge_checks.check_evaluated(count, session.held_out, self._recipe.objective, self._recipe.classes)
            except ProtocolError as error:
                self._edge_manager.exclude(session, str(error))
            else:
                counts.append(count)
        return counts

    def _request_models(self, rates: Rates) -> None:
        for session in self._edge_manager.sessions:
            pace = None
            if session.name in rates:
                up_bps, down_bps = rates[session.name]
                pace = pace_bytes_per_s(up_bps, session.mss_bytes)
                session.connection.pace(pace_bytes_per_s(down_bps, session.mss_bytes))
            self._edge_manager.send(session, messages.CollectModel(pace_bytes_per_s=pace))


def _nothing() -> None:
    """Do nothing."""


def parts_of(model: Mapping[str, Tensor], layers: int) -> list[tuple[int, int, dict[str, Tensor]]]:
    """Divide a model of so many layers into at most PARTS parts [first, last) of about equal bytes, with their values.

    No part but the last has less than MIN_PART_BYTES.
    """
    values: list[dict[str, Tensor]] = [{} for _ in range(layers)]
    for name, value in model.items():
        values[int(name.split(".", 1)[0])][name] = value
    sizes = [sum(value.nbytes for value in each.values()) for each in values]
    part_bytes = max(MIN_PART_BYTES, -(-sum(sizes) // PARTS))
    parts, first, size = [], 0, 0
    for number in range(layers):
        size += sizes[number]
        if size >= part_bytes or number == layers - 1:
            parts.append((first, number + 1, {name: value for each in values[first : number + 1]
                                              for name, value in each.items()}))
            first, size = number + 1, 0
    return parts
