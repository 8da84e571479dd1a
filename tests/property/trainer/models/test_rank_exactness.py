"""Adapters of different ranks: split training equals unsplit training of small adapters, averaged by the same rule."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.property.trainer.models.test_exactness import (
    EDGES,
    Pair,
    ReferenceServer,
    Run,
    assert_same,
    mean_of,
    runs,
    train_replica,
)
from trainer.config.fine_tuning import AUTO_RANKS, FineTuning, Lora
from trainer.models.lora import AdapterRows, adapters, tune
from trainer.models.lora_ranks import average_by_rank, narrowed, set_rank, widened
from trainer.models.server_optimizer import parameter_names, server_step

ROOM = AUTO_RANKS[-1]


def train_split_by_rank(run: Run, ranks: list[int]) -> dict[str, Tensor]:
    """What cloud and edges do; an edge's values pass through the form in which they are sent."""
    pairs = [Pair(run, edge) for edge in range(EDGES)]
    for pair, rank in zip(pairs, ranks, strict=True):
        set_rank(pair.edge.stage.layers, rank)
        set_rank(pair.cloud.stage.layers, rank)
    model = {name: value.clone() for name, value in pairs[0].values().items()}
    names, state = parameter_names(pairs[0].edge.stage.layers), dict[str, dict[str, Tensor]]()
    for number, row in enumerate(run.cuts, start=1):
        for edge, (pair, cut) in enumerate(zip(pairs, row, strict=True)):
            pair.move(cut)
            for step, inputs, labels in run.batches(edge, number):
                pair.step(number, step, inputs, labels, run.micro)
        if run.averages(number):
            sent = [widened(narrowed(pair.values(), rank), rank) for pair, rank in zip(pairs, ranks, strict=True)]
            mean = average_by_rank(sent, run.sizes, ranks, model)
            model, state = server_step(run.server, model, mean, names, state)
            for pair in pairs:
                pair.load(model)
    return model | pairs[0].edge.stage.unchanging_values()


def truncated(layers: list[nn.Module], rank: int) -> nn.Sequential:
    """Return a model whose adapters have that rank and no room for more."""
    model = nn.Sequential(*copy.deepcopy(layers))
    for module in adapters(model).values():
        module.lora_A = nn.Parameter(module.lora_A.detach()[:rank].clone())
        module.lora_B = nn.Parameter(module.lora_B.detach()[:, :rank].clone())
    return model


def rows_of(name: str, value: Tensor, first: int, last: int) -> Tensor:
    return value[first:last] if name.endswith("lora_A") else value[:, first:last]


def train_whole_by_rank(run: Run, ranks: list[int]) -> dict[str, Tensor]:
    """Unsplit models with small adapters; every row of the global adapters is the mean of the models that have it."""
    layers = run.layers()
    model = copy.deepcopy(nn.Sequential(*layers).state_dict())
    server, replicas = ReferenceServer(run.server), [truncated(layers, rank) for rank in ranks]
    optimizers = [run.optimizer.build(replica.parameters()) for replica in replicas]
    names = [name for name, _ in nn.Sequential(*layers).named_parameters()]

    def of_rank(name: str, value: Tensor, rank: int) -> Tensor:
        return rows_of(name, value, 0, rank) if ".lora_" in name else value

    for number in range(1, len(run.cuts) + 1):
        for edge, (replica, optimizer) in enumerate(zip(replicas, optimizers, strict=True)):
            anchor = {name: of_rank(name, value, ranks[edge]) for name, value in model.items()}
            train_replica(run, replica, optimizer, edge, number, anchor)
        if run.averages(number):
            mean = {}
            for name, before in model.items():
                values = [replica.state_dict()[name] for replica in replicas]
                if ".lora_" not in name:
                    mean[name] = mean_of(values, run.sizes)
                    continue
                mean[name] = before.clone()
                for row in range(max(ranks)):
                    have = [place for place, rank in enumerate(ranks) if rank > row]
                    rows_of(name, mean[name], row, row + 1).copy_(mean_of(
                        [rows_of(name, values[place], row, row + 1) for place in have],
                        [run.sizes[place] for place in have]))
            model = {**mean, **{name: server.step(name, model[name], mean[name]) for name in names}}
            for replica, rank in zip(replicas, ranks, strict=True):
                replica.load_state_dict({name: of_rank(name, value, rank) for name, value in model.items()})
            optimizers = [run.optimizer.build(replica.parameters()) for replica in replicas]
    return model


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs(), st.lists(st.sampled_from(AUTO_RANKS), min_size=EDGES, max_size=EDGES))
def test_split_training_of_adapters_of_different_ranks_equals_unsplit_training(run: Run, ranks: list[int]) -> None:
    run = replace(run, rank=ROOM, frozen=frozenset(), optimizer=replace(run.optimizer, reset=True))
    assert_same(train_split_by_rank(run, ranks), train_whole_by_rank(run, ranks))


def test_ranks_count_in_training_only() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    tune(model, FineTuning(lora=Lora(ROOM)), "model")
    (module,) = adapters(model).values()
    set_rank([model], 2)
    assert [factor.shape for factor in module.factors()] == [(2, 3), (4, 2)]
    first, second = module.factors(ROOM)
    assert (first.shape, second.shape) == ((ROOM, 3), (4, ROOM))
    assert not first[2:].any()
    assert not second[:, 2:].any()
    model.eval()
    assert [factor.shape for factor in module.factors()] == [(ROOM, 3), (4, ROOM)]


def test_rows_of_edges_with_different_ranks_go_as_one_batch() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    tune(model, FineTuning(lora=Lora(ROOM)), "model")
    (first,) = adapters(model).values()
    nn.init.normal_(first.lora_B)
    second = copy.deepcopy(first)
    nn.init.normal_(second.lora_A)
    set_rank([first], 2)
    set_rank([second], 8)
    values = torch.randn(6, 3, dtype=torch.float64)
    apart = torch.cat([first(values[:3]), second(values[3:])])
    first.__dict__["adapter_rows"] = AdapterRows([first, second], [3, 3])
    together = first(values)
    torch.testing.assert_close(together, apart)
    torch.autograd.backward(together.square().sum())
    assert second.lora_A.grad is not None
    assert second.lora_A.grad[:8].all()
    assert not second.lora_A.grad[8:].any()
