"""What the next step would take at every cut: predictors of all nodes, fed by each round's measurements."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from typing import Any

from trainer import protocol
from trainer.codec import Codec, encoded_bytes
from trainer.guard import CodecGuard
from trainer.pacing import transfer_bits, wire_bits
from trainer.parts import split_evenly
from trainer.planner import EdgeForecast, Option
from trainer.predictor import CloudPredictor, LayerSeconds, Predictor

FRAME_BYTES = protocol.PREFIX.size + 340
"""Prefix and header of a segment's or gradient's frame, with the padding of its tensors."""


class Outlook:
    """One predictor per edge and one for the cloud, and which codecs may be used."""

    def __init__(
        self,
        edges: Mapping[str, LayerSeconds],
        cloud: LayerSeconds,
        segment_shapes: Sequence[tuple[int, ...]],
        batches: Mapping[str, int],
        micro: int,
        layer_state_bytes: Sequence[int],
        guard: CodecGuard,
    ) -> None:
        self._edges: dict[str, Predictor] = {}
        self._cloud = CloudPredictor(cloud)
        self.guard = guard
        self._shapes = segment_shapes
        self._micro = micro
        self._batches: dict[str, int] = {}
        self._pieces: dict[str, list[int]] = {}
        for name, layers in edges.items():
            self.welcome(name, layers, batches[name])
        self._state_bytes = list(accumulate(layer_state_bytes, initial=0))

    def welcome(self, edge: str, layers: LayerSeconds, batch: int) -> None:
        """An edge comes, or comes back: what it rehearsed counts, unless more has been learnt of it."""
        self._edges.setdefault(edge, Predictor(layers))
        self._batches[edge] = batch
        self._pieces[edge] = [one.stop - one.start for one in split_evenly(batch, self._micro)]

    def history(self) -> dict[str, Any]:
        """All that was learnt, as JSON; `recall` takes it back."""
        edges = {name: one.history() for name, one in self._edges.items()}
        return {"cloud": self._cloud.history(), "edges": edges, "guard": self.guard.history()}

    def recall(self, history: Mapping[str, Any]) -> None:
        """Know what `history` told, of the cloud and of every edge in it."""
        self._cloud = CloudPredictor.recalled(history["cloud"])
        self.guard.recall(history["guard"])
        self._edges |= {name: Predictor.recalled(one) for name, one in history["edges"].items()}

    def forecasts(self, mss_bytes: Mapping[str, int], cuts: Mapping[str, Collection[int]]) -> list[EdgeForecast]:
        """For every edge named in `cuts`, what each of these cuts with each allowed codec would take."""
        codecs = self.guard.codecs()
        return [self._forecast(name, mss_bytes[name], sorted(allowed), codecs) for name, allowed in cuts.items()]

    def segment_bytes(self, edge: str, cut: int, codec: Codec) -> int:
        """The segment's own bytes at that cut: one mini-batch of values, encoded."""
        return sum(encoded_bytes((samples, *self._shapes[cut]), codec) for samples in self._pieces[edge])

    def learn_edge(self, edge: str, cut: int, forward_s: Sequence[float], backward_s: Sequence[float]) -> None:
        """What the steps of a round took on an edge."""
        self._edges[edge].learn(cut, len(self._pieces[edge]), forward_s, backward_s)

    def learn_cloud(self, cuts: Mapping[str, int], work_s: Sequence[float]) -> None:
        """What the steps of a round took in the cloud, for all edges together."""
        self._cloud.learn([(cut, len(self._pieces[edge])) for edge, cut in cuts.items()], work_s)

    def _forecast(
        self, edge: str, mss_bytes: int, cuts: Sequence[int], codecs: Mapping[Codec, Codec]
    ) -> EdgeForecast:
        predictor, micros = self._edges[edge], len(self._pieces[edge])
        forward_s, backward_s, cloud_s = predictor.forward_s(), predictor.backward_s(), self._cloud.work_s()
        frames, labels = micros * FRAME_BYTES, self._batches[edge]

        def bits(payload: int) -> float:
            return transfer_bits(payload + frames, mss_bytes) / micros

        options = tuple(
            Option(
                cut, codec, forward_s[cut], backward_s[cut], cloud_s[cut],
                up_bits=bits(self.segment_bytes(edge, cut, codec) + labels),
                down_bits=bits(self.segment_bytes(edge, cut, gradient_codec)),
            )
            for cut in cuts
            for codec, gradient_codec in codecs.items()
        )
        state_bits = tuple(wire_bits(size, mss_bytes) for size in self._state_bytes)
        return EdgeForecast(edge, options, state_bits, predictor.noise_share)
