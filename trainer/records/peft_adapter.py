"""Writes adapters in the format of PEFT, which `peft.PeftModel.from_pretrained(module, directory)` reads.

Source: PEFT, "Checkpoint format": adapter_config.json and adapter_model.safetensors; a string of target modules is a
regular expression for their whole paths.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from trainer.errors import UsageError
from trainer.models.frozen import trained_parameters
from trainer.models.lora import adapters
from trainer.records.trained_model import ModelMetadata

PREFIX = "base_model.model."


def write(model: nn.Module, metadata: ModelMetadata, target: Path) -> None:
    """Write the adapters of a model and the modules trained beside them to a directory.

    Raises: UsageError if the run trained no adapters, or the directory cannot be written.
    """
    if metadata.tuning.lora is None:
        raise UsageError(f"--to is {target}; only a run with --lora has adapters to write to a directory.")
    adapted = adapters(model)
    whole = [path for path, module in model.named_modules()
             if path not in adapted and trained_parameters(module) and not list(module.children())]
    config = {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": None, "inference_mode": True,
        "r": metadata.tuning.lora.rank, "lora_alpha": metadata.tuning.lora.alpha, "lora_dropout": 0.0, "bias": "none",
        "fan_in_fan_out": False, "target_modules": "|".join(map(re.escape, adapted)), "modules_to_save": whole or None,
    }
    try:
        target.mkdir(exist_ok=True)
        (target / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file(_tensors(model, whole), target / "adapter_model.safetensors", {"format": "pt"})
    except OSError as error:
        raise UsageError(f"--to is {target}, which cannot be written: {error.strerror}.") from error


def _tensors(model: nn.Module, whole: list[str]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path, module in adapters(model).items():
        tensors[f"{PREFIX}{path}.lora_A.weight"] = module.lora_A.detach().contiguous()
        tensors[f"{PREFIX}{path}.lora_B.weight"] = module.lora_B.detach().contiguous()
    for path in whole:
        for name, value in model.get_submodule(path).state_dict().items():
            tensors[f"{PREFIX}{path}.{name}"] = value.contiguous()
    return tensors
