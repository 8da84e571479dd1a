"""An edge's part in secure sums of its layers, and what it keeps because the cloud never gets it: optimizer state."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from trainer.errors import ProtocolError
from trainer.models.split_model import ClientModel
from trainer.privacy import fixed_point
from trainer.privacy.gaussian import clip, standard_normal
from trainer.privacy.secure_sum import Participant, PublicKeys, threshold_of
from trainer.protocol import messages

ROUNDS_KEPT = 2
"""The last averaging, and the one before: a cloud that ended before it had written the last one resumes from there."""


class SecureUpdates:
    """The secure sums of one edge; `edges`: how many the run has."""

    def __init__(self, name: str, edges: int) -> None:
        self._name = name
        self._threshold = threshold_of(edges)
        self._previous: dict[str, Tensor] = {}
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._running: tuple[messages.SumRequest, Participant] | None = None

    def remember_values(self, model: ClientModel) -> None:
        """Remember the global model, which all edges and the cloud have now."""
        stage = model.stage
        self._previous = {name: value.clone() for name, value in stage.state_dict(0, len(stage.layers)).items()}

    def remember_state(self, number: int, model: ClientModel) -> None:
        """Keep the optimizer state of this edge's layers at the averaging after round `number`."""
        self._kept = {key: self._kept[key] for key in sorted(self._kept)[1 - ROUNDS_KEPT :]}
        self._kept[number] = {name: tensor.clone() for name, tensor in model.export_layers().items()
                              if ".state." in name}

    def state_after(self, number: int) -> dict[str, Tensor]:
        """Return the optimizer state kept at the last averaging until then in which this process took part, if any."""
        return self._kept[max(rounds)] if (rounds := [kept for kept in self._kept if kept <= number]) else {}

    def reply(
        self, message: messages.Message, model: ClientModel
    ) -> tuple[messages.Message, dict[str, Tensor]]:
        """Return the reply to the cloud's message of a secure sum, with its tensors.

        Raises: ProtocolError if the message is out of order or asks for more than a sum.
        """
        if isinstance(message, messages.SumRequest):
            participant = Participant(self._name, message.session, self._threshold)
            self._running = message, participant
            return _keys(participant.public_keys()), {}
        if self._running is None:
            raise ProtocolError("The cloud continues a secure sum that it has not begun.")
        request, participant = self._running
        match message:
            case messages.SumPeers():
                peers = {name: public_keys(keys) for name, keys in message.keys.items()}
                return messages.SumShares(shares=_hex(participant.share_keys(peers))), {}
            case messages.SumShares():
                shares = {name: bytes.fromhex(share) for name, share in message.shares.items()}
                return messages.MaskedUpdate(), {"masked": participant.mask(self._encoded(request, model), shares)}
            case messages.Unmask():
                revealed = participant.reveal(message.survivors)
                return messages.Unmasking(seeds=_hex(revealed.seeds), keys=_hex(revealed.keys)), {}
        raise ProtocolError(f"The cloud sent {type(message).__name__} in a secure sum.")

    def _encoded(self, request: messages.SumRequest, model: ClientModel) -> Tensor:
        """Return the encoded changes of this edge's layers, with differential privacy clipped and noisy."""
        norm, share = request.clip, request.share
        values = model.stage.state_dict(0, len(model.stage.layers))
        change = fixed_point.changes(values, self._previous, model.value_names(trained_only=norm is not None))
        if norm is not None:
            change = clip(change, norm) + standard_normal(len(change)) * (request.noise_std / share)
        return fixed_point.encode(change, share)


def public_keys(keys: messages.SumKeys) -> PublicKeys:
    """Return the keys of a message."""
    return PublicKeys(bytes.fromhex(keys.shares), bytes.fromhex(keys.masks), bytes.fromhex(keys.seed_hash))


def _keys(keys: PublicKeys) -> messages.SumKeys:
    return messages.SumKeys(shares=keys.shares.hex(), masks=keys.masks.hex(), seed_hash=keys.seed_hash.hex())


def _hex(values: Mapping[str, bytes]) -> dict[str, str]:
    return {name: value.hex() for name, value in values.items()}
