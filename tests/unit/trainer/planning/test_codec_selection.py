"""Codecs are allowed as long as they cost no accuracy."""

from __future__ import annotations

import json

import pytest

from trainer.errors import UsageError
from trainer.planning.codec_selection import CodecSelector


def test_a_codec_that_was_asked_for_stays_whatever_the_accuracy_is() -> None:
    guard = CodecSelector("int8")
    guard.learn(0.9)
    guard.learn(0.5)
    assert guard.codecs() == {"int8": "bf16"}


def test_gradients_travel_as_asked() -> None:
    assert CodecSelector("bf16", "fp32").codecs() == {"bf16": "fp32"}


def test_auto_tries_int8_after_an_averaging_that_lost_nothing() -> None:
    guard = CodecSelector("auto")
    assert list(guard.codecs()) == ["fp32", "bf16"]
    guard.learn(0.8)
    assert list(guard.codecs()) == ["fp32", "bf16", "int8"]


def test_a_loss_takes_the_most_lossy_codec_that_was_used_away_for_good() -> None:
    guard = CodecSelector("auto")
    guard.learn(0.9)
    guard.use("int8")
    guard.learn(0.897)  # within half a point
    assert "int8" in guard.codecs()
    guard.use("int8")
    guard.use("fp32")
    guard.learn(0.88)
    assert list(guard.codecs()) == ["fp32", "bf16"]
    guard.learn(0.95)
    assert list(guard.codecs()) == ["fp32", "bf16"]
    guard.use("bf16")
    guard.learn(0.9)
    assert list(guard.codecs()) == ["fp32"]


def test_a_loss_with_nothing_but_exact_segments_is_no_codecs_fault() -> None:
    guard = CodecSelector("auto")
    guard.learn(0.9)
    guard.use("fp32")
    guard.learn(0.5)
    assert "int8" in guard.codecs()


def test_what_was_learnt_survives_as_json() -> None:
    guard = CodecSelector("auto")
    guard.learn(0.9)
    guard.use("int8")
    guard.learn(0.8)
    again = CodecSelector("auto").recall(json.loads(json.dumps(guard.history())))
    assert again.codecs() == guard.codecs()


def test_a_codec_that_does_not_exist_is_named() -> None:
    with pytest.raises(UsageError, match=r"'fp64'.*fp32"):
        CodecSelector("fp64")
