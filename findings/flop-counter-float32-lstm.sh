#!/usr/bin/env bash
# Question: how many FLOPs does PyTorch's FlopCounterMode count for nn.LSTM, beside nn.GRU and nn.RNN?
# Software: torch 2.13.0 on a CPU, Python 3.11 (pip, own venv).
# Most would expect: for each of them 2 FLOPs per weight, sample and step, in either precision, since all three are
#   the same few matrix products.
# Seen: so for GRU and RNN, and for an LSTM in float64. An LSTM in float32 counts as 0, forward and backward, in
#   training and in evaluation: it runs as one fused operator that the counter has no formula for, and nothing tells.
#   nn.LSTMCell, the same products once more, is counted in full.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 2>&1 | grep -v '^WARNING: Location' || true
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

SAMPLES, STEPS, INPUTS, WIDTH = 4, 10, 32, 64


def counted(action):
    with FlopCounterMode(display=False) as counter:
        result = action()
    return counter.get_total_flops(), result


def products(module):
    """FLOPs of one forward pass by hand: 2 for each weight, sample and step."""
    return 2 * SAMPLES * STEPS * sum(weight.numel() for name, weight in module.named_parameters() if "weight" in name)


ok = True
for dtype in (torch.float32, torch.float64):
    values = torch.randn(SAMPLES, STEPS, INPUTS, dtype=dtype, requires_grad=True)
    for kind in (nn.RNN, nn.GRU, nn.LSTM):
        layer = kind(INPUTS, WIDTH, batch_first=True).to(dtype)
        forward, (output, _) = counted(lambda: layer(values))
        backward, _ = counted(lambda: output.sum().backward())
        with torch.no_grad():
            evaluated, _ = counted(lambda: layer.eval()(values))
        print(f"{kind.__name__:8} {dtype}: forward {forward:8}, backward {backward:8}, evaluation {evaluated:8}, "
              f"forward by hand {products(layer)}")
        if kind is nn.LSTM and dtype is torch.float32:
            ok = ok and (forward, backward, evaluated) == (0, 0, 0)
        else:
            ok = ok and forward == evaluated == products(layer) and backward > forward
cell = nn.LSTMCell(INPUTS, WIDTH)
steps, _ = counted(lambda: [cell(torch.randn(SAMPLES, INPUTS)) for _ in range(STEPS)])
print(f"LSTMCell torch.float32: forward {steps:8}, by hand {products(cell)}")
ok = ok and steps == products(cell)
print("as described" if ok else "CHANGED")
sys.exit(0 if ok else 1)
PYTHON
