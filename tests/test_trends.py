"""Change points: what is found in noise, what is not, and what all families have in common."""

from __future__ import annotations

import numpy as np
import pytest

from tools import trends
from tools.trends import Values, find_steps, split


def noisy(runs: int, noise: float = 0.01, seed: int = 0) -> Values:
    return np.exp(np.random.default_rng(seed).normal(-5, 0, runs)) * np.exp(
        np.random.default_rng(seed).normal(0, noise, runs)
    )


def test_a_step_is_found_where_it_is_with_its_size() -> None:
    values = noisy(60)
    values[40:] *= 1.1
    [step] = find_steps(values)
    assert step.at == 40
    assert step.kind == "step"
    assert step.ratio == pytest.approx(1.1, abs=0.01)


def test_a_step_is_found_as_soon_as_three_runs_have_it() -> None:
    values = noisy(43)
    values[40:] *= 1.1
    assert [step.at for step in find_steps(values)] == [40]
    assert find_steps(values[:41]) == [], "one run may be chance"


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_step(seed: int) -> None:
    assert find_steps(noisy(200, 0.02, seed)) == []


def test_a_run_that_is_off_is_no_step() -> None:
    values = noisy(60)
    values[20] *= 2
    values[59] *= 2
    assert find_steps(values) == []


def test_changes_too_small_to_matter_are_not_told() -> None:
    values = noisy(100, 0.001)
    values[50:] *= 1.02
    assert find_steps(values) == []


def test_a_slow_drift_is_one_change() -> None:
    values = noisy(100)
    values[20:] *= np.exp(np.linspace(0, np.log(1.3), 80))
    [drift] = find_steps(values)
    assert drift.kind == "drift"
    assert 1.2 < drift.ratio < 1.3, "from its first level to its last"


def test_too_few_runs_tell_nothing() -> None:
    assert find_steps(np.array([1.0, 1, 1, 2, 2])) == []


def test_what_all_families_share_is_taken_out_of_each() -> None:
    machine = np.array([1, 1, 1.5, 1, 0.8, 1, 1, 1])
    levels = np.array([1.0, 2, 3, 4, 5, 6])[:, None]
    table = levels * machine
    table[2, 5:] *= 1.2
    table[3, 0] = np.nan
    common, rest = split(table)
    np.testing.assert_allclose(common, machine, rtol=1e-12)
    np.testing.assert_allclose(rest[2], [3] * 5 + [3.6] * 3, rtol=1e-12)
    assert np.isnan(rest[3, 0])
    np.testing.assert_allclose(rest[3, 1:], 4, rtol=1e-12)


def test_few_families_have_nothing_in_common() -> None:
    table = np.ones((trends.TOGETHER - 1, 6)) * [1, 1, 2, 2, 1, 1]
    common, rest = split(table)
    assert np.isnan(common).all()
    np.testing.assert_array_equal(rest, table)
