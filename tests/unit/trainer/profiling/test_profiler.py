"""Profiling of layers; memory retained by the process."""

from __future__ import annotations

import subprocess
import sys
from typing import ClassVar

import torch
from torch import nn

from trainer.models.optimizer import OptimizerConfig
from trainer.profiling.profiler import FirstRuns, profile_layers

FAULTS = """
import resource
import torch
from trainer.processes.malloc import retain_freed_memory

def faults():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

torch.set_num_threads(1)
before = faults()
print(retain_freed_memory(), before, (faults(), faults())[1])
"""


def test_a_process_that_retains_freed_memory_faults_no_page_twice() -> None:
    ran = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    applied, before, after = ran.stdout.split()
    assert applied == "True"
    assert int(before) > 200  # 8 MB, twenty times
    assert int(after) < int(before) / 10


def test_profiling_does_not_change_the_layers_and_distinguishes_them() -> None:
    torch.manual_seed(1)
    layers = [nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512)]
    weights = [value.clone() for layer in layers for value in layer.parameters()]
    seconds = profile_layers(layers, torch.rand(32, 8, 8), OptimizerConfig("adamw"), micros=4, seconds=0.05)
    after = [value for layer in layers for value in layer.parameters()]
    assert all(torch.equal(*pair) for pair in zip(weights, after, strict=True))
    assert all(value.grad is None for layer in layers for value in layer.parameters())
    assert len(seconds.forward_s) == len(seconds.backward_s) == 4
    assert seconds.backward_s[0] < 0.1 * seconds.backward_s[3]  # the input of the model has no gradient
    assert min(seconds.forward_s) > 0
    assert seconds.slowdown >= 1


class Counted(nn.Linear):
    runs: ClassVar[list[int]] = []

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        self.runs.append(self.out_features)
        return super().forward(values)


def test_every_layer_has_one_first_run_on_a_copy_however_often_it_is_interrupted() -> None:
    Counted.runs.clear()
    layers = [Counted(4, 5), Counted(5, 6), Counted(6, 7)]
    weights = [value.clone() for layer in layers for value in layer.parameters()]
    first_runs = FirstRuns(layers, torch.rand(2, 4), OptimizerConfig("adamw", learning_rate=1.0))
    first_runs.run(3, lambda: len(Counted.runs) == 2)
    assert Counted.runs == [5, 6]
    first_runs.run(1)
    first_runs.run(3)
    first_runs.run(3)
    assert Counted.runs == [5, 6, 7]
    after = [value for layer in layers for value in layer.parameters()]
    assert all(torch.equal(*pair) for pair in zip(weights, after, strict=True))
    assert all(value.grad is None for value in after)


STEP = """
import sys
import torch
from trainer.models.optimizer import OptimizerConfig
from trainer.models.stage import Stage
from trainer.models.without_compiler import optimizer_step
from trainer.profiling.layer_costs import layer_costs
from trainer.profiling.profiler import profile_layers

def stepped(name, step):
    torch.manual_seed(1)
    layer = torch.nn.Linear(4, 3)
    optimizer = OptimizerConfig(name, 0.1, 0.1).build(layer.parameters())
    for _ in range(3):
        layer(torch.ones(2, 4)).square().sum().backward()
        step(optimizer)
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.zero_grad()
    return layer.weight

names = ("sgd", "momentum", "adam", "adamw")
own = [stepped(name, optimizer_step) for name in names]
profile_layers([torch.nn.Linear(4, 3)], torch.ones(2, 4), seconds=0.01)
layer_costs([torch.nn.Linear(4, 3)], (4,))
print("torch._dynamo" in sys.modules, "sympy" in sys.modules)
print(all(torch.equal(value, stepped(name, lambda optimizer: optimizer.step())) for name, value in zip(names, own)))
print(own[0].requires_grad, torch.is_grad_enabled(), "torch._dynamo" in sys.modules)
"""


def test_training_imports_neither_the_compiler_nor_sympy_and_steps_as_optimizers_do() -> None:
    ran = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "False", "True", "True", "True", "True"]
