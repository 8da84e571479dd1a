#!/usr/bin/env bash
# Question: LoRA adapters of PEFT on linear2 of torch's nn.TransformerEncoderLayer, dropout 0: are the outputs in
#   evaluation those in training?
# Software: peft 0.21.2, torch 2.13.0 on a CPU, Python 3.11 (pip, own venv).
# Most would expect: yes. Without dropout and statistics of batches the two modes compute the same.
# Seen: in evaluation the adapters have no effect at all, with gradients recorded or not: the outputs are those of the
#   model without adapters. The layer then runs as one fused operator, which reads the plain weight of the wrapped
#   linear layer and never calls it; what keeps it from doing so while gradients are recorded, a parameter that needs
#   one, does not apply, since PEFT freezes the weight. So one model is trained and another one evaluated. With the fused
#   operator switched off (torch.backends.mha.set_fastpath_enabled(False)) both modes agree.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 peft==0.21.2 2>&1 | grep -v '^WARNING: Location' || true
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import copy
import sys

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

torch.manual_seed(0)
plain = nn.Sequential(nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True))
adapted = get_peft_model(copy.deepcopy(plain), LoraConfig(r=4, target_modules=["linear2"], init_lora_weights=False))
values = torch.randn(3, 5, 16)


def far(first, second):
    return (first - second).abs().max().item() > 1e-3


training = adapted.train()(values).detach()
recorded = adapted.eval()(values).detach()
with torch.no_grad():
    unrecorded = adapted(values)
    without = plain.eval()(values)
    torch.backends.mha.set_fastpath_enabled(False)
    unfused = adapted(values)
seen = {
    "adapters change the output in training": far(training, without),
    "they change it in evaluation": far(recorded, without),
    "they change it in evaluation under no_grad": far(unrecorded, without),
    "evaluation without the fused operator differs from training": far(unfused, training),
}
for what, is_so in seen.items():
    print(f"{what}: {is_so}")
ok = list(seen.values()) == [True, False, False, False]
print("as described" if ok else "CHANGED")
sys.exit(0 if ok else 1)
PYTHON
