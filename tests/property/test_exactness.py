"""Exactness is the law: split training with moving cuts equals unsplit federated averaging.

In double precision, so that nothing but a mistake can be larger than the tolerance.
"""

from __future__ import annotations

import copy

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.averaging import average
from trainer.datasets import batch_places
from trainer.parts import CloudHalf, EdgeHalf, OptimizerName, OptimizerRecipe, Part, split_evenly

STEPS = 2
AVERAGE_EVERY = 2
TOLERANCE = 1e-10


def small_model() -> list[nn.Module]:
    """Six layers of every kind: with and without parameters, with a buffer."""
    torch.manual_seed(3)
    return [
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.GroupNorm(2, 4), nn.ReLU()),
        nn.MaxPool2d(2),
        _Shift(4),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(1, 4), nn.Tanh()),
        nn.Flatten(),
        nn.Linear(4 * 2 * 2, 3),
    ]


class _Shift(nn.Module):
    """A parameter and a buffer that counts the samples seen: buffers move and are averaged, too."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("seen", torch.zeros(()))
        self.seen: Tensor

    def forward(self, values: Tensor) -> Tensor:
        """Shift every channel."""
        if self.training:
            self.seen += len(values)
        return values + self.shift


LAYERS = len(small_model())
EDGES = 2

cuts_of_rounds = st.lists(
    st.lists(st.integers(0, LAYERS), min_size=EDGES, max_size=EDGES), min_size=1, max_size=5
)
optimizers = st.sampled_from(["sgd", "momentum", "adam", "adamw"])


def edge_data(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(samples, 2, 4, 4, generator=generator, dtype=torch.float64)
    return images, torch.randint(0, 3, (samples,), generator=generator)


def train_split(
    cuts: list[list[int]], recipe: OptimizerRecipe, sizes: list[int], batch: int, micro: int
) -> dict[str, Tensor]:
    """What edge.py and cloud.py do, without sockets between them."""
    model = [layer.double() for layer in small_model()]
    edges = [EdgeHalf(Part(copy.deepcopy(model), 0, cuts[0][e], recipe)) for e in range(EDGES)]
    clouds = [CloudHalf(Part(copy.deepcopy(model), cuts[0][e], LAYERS, recipe)) for e in range(EDGES)]
    mean: dict[str, Tensor] = {}
    for number, row in enumerate(cuts, start=1):
        for edge, cloud, cut in zip(edges, clouds, row, strict=True):
            to_cloud = edge.move(cut, copy.deepcopy(cloud.leaving(cut)))
            cloud.move(cut, copy.deepcopy(to_cloud))
        for step in range((number - 1) * STEPS, number * STEPS):
            for e in range(EDGES):
                split_step(edges[e], clouds[e], edge_data(sizes[e], e), min(batch, sizes[e]), micro, e, step)
        if number % AVERAGE_EVERY == 0 or number == len(cuts):
            mean = average(
                [edge.part.values(0, edge.cut) | cloud.part.values(cloud.cut, LAYERS)
                 for edge, cloud in zip(edges, clouds, strict=True)],
                sizes,
            )
            for part in (*(edge.part for edge in edges), *(cloud.part for cloud in clouds)):
                part.load_values(mean)
    return mean


def split_step(
    edge: EdgeHalf, cloud: CloudHalf, data: tuple[Tensor, Tensor], batch: int, micro: int, seed: int, step: int
) -> None:
    images, labels = data
    places = batch_places(len(labels), batch, seed, step)
    micros = split_evenly(batch, micro)
    segments = [edge.forward(images[places[one]]) for one in micros]
    for number, one in enumerate(micros):
        gradient, _ = cloud.train(segments[number], labels[places[one]], batch)
        edge.backward(number, gradient)
    cloud.step()
    edge.step()


def train_whole(rounds: int, recipe: OptimizerRecipe, sizes: list[int], batch: int) -> dict[str, Tensor]:
    """Federated averaging of the same model, in whole mini-batches, with one optimiser per edge."""
    model = nn.Sequential(*small_model()).double()
    replicas = [copy.deepcopy(model) for _ in range(EDGES)]
    optimizers = [recipe.build(replica.parameters()) for replica in replicas]
    mean: dict[str, Tensor] = {}
    for number in range(1, rounds + 1):
        for step in range((number - 1) * STEPS, number * STEPS):
            for e, (replica, optimizer) in enumerate(zip(replicas, optimizers, strict=True)):
                images, labels = edge_data(sizes[e], e)
                places = batch_places(sizes[e], min(batch, sizes[e]), e, step)
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(replica(images[places]), labels[places])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        if number % AVERAGE_EVERY == 0 or number == rounds:
            weights = [size / sum(sizes) for size in sizes]
            states = [replica.state_dict() for replica in replicas]
            mean = {
                name: sum((w * state[name] for w, state in zip(weights, states, strict=True)), torch.tensor(0.0))
                for name in states[0]
            }
            for replica in replicas:
                replica.load_state_dict(mean)
    return mean


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cuts=cuts_of_rounds,
    optimizer=optimizers,
    sizes=st.lists(st.integers(3, 17), min_size=EDGES, max_size=EDGES),
    batch=st.integers(1, 9),
    micro=st.integers(1, 5),
)
def test_split_training_equals_unsplit_federated_averaging(
    cuts: list[list[int]], optimizer: OptimizerName, sizes: list[int], batch: int, micro: int
) -> None:
    recipe = OptimizerRecipe(optimizer, learning_rate=0.05, weight_decay=0.01)
    split = train_split(cuts, recipe, sizes, batch, micro)
    whole = train_whole(len(cuts), recipe, sizes, batch)
    assert split.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(split[name], value, rtol=TOLERANCE, atol=TOLERANCE, check_dtype=False)


def test_forgetting_the_optimizer_state_at_a_move_would_be_noticed() -> None:
    recipe = OptimizerRecipe("momentum", learning_rate=0.05)
    cuts = [[1, 1], [3, 3], [1, 1]]
    whole = train_whole(len(cuts), recipe, [8, 8], 4)

    def without_state(self: Part, first: int, last: int) -> dict[str, Tensor]:
        return {name: value for name, value in export(self, first, last).items() if ".state." not in name}

    export = Part.export_layers
    try:
        Part.export_layers = without_state  # type: ignore[method-assign]
        split = train_split(cuts, recipe, [8, 8], 4, 2)
    finally:
        Part.export_layers = export  # type: ignore[method-assign]
    assert any(not torch.allclose(split[name], value, rtol=TOLERANCE, atol=TOLERANCE)
               for name, value in whole.items())
