"""`paceline export` and `paceline predict`: the trained model of a run, and its tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trainer.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

RUN = click.Path(exists=True, file_okay=False, path_type=Path)
SUFFIXES = (".safetensors", ".pt", ".onnx")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@click.command(epilog="Example: paceline export runs/2026-01-01T00-00-00Z --to model.pt")
@click.argument("run", type=RUN)
@click.option("--to", "target", type=click.Path(path_type=Path),
              help="File to write: .safetensors or .pt (weights under your module's names, and the standardization) or "
              ".onnx (a graph that includes the standardization); of a run with --lora also a directory, for PEFT.")
@click.option("--csv", "tables", type=click.Path(file_okay=False, path_type=Path),
              help="Directory for rounds.csv, edges.csv and transfers.csv.")
@click.option("--best", is_flag=True, help="The most accurate model instead of the last.")
def export(run: Path, target: Path | None, tables: Path | None, best: bool) -> None:
    """Write the trained model of a run, or its rounds and transfers as tables."""
    if target is None and tables is None:
        raise UsageError("Give --to FILE for the model, --csv DIRECTORY for the rounds and transfers, or both.")
    if target is not None:
        _export_model(run, target, best)
    if tables is not None:
        from trainer.records.csv_tables import write_tables
        from trainer.records.run_reader import read_run

        for path in write_tables(read_run(run), tables):
            click.echo(path)


def _export_model(run: Path, target: Path, best: bool) -> None:
    from trainer.records import trained_model

    if target.suffix and (target.suffix not in SUFFIXES or target.is_dir()):
        raise UsageError(f"--to is {target}; the name must end in one of {', '.join(SUFFIXES)}, or be a directory "
                         "without a suffix, for the adapters of a run with --lora.")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"--to is {target}; there is no directory {target.absolute().parent}.")
    trained_model.export(run, target, "best" if best else "last")
    click.echo(target)


@click.command(epilog="Example: paceline predict runs/2026-01-01T00-00-00Z samples.npz")
@click.argument("run", type=RUN)
@click.argument("inputs", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--best", is_flag=True, help="The most accurate model instead of the last.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each sample.")
def predict(run: Path, inputs: Path, best: bool, as_json: bool) -> None:
    """Print the class of every sample in INPUTS, or the values predicted for it, as they were before standardization.

    INPUTS is X in a .npz file, a .npy file, or an image.
    """
    from trainer.records.trained_model import load_model

    model = load_model(run, "best" if best else "last")
    predictions = model.predict(_read(inputs, model.metadata.sample_shape))
    for number, row in enumerate(predictions):
        if model.metadata.objective.target_shape is not None:
            click.echo(json.dumps({"sample": number, "values": row.tolist()}) if as_json else
                       f"{number}  {' '.join(f'{value:.6g}' for value in row.flatten().tolist())}")
            continue
        if row.dim() > 1:
            best_classes = row.argmax(dim=0).tolist()
            click.echo(json.dumps({"sample": number, "classes": best_classes}) if as_json else
                       f"{number}  classes {best_classes}")
            continue
        chosen = int(row.argmax())
        if as_json:
            click.echo(json.dumps({"sample": number, "class": chosen,
                                   "probabilities": [round(value, 6) for value in row.tolist()]}))
        else:
            click.echo(f"{number}  class {chosen}  probability {row[chosen]:.4f}")


def _read(path: Path, sample_shape: tuple[int, ...]) -> Tensor:
    """Return the samples of a file.

    Raises: DataError.
    """
    import numpy as np
    import torch
    from PIL import Image, UnidentifiedImageError

    try:
        if path.suffix.lower() in IMAGES:
            if len(sample_shape) != 3 or sample_shape[0] not in (1, 3, 4):
                raise DataError(f"{path} is an image; the model takes samples of shape {sample_shape}.")
            with Image.open(path) as image:
                mode = {1: "L", 3: "RGB", 4: "RGBA"}[sample_shape[0]]
                pixels = np.asarray(image.convert(mode).resize((sample_shape[2], sample_shape[1])))
            channels, height, width = sample_shape
            return torch.from_numpy(pixels.reshape(1, height, width, channels).copy()).permute(0, 3, 1, 2)
        loaded = np.load(path, allow_pickle=False)
        values = loaded if isinstance(loaded, np.ndarray) else loaded["X"]
    except KeyError:
        raise DataError(f"{path} has no array X.") from None
    except (OSError, ValueError, EOFError, UnidentifiedImageError) as error:
        raise DataError(f"{path} is neither an image nor a .npy or .npz file: {error}.") from error
    if values.dtype.kind not in "buif":
        raise DataError(f"{path} holds {values.dtype}; the inputs must be numbers.")
    whole = values.dtype.kind in "iu" and values.dtype != np.uint8
    kind = values.dtype if values.dtype == np.uint8 else np.int64 if whole else np.float32
    return torch.from_numpy(np.ascontiguousarray(values, dtype=kind))
