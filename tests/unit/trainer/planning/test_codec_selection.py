"""Codec selection: codecs stay allowed as long as they do not cost accuracy."""

from __future__ import annotations

import json

import pytest

from trainer.errors import UsageError
from trainer.planning.codec_selection import CodecSelector


def test_a_configured_codec_stays_whatever_the_accuracy() -> None:
    selector = CodecSelector("int8")
    selector.update(0.9)
    selector.update(0.5)
    assert selector.allowed_codecs() == {"int8": "bf16"}


def test_a_configured_gradient_codec_is_used() -> None:
    assert CodecSelector("bf16", "fp32").allowed_codecs() == {"bf16": "fp32"}


def test_zstd_is_for_gradients_too() -> None:
    assert CodecSelector("zstd").allowed_codecs() == {"zstd": "zstd"}


def test_auto_allows_one_more_codec_after_every_averaging_without_loss() -> None:
    selector = CodecSelector("auto")
    assert list(selector.allowed_codecs()) == ["fp32", "bf16"]
    selector.update(0.8)
    assert list(selector.allowed_codecs()) == ["fp32", "bf16", "int8"]
    selector.update(0.79)
    assert list(selector.allowed_codecs()) == ["fp32", "bf16", "int8"]
    selector.update(0.81)
    assert list(selector.allowed_codecs()) == ["fp32", "bf16", "int8", "zstd"]
    selector.record_use("zstd")
    selector.update(0.7)
    assert list(selector.allowed_codecs()) == ["fp32", "bf16", "int8"]


def test_a_loss_permanently_removes_the_most_lossy_codec_used() -> None:
    selector = CodecSelector("auto")
    selector.update(0.9)
    selector.record_use("int8")
    selector.update(0.897)  # within half a point
    assert "int8" in selector.allowed_codecs()
    selector.record_use("int8")
    selector.record_use("fp32")
    selector.update(0.88)
    assert list(selector.allowed_codecs()) == ["fp32", "bf16"]
    selector.update(0.95)
    assert list(selector.allowed_codecs()) == ["fp32", "bf16"]
    selector.record_use("bf16")
    selector.update(0.9)
    assert list(selector.allowed_codecs()) == ["fp32"]


def test_a_loss_with_exact_segments_only_removes_no_codec() -> None:
    selector = CodecSelector("auto")
    selector.update(0.9)
    selector.record_use("fp32")
    selector.update(0.5)
    assert "int8" in selector.allowed_codecs()


def test_the_state_survives_a_round_trip_through_json() -> None:
    selector = CodecSelector("auto")
    selector.update(0.9)
    selector.record_use("int8")
    selector.update(0.8)
    restored = CodecSelector("auto").load_state_dict(json.loads(json.dumps(selector.state_dict())))
    assert restored.allowed_codecs() == selector.allowed_codecs()


def test_an_unknown_codec_is_named_in_the_error() -> None:
    with pytest.raises(UsageError, match=r"'fp64'.*fp32"):
        CodecSelector("fp64")
