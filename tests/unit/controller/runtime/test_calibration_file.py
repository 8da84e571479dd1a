"""What a calibration file says, and what is said about a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.calculus.network_bounds import DEFAULT_CALIBRATION
from controller.errors import StartError
from controller.runtime.calibration_file import load_calibration


def written(directory: Path, text: str) -> Path:
    path = directory / "calibration.json"
    path.write_text(text)
    return path


def test_what_a_file_does_not_name_stays_as_it_is_by_default(tmp_path: Path) -> None:
    calibration = load_calibration(written(tmp_path, '{"switch_max_us": 400}'))
    assert calibration.switch_max_us == 400
    assert calibration.switch_min_us == DEFAULT_CALIBRATION.switch_min_us


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[1]", "must be a JSON object"),
        ('{"switch_max": 1, "switch_min_us": -5}', "no 'switch_max'.*switch_min_us is -5; it must be a number"),
        ('{"switch_max_us": NaN}', "switch_max_us is nan"),
        ('{"switch_min_us": 2000}', "switch_min_us is 2000, which is more than switch_max_us, 1000"),
    ],
)
def test_a_wrong_file_is_refused_with_every_mistake(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(StartError, match=said) as refusal:
        load_calibration(written(tmp_path, text))
    assert refusal.value.exit_code == 2
