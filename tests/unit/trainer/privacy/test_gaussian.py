"""The noise of differential privacy, its account, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import nn

from trainer.cloud.private_averaging import PrivacyAccount, PrivateNoise, check_private_model, private_mean
from trainer.config.privacy_budget import averagings, parse_privacy_budget
from trainer.config.settings import RunSettings
from trainer.errors import UsageError
from trainer.privacy.gaussian import clip, epsilon_spent, noise_multiplier, standard_normal
from trainer.records.run_record import RunRecord


def test_the_noise_is_standard_normal_and_new_every_time() -> None:
    first, second = standard_normal(100_001), standard_normal(100_001)
    assert first.shape == (100_001,) and first.dtype == torch.float64
    assert stats.kstest(first.numpy(), "norm").pvalue > 1e-6
    assert abs(float((first * second).mean())) < 6 / math.sqrt(100_001)
    assert standard_normal(0).shape == (0,)


@pytest.mark.parametrize(("epsilon", "delta", "releases"), [(1.0, 1e-5, 1), (8.0, 1e-5, 4), (0.3, 1e-7, 40)])
def test_the_planned_releases_spend_exactly_the_budget(epsilon: float, delta: float, releases: int) -> None:
    multiplier = noise_multiplier(epsilon, delta, releases)
    spent = [epsilon_spent(multiplier, delta, number) for number in range(releases + 1)]
    assert spent[0] == 0 and spent == sorted(spent)
    assert spent[-1] == pytest.approx(epsilon, rel=1e-6)


def test_one_release_has_the_noise_of_the_analytic_gaussian_mechanism() -> None:
    """Balle and Wang 2018, theorem 8: delta(epsilon) = F(1/2s - es) - e^epsilon F(-1/2s - es)."""
    multiplier = noise_multiplier(1.0, 1e-5, 1)
    half, shift = 1 / (2 * multiplier), 1.0 * multiplier
    delta = stats.norm.cdf(half - shift) - math.exp(1.0) * stats.norm.cdf(-half - shift)
    assert delta == pytest.approx(1e-5, rel=1e-3)
    assert multiplier == pytest.approx(3.73, abs=0.01)


def test_updates_are_clipped_and_the_noise_has_the_stated_deviation() -> None:
    previous = {"0.weight": torch.zeros(200, 100), "0.steps": torch.tensor(3)}
    long = {**previous, "0.weight": torch.full((200, 100), 5.0)}
    without = private_mean([long, previous], [1, 3], previous, ["0.weight"], 2.0, 0.0)
    assert float(without["0.weight"].norm()) == pytest.approx(2.0 / 4, rel=1e-4)
    assert set(without) == {"0.weight"}
    noise = PrivateNoise(2.0, 1.5)
    assert noise.std([1, 3]) == pytest.approx(1.5 * 2.0 * 3 / 4)
    noisy = private_mean([long, previous], [1, 3], previous, ["0.weight"], 2.0, noise.std([1, 3]))
    assert float((noisy["0.weight"] - without["0.weight"]).std()) == pytest.approx(2.25, rel=0.03)
    vector = torch.tensor([3.0, 4.0])
    assert clip(vector, 5.0).equal(vector) and clip(vector, 1.0).norm().item() == pytest.approx(1)


@pytest.mark.parametrize(("text", "reason"), [
    ("many", "--dp is 'many'; write EPSILON or EPSILON,DELTA"),
    ("1,2,3", "--dp is '1,2,3'; write"),
    ("0", "--dp has epsilon 0; it must be finite and above 0."),
    ("inf", "--dp has epsilon inf"),
    ("nan", "--dp has epsilon nan"),
    ("-1", "--dp has epsilon -1"),
    ("1,0", "--dp has delta 0; it must lie between 0 and 1/4"),
    ("1,0.25", "--dp has delta 0.25; it must lie between 0 and 1/4"),
    ("1,nan", "--dp has delta nan"),
])
def test_a_budget_that_is_none_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        replace(RunSettings(), dp=text).check()
    assert reason in str(caught.value)


def test_budgets_and_numbers_of_averagings() -> None:
    assert parse_privacy_budget("8", 4).delta == 1e-5
    assert parse_privacy_budget("0.5,1e-6", 4).epsilon == 0.5
    assert [averagings(rounds, 5) for rounds in (1, 5, 6, 10, 11)] == [1, 1, 2, 2, 3]


def test_the_account_says_what_is_spent_and_continues_when_the_run_is_resumed(tmp_path: Path) -> None:
    settings = replace(RunSettings(), dp="2,1e-6", rounds=10, average_every=5)
    record = RunRecord(tmp_path, {})
    account = PrivacyAccount("2,1e-6", settings, record)
    assert (account.spent, account.is_spent) == (0, False)
    account.spend()
    stored = record.summary["privacy"]["dp"]
    assert (stored["averagings"], stored["averagings_planned"]) == (1, 2)
    assert 0 < stored["epsilon_spent"] < 2
    resumed = PrivacyAccount("2,1e-6", settings, record)
    resumed.spend()
    assert resumed.is_spent and resumed.spent == pytest.approx(2)
    assert "the 2 averagings together reveal at most epsilon 2 (delta 1e-06)" in account.sentence
    record.close()


def test_a_model_that_keeps_statistics_of_its_inputs_is_refused() -> None:
    check_private_model("mine", [nn.Linear(2, 2), nn.GroupNorm(1, 2)])
    with pytest.raises(UsageError, match="mine has a BatchNorm1d, which keeps statistics of its inputs"):
        check_private_model("mine", [nn.Linear(2, 2), nn.BatchNorm1d(2)])


@pytest.mark.parametrize(("changes", "reason"), [
    ({"aggregate": "median"}, "--aggregate median has no known sensitivity to one edge; --dp needs the mean."),
    ({"clip_updates": 1.0}, "--clip-updates clips by what the other edges sent; with --dp give --dp-clip."),
    ({"dp_clip": 0.0}, "--dp-clip is 0.0; it must be a finite number above 0."),
    ({"dp_clip": math.nan}, "--dp-clip is nan"),
])
def test_settings_without_a_known_sensitivity_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        RunSettings(dp="1", **changes).check()  # type: ignore[arg-type]
    assert reason in str(caught.value)
