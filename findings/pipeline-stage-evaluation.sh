#!/usr/bin/env bash
# Question: torch.distributed.pipelining.pipeline splits a model (linear, batch norm, ReLU | dropout, linear) that is
#   in training mode into two stages. Each stage is put into evaluation mode with .eval(). What do dropout and batch
#   norm do?
# Software: torch 2.13.0 on a CPU, Python 3.11 (pip, own venv).
# Most would expect: what they do in an unsplit model: dropout passes values on, batch norm uses its running
#   statistics and leaves them alone. If a split model could not be evaluated, an error as from torch.export, on which
#   pipeline() is built and whose modules refuse .eval().
# Seen: .eval() is accepted and `training` becomes False, and the stages go on as in training: dropout drops, batch
#   norm normalises by the batch, so a sample's result depends on its neighbours, and evaluating changes the running
#   statistics. The other way round as well: a model that was split in evaluation mode trains without dropout after
#   .train().
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 2>&1 | grep -v '^WARNING: Location' || true
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import torch
from torch import nn
from torch.distributed.pipelining import SplitPoint, pipeline


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(8, 16), nn.BatchNorm1d(16)
        self.dropout, self.last = nn.Dropout(0.5), nn.Linear(16, 4)

    def forward(self, values):
        return self.last(self.dropout(torch.relu(self.norm(self.first(values)))))


def stages(model):
    split = pipeline(model, (torch.randn(6, 8),), split_spec={"dropout": SplitPoint.BEGINNING})
    return [split.get_stage_module(number) for number in range(split.num_stages)]


def behaviour(first, last):
    """Does dropout drop, does a sample depend on its batch, do running statistics change?"""
    hidden = torch.ones(6, 16)
    drops = not torch.equal(last(hidden), last(hidden))
    before = first.state_dict()["norm.running_mean"].clone()
    batch = torch.randn(6, 8)
    neighbours = not torch.allclose(first(batch)[0], first(torch.cat([batch[:1], 5 * batch[1:]]))[0])
    return drops, neighbours, not torch.equal(before, first.state_dict()["norm.running_mean"])


class FirstHalf(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.first, self.norm = model.first, model.norm

    def forward(self, values):
        return torch.relu(self.norm(self.first(values)))


torch.manual_seed(0)
whole = Network().eval()
unsplit = behaviour(FirstHalf(whole).eval(), nn.Sequential(whole.dropout, whole.last).eval())
evaluated = [stage.eval() for stage in stages(Network().train())]
split = behaviour(*evaluated)
trained = [stage.train() for stage in stages(Network().eval())]
resumed = behaviour(*trained)
try:
    torch.export.export(Network().train(), (torch.randn(6, 8),)).module().eval()
    exported = "accepted"
except NotImplementedError:
    exported = "refused"
print("dropout drops, a sample depends on its batch, running statistics change")
print(f"unsplit, .eval(): {unsplit}")
print(f"split in training mode, then .eval() on every stage (training={evaluated[0].training}): {split}")
print(f"split in evaluation mode, then .train() on every stage (training={trained[0].training}): {resumed}")
print(f".eval() of a module of torch.export: {exported}")
ok = unsplit == (False,) * 3 and split == (True,) * 3 and resumed == (False,) * 3 and exported == "refused"
ok = ok and not evaluated[0].training and trained[0].training
print("as described" if ok else "CHANGED")
sys.exit(0 if ok else 1)
PYTHON
