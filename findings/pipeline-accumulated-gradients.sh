#!/usr/bin/env bash
# Question: a pipeline stage of torch.distributed.pipelining trains with ScheduleGPipe and a loss that is a mean. Two
#   batches are accumulated: step() is called twice before the optimizer. What is the gradient with 1, 2 and 4
#   micro-batches? And what is it after one step() if the batch has 10 samples and there are 4 micro-batches?
# Software: torch 2.13.0 on a CPU, one process, one stage, Python 3.11 (pip, own venv).
# Most would expect: the sum of both batches' gradients, as after two calls of backward(); how often a batch is divided
#   must not show. And the gradient of the mean over 10 samples, or an error, if 10 cannot be divided by 4.
# Seen: so with one micro-batch. With n of them the first batch counts 1/n only: at its end step() divides all that is
#   in .grad by n, what was there before it included. Micro-batches of 3, 3, 2 and 2 samples have one weight each, so a
#   sample's weight depends on where it is in the batch. No message tells of either.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 2>&1 | grep -v '^WARNING: Location' || true
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.nn.functional import mse_loss

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
torch.manual_seed(0)
model = nn.Linear(4, 1)


def taken():
    """The gradient so far, which is set to none."""
    gradient = model.weight.grad
    model.zero_grad()
    return gradient


def unsplit(values, targets):
    mse_loss(model(values), targets).backward()
    return taken()


def pipeline(micro_batches):
    return ScheduleGPipe(PipelineStage(model, 0, 1, torch.device("cpu")), micro_batches, loss_fn=mse_loss)


def shown(gradient):
    return [round(value, 3) for value in gradient.flatten().tolist()]


batches = [(torch.randn(8, 4), torch.randn(8, 1)) for _ in range(2)]
first, second = (unsplit(*batch) for batch in batches)
print(f"unsplit: first batch {shown(first)}, second {shown(second)}, both {shown(first + second)}")
ok = True
for number in (1, 2, 4):
    schedule = pipeline(number)
    for values, targets in batches:
        schedule.step(values, target=targets)
    both = taken()
    print(f"{number} micro-batches: both {shown(both)}")
    ok = ok and torch.allclose(both, first / number + second, atol=1e-5)
    ok = ok and torch.allclose(both, first + second, atol=1e-5) is (number == 1)

values, targets = torch.randn(10, 4), torch.randn(10, 1)
whole = unsplit(values, targets)
parts = [unsplit(*pair) for pair in zip(values.split([3, 3, 2, 2]), targets.split([3, 3, 2, 2]), strict=True)]
pipeline(4).step(values, target=targets)
uneven = taken()
print(f"10 samples: unsplit {shown(whole)}, in 4 micro-batches {shown(uneven)}")
ok = ok and not torch.allclose(uneven, whole, atol=1e-2) and torch.allclose(uneven, sum(parts) / 4, atol=1e-5)
dist.destroy_process_group()
print("as described" if ok else "CHANGED")
sys.exit(0 if ok else 1)
PYTHON
