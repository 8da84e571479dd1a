#!/usr/bin/env bash
# Question: LoRA adapters of PEFT on one convolution (nn.Conv1d, nn.Conv2d, nn.Conv3d; kernel 3): is the merged model
#   the one that was trained? Plain; with stride 2; with padding mode "circular" or "reflect"; with dilation 2.
# Software: peft 0.21.2, torch 2.13.0 on a CPU, Python 3.11 (pip, own venv).
# Most would expect: yes, up to rounding. LoRA adds a matrix of low rank to the weight (Hu et al. 2022, equation 3); how
#   the layer applies a weight does not depend on it. Where PEFT cannot do so, an error: merging grouped convolutions,
#   it has one.
# Seen: so without options and with a stride. With a padding mode or dilation the two models differ by as much as the
#   adapter adds, and nothing tells: PEFT gives the adapter's convolution the kernel, stride and padding of the layer,
#   neither its padding mode nor its dilation. So what is trained is no change of the layer's weight, and merging, which
#   takes it for one, gives another model than the one that was trained and evaluated.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 peft==0.21.2 2>&1 | grep -v '^WARNING: Location' || true
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W error - <<'PYTHON'
import copy
import sys

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

torch.set_num_threads(1)
CASES = {"plain": {"padding": 1}, "stride": {"padding": 1, "stride": 2},
         "circular": {"padding": 1, "padding_mode": "circular"}, "reflect": {"padding": 1, "padding_mode": "reflect"},
         "dilation": {"padding": "same", "dilation": 2}}


def share(kind, options):
    """How far the merged model is from the trained one, beside how far the adapter changes outputs."""
    torch.manual_seed(0)
    values = torch.randn(2, 4, *[9] * {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}[kind])
    plain = nn.Sequential(kind(4, 8, 3, **options))
    config = LoraConfig(r=4, target_modules=["0"], init_lora_weights=False)
    adapted = get_peft_model(copy.deepcopy(plain), config).eval()
    with torch.no_grad():
        outputs, without = adapted(values), plain(values)
        merged = adapted.merge_and_unload()(values)
    return ((merged - outputs).norm() / (outputs - without).norm()).item()


seen = {}
for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
    for case, options in CASES.items():
        seen[kind, case] = share(kind, options)
        print(f"{kind.__name__} {case:8} merged - trained: {seen[kind, case]:6.1%} of what the adapter adds")
ok = all(value < 1e-5 if case in ("plain", "stride") else value > 0.1 for (_, case), value in seen.items())
print("as described" if ok else "CHANGED")
sys.exit(0 if ok else 1)
PYTHON
