"""Predictions of several scale terms: REML's variances and dense algebra at each draw."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr

import bayes_lsm as lsm
from bayes_lsm.errors import DataError, FitError

from .levels import at_reml, bayes_of, reml_at, reml_of
from .test_clustered_effects import dense_model, dense_posterior

NEW = pd.DataFrame({"district": [11, 27], "year": [1980, 2000]})


def normals(fit, known):
    """Mean and SD (rows, draws) of the effects at NEW, by REML's τ² and dense posteriors."""
    reml, found = reml_of("konstantopoulos2011"), []
    places = [fit.terms["district"].term.groups.index(name) for name in ("11", "27")]
    for draw in range(len(fit.draws.flat_location)):
        table = reml_at(reml, fit, draw).predict(NEW, scale_uncertainty="plug-in").table
        mean, variance = table["estimate"].to_numpy(), table["tau2"].to_numpy()
        if known:
            u, covariance = dense_posterior(fit, draw)
            mean = mean + u[places]
            variance = table["tau2 (district/school)"] + np.diag(covariance)[places]
        found.append((mean, np.sqrt(variance)))
    return np.swapaxes(np.array(found), 0, 2).swapaxes(0, 1)


@pytest.mark.parametrize("known", [(), ("district",)])
def test_intervals_hold_their_share_of_the_mixture(known):
    fit = bayes_of("konstantopoulos2011")
    mean, sd = normals(fit, known)
    table = fit.predict(NEW, known=known, variance=[0.1, 0.2], level=0.9).table
    seen = np.sqrt(sd**2 + np.array([[0.1], [0.2]]))
    ends = [
        ("pi_lb", 0.05, sd),
        ("pi_ub", 0.95, sd),
        ("obs_lb", 0.05, seen),
        ("obs_ub", 0.95, seen),
    ]
    ends += [("effect", 0.5, sd)] if known else []
    for end, p, spread in ends:
        below = ndtr((table[end].to_numpy()[:, None] - mean) / spread).mean(axis=1)
        np.testing.assert_allclose(below, p, atol=1e-7)
    above = fit.probability(0.1, NEW, known=known).table["new_effect"]
    np.testing.assert_allclose(above, ndtr((mean - 0.1) / sd).mean(axis=1), rtol=1e-9)
    drawn = fit.new_effects(NEW, known=known, seed=2)
    assert drawn.shape == (1, 200, 2)


def test_with_all_groups_known_it_is_the_rows_own_effect():
    fit = at_reml(reml_of("konstantopoulos2011"))
    found = fit.predict(known=list(fit.terms)).table
    A = dense_model(fit, 0)[0]
    draws = [dense_posterior(fit, draw) for draw in range(len(fit.draws.flat_location))]
    mean = np.array(
        [fit.design.X @ fit.draws.flat_location[j] + A @ u for j, (u, _) in enumerate(draws)]
    )
    sd = np.sqrt([np.einsum("ij,jk,ik->i", A, C, A) for _, C in draws])
    below = ndtr((found["pi_ub"].to_numpy() - mean) / sd).mean(axis=0)
    np.testing.assert_allclose(below, 0.975, atol=1e-7)


def test_bad_input():
    fit = bayes_of("konstantopoulos2011")
    with pytest.raises(DataError, match="has the group '99' in row 0"):
        fit.predict(NEW.assign(district=99), known=["district"])
    with pytest.raises(FitError, match="add it to terms"):
        fit.predict(NEW, terms=["district/school"], known=["district"])
    with pytest.raises(FitError, match="no scale term 'school'"):
        fit.predict(NEW, terms=["school"])
    with pytest.raises(lsm.FitError, match="direction must be"):
        fit.probability(0, NEW, direction="up")
