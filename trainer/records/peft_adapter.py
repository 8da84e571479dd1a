"""Writes adapters in the format of PEFT, which `peft.PeftModel.from_pretrained(module, directory)` reads.

Source: PEFT, "Checkpoint format": adapter_config.json and adapter_model.safetensors; a string of target modules is a
regular expression for their whole paths. PEFT gives the adapter of a convolution its stride and padding, neither its
dilation nor its padding mode (findings/peft-convolution-padding.sh). A name in `modules_to_save` also means every
module whose path ends with it, which must have no adapter.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from trainer.errors import UsageError
from trainer.models.frozen import trained_parameters
from trainer.models.lora import adapters, merge
from trainer.records.trained_model import ModelMetadata

PREFIX = "base_model.model."


def write(model: nn.Module, metadata: ModelMetadata, target: Path) -> None:
    """Write the adapters of a model and the modules trained beside them to a directory.

    A module whose adapter PEFT would not apply as it was trained is written whole, its adapter merged.

    Raises: UsageError if the run trained no adapters, PEFT cannot apply them, or the directory cannot be written.
    """
    if metadata.tuning.lora is None:
        raise UsageError(f"--to is {target}; only a run with --lora has adapters to write to a directory.")
    adapted, whole = _split(model)
    if not adapted or _takes_a_container(model, whole):
        raise UsageError(f"--to is {target}; PEFT cannot apply the model's adapters as they were trained. Name a file "
                         f"such as {target}.safetensors for the merged model.")
    config = {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": None, "inference_mode": True,
        "r": metadata.tuning.lora.rank, "lora_alpha": metadata.tuning.lora.alpha, "lora_dropout": 0.0, "bias": "none",
        "fan_in_fan_out": False, "target_modules": "|".join(map(re.escape, adapted)), "modules_to_save": whole or None,
    }
    try:
        target.mkdir(exist_ok=True)
        (target / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file(_tensors(model, adapted, whole), target / "adapter_model.safetensors", {"format": "pt"})
    except OSError as error:
        raise UsageError(f"--to is {target}, which cannot be written: {error.strerror}.") from error


def _split(model: nn.Module) -> tuple[list[str], list[str]]:
    """Return the paths of the modules whose adapters are written, and of those written whole."""
    adapted = [path for path, module in adapters(model).items() if _is_applied_alike(module)]
    leaves = {path: module for path, module in model.named_modules() if not list(module.children())}
    whole = [path for path, module in leaves.items() if path not in adapted and trained_parameters(module)]
    while also := [path for path in leaves if path not in whole and path.endswith(tuple(whole))]:
        whole += also
    return [path for path in adapted if path not in whole], whole


def _takes_a_container(model: nn.Module, whole: list[str]) -> bool:
    """Return whether PEFT would take a module around others for one that is written whole."""
    return any(path.endswith(tuple(whole)) and path not in whole for path, _ in model.named_modules())


def _is_applied_alike(module: nn.Module) -> bool:
    """Return whether PEFT applies the adapter of a module as it was trained."""
    if not isinstance(module, nn.Conv1d | nn.Conv2d):
        return True
    return module.padding_mode == "zeros" and set(module.dilation) == {1}


def _tensors(model: nn.Module, adapted: list[str], whole: list[str]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path, module in adapters(model).items():
        if path in adapted:
            tensors[f"{PREFIX}{path}.lora_A.weight"] = module.lora_A.detach().contiguous()
            tensors[f"{PREFIX}{path}.lora_B.weight"] = module.lora_B.detach().contiguous()
    for path in whole:
        merged = copy.deepcopy(model.get_submodule(path))
        merge(merged)
        for name, value in merged.state_dict().items():
            tensors[f"{PREFIX}{path}.{name}"] = value.contiguous()
    return tensors
