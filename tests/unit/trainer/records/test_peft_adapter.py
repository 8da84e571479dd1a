"""Exported adapters in PEFT, and the model minilm beside the library transformers: plain scripts without this code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainer.config.fine_tuning import FineTuning, Lora
from trainer.data.standardization import Standardization
from trainer.data.wordpiece import WordPiece
from trainer.errors import UsageError
from trainer.models.building import user_module
from trainer.models.lora import tune
from trainer.models.minilm import build_minilm
from trainer.records import peft_adapter, trained_model
from trainer.records.trained_model import ModelMetadata, load_model
from trainer.wheel_files import MINILM_PACKAGE, MINILM_VERSION, package_file

SHAPE = (2, 8, 8)
MODEL = '''
import torch
from torch import nn


class Mine(nn.Module):
    """A convolution of images, one of series, and linear layers with a residual connection."""

    def __init__(self):
        super().__init__()
        self.image = nn.Conv2d(2, 4, 3, padding=1, stride=2)
        self.series = nn.Conv1d(4, 6, 3, padding=1)
        self.mix, self.head = nn.Linear(16, 16, bias=False), nn.Linear(96, 3)

    def forward(self, images):
        series = self.series(torch.relu(self.image(images)).flatten(2))
        return self.head((series + self.mix(series)).flatten(1))


def model(sample_shape, classes, **_):
    made = Mine()
    made.load_state_dict(torch.load("pretrained.pt"))
    return made
'''
SCRIPT = '''
import peft
import torch
from safetensors.torch import load_file, save_file

import mine

model = peft.PeftModel.from_pretrained(mine.model((2, 8, 8), 3), "adapter").eval()
with torch.no_grad():
    outputs = {"adapted": model(load_file("inputs.safetensors")["inputs"])}
    with model.disable_adapter():
        outputs["pretrained"] = model(load_file("inputs.safetensors")["inputs"])
save_file(outputs, "outputs.safetensors")
'''
SENTENCES = ["Tools for the administration of mail servers", "a chess game, 3D", "naïve résumés: Bayes' C++ library"]
TRANSFORMERS_SCRIPT = '''
import sys

import torch
from safetensors.torch import save_file
from transformers import BertModel, BertTokenizer

model = BertModel.from_pretrained(sys.argv[1]).eval()
tokenized = BertTokenizer.from_pretrained(sys.argv[1])(
    sys.argv[2:], padding="max_length", max_length=32, truncation=True, return_tensors="pt")
with torch.no_grad():
    values = model(tokenized["input_ids"], tokenized["attention_mask"]).last_hidden_state
save_file({"ids": tokenized["input_ids"], "values": values}, "outputs.safetensors")
'''


def run_script(text: str, directory: Path, *arguments: str) -> dict[str, Tensor]:
    """Run a script in a process of its own; return the tensors that it writes."""
    (directory / "script.py").write_text(text)
    done = subprocess.run([sys.executable, "script.py", *arguments], cwd=directory, capture_output=True, text=True,
                          timeout=240, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False)
    assert done.returncode == 0, done.stderr
    return load_file(directory / "outputs.safetensors")


@pytest.mark.parametrize(("targets", "old", "new", "adapted"), [
    ((), "", "", 3), (("image", "head"), "", "", 2), ((), "padding=1, stride=2", "padding=2, stride=2, dilation=2", 2),
    ((), "stride=2", "stride=2, padding_mode='reflect'", 2), ((), "self.mix", "self.subhead", 2),
    (("image",), "self.mix", "self.subhead", 1),
], ids=["all", "chosen", "dilation", "padding mode", "end of a name", "end of a frozen one's name"])
def test_peft_loads_exported_adapters_and_gives_the_same_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, targets: tuple[str, ...], old: str, new: str, adapted: int
) -> None:
    torch.manual_seed(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    Path("mine.py").write_text(MODEL.replace(old, new) if old else MODEL)
    import mine  # type: ignore[import-not-found]

    torch.save(mine.Mine().state_dict(), "pretrained.pt")
    tuning = FineTuning(lora=Lora(2, targets))
    metadata = ModelMetadata(model="mine:model", sample_shape=SHAPE, classes=3, seed=1, whole_numbers=False,
                             standardization=Standardization("none", (), (), (), "a test"), tuning=tuning)
    trained = user_module("mine:model", 1, SHAPE, 3, tuning=tuning)
    for parameter in trained.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    save_file(trained.state_dict(), trained_model.FILES["last"], {trained_model.METADATA: metadata.model_dump_json()})
    trained_model.export(tmp_path, tmp_path / "adapter")
    inputs = torch.randn(5, *SHAPE)
    save_file({"inputs": inputs}, "inputs.safetensors")
    outputs = run_script(SCRIPT, tmp_path)
    exported = load_file("adapter/adapter_model.safetensors")
    assert sum(name.endswith("lora_A.weight") for name in exported) == adapted
    torch.testing.assert_close(outputs["adapted"], load_model(tmp_path)(inputs).detach(), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(outputs["pretrained"], outputs["adapted"], rtol=0.1)


@pytest.mark.parametrize("model", [
    nn.Sequential(nn.Conv1d(2, 4, 3, dilation=2), nn.Flatten(), nn.Linear(16, 3)),
    nn.ModuleDict({"subhead": nn.Sequential(nn.Linear(4, 4)), "head": nn.Linear(4, 3)}),
], ids=["no other adapter", "around an adapter"])
def test_adapters_that_peft_would_apply_in_another_way_are_refused(tmp_path: Path, model: nn.Module) -> None:
    tuning = FineTuning(lora=Lora(2))
    tune(model, tuning, "mine")
    metadata = ModelMetadata(model="mine:model", sample_shape=(2, 8), classes=3, seed=1, whole_numbers=False,
                             standardization=Standardization("none", (), (), (), "a test"), tuning=tuning)
    with pytest.raises(UsageError, match=r"PEFT cannot apply the model's adapters as they were trained. Name a file"):
        peft_adapter.write(model, metadata, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_minilm_computes_what_transformers_does(tmp_path: Path) -> None:
    files = package_file(MINILM_PACKAGE, MINILM_VERSION, "vocab.txt").parent
    outputs = run_script(TRANSFORMERS_SCRIPT, tmp_path, str(files), *SENTENCES)
    words = WordPiece((files / "vocab.txt").read_text(encoding="utf-8").splitlines())
    ids = torch.tensor([words.encode(sentence, 32) for sentence in SENTENCES])
    assert torch.equal(ids, outputs["ids"])
    with torch.no_grad():
        values, mask = nn.Sequential(*build_minilm(12)[:-2])(ids)
    torch.testing.assert_close(values[mask], outputs["values"][mask], rtol=1e-3, atol=1e-4)
