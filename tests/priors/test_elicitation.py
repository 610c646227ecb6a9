"""Priors in words: what was said comes out of the draws again."""

import math

import numpy as np
import pytest

from bayes_lsm.errors import PriorError
from bayes_lsm.priors import around, at_most, from_fold, from_spread, spread_to_tau

DRAWS = 40_000
# Four standard errors of a share of 95% of the draws.
TOLERANCE = 4 * math.sqrt(0.95 * 0.05 / DRAWS)


def _tau(prior, seed=1):
    return np.exp(prior.sample(DRAWS, np.random.default_rng(seed)) / 2)


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_spread_holds_its_share_of_true_effects(share):
    rng = np.random.default_rng(2)
    log_ratios = rng.normal(0.3, spread_to_tau(3, measure="OR", share=share), DRAWS)
    half = math.sqrt(3)
    ratios = np.exp(log_ratios - 0.3)
    inside = (ratios < half) & (ratios > 1 / half)
    assert inside.mean() == pytest.approx(share, abs=0.011)  # 4 √(0.25 / 40,000)
    differences = rng.normal(5, spread_to_tau(0.8, measure="SMD", share=share), DRAWS)
    assert (np.abs(differences - 5) < 0.4).mean() == pytest.approx(share, abs=0.011)


def test_at_most_and_around_hold_with_the_stated_probability():
    assert (_tau(at_most(0.5)) < 0.5).mean() == pytest.approx(0.95, abs=TOLERANCE)
    tau = _tau(around(0.3, within=2))
    assert ((tau > 0.15) & (tau < 0.6)).mean() == pytest.approx(0.95, abs=TOLERANCE)
    assert np.median(tau) == pytest.approx(0.3, rel=0.01)


def test_from_spread_is_about_the_spread_of_true_effects():
    spans = np.exp(2 * 1.959964 * _tau(from_spread(3, measure="OR")))
    assert (spans < 3).mean() == pytest.approx(0.95, abs=TOLERANCE)
    assert from_spread(3, measure="OR") == at_most(spread_to_tau(3, measure="OR"))


def test_from_fold_is_about_the_ratio_of_tau():
    prior = from_fold(4, sure=0.9)
    assert (prior.on, prior.moderators) == ("log_tau", "standardised")
    ratio = _tau(prior)  # exp of half the slope of ln τ²
    assert ((ratio > 0.25) & (ratio < 4)).mean() == pytest.approx(0.9, abs=0.006)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: from_spread(0.5, measure="OR"), "spread is the factor .* above 1, got 0.5"),
        (lambda: from_spread(-1, measure="MD"), "spread is the distance .* above 0, got -1"),
        (lambda: from_spread(3, measure="odds"), "measure must be 'SMD', .* got 'odds'"),
        (lambda: from_spread(3, measure="OR", share=95), "share must be a probability .* got 95"),
        (lambda: at_most(0), "tau is a value of τ, which must be above 0, got 0"),
        (lambda: at_most(1, sure=1), "sure must be a probability"),
        (lambda: around(1, within=1), "within is a factor, which must be above 1"),
        (lambda: from_fold(math.inf), "fold is a ratio of τ"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, message):
    with pytest.raises(PriorError, match=message):
        make()
