"""Checks of `paceline train` before a process of the run starts: data, model, policy and cuts."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from trainer.errors import TrainerError
from trainer.processes.fork import fork

if TYPE_CHECKING:
    from trainer.config.settings import RunSettings
    from trainer.data.dataset import DataSet


class PreflightError(TrainerError):
    """A check in a child process failed; `exit_code` is that of its error."""

    code = "preflight"

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code  # type: ignore[misc]


def check_run(settings: RunSettings, edges: Sequence[str]) -> list[str]:
    """Check that a run with these edges, in the order of their shares, can start; return sentences about its data.

    The data set stays loaded for the processes that are forked from this one.

    Raises: TrainerError.
    """
    from trainer.config.partitioning import parse_partitioning
    from trainer.data.load import load_local, preload
    from trainer.errors import DataError
    from trainer.models.zoo import check_model_name
    from trainer.planning.custom_policy import CustomPolicy

    if settings.model is not None:
        check_model_name(settings.model)
    if settings.policy is not None:
        CustomPolicy(settings.policy)
    try:
        data = preload(settings.data, settings.seed)
    except DataError as error:
        raise DataError(f"{edges[0]}: {error}") from error
    partitioning = parse_partitioning(settings.partition)
    samples = {
        edge: len(load_local(settings.data, partitioning, edge, index, len(edges), settings.seed).train)
        for index, edge in enumerate(edges)
    }
    _run_in_child(partial(_check_model, settings, data, samples))
    return list(data.notes)


def _check_model(settings: RunSettings, data: DataSet, samples: Mapping[str, int]) -> None:
    import torch

    from trainer.cloud.preparation import check_model
    from trainer.config.objectives import choose_objective
    from trainer.data.dataset import is_binary
    from trainer.models.zoo import choose_model
    from trainer.plugins import is_plugin_name, load_positional

    torch.set_num_threads(1)
    shape = tuple(data.train.inputs.shape[1:])
    model = settings.model or choose_model(settings.task, shape)[0]
    objective = choose_objective(settings.loss, settings.metric, settings.better, data.target_shape,
                                 is_binary(data.train))
    if is_plugin_name(objective.metric):
        load_positional(objective.metric)
    check_model(model, settings, shape, data.classes, samples, data.whole_numbers, objective)


def _run_in_child(check: partial[None]) -> None:
    """Run a check in a forked process: PyTorch's autograd must not run before this process forks those of the run.

    Raises: PreflightError.
    """
    def run() -> None:
        try:
            check()
        except TrainerError as error:
            print(error, file=sys.stderr)
            sys.exit(error.exit_code)

    with tempfile.TemporaryFile() as errors:
        child = fork(run, None, errors)
        child.wait()
        if child.returncode:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines() or [
                f"The check of the model ended with exit code {child.returncode}."]
            raise PreflightError(lines[-1], child.returncode if child.returncode > 0 else TrainerError.exit_code)
