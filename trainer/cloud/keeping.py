"""Whether the cloud keeps the segments of a frozen part: what that saves over all further rounds, and in the next one.

A sample whose segment is kept costs the edge and the network nothing in later epochs. Where fewer samples will be
visited than are missing, no segment would be used twice, and they are sent anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trainer.cloud.edge_replica import EdgeReplica
from trainer.cloud.kept_segments import KeepingSpace, row_bytes
from trainer.data.sending import SentSamples
from trainer.models.boundary import Boundary
from trainer.models.split_model import MiddleModel
from trainer.planning.forecasts import StepForecaster
from trainer.planning.plan import EdgeForecast, EdgePlan, Option
from trainer.protocol.codec import Codec


@dataclass(frozen=True, slots=True)
class Keeping:
    """`constant`: the cuts 0..L whose segments depend on their samples alone; `steps` of each of `rounds`."""

    constant: Sequence[bool]
    boundaries: Sequence[Boundary]
    space: KeepingSpace
    forecaster: StepForecaster
    rounds: int
    steps: int

    def over_all_rounds(self, forecast: EdgeForecast, replica: EdgeReplica, number: int) -> EdgeForecast:
        """Return the forecast with the mean step of rounds `number` to the last, keeping where that saves something.

        Of a cut at which segments are kept already, only the codec of these is left.
        """
        room_bytes = replica.keeping_room_bytes(self.space)
        options = [self._over_all_rounds(option, replica, number, room_bytes) for option in forecast.options
                   if not self._is_other_codec(option, replica)]
        return replace(forecast, options=tuple(options) or forecast.options)

    def in_this_round(
        self, forecast: EdgeForecast, planned: EdgePlan, replica: EdgeReplica, number: int, mss_bytes: int
    ) -> EdgeForecast:
        """Return the forecast with the planned option alone, as it is in round `number`: the step with most to send."""
        option = next(option for option in forecast.options
                      if (option.cut, option.codec, option.rank) == (planned.cut, planned.codec, planned.rank))
        if not option.keep:
            return replace(forecast, options=(option,))
        sent = self._sent(replica, option.cut, option.codec).copy()
        steps = range((number - 1) * self.steps, number * self.steps)
        rows = max(len(rows) for step in steps for rows in sent.take(replica.micro_batches_of(step)))
        (whole,) = self.forecaster.forecasts({replica.name: mss_bytes}, {replica.name: [option.cut]})
        forward_s = next(other.forward_s for other in whole.options
                         if (other.codec, other.rank) == (option.codec, option.rank))
        share = rows / replica.samples_of(replica.micro_batches - 1)
        up_bits = self.forecaster.up_bits(replica.name, mss_bytes, option.cut, option.codec, rows)
        option = replace(option, forward_s=share * forward_s, up_bits=up_bits + option.tail_up_bits)
        return replace(forecast, options=(option,))

    def _over_all_rounds(self, option: Option, replica: EdgeReplica, number: int, room_bytes: int) -> Option:
        samples = replica.session.request.samples
        missing = samples - self._sent(replica, option.cut, option.codec).count
        visits = (self.rounds - number + 1) * self.steps * replica.batch
        # The order of mini-batches changes with more samples, and a tail takes its micro-batches in order.
        if replica.session.request.collects or isinstance(replica.model, MiddleModel):
            return option
        size = samples * row_bytes(self.boundaries[option.cut], option.codec)
        has_room = _has_kept(replica, option.cut, option.codec) or size <= room_bytes
        if not self.constant[option.cut] or missing >= visits or not has_room:
            return option
        share = missing / visits
        up_bits = share * (option.up_bits - option.tail_up_bits) + option.tail_up_bits
        return replace(option, forward_s=share * option.forward_s, up_bits=up_bits, keep=True)

    def _sent(self, replica: EdgeReplica, cut: int, codec: Codec) -> SentSamples:
        if replica.kept is not None and _has_kept(replica, cut, codec):
            return replica.kept.sent
        return SentSamples(replica.session.request.samples if self.constant[cut] else 0)

    def _is_other_codec(self, option: Option, replica: EdgeReplica) -> bool:
        kept = replica.kept
        return kept is not None and kept.sent.count > 0 and kept.cut == option.cut and kept.codec != option.codec


def _has_kept(replica: EdgeReplica, cut: int, codec: Codec) -> bool:
    return replica.kept is not None and (replica.kept.cut, replica.kept.codec) == (cut, codec)
