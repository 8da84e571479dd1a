"""Checks of `paceline train` before a process of the run starts: data, model, policy and cuts."""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from trainer.errors import TrainerError, TrainingFailedError, UsageError
from trainer.processes.fork import fork

if TYPE_CHECKING:
    from trainer.config.settings import RunSettings
    from trainer.data.dataset import DataSet

_TOLD = "refused: "
"""Before code and sentence of an error, in a line of the child's output; user code may print others."""


def check_run(settings: RunSettings, edges: Sequence[str]) -> list[str]:
    """Check that a run with these edges, in the order of their shares, can start; return sentences about its data.

    The data set stays loaded for the processes that are forked from this one.

    Raises: TrainerError.
    """
    from trainer.config.partitioning import parse_partitioning
    from trainer.data.growing_sources import Share, open_source
    from trainer.data.load import load_local, preload
    from trainer.errors import DataError
    from trainer.privacy.gaussian import MISSING

    if settings.dp is not None and importlib.util.find_spec("dp_accounting") is None:
        raise UsageError(MISSING)
    check_names(settings)
    if settings.collect is not None:
        for index, edge in enumerate(edges):
            open_source(settings.data, Share(edge, index, len(edges), settings.seed))
        _run_in_child(partial(_check_device, settings))
        return []  # the cloud checks the model when it knows the samples
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


def check_names(settings: RunSettings) -> None:
    """Check that model, loss, metric and policy exist, and that the sinks of metrics can be used.

    Raises: UsageError.
    """
    from trainer.models.zoo import check_model_name
    from trainer.planning.custom_policy import CustomPolicy
    from trainer.plugins import is_plugin_name, load_positional
    from trainer.records.sinks import check_sinks

    check_sinks(settings.tensorboard, settings.mlflow)
    if settings.model is not None:
        check_model_name(settings.model)
    if settings.policy is not None:
        CustomPolicy(settings.policy)
    for name in (settings.model, settings.loss, settings.metric):
        if name is not None and is_plugin_name(name):
            load_positional(name)


def _check_device(settings: RunSettings) -> None:
    """Check the device; in a child process, because asking CUDA for devices makes later forks unusable."""
    from trainer.models.device import check_device

    check_device(settings.device)


def _check_model(settings: RunSettings, data: DataSet, samples: Mapping[str, int]) -> None:
    import torch

    from trainer.cloud.preparation import check_model
    from trainer.config.objectives import choose_objective
    from trainer.data.dataset import is_binary
    from trainer.models.zoo import choose_model

    torch.set_num_threads(1)
    _check_device(settings)
    shape = tuple(data.train.inputs.shape[1:])
    model = settings.model or choose_model(settings.task, shape)[0]
    objective = choose_objective(settings.loss, settings.metric, settings.better, data.target_shape,
                                 is_binary(data.train), data.class_shape, data.vocabulary)
    check_model(model, settings, shape, data.classes, samples, data.whole_numbers, objective)


def _run_in_child(check: partial[None]) -> None:
    """Run a check in a forked process: PyTorch's autograd must not run before this process forks those of the run.

    Raises: TrainerError as the check does; RuntimeError, with the child's output as a note, if it fails otherwise.
    """
    def run() -> None:
        try:
            check()
        except TrainerError as error:
            print(f"\n{_TOLD}{json.dumps([error.code, str(error)])}")
            sys.exit(error.exit_code)

    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = fork(run, output, errors)
        child.wait()
        if child.returncode:
            output.seek(0)
            errors.seek(0)
            lines = output.read().decode(errors="replace").splitlines()
            said = errors.read().decode(errors="replace")
            if child.returncode < 0:
                raise TrainingFailedError("The check of the model was killed by "
                                          f"{signal.Signals(-child.returncode).name}.")
            if not lines or not lines[-1].startswith(_TOLD):
                failure = RuntimeError((said.splitlines() or ["the check of the model said nothing"])[-1])
                failure.add_note(said)
                raise failure
            raise TrainerError.of_code(*json.loads(lines[-1].removeprefix(_TOLD)))
