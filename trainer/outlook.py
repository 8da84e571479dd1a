"""What the next step would take at every cut: predictors of all nodes, fed by each round's measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from trainer import protocol
from trainer.codec import Codec, encoded_bytes
from trainer.pacing import transfer_bits, wire_bits
from trainer.parts import split_evenly
from trainer.planner import EdgeForecast
from trainer.predictor import LayerSeconds, Predictor

FRAME_BYTES = protocol.PREFIX.size + 340
"""Prefix and header of a segment's or gradient's frame, with the padding of its tensors."""


class Outlook:
    """One predictor per edge and one for the cloud."""

    def __init__(
        self,
        edges: Mapping[str, LayerSeconds],
        cloud: LayerSeconds,
        segment_shapes: Sequence[tuple[int, ...]],
        batches: Mapping[str, int],
        micro: int,
        codec: Codec,
        gradient_codec: Codec,
        layer_state_bytes: Sequence[int],
    ) -> None:
        self._edges = {name: Predictor(layers) for name, layers in edges.items()}
        self._cloud = Predictor(cloud)
        self._shapes = segment_shapes
        self._batches = batches
        self._pieces = {name: [one.stop - one.start for one in split_evenly(batch, micro)]
                        for name, batch in batches.items()}
        self._micros = {name: len(pieces) for name, pieces in self._pieces.items()}
        self._codec = codec
        self._gradient_codec = gradient_codec
        self._state_bytes = list(accumulate(layer_state_bytes, initial=0))

    def forecasts(self, mss_bytes: Mapping[str, int]) -> list[EdgeForecast]:
        """For every edge, what each cut would take."""
        return [self._forecast(name, mss_bytes[name]) for name in self._edges]

    def segment_bytes(self, edge: str, cut: int) -> int:
        """The segment's own bytes at that cut: one mini-batch of values, encoded."""
        return self._encoded_bytes(edge, cut, self._codec)

    def _encoded_bytes(self, edge: str, cut: int, codec: Codec) -> int:
        return sum(encoded_bytes((samples, *self._shapes[cut]), codec) for samples in self._pieces[edge])

    def learn_edge(self, edge: str, cut: int, forward_s: Sequence[float], backward_s: Sequence[float]) -> None:
        """What the steps of a round took on an edge."""
        predictor, micros = self._edges[edge], self._micros[edge]
        predictor.forward_scale.correct(predictor.edge_forward_s(micros)[cut], forward_s)
        predictor.backward_scale.correct(predictor.edge_backward_s(micros)[cut], backward_s)

    def learn_cloud(self, cuts: Mapping[str, int], work_s: Sequence[float]) -> None:
        """What the steps of a round took in the cloud, for all edges together."""
        predicted = sum(self._cloud.cloud_s(self._micros[edge])[cut] for edge, cut in cuts.items())
        self._cloud.forward_scale.correct(predicted, work_s)

    def _forecast(self, edge: str, mss_bytes: int) -> EdgeForecast:
        predictor, micros = self._edges[edge], self._micros[edge]
        frames = micros * FRAME_BYTES
        cuts = range(len(self._shapes))
        up = [self._encoded_bytes(edge, cut, self._codec) + frames for cut in cuts]
        down = [self._encoded_bytes(edge, cut, self._gradient_codec) + frames for cut in cuts]
        labels = self._batches[edge]
        return EdgeForecast(
            edge=edge,
            forward_s=tuple(predictor.edge_forward_s(micros)),
            backward_s=tuple(predictor.edge_backward_s(micros)),
            cloud_s=tuple(self._cloud.cloud_s(micros)),
            up_bits=tuple(transfer_bits(payload + labels, mss_bytes) for payload in up),
            down_bits=tuple(transfer_bits(payload, mss_bytes) for payload in down),
            state_bits=tuple(wire_bits(size, mss_bytes) for size in self._state_bytes),
        )
