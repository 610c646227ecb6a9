"""ln p(y | β, α), and β | α, y, by dense matrices, for both solvers and given random intercepts."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

import bayes_lsm as lsm
from bayes_lsm.bayes.pointwise_likelihood import joint_log_likelihood
from bayes_lsm.bayes.prior_draws import draw_priors
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.term_draws import flat_coefficients, split_terms
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.blocks.arrange import error_covariance
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.likelihood.protocol import NormalPrior
from bayes_lsm.priors import Normal, Priors

from ..bayes.levels import model_of
from ..bayes.test_scale_random_intercepts import SMALL
from ..bayes.test_scale_random_intercepts import model_of as mixed_model

BELIEFS = Priors(location={"*": Normal(0, 1)}, scale={"*": Normal(-2, 1)})
DESIGNS = {
    "rows": lambda: (
        lsm.LocationScaleModel(
            "yi ~ ablat", "~ ablat", variance="vi", data=lsm.load_dataset("bcg")
        ).design
    ),
    "nested": lambda: model_of("konstantopoulos2011").design,
    "correlated": lambda: model_of("berkey1998").design,
    "random intercepts": lambda: mixed_model(SMALL).design,
}


def _covariance(design, terms, s):
    """V + Σ A D A' at draw number s."""
    V = error_covariance(design)
    found = np.diag(V) if V.ndim == 1 else V.toarray()
    for each in terms.values():
        groups, effects = each.term.Z.shape[:2]
        tau = np.exp(each.log_tau2(slice(None))[:, s] / 2).reshape(groups, effects)
        loads = each.term.slopes * tau[each.term.index]
        shared = np.equal.outer(each.term.index, each.term.index)
        found = found + shared * (loads @ each.correlation[s] @ loads.T)
    return found


@pytest.mark.parametrize("kind", DESIGNS)
@pytest.mark.parametrize("solver", ["its own", "blocks"])
def test_densities_and_moments_of_the_location_are_those_of_dense_matrices(
    kind, solver, monkeypatch
):
    if solver == "blocks":
        monkeypatch.setattr(Design, "is_independent", False)
    design = DESIGNS[kind]()
    rng = np.random.default_rng(1)
    drawn = draw_priors(design, BELIEFS, resolve_priors(design, BELIEFS), 5, rng)
    terms = split_terms(design, drawn)
    p = design.X.shape[1]
    prior = NormalPrior(np.linspace(-1, 1, p), np.diag(np.arange(1.0, p + 1)))
    likelihood = likelihood_of(design.given_levels())
    means, covariances = likelihood.conditional_location(flat_coefficients(terms), prior)
    ours = joint_log_likelihood(design, drawn)
    for s in range(drawn.size):
        sigma = _covariance(design, terms, s)
        beta = drawn.flat_location[s]
        exact = multivariate_normal(design.X @ beta, sigma).logpdf(design.y)
        # Closed forms on either side: what is left is rounding.
        assert ours[s] == pytest.approx(exact, rel=1e-9)
        A = design.X.T @ np.linalg.solve(sigma, design.X) + prior.precision
        b = design.X.T @ np.linalg.solve(sigma, design.y) + prior.precision @ prior.mean
        np.testing.assert_allclose(covariances[s], np.linalg.inv(A), rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(means[s], np.linalg.solve(A, b), rtol=1e-7, atol=1e-10)
