"""What is read off the blocks of Σ, by one matrix of all rows."""

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.likelihood.blocks.covariance import loadings, stack_covariances


def outcomes():
    """Correlated effects, independent sampling errors: the effects alone tie the rows together."""
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"trial": np.repeat(np.arange(12), 2), "outcome": list("ab") * 12})
    shared = np.repeat(rng.normal(0, 0.8, 12), 2)
    data["yi"] = shared + rng.normal(0, 0.4, 24)
    data["vi"] = rng.uniform(0.02, 0.1, 24)
    scale = {"outcome | trial": "~ 0 + outcome"}
    return lsm.LocationScaleModel("yi ~ 0 + outcome", scale, variance="vi", data=data)


def individuals():
    """A slope that is 0 for half of the rows of each study."""
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"study": np.repeat(np.arange(10), 8), "arm": [0.0, 1.0] * 40})
    slope = np.repeat(rng.normal(3, 2, 10), 8)
    data["y"] = data["arm"] * slope + rng.normal(size=80)
    scale = {"0 + arm | study": "~ 1", "residual": "~ 1"}
    return lsm.LocationScaleModel("y ~ 0 + C(study) + arm", scale, data=data)


@pytest.mark.parametrize("model", [outcomes(), individuals()], ids=["outcomes", "individuals"])
def test_effects_are_those_of_one_large_matrix(model):
    fit = model.fit_reml()
    design = fit.design
    terms = fit.terms.values()
    D = stack_covariances([each.tau2 for each in terms], [each.correlation for each in terms])
    A, D = loadings(design).toarray(), D.toarray()
    sigma = A @ D @ A.T + np.diag(design.v)
    inverse = np.linalg.inv(sigma)
    P = inverse - inverse @ design.X @ np.linalg.solve(
        design.X.T @ inverse @ design.X, design.X.T @ inverse
    )
    found = fit.group_effects().table
    assert found["estimate"].abs().max() > 0.5
    np.testing.assert_allclose(found["estimate"], D @ A.T @ P @ design.y, atol=1e-9)
    errors = D - D @ A.T @ P @ A @ D
    np.testing.assert_allclose(found["se"] ** 2, np.diag(errors), atol=1e-9)
    # New data have the covariances of the model: five standard errors of some thousand numbers.
    drawn = design.X @ fit.beta + fit.covariance.draw(20_000, np.random.default_rng(3))
    sd = np.sqrt(np.diag(sigma))
    error = np.abs(np.cov(drawn.T) - sigma)
    assert (error < 5.5 * np.sqrt(2 / 20_000) * np.outer(sd, sd)).all()
