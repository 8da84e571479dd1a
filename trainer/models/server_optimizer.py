"""The server optimizer: the mean of the edges' models is not adopted but taken as a gradient of the global model.

    g = x - mean        x the global model before, mean: what the aggregation rule makes of the edges' models
    x <- x - step(g)    step: that of SGD with momentum 0.9 (FedAvgM), or of Adam (FedAdam)

FedAvg adopts the mean. Only parameters are stepped; buffers, such as running statistics, are those of the mean. Both
optimizers are PyTorch's; its Adam corrects the bias of its moments, which algorithm 2 of the paper leaves out.
Sources: Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2 (FedAdam; beta1 0.9, beta2 0.99, tau 1e-3);
Hsu et al. 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
section 4.3 (FedAvgM).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.config.settings import SERVER_LEARNING_RATES, ServerOptimizerName
from trainer.models.without_compiler import optimizer_step

MOMENTUM, BETAS, TAU = 0.9, (0.9, 0.99), 1e-3

ServerState = Mapping[str, Mapping[str, Tensor]]
"""Tensors of the server optimizer by the name of the parameter."""


@dataclass(frozen=True, slots=True)
class ServerOptimizerConfig:
    """Server optimizer of a run; `learning_rate` None: the default of its kind."""

    name: ServerOptimizerName = "fedavg"
    learning_rate: float | None = None

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Create PyTorch's optimizer of FedAvgM or FedAdam."""
        rate = SERVER_LEARNING_RATES[self.name] if self.learning_rate is None else self.learning_rate
        if self.name == "fedadam":
            return torch.optim.Adam(parameters, lr=rate, betas=BETAS, eps=TAU)
        return torch.optim.SGD(parameters, lr=rate, momentum=MOMENTUM)


def parameter_names(layers: Iterable[nn.Module]) -> list[str]:
    """Return the names of all parameters that train, as `<layer>.<name>`."""
    return [f"{number}.{name}" for number, layer in enumerate(layers) for name, parameter in layer.named_parameters()
            if parameter.requires_grad]


def server_step(
    config: ServerOptimizerConfig, previous: Mapping[str, Tensor], mean: Mapping[str, Tensor],
    parameters: Iterable[str], state: ServerState,
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Return the global model after a step, and the optimizer's new state; modifies nothing.

    `parameters`: the names that are stepped. `state`: of the last step; empty before the first.
    """
    if config.name == "fedavg":
        return dict(mean), {}
    names = list(parameters)
    stepped = [nn.Parameter(previous[name].clone()) for name in names]
    optimizer = config.build(stepped)
    groups = optimizer.state_dict()["param_groups"]
    known = {index: {key: value.clone() for key, value in state[name].items()}
             for index, name in enumerate(names) if name in state}
    optimizer.load_state_dict({"state": known, "param_groups": groups})
    for name, parameter in zip(names, stepped, strict=True):
        parameter.grad = previous[name] - mean[name]
    optimizer_step(optimizer)
    model = {**mean, **{name: parameter.detach() for name, parameter in zip(names, stepped, strict=True)}}
    after = optimizer.state_dict()["state"]
    return model, {name: {key: value for key, value in after[index].items() if isinstance(value, Tensor)}
                   for index, name in enumerate(names) if index in after}
