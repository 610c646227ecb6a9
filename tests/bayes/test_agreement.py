"""Two engines, two ways of treating the study effects: one posterior."""

import numpy as np
import pytest
from arviz_stats.base import array_stats

import bayes_lsm as lsm
from bayes_lsm.specification import find_specification

# With one scale term; models of several have their own tests.
ONE_TERM = [name for name in lsm.list_models() if isinstance(find_specification(name).scale, str)]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def _statistics(draws):
    """Each statistic with its Monte Carlo error; `draws` (chains, draws) of one coefficient."""
    flat = draws.ravel()
    median = np.median(flat)
    yield "mean", flat.mean(), array_stats.mcse(draws, method="mean")
    for q in QUANTILES:
        yield f"q{q}", np.quantile(flat, q), array_stats.mcse(draws, method="quantile", prob=q)
    yield "sd", flat.std(ddof=1), array_stats.mcse(draws, method="sd")
    away = np.abs(draws - median)
    yield "mad", np.median(away), array_stats.mcse(away, method="median")


def _compare(first, second, worth=1.0):
    """`worth`: how many draws an effective draw of the second takes, for its errors."""
    for part in ("location", "scale"):
        ours, theirs = getattr(first.draws, part), getattr(second.draws, part)
        for j in range(ours.shape[-1]):
            pairs = zip(_statistics(ours[..., j]), _statistics(theirs[..., j]), strict=True)
            for (name, a, error_a), (_, b, error_b) in pairs:
                error = np.hypot(error_a, np.sqrt(worth) * error_b)
                assert abs(a - b) < 4 * error, (part, j, name, a, b, error)


@pytest.mark.slow
@pytest.mark.parametrize("prior", [None, "weakly_informative"])
@pytest.mark.parametrize("name", [name for name in ONE_TERM if name != "preterm_continent"])
def test_both_engines_agree(name, prior):
    """All but the half-flat posterior, of which NUTS knows the medians only: see test_collapsed."""
    model = lsm.LocationScaleModel.from_file(name)
    settings = {"prior": prior, "draws": 20_000, "seed": 7}
    nuts = model.fit_bayes(engine="nuts", progress=False, **settings)
    collapsed = model.fit_bayes(engine="collapsed", **settings)
    # Its draws are independent but resampled: their errors are those of their effective number.
    _compare(nuts, collapsed, worth=20_000 / collapsed.draws.importance.ess)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["preterm_random_effects", "bcg", "preterm_weeks"])
def test_latent_study_effects_leave_the_coefficients_as_they_are(name):
    model = lsm.LocationScaleModel.from_file(name)
    latent = model.fit_bayes(
        engine="nuts", true_effects="latent", draws=8000, seed=3, progress=False
    )
    exact = model.fit_bayes(engine="collapsed", draws=8000, seed=4)
    _compare(latent, exact, worth=8000 / exact.draws.importance.ess)
    # Given the coefficients, the true effects are normal about their shrunken means. Averaged over
    # the same draws of the coefficients, what is left is the noise about those means.
    design, draws = model.design, latent.draws
    mean = draws.flat_location @ design.X.T
    tau2 = np.exp(draws.flat_scale @ design.Z.T)
    shrunk = mean + tau2 / (tau2 + design.v) * (design.y - mean)
    variance = tau2 * design.v / (tau2 + design.v)
    true = draws.true_effect.reshape(-1, design.n_studies)
    z = (true - shrunk) / np.sqrt(variance)
    for i in range(design.n_studies):
        by_chain = z[:, i].reshape(draws.location.shape[:2])
        # Standard normal: mean 0 and SD 1, each within four Monte Carlo errors.
        assert abs(by_chain.mean()) < 4 * array_stats.mcse(by_chain, method="mean")
        assert abs(by_chain.std() - 1) < 4 * array_stats.mcse(by_chain, method="sd")
    tree = latent.posterior
    assert tree.posterior["true_effect"].dims == ("chain", "draw", "study")
    np.testing.assert_array_equal(tree.posterior["true_effect"], draws.true_effect)


def test_latent_effects_are_refused_where_they_are_integrated_out(continent):
    with pytest.raises(lsm.FitError, match="use engine='nuts' for true_effects='latent'"):
        continent.fit_bayes(engine="collapsed", true_effects="latent")
    with pytest.raises(lsm.FitError, match="must be 'integrated' or 'latent', got 'both'"):
        continent.fit_bayes(true_effects="both")
    with pytest.raises(lsm.FitError, match="must be 'integrated' or 'latent', got 'both'"):
        continent.to_pymc(true_effects="both")
