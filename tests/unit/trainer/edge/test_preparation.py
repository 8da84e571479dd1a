"""What an edge refuses when the cloud prepares it."""

from __future__ import annotations

from typing import Any, cast

import pytest

from trainer.config.fine_tuning import Lora, parse_fine_tuning
from trainer.data.standardization import Standardization
from trainer.edge.training_loop import Edge, EdgeSettings
from trainer.errors import TrainingFailedError
from trainer.models.building import build_model
from trainer.models.frozen import digest
from trainer.models.optimizer import OptimizerConfig
from trainer.protocol.messages import Prepare

TUNING = parse_fine_tuning("0,1")
UNKNOWN = cast(Any, None)


def test_what_is_trained_is_part_of_the_preparation_and_of_a_checkpoint() -> None:
    tuning = parse_fine_tuning("0,encoder.*", "8:query,value")
    assert (tuning.freeze, tuning.lora) == (("0", "encoder.*"), Lora(8, ("query", "value")))
    recipe = Prepare(model="mlp", sample_shape=(6,), classes=3, seed=1, tuning=tuning, optimizer=OptimizerConfig(),
                     standardization=Standardization("none", (), (), (), "a test"), batch=8, micro=2, steps=1)
    assert Prepare.model_validate_json(recipe.model_dump_json()) == recipe


def test_an_edge_with_other_frozen_values_ends_with_a_sentence() -> None:
    edge = Edge(EdgeSettings("edge1", ("127.0.0.1", 7800), 0, 1), UNKNOWN, UNKNOWN)
    built = build_model("mlp", 2, (6,), 3, tuning=TUNING)
    recipe = Prepare(model="mlp", sample_shape=(6,), classes=3, seed=1, tuning=TUNING,
                     frozen_digest=digest(built.layers, built.unchanging), optimizer=OptimizerConfig(),
                     standardization=Standardization("none", (), (), (), "a test"), batch=8, micro=2, steps=1)
    with pytest.raises(TrainingFailedError, match="The frozen values of mlp on edge1 are not those of the cloud"):
        edge._prepare(recipe)
    with pytest.raises(TrainingFailedError, match=r"SHA-256 [0-9a-f]{12} and none"):
        edge._prepare(recipe.model_copy(update={"frozen_digest": None}))
