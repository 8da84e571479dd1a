#!/usr/bin/env bash
# Question: how many FLOPs does PyTorch's FlopCounterMode count for the forward pass of one nn.TransformerEncoderLayer
#   (batch_first, dropout 0.1): in training, in evaluation, in evaluation under no_grad, in training with dropout 0?
# Software: torch 2.13.0 on a CPU, Python 3.11 (pip, own venv).
# Most would expect: the same number four times. Dropout is no matrix product, and gradients are no part of a forward
#   pass.
# Seen: all products only in training with dropout. Without dropout, and in evaluation, the two products of attention
#   are missing: they run as the CPU's flash attention, which the counter has no formula for. In evaluation under
#   no_grad the whole layer is one operator without formula and counts as 0. By itself, scaled_dot_product_attention
#   counts in full with the math backend and as 0 with flash attention, forward and backward.
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
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

SAMPLES, TOKENS, WIDTH, HEADS, HIDDEN = 2, 16, 64, 4, 128


def counted(action):
    with FlopCounterMode(display=False) as counter:
        result = action()
    return counter.get_total_flops(), result


def layer(dropout):
    return nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, dropout, batch_first=True)


values = torch.randn(SAMPLES, TOKENS, WIDTH)
linear = 2 * SAMPLES * TOKENS * (4 * WIDTH * WIDTH + 2 * WIDTH * HIDDEN)  # query, key, value, output; two of the MLP
attention = 2 * 2 * SAMPLES * TOKENS * TOKENS * WIDTH  # scores, and their product with the values
training, _ = counted(lambda: layer(0.1)(values))
evaluation, _ = counted(lambda: layer(0.1).eval()(values))
with torch.no_grad():
    no_grad, _ = counted(lambda: layer(0.1).eval()(values))
without_dropout, _ = counted(lambda: layer(0.0)(values))
print(f"by hand: linear {linear}, attention {attention}, together {linear + attention}")
print(f"counted: training {training}, evaluation {evaluation}, evaluation under no_grad {no_grad}, "
      f"training with dropout 0 {without_dropout}")
ok = (training, evaluation, no_grad, without_dropout) == (linear + attention, linear, 0, linear)

query = torch.randn(SAMPLES, HEADS, TOKENS, WIDTH // HEADS, requires_grad=True)
for backend, share in ((SDPBackend.MATH, 1), (SDPBackend.FLASH_ATTENTION, 0)):
    with sdpa_kernel(backend):
        forward, output = counted(lambda: scaled_dot_product_attention(query, query, query))
    backward, _ = counted(lambda: output.sum().backward())
    print(f"attention alone, {backend.name}: forward {forward}, backward {backward}")
    ok = ok and forward == share * attention and backward == 2 * share * attention
print("as described" if ok else "CHANGED")
sys.exit(0 if ok else 1)
PYTHON
