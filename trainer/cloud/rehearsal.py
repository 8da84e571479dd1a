"""The model in the cloud: made while the edges join, if it is known what they will join with."""

from __future__ import annotations

import logging

import torch

from trainer.cloud.edge_replica import build_shared
from trainer.cloud.made_ahead import MadeAhead
from trainer.cloud.preparation import prepare
from trainer.config.partitioning import task_of
from trainer.config.settings import RunSettings
from trainer.data.dataset import DataSet, class_shape, is_binary, target_shape
from trainer.data.load import preloaded
from trainer.data.standardization import summarize
from trainer.models.building import BuiltModel, build_model, random_batch
from trainer.models.device import select_device
from trainer.profiling import profiler
from trainer.profiling.predictor import ComputeProfile, LayerSeconds
from trainer.protocol.messages import JoinRequest, Prepare

log = logging.getLogger(__name__)


def rehearse(settings: RunSettings) -> MadeAhead:
    """Make the model and its costs for edges with the data that this process has loaded.

    What fails here fails again, and is told, when it is needed. What the edges need not wait for is measured later.
    """
    made = MadeAhead()
    made.is_ahead = True
    data = preloaded(settings.data, settings.seed) if settings.collect is None else None
    if data is not None:
        try:
            recipe = prepare([_request(data, settings)], settings, made).message
            shared_model(recipe, select_device(settings.device), made)
        except Exception as error:  # noqa: BLE001 - of a user's model, too
            log.info("rehearsed=no reason=%r", str(error))
            made.forget()
    made.is_ahead = False
    return made


def shared_model(recipe: Prepare, device: torch.device, made: MadeAhead) -> BuiltModel:
    """Build the model of which the replicas of all edges are copies."""
    key = (recipe.model, recipe.seed, recipe.sample_shape, recipe.classes, recipe.integers, recipe.objective,
           recipe.tuning, device)
    return made.get(("shared", *key), lambda: build_shared(recipe, device))


def layer_seconds(recipe: Prepare) -> LayerSeconds:
    """Measure every layer of the model on this node."""
    layers = build_model(recipe.model, recipe.seed, recipe.sample_shape, recipe.classes, recipe.integers,
                         objective=recipe.objective, tuning=recipe.tuning).layers
    samples = random_batch(-(-recipe.batch // recipe.micro), recipe.sample_shape, recipe.integers)
    return profiler.profile_layers(layers, samples, recipe.optimizer, recipe.micro)


def _request(data: DataSet, settings: RunSettings) -> JoinRequest:
    """Return the request of an edge that had the samples of all edges."""
    return JoinRequest(
        nonce="0" * 32, edge=settings.edges[0], task=task_of(settings.data), samples=len(data.train),
        held_out=len(data.held_out), class_names=data.class_names, sample_shape=tuple(data.train.inputs.shape[1:]),
        statistics=summarize(data.train.inputs, data.train.labels, data.classes),
        whole_numbers=data.train.inputs.dtype == torch.int64, target_shape=target_shape(data.train),
        class_shape=class_shape(data.train), binary_targets=is_binary(data.train), vocabulary=data.vocabulary,
        profile=ComputeProfile(1.0, 1.0),
    )
