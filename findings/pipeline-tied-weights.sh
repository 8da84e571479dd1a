#!/usr/bin/env bash
# Question: a model's first and last layer share one weight. torch.distributed.pipelining.pipeline splits it into
#   three stages; one optimizer holds the parameters of all stages, in one process, and trains. Is it the training of
#   the unsplit model, and what does the model that was split hold afterwards?
# Software: torch 2.13.0 on a CPU, Python 3.11 (pip, own venv).
# Most would expect: the same training, as with weights that are not shared: in one process there is nothing to
#   synchronise. Or an error at the split, if a stage cannot share. And the model that was split holds the trained
#   weights, since its modules are those of the stages.
# Seen: the first outputs are equal, from the first step on they differ. The split has copied the weight into both
#   stages without a message (an attribute of the split, replicated_params, lists it; nothing in torch reads that);
#   each copy is trained by its own gradient only, and they drift apart. The weight of the original model is neither
#   of them: it keeps its initial value, while its other weights are trained. Without a shared weight, outputs are
#   equal in every step, and the original model is trained with the stages.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 2>&1 | grep -v '^WARNING: Location' || true
"$folder/venv/bin/python" - <<'PYTHON'
import copy
import sys
import warnings

import torch
from torch import nn
from torch.distributed.pipelining import SplitPoint, pipeline


class Network(nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.first, self.middle, self.last = (nn.Linear(8, 8, bias=False) for _ in range(3))
        if tied:
            self.last.weight = self.first.weight

    def forward(self, values):
        return self.last(torch.relu(self.middle(torch.relu(self.first(values)))))


def train(tied):
    torch.manual_seed(0)
    model, values = Network(tied), torch.randn(6, 8)
    unsplit, initial = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        split = pipeline(model, (values,), split_spec={name: SplitPoint.BEGINNING for name in ("middle", "last")})
    stages = [split.get_stage_module(number) for number in range(3)]
    parameters = {id(weight): weight for stage in stages for weight in stage.parameters()}.values()
    optimizers = [torch.optim.SGD(weights, lr=0.1) for weights in (parameters, unsplit.parameters())]
    differences = []
    for _ in range(3):
        outputs = [stages[2](stages[1](stages[0](values))), unsplit(values)]
        differences.append((outputs[0] - outputs[1]).abs().max().item())
        for output, optimizer in zip(outputs, optimizers, strict=True):
            optimizer.zero_grad()
            output.square().sum().backward()
            optimizer.step()
    drift = (stages[0].first.weight - stages[2].last.weight).abs().max().item()
    untrained = [name for name, weight in model.state_dict().items() if torch.equal(weight, initial[name])]
    print(f"{'shared' if tied else 'separate'} weights: outputs differ from the unsplit model's by "
          f"{', '.join(f'{difference:.2g}' for difference in differences)} in steps 1, 2, 3; "
          f"first and last stage's weights differ by {drift:.2g}; untrained in the original model: {untrained}; "
          f"warnings that name sharing: {sum('shar' in str(warning.message).lower() for warning in told)}")
    return differences, drift, untrained


separate, _, all_trained = train(tied=False)
shared, drift, stale = train(tied=True)
ok = max(separate) < 1e-6 and not all_trained
ok = ok and shared[0] < 1e-6 and min(shared[1:]) > 1e-3 and drift > 1e-3
ok = ok and set(stale) == {"first.weight", "last.weight"}
print("as described" if ok else "CHANGED")
sys.exit(0 if ok else 1)
PYTHON
