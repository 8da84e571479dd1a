"""Calibration files: values, defaults and error messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.calculus.network_bounds import DEFAULT_CALIBRATION
from controller.errors import StartError
from controller.runtime.calibration_file import load_calibration


def calibration_file(directory: Path, text: str) -> Path:
    path = directory / "calibration.json"
    path.write_text(text)
    return path


def test_absent_fields_keep_their_defaults(tmp_path: Path) -> None:
    calibration = load_calibration(calibration_file(tmp_path, '{"switch_max_us": 400}'))
    assert calibration.switch_max_us == 400
    assert calibration.switch_min_us == DEFAULT_CALIBRATION.switch_min_us


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[1]", "must be a JSON object"),
        (
            '{"switch_max": 1, "switch_min_us": -5}',
            "unknown field 'switch_max'.*switch_min_us is -5; it must be a number",
        ),
        ('{"switch_max_us": NaN}', "switch_max_us is nan"),
        ('{"switch_min_us": 2000}', "switch_min_us is 2000, which is more than switch_max_us, 1000"),
    ],
)
def test_an_invalid_file_is_rejected_with_every_mistake(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StartError, match=message) as refusal:
        load_calibration(calibration_file(tmp_path, text))
    assert refusal.value.exit_code == 2
