"""The cloud's part in a secure average: it sees its own layers of every edge, and of the edges' layers only sums."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.cloud.edge_manager import EdgeManager
from trainer.cloud.edge_replica import EdgeReplica
from trainer.cloud.private_averaging import PrivateNoise, private_mean
from trainer.errors import ConnectionLostError, ProtocolError, TrainingFailedError
from trainer.models.averaging import average
from trainer.privacy import fixed_point
from trainer.privacy.secure_sum import PublicKeys, Revealed, threshold_of, unmask
from trainer.protocol import messages
from trainer.reservation.averaging_rates import Rates
from trainer.transport.pacing import pace_bytes_per_s

Model = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class SecureAverage:
    """The mean model over `edges`, whose masked layers arrived, and the optimizer states of the cloud's layers."""

    model: Model
    edges: tuple[str, ...]
    states: Mapping[str, Model]


class SecureAveraging:
    """Averages without seeing an edge's layers; `edges`: how many the run has, of which `quorum` must be left.

    Edges that are lost on the way are left out; with fewer than the quorum the edge manager's `on_lost` ends the round.
    """

    def __init__(self, edge_manager: EdgeManager, edges: int, quorum: int, timeout_s: float) -> None:
        self._edge_manager = edge_manager
        self._quorum = quorum
        self._threshold = threshold_of(edges)
        self._timeout_s = timeout_s

    def average(
        self, number: int, replicas: Mapping[str, EdgeReplica], weights: Mapping[str, float], previous: Model,
        rates: Rates, noise: PrivateNoise | None = None,
    ) -> SecureAverage:
        """Average after round `number`; `previous`: the last global model, from which the edges went on.

        With `noise` the layers of edges and cloud are clipped to norm / sqrt(2) each, and both get the noise. The edges
        add that of their layers: it is enough even for an edge, which knows its own.

        Raises: TrainingFailedError if what the edges revealed is not consistent.
        """
        replicas = dict(replicas)  # of edges that are lost on the way, too
        names = value_names(next(iter(replicas.values())), trained_only=noise is not None)
        length = fixed_point.length_of(previous, names)
        session = secrets.token_hex(16)
        total_weight = sum(weights.values())
        shares = {name: weight / total_weight for name, weight in weights.items()}
        request = messages.SumRequest(
            round=number, session=session, share=1, clip=None if noise is None else noise.norm / 2**0.5,
            noise_std=0 if noise is None else noise.std(list(shares.values())) / (self._quorum - 1) ** 0.5)
        peers = self._collect_keys(request, shares, rates)
        encrypted = self._collect_shares(peers)
        masked, merged = self._collect_masked(encrypted, replicas, length)
        revealed = self._collect_unmasking(set(encrypted), set(masked))
        try:
            total = torch.stack(list(masked.values())).sum(dim=0)
            total = unmask(total, peers, encrypted.keys(), masked.keys(), revealed, session, self._threshold)
            change = fixed_point.decode(total, sum(shares[name] for name in masked))
        except ProtocolError as error:
            raise TrainingFailedError(f"The secure sum of round {number} failed: {error} With --secure-aggregation the "
                                      "cloud cannot tell which edge is at fault.") from error
        own = [values for values, _ in merged.values()]
        own_weights = [weights[name] for name in merged]
        if noise is None:
            mean = average(own, own_weights)
        else:
            stage = next(iter(replicas.values())).model.stage
            mean = {**previous, **private_mean(own, own_weights, previous, stage.trained_names(stage.first, stage.last),
                                               noise.norm / 2**0.5, noise.std(own_weights))}
        mean |= fixed_point.apply(change, previous, names)
        _check_variances(mean, number)
        return SecureAverage({name: mean[name] for name in previous}, tuple(masked),
                             {name: states for name, (_, states) in merged.items()})

    def _collect_keys(
        self, request: messages.SumRequest, shares: Mapping[str, float], rates: Rates
    ) -> dict[str, PublicKeys]:
        """Step 0: request the edges' keys, at the rates of the averaging."""
        for edge in self._edge_manager.sessions:
            pace = None
            if edge.name in rates:
                up_bps, down_bps = rates[edge.name]
                pace = pace_bytes_per_s(up_bps, edge.mss_bytes)
                edge.connection.pace(pace_bytes_per_s(down_bps, edge.mss_bytes))
            self._edge_manager.send(edge, request.model_copy(update={"share": shares[edge.name],
                                                                     "pace_bytes_per_s": pace}))
        return {edge.name: PublicKeys(*map(bytes.fromhex, (keys.shares, keys.masks, keys.seed_hash)))
                for edge, keys, _ in self._edge_manager.collect(messages.SumKeys, self._timeout_s)}

    def _collect_shares(self, peers: Mapping[str, PublicKeys]) -> dict[str, Mapping[str, str]]:
        """Step 1: hand out the keys, collect every edge's encrypted shares for the others."""
        keys = {name: messages.SumKeys(shares=key.shares.hex(), masks=key.masks.hex(), seed_hash=key.seed_hash.hex())
                for name, key in peers.items()}
        self._edge_manager.send_all(messages.SumPeers(keys=keys))
        encrypted: dict[str, Mapping[str, str]] = {}
        for edge, message, _ in self._edge_manager.collect(messages.SumShares, self._timeout_s):
            if message.shares.keys() == peers.keys() - {edge.name}:
                encrypted[edge.name] = message.shares
            else:
                self._edge_manager.exclude(edge, "it did not send shares for exactly the other edges of the sum.")
        return encrypted

    def _collect_masked(
        self, encrypted: Mapping[str, Mapping[str, str]], replicas: Mapping[str, EdgeReplica], length: int
    ) -> tuple[dict[str, Tensor], dict[str, tuple[Model, Model]]]:
        """Step 2: hand out the shares, collect the masked layers; also the cloud's own layers of the same edges."""
        for edge in self._edge_manager.sessions:
            self._edge_manager.send(edge, messages.SumShares(shares={
                sender: shares[edge.name] for sender, shares in encrypted.items() if sender != edge.name}))
        masked: dict[str, Tensor] = {}
        merged: dict[str, tuple[Model, Model]] = {}
        for edge, _, received in self._edge_manager.collect(messages.MaskedUpdate, self._timeout_s):
            vector = received.frame.tensors.get("masked")
            if vector is None or vector.dtype != torch.int64 or vector.shape != (length,):
                self._edge_manager.exclude(edge, f"its masked layers are not {length} whole numbers.")
                continue
            try:
                merged[edge.name] = replicas[edge.name].own_layers()
            except ConnectionLostError as error:
                self._edge_manager.drop(edge, str(error))
            else:
                masked[edge.name] = vector
        return masked, merged

    def _collect_unmasking(self, sharing: set[str], survivors: set[str]) -> dict[str, Revealed]:
        """Step 3: collect the shares of the masks that did not cancel."""
        self._edge_manager.send_all(messages.Unmask(survivors=sorted(survivors)))
        revealed: dict[str, Revealed] = {}
        for edge, message, _ in self._edge_manager.collect(messages.Unmasking, self._timeout_s):
            if message.seeds.keys() == survivors and message.keys.keys() == sharing - survivors:
                revealed[edge.name] = Revealed(_bytes(message.seeds), _bytes(message.keys))
            else:
                self._edge_manager.exclude(edge, "it did not reveal what the secure sum needs.")
        return revealed


def value_names(replica: EdgeReplica, trained_only: bool = False) -> list[str]:
    """Return the names of the values of the edge's layers, in the order of its own `ClientModel.value_names`."""
    stage = replica.model.stage
    return [name for part in ((0, stage.first), (stage.last, len(stage.layers)))
            for name in (stage.trained_names(*part) if trained_only else stage.state_dict(*part))]


def _check_variances(model: Mapping[str, Tensor], number: int) -> None:
    wrong = [name for name, value in model.items() if name.endswith("running_var") and bool((value < 0).any())]
    if wrong:
        raise TrainingFailedError(f"The secure sum of round {number} has negative variances in {wrong[0]}. With "
                                  "--secure-aggregation the cloud cannot tell which edge is at fault.")


def _bytes(values: Mapping[str, str]) -> dict[str, bytes]:
    return {name: bytes.fromhex(value) for name, value in values.items()}

