"""Forecasts of the next step at every cut, from predictors updated with each round's measurements."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from trainer.config.fine_tuning import AUTO_RANKS
from trainer.models.boundary import Boundary
from trainer.models.stage import split_evenly
from trainer.planning.codec_selection import CodecSelector
from trainer.planning.plan import EdgeForecast, Option
from trainer.profiling.predictor import CloudPredictor, LayerSeconds, Predictor, TailPredictor
from trainer.profiling.slowdown import StepTimes
from trainer.protocol import framing, segments
from trainer.protocol.codec import Codec
from trainer.transport.pacing import transfer_bits, wire_bits


@dataclass(frozen=True, slots=True)
class AdapterCosts:
    """For every layer: the part of its work that adapters of the greatest rank take, and the bytes of each row."""

    shares: tuple[float, ...]
    row_bytes: tuple[int, ...]


FRAME_BYTES = framing.PREFIX.size + 340
"""Prefix, header and tensor padding of the frame of a segment or gradient."""


class StepForecaster:
    """Forecasts the step options of every edge; holds a predictor per edge, one for the cloud, and the codec selector.

    `tail` is the first layer of the edges' tail if labels are protected. `target_bytes`: of a sample's target in a
    segment. `adapters`: if every edge gets a rank of its own.
    """

    def __init__(
        self,
        edges: Mapping[str, LayerSeconds],
        cloud: LayerSeconds,
        boundaries: Sequence[Boundary],
        batches: Mapping[str, int],
        micro: int,
        layer_state_bytes: Sequence[int],
        codec_selector: CodecSelector,
        tail: int | None = None,
        target_bytes: int = 1,
        adapters: AdapterCosts | None = None,
    ) -> None:
        self._target_bytes = target_bytes
        self._adapters = adapters
        self._ranks: dict[str, int] = {}
        self._edges: dict[str, Predictor] = {}
        self._tails: dict[str, TailPredictor] = {}
        self.tail = tail
        self._cloud = CloudPredictor(cloud if tail is None else cloud.restricted_to(0, tail))
        self._tail_in_cloud_s = 0.0 if tail is None else sum(cloud.work_s[tail:])
        self.codec_selector = codec_selector
        self._boundaries = boundaries
        self.micro = micro
        self._batches: dict[str, int] = {}
        self._micro_batch_samples: dict[str, list[int]] = {}
        for name, layers in edges.items():
            self.add_edge(name, layers, batches[name])
        self._state_bytes = list(accumulate(layer_state_bytes, initial=0))

    def add_edge(self, edge: str, layers: LayerSeconds, batch: int) -> None:
        """Add an edge; its predicted layer times are used unless a predictor of it exists already."""
        self._edges.setdefault(edge, Predictor(layers))
        if self.tail is not None:
            self._tails.setdefault(edge, TailPredictor(layers.restricted_to(self.tail, len(layers.forward_s))))
        self._batches[edge] = batch
        self._micro_batch_samples[edge] = [part.stop - part.start for part in split_evenly(batch, self.micro)]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all predictors and of the codec selector as JSON values for `load_state_dict`."""
        edges = {name: predictor.to_json() for name, predictor in self._edges.items()}
        tails = {name: predictor.to_json() for name, predictor in self._tails.items()}
        return {
            "cloud": self._cloud.to_json(),
            "edges": edges,
            "tails": tails,
            "guard": self.codec_selector.state_dict(),
            "ranks": self._ranks,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, for the cloud and every edge in it."""
        self._cloud = CloudPredictor.from_json(state["cloud"])
        self.codec_selector.load_state_dict(state["guard"])
        self._edges |= {name: Predictor.from_json(edge) for name, edge in state["edges"].items()}
        self._tails |= {name: TailPredictor.from_json(tail) for name, tail in state.get("tails", {}).items()}
        self._ranks |= state.get("ranks", {})

    def fix_rank(self, edge: str, rank: int | None) -> None:
        """Keep the rank of an edge's adapters that the first plan has chosen; what it takes is measured from now on."""
        if rank is not None:
            self._ranks.setdefault(edge, rank)

    def rank_of(self, edge: str) -> int | None:
        """Return the rank of an edge's adapters; None if it has none of its own."""
        return self._ranks.get(edge)

    def forecasts(
        self, mss_bytes: Mapping[str, int], cuts: Mapping[str, Collection[int]], unprotected: bool = False
    ) -> list[EdgeForecast]:
        """Return the forecast of every edge in `cuts`: each of these cuts with each allowed codec.

        `unprotected` forecasts the same cuts as if labels were not protected.
        """
        forecast = self._unprotected if unprotected and self.tail is not None else self._forecast
        return [forecast(name, mss_bytes[name], sorted(edge_cuts)) for name, edge_cuts in cuts.items()]

    def segment_bytes(self, edge: str, cut: int, codec: Codec) -> int:
        """Return the encoded bytes of one mini-batch of segments at that cut, without frames."""
        boundary = self._boundaries[cut]
        return sum(segments.segment_bytes(boundary, samples, codec) for samples in self._micro_batch_samples[edge])

    def up_bits(self, edge: str, mss_bytes: int, cut: int, codec: Codec, samples: int) -> float:
        """Return the bits to reserve for the segment of that many samples of a micro-batch, with their targets."""
        if not samples:
            return 0.0
        size = segments.segment_bytes(self._boundaries[cut], samples, codec) + FRAME_BYTES
        micro_batches = len(self._micro_batch_samples[edge])
        targets = self._target_bytes * samples if self.tail is None else 0
        return transfer_bits(micro_batches * (size + targets), mss_bytes) / micro_batches

    def gradient_bytes(self, edge: str, cut: int, codec: Codec) -> int:
        """Return the encoded bytes of the gradients of one mini-batch of segments at that cut, without frames."""
        boundary = self._boundaries[cut]
        return sum(segments.gradient_bytes(boundary, samples, codec) for samples in self._micro_batch_samples[edge])

    def update_edge(self, edge: str, cut: int, steps: Sequence[StepTimes], tail_s: Sequence[float]) -> None:
        """Update an edge's predictor with the steps of a round."""
        self._edges[edge].update(cut, len(self._micro_batch_samples[edge]), steps)
        if self.tail is not None:
            self._tails[edge].update(len(self._micro_batch_samples[edge]), tail_s)

    def update_cloud(self, cuts: Mapping[str, int], work_s: Sequence[float]) -> None:
        """Update the cloud's predictor with its work per step of a round, summed over all edges."""
        self._cloud.update([(cut, len(self._micro_batch_samples[edge])) for edge, cut in cuts.items()], work_s)

    def sizes(self, edge: str, cut: int, codec: Codec) -> dict[str, int]:
        """Return the bytes of a mini-batch by their names in the run record.

        `segment_bytes`: the segments; `tail_down_bytes`: the inputs of the edge's tail; `tail_up_bytes`: the gradients
        of these.
        """
        sizes = {"segment_bytes": self.segment_bytes(edge, cut, codec)}
        if self.tail is not None:
            sizes["tail_down_bytes"] = self._tail_bytes(edge, codec)
            sizes["tail_up_bytes"] = self._tail_gradient_bytes(edge, self.codec_selector.gradient_codec_for(codec))
        return sizes

    def _tail_bytes(self, edge: str, codec: Codec) -> int:
        return 0 if self.tail is None else self.segment_bytes(edge, self.tail, codec)

    def _tail_gradient_bytes(self, edge: str, codec: Codec) -> int:
        return 0 if self.tail is None else self.gradient_bytes(edge, self.tail, codec)

    def _forecast(self, edge: str, mss_bytes: int, cuts: Sequence[int]) -> EdgeForecast:
        predictor = self._edges[edge]
        forward_s, backward_s, cloud_s = predictor.forward_s(), predictor.backward_s(), self._cloud.work_s()
        label_bytes = self._target_bytes * self._batches[edge] if self.tail is None else 0

        def option(cut: int, codec: Codec, gradient_codec: Codec) -> Option:
            up, down = (
                (self.segment_bytes(edge, cut, codec) + label_bytes),
                self.gradient_bytes(edge, cut, gradient_codec),
            )
            tail_up, tail_down = self._tail_gradient_bytes(edge, gradient_codec), self._tail_bytes(edge, codec)
            up_bits, tail_up_bits = self._bits(edge, mss_bytes, up, tail_up)
            down_bits, tail_down_bits = self._bits(edge, mss_bytes, down, tail_down)
            return Option(cut, codec, forward_s[cut], backward_s[cut], cloud_s[cut], up_bits, down_bits, tail_up_bits,
                          tail_down_bits)

        options = tuple(ranked for cut in cuts for codecs in self.codec_selector.allowed_codecs().items()
                        for ranked in self._by_rank(edge, option(cut, *codecs), (forward_s, backward_s, cloud_s)))
        state_bits = tuple(wire_bits(size, mss_bytes) for size in self._state_bytes)
        tail_s = 0.0 if self.tail is None else self._tails[edge].work_s()
        adapter_bits = () if self._adapters is None else tuple(
            wire_bits(size, mss_bytes) for size in accumulate(self._adapters.row_bytes, initial=0))
        return EdgeForecast(edge, options, state_bits, predictor.noise_share, tail_s, adapter_bits=adapter_bits)

    def _by_rank(self, edge: str, option: Option, times: Sequence[Sequence[float]]) -> list[Option]:
        """Return an option with each rank that the edge's adapters may have.

        `times`: forward and backward of the layers [0, cut), and the cloud's work, for every cut.
        """
        if self._adapters is None:
            return [option]
        if edge in self._ranks:
            return [replace(option, rank=self._ranks[edge])]
        adapters = [0.0, 0.0, 0.0]
        for number, share in enumerate(self._adapters.shares):
            for kind in (0, 1) if number < option.cut else (2,):
                adapters[kind] += share * abs(times[kind][number + 1] - times[kind][number])
        return [replace(option, rank=rank, forward_s=option.forward_s - unused * adapters[0],
                        backward_s=option.backward_s - unused * adapters[1],
                        cloud_s=option.cloud_s - unused * adapters[2])
                for rank in AUTO_RANKS for unused in (1 - rank / AUTO_RANKS[-1],)]

    def _bits(self, edge: str, mss_bytes: int, segment: int, tail: int) -> tuple[float, float]:
        """Return the bits to reserve per micro-batch in one direction, and the part of them that serves the tail.

        0 if nothing is sent: an edge whose part is frozen receives no gradients.
        """
        micro_batches = len(self._micro_batch_samples[edge])
        frames = micro_batches * FRAME_BYTES
        if not segment:
            tail_bits = transfer_bits(tail + frames, mss_bytes) / micro_batches if tail else 0.0
            return tail_bits, tail_bits
        segment_bits = transfer_bits(segment + frames, mss_bytes) / micro_batches
        if not tail:
            return segment_bits, 0.0
        total_bits = transfer_bits(segment + tail + 2 * frames, mss_bytes) / micro_batches
        return total_bits, total_bits - segment_bits

    def _unprotected(self, edge: str, mss_bytes: int, cuts: Sequence[int]) -> EdgeForecast:
        """Return the forecast with labels sent to the cloud, no tail traffic, and the tail's work in the cloud."""
        protected = self._forecast(edge, mss_bytes, cuts)
        label_bytes = self._target_bytes * self._batches[edge]
        label_bits = wire_bits(label_bytes, mss_bytes) / len(self._micro_batch_samples[edge])
        options = tuple(
            replace(
                option, cloud_s=option.cloud_s + self._tail_in_cloud_s, tail_up_bits=0.0, tail_down_bits=0.0,
                up_bits=option.up_bits - option.tail_up_bits + label_bits,
                down_bits=option.down_bits - option.tail_down_bits,
            )
            for option in protected.options
        )
        return replace(protected, options=options, tail_s=0.0)
