"""Settings that cannot be are refused together, each with its value and what would be right."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trainer.config.settings import RunSettings
from trainer.errors import UsageError


@pytest.mark.parametrize(("setting", "value", "sentence"), [
    ("seed", -1, "--seed is -1; it must lie between 0 and 4294967295"),
    ("seed", 2**32, "--seed is 4294967296"),
    ("learning_rate", math.nan, "--learning-rate is nan; it must be a finite number"),
    ("learning_rate", math.inf, "--learning-rate is inf"),
    ("learning_rate", -0.1, "--learning-rate is -0.1; it must be above 0"),
    ("weight_decay", -1.0, "--weight-decay is -1.0"),
    ("weight_decay", math.nan, "--weight-decay is nan"),
    ("target", math.nan, "--target is nan"),
    ("share", math.nan, "--share is nan"),
    ("late_after", math.nan, "--late-after is nan"),
    ("lease_s", -3.0, "--lease is -3; it must be above 0"),
    ("lease_s", 0.5, "--lease is 0.5 s; it must be at least 1"),
    ("floor_bps", 0.0, "--floor-bps is 0; it must be above 0"),
    ("assume_bps", math.inf, "--assume-bps is inf"),
    ("ask_timeout_s", -1.0, "--ask-timeout is -1"),
    ("step_timeout_s", math.nan, "--step-timeout is nan"),
    ("rejoin_timeout_s", 0.0, "--rejoin-timeout is 0"),
    ("min_rounds", 0, "--min-rounds is 0; it must be at least 1"),
    ("min_cut", -1, "--min-cut is -1; it must be at least 0"),
    ("max_cut", 0, "--max-cut is 0; it must be at least --min-cut, which is 1"),
    ("cuts", ((1, -2, 1, 1),), "--cuts has a negative cut"),
    ("controller_retries", -1, "--controller-retries is -1"),
    ("aggregate", "mode", "--aggregate is mode; it is one of mean, trimmed-mean, median, krum"),
    ("aggregate", "krum", "--aggregate krum needs 5 edges to tolerate 1 wrong; there are 4"),
    ("edges", (), "A run needs at least one edge."),
    ("tolerate", 0, "--tolerate is 0; it must be at least 1"),
    ("clip_updates", 0.0, "--clip-updates is 0.0"),
    ("clip_updates", math.nan, "--clip-updates is nan"),
    ("server_optimizer", "sgd", "--server-optimizer is sgd; it is one of fedavg, fedavgm, fedadam"),
    ("server_learning_rate", 0.5, "--server-learning-rate belongs to --server-optimizer fedavgm and fedadam"),
    ("server_learning_rate", -1.0, "--server-learning-rate is -1.0"),
    ("moments", "average", "--moments is average; it is one of reset, keep"),
    ("proximal", -0.1, "--proximal is -0.1"),
    ("proximal", math.inf, "--proximal is inf"),
    ("standardization", "none2", "--standardization is none2; it is one of auto, none"),
])
def test_a_value_that_cannot_be_is_refused(setting: str, value: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        RunSettings(**{setting: value}).check()


def test_all_mistakes_are_told_together_and_the_defaults_are_none() -> None:
    RunSettings().check()
    with pytest.raises(UsageError, match=r"--seed is -1.*--min-cut is -2"):
        RunSettings(seed=-1, min_cut=-2).check()


def test_a_value_is_named_once() -> None:
    with pytest.raises(UsageError) as caught:
        RunSettings(share=math.nan, target=math.nan, lease_s=math.nan).check()
    assert str(caught.value).count("--share is nan") == str(caught.value).count("--target is nan") == 1
