"""A simulated training run: the trainer's own plans, round by round, for step times drawn at random.

Its model is one of the zoo; an edge takes the planned time with noise, and the next plan is made from these times.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache

from controller.domain.reservation import Flow, Match, Requirement
from trainer.models.boundary import Boundary
from trainer.models.building import build_layers
from trainer.planning.codec_selection import CodecSelector
from trainer.planning.forecasts import StepForecaster
from trainer.planning.plan import EdgePlan, Offer, RoundPlan
from trainer.planning.planner import plan_round
from trainer.profiling.layer_costs import LayerCost, layer_costs, segment_shapes
from trainer.profiling.predictor import ComputeProfile, prior_seconds
from trainer.profiling.slowdown import StepTimes
from trainer.transport.pacing import BURST_BYTES

MODELS = ("signal-cnn", "resnet", "transformer")
SAMPLE_SHAPE, CLASSES, BATCH, MICRO = (3, 64, 64), 10, 512, 8
CLOUD = ComputeProfile(flops_per_s=100e12, bytes_per_s=1.5e12)
EDGE_FLOPS_PER_S, EDGE_BYTES_PER_S = (1e12, 8e12), 0.1e12
"""Edges are accelerators of different speed; the cloud gives every run the same capacity."""

STEPS = 10
NOISE = 0.1


@cache
def costs_of(model: str) -> list[LayerCost]:
    """The layer costs of a model."""
    return layer_costs(build_layers(model, 1, SAMPLE_SHAPE, CLASSES), SAMPLE_SHAPE)


class SimulatedRun:
    """One training run: its edges, its model, its current plan."""

    def __init__(
        self,
        number: int,
        edges: list[str],
        homes: Mapping[str, str],
        line_bps: float,
        model: str,
        chance: random.Random,
    ) -> None:
        self.number, self.edges, self.line_bps, self.model = number, edges, line_bps, model
        self._homes, self._chance = homes, chance
        costs = costs_of(model)
        speeds = {edge: chance.uniform(*EDGE_FLOPS_PER_S) for edge in edges}
        seconds = {
            edge: prior_seconds(costs, ComputeProfile(speed, EDGE_BYTES_PER_S), BATCH // MICRO)
            for edge, speed in speeds.items()
        }
        boundaries = [Boundary.of_shape(*shape) for shape in segment_shapes(costs, SAMPLE_SHAPE)]
        cloud = prior_seconds(costs, CLOUD, BATCH // MICRO)
        batches = dict.fromkeys(edges, BATCH)
        state_bytes = [4 * cost.stored_values for cost in costs]
        self.forecaster = StepForecaster(seconds, cloud, boundaries, batches, MICRO, state_bytes, CodecSelector("fp32"))
        self._cuts = dict.fromkeys(edges, range(1, len(costs)))
        self.plan: RoundPlan | None = None

    def next_plan(self, share: float) -> RoundPlan:
        """Plan the next round, with that share of every edge's access link."""
        up = {edge: (f"{edge}->{self._homes[edge]}",) for edge in self.edges}
        down = {edge: (f"{self._homes[edge]}->{edge}",) for edge in self.edges}
        usable_bps = dict.fromkeys((link for way in (up, down) for (link,) in way.values()), share * self.line_bps)
        forecasts = self.forecaster.forecasts(dict.fromkeys(self.edges, 8948), self._cuts)
        current = None if self.plan is None else self.plan.cuts
        return plan_round(forecasts, Offer(up, down, usable_bps, 1e6), MICRO, current, STEPS)

    def flows(self, plan: RoundPlan) -> tuple[Flow, ...]:
        """The flows reserved for a plan, as in trainer/reservation/reserved_bandwidth.py."""
        flows = []
        for place, edge in enumerate(plan.edges):
            ports = 7801 + place, 7800 + self.number
            up, down = (Requirement(bps // 1000 * 1000, BURST_BYTES) for bps in (edge.up_bps, edge.down_bps))
            flows.append(Flow(f"{edge.edge}-up", edge.edge, "cloud", Match("tcp", *ports), up))
            flows.append(Flow(f"{edge.edge}-down", "cloud", edge.edge, Match("tcp", *reversed(ports)), down))
        return tuple(flows)

    def train(self, plan: RoundPlan) -> None:
        """Simulate a round and let the forecaster learn from its step times."""
        self.plan = plan
        for edge in plan.edges:
            self.forecaster.update_edge(edge.edge, edge.cut, [self._took(edge) for _ in range(STEPS)], ())

    def _took(self, planned: EdgePlan) -> StepTimes:
        """Step times of a mini-batch, from the planned time of a micro-batch with log-normal noise."""
        forward_s, backward_s = (
            MICRO * seconds * self._chance.lognormvariate(0, NOISE)
            for seconds in (planned.forward_s, planned.backward_s)
        )
        return StepTimes(forward_s, forward_s, backward_s, backward_s)
