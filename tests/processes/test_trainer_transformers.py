"""A model of the library transformers that a user brings: trained split with adapters, used, and loaded by PEFT."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

MODEL = '''
import torch
from transformers import BertConfig, BertForSequenceClassification


def model(sample_shape, classes, **_):
    """A small BERT with weights that anyone can make again."""
    torch.manual_seed(7)
    return BertForSequenceClassification(BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=12, num_labels=classes, hidden_dropout_prob=0.0))
'''
SCRIPT = '''
import sys

import numpy as np
import peft
import torch
from safetensors.torch import save_file

import bert_of_user
from trainer import load_run

inputs = torch.from_numpy(np.load("own.npz")["X"][:8])
trained = load_run(sys.argv[1]).model()
with torch.no_grad():
    adapted = peft.PeftModel.from_pretrained(bert_of_user.model((12,), 2), "adapter").eval()(inputs).logits
    save_file({"ours": trained(inputs), "peft": adapted}, "outputs.safetensors")
'''


def test_a_bert_of_transformers_is_fine_tuned_and_loaded_by_peft(tmp_path: Path) -> None:
    (tmp_path / "bert_of_user.py").write_text(MODEL)
    ids = np.random.default_rng(1).integers(0, 40, (160, 12))
    np.savez(tmp_path / "own.npz", X=ids, y=(ids[:, :6] == 3).any(axis=1) | (ids[:, 0] < 20))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1"}

    def run(*arguments: str) -> None:
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True,
                              text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    run("-c", "import sys; from trainer import train; print(train('own.npz', edges=2, model='bert_of_user:model', "
              "lora='4:query,value', freeze='bert.embeddings', rounds=2, steps=2, batch=16, average_every=2, "
              "optimizer='adamw', learning_rate=0.01).directory, file=open('where', 'w'))")
    directory = (tmp_path / "where").read_text().strip()
    run("-m", "trainer.cli.main", "export", directory, "--to", "adapter")
    (tmp_path / "script.py").write_text(SCRIPT)
    run("script.py", directory)
    outputs = load_file(tmp_path / "outputs.safetensors")
    torch.testing.assert_close(outputs["peft"], outputs["ours"], rtol=1e-4, atol=1e-5)
