"""What the next step would take at every cut: predictors of all nodes, fed by each round's measurements."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from trainer.models.stage import split_evenly
from trainer.planning.codec_selection import CodecSelector
from trainer.planning.plan import EdgeForecast, Option
from trainer.profiling.predictor import CloudPredictor, LayerSeconds, Predictor, TailPredictor
from trainer.profiling.slowdown import StepTimes
from trainer.protocol import framing
from trainer.protocol.codec import Codec, encoded_bytes
from trainer.transport.pacing import transfer_bits, wire_bits

FRAME_BYTES = framing.PREFIX.size + 340
"""Prefix and header of a segment's or gradient's frame, with the padding of its tensors."""


class StepForecaster:
    """One predictor per edge and one for the cloud, and which codecs may be used.

    `tail`: the first layer of the edges' tail, where labels are protected.
    """

    def __init__(
        self,
        edges: Mapping[str, LayerSeconds],
        cloud: LayerSeconds,
        segment_shapes: Sequence[tuple[int, ...]],
        batches: Mapping[str, int],
        micro: int,
        layer_state_bytes: Sequence[int],
        guard: CodecSelector,
        tail: int | None = None,
    ) -> None:
        self._edges: dict[str, Predictor] = {}
        self._tails: dict[str, TailPredictor] = {}
        self.tail = tail
        self._cloud = CloudPredictor(cloud if tail is None else cloud.within(0, tail))
        self._tail_in_cloud_s = 0.0 if tail is None else sum(cloud.work_s[tail:])
        self.guard = guard
        self._shapes = segment_shapes
        self.micro = micro
        self._batches: dict[str, int] = {}
        self._pieces: dict[str, list[int]] = {}
        for name, layers in edges.items():
            self.welcome(name, layers, batches[name])
        self._state_bytes = list(accumulate(layer_state_bytes, initial=0))

    def welcome(self, edge: str, layers: LayerSeconds, batch: int) -> None:
        """An edge comes, or comes back: what it rehearsed counts, unless more has been learnt of it."""
        self._edges.setdefault(edge, Predictor(layers))
        if self.tail is not None:
            self._tails.setdefault(edge, TailPredictor(layers.within(self.tail, len(layers.forward_s))))
        self._batches[edge] = batch
        self._pieces[edge] = [one.stop - one.start for one in split_evenly(batch, self.micro)]

    def history(self) -> dict[str, Any]:
        """All that was learnt, as JSON; `recall` takes it back."""
        edges = {name: one.history() for name, one in self._edges.items()}
        tails = {name: one.history() for name, one in self._tails.items()}
        return {"cloud": self._cloud.history(), "edges": edges, "tails": tails, "guard": self.guard.history()}

    def recall(self, history: Mapping[str, Any]) -> None:
        """Know what `history` told, of the cloud and of every edge in it."""
        self._cloud = CloudPredictor.recalled(history["cloud"])
        self.guard.recall(history["guard"])
        self._edges |= {name: Predictor.recalled(one) for name, one in history["edges"].items()}
        self._tails |= {name: TailPredictor.recalled(one) for name, one in history.get("tails", {}).items()}

    def forecasts(
        self, mss_bytes: Mapping[str, int], cuts: Mapping[str, Collection[int]], unprotected: bool = False
    ) -> list[EdgeForecast]:
        """For every edge named in `cuts`, what each of these cuts with each allowed codec would take.

        `unprotected`: what it would take if labels were not protected.
        """
        forecast = self._unprotected if unprotected and self.tail is not None else self._forecast
        return [forecast(name, mss_bytes[name], sorted(allowed)) for name, allowed in cuts.items()]

    def segment_bytes(self, edge: str, cut: int, codec: Codec) -> int:
        """The segment's own bytes at that cut: one mini-batch of values, encoded."""
        return sum(encoded_bytes((samples, *self._shapes[cut]), codec) for samples in self._pieces[edge])

    def learn_edge(self, edge: str, cut: int, steps: Sequence[StepTimes], tail_s: Sequence[float]) -> None:
        """What the steps of a round took on an edge."""
        self._edges[edge].learn(cut, len(self._pieces[edge]), steps)
        if self.tail is not None:
            self._tails[edge].learn(len(self._pieces[edge]), tail_s)

    def learn_cloud(self, cuts: Mapping[str, int], work_s: Sequence[float]) -> None:
        """What the steps of a round took in the cloud, for all edges together."""
        self._cloud.learn([(cut, len(self._pieces[edge])) for edge, cut in cuts.items()], work_s)

    def sizes(self, edge: str, cut: int, codec: Codec) -> dict[str, int]:
        """By name in the record: the bytes of a mini-batch's segment, and of what goes through an edge's tail.

        `tail_down_bytes` go into the tail, `tail_up_bytes` are their gradient.
        """
        sizes = {"segment_bytes": self.segment_bytes(edge, cut, codec)}
        if self.tail is not None:
            sizes["tail_down_bytes"] = self._tail_bytes(edge, codec)
            sizes["tail_up_bytes"] = self._tail_bytes(edge, self.guard.gradient_of(codec))
        return sizes

    def _tail_bytes(self, edge: str, codec: Codec) -> int:
        return 0 if self.tail is None else self.segment_bytes(edge, self.tail, codec)

    def _forecast(self, edge: str, mss_bytes: int, cuts: Sequence[int]) -> EdgeForecast:
        predictor = self._edges[edge]
        forward_s, backward_s, cloud_s = predictor.forward_s(), predictor.backward_s(), self._cloud.work_s()
        labels = self._batches[edge] if self.tail is None else 0

        def option(cut: int, codec: Codec, back: Codec) -> Option:
            up, down = (self.segment_bytes(edge, cut, codec) + labels), self.segment_bytes(edge, cut, back)
            tail_up, tail_down = self._tail_bytes(edge, back), self._tail_bytes(edge, codec)
            up_bits, tail_up_bits = self._bits(edge, mss_bytes, up, tail_up)
            down_bits, tail_down_bits = self._bits(edge, mss_bytes, down, tail_down)
            return Option(cut, codec, forward_s[cut], backward_s[cut], cloud_s[cut], up_bits, down_bits, tail_up_bits,
                          tail_down_bits)

        options = tuple(option(cut, codec, back) for cut in cuts for codec, back in self.guard.codecs().items())
        state_bits = tuple(wire_bits(size, mss_bytes) for size in self._state_bytes)
        tail_s = 0.0 if self.tail is None else self._tails[edge].work_s()
        return EdgeForecast(edge, options, state_bits, predictor.noise_share, tail_s)

    def _bits(self, edge: str, mss_bytes: int, segment: int, tail: int) -> tuple[float, float]:
        """Reserved bits of one flow for a micro-batch, and how many of them are those of the tail."""
        micros = len(self._pieces[edge])
        frames = micros * FRAME_BYTES
        alone = transfer_bits(segment + frames, mss_bytes) / micros
        if not tail:
            return alone, 0.0
        both = transfer_bits(segment + tail + 2 * frames, mss_bytes) / micros
        return both, both - alone

    def _unprotected(self, edge: str, mss_bytes: int, cuts: Sequence[int]) -> EdgeForecast:
        """Labels travel, nothing of a tail does, and the cloud does its work."""
        mine = self._forecast(edge, mss_bytes, cuts)
        labels_bits = wire_bits(self._batches[edge], mss_bytes) / len(self._pieces[edge])
        options = tuple(
            replace(one, cloud_s=one.cloud_s + self._tail_in_cloud_s, tail_up_bits=0.0, tail_down_bits=0.0,
                    up_bits=one.up_bits - one.tail_up_bits + labels_bits, down_bits=one.down_bits - one.tail_down_bits)
            for one in mine.options
        )
        return replace(mine, options=options, tail_s=0.0)
