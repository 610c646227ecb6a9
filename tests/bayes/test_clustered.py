"""The posterior of several scale terms: against the engine of one, a grid, REML, and LKJ."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta as beta_distribution
from scipy.stats import kstest, multivariate_normal

import bayes_lsm as lsm
from bayes_lsm.bayes import fit_bayes
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import PriorError
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices
from bayes_lsm.priors import HalfNormal, Normal, PartialCorrelation, Priors
from bayes_lsm.specification import Specification

from .levels import as_dependent

FIXED = Priors(location={"*": Normal(0, 1)}, scale={"*": Normal(-2, 1)})


def schools(**options):
    return lsm.LocationScaleModel(
        "yi ~ 1",
        {"district": "~ 1", "district/school": "~ 1"},
        variance="vi",
        data=lsm.load_dataset("konstantopoulos2011"),
        **options,
    )


def test_one_term_of_rows_has_the_posterior_of_the_ordinary_engine():
    data = lsm.load_dataset("bcg")
    words = Specification("yi ~ ablat", "vi", scale={"residual": "~ ablat"})
    clustered = fit_bayes(as_dependent(build_design(words, data)), seed=1)
    ordinary = lsm.LocationScaleModel(
        "yi ~ ablat", scale="~ ablat", variance="vi", data=data
    ).fit_bayes(seed=2)
    error = np.hypot(
        clustered.importance.log_evidence_se, ordinary.draws.importance.log_evidence_se
    )
    assert abs(clustered.log_evidence - ordinary.log_evidence) < 4 * error
    one, other = clustered.summary(), ordinary.summary()
    # The rank of a median among n effective draws has the standard deviation ½ / √n.
    mcse = np.hypot(1, 1) * other["sd"].to_numpy() * 1.25 / np.sqrt(other["ess"].to_numpy())
    assert (np.abs(one["median"].to_numpy() - other["median"].to_numpy()) < 4 * mcse).all()


def test_the_evidence_and_the_means_are_those_of_a_grid():
    model = schools(priors=FIXED)
    fit = model.fit_bayes(seed=3)
    design = model.design
    district = np.equal.outer(design.terms[0].index, design.terms[0].index)
    grid = np.linspace(-9, 4, 90)
    step = grid[1] - grid[0]
    prior = -0.5 * (grid + 2) ** 2 - 0.5 * np.log(2 * np.pi)
    log_joint = np.array(
        [
            [
                # β ~ N(0, 1) integrated out: it adds 1 to every covariance.
                multivariate_normal.logpdf(
                    design.y, cov=np.diag(design.v + np.exp(b)) + np.exp(a) * district + 1.0
                )
                for b in grid
            ]
            for a in grid
        ]
    )
    log_joint += prior[:, None] + prior
    top = log_joint.max()
    weights = np.exp(log_joint - top) * step**2
    assert fit.log_evidence == pytest.approx(
        top + np.log(weights.sum()), abs=4 * fit.importance.log_evidence_se
    )
    weights /= weights.sum()
    for axis, name in ((1, "district"), (0, "district/school")):
        marginal = weights.sum(axis=axis)
        mean = marginal @ grid
        sd = np.sqrt(marginal @ (grid - mean) ** 2)
        draws = fit.terms[name].alpha[:, 0]
        assert abs(draws.mean() - mean) < 4 * sd / np.sqrt(fit.importance.ess)


def test_with_many_groups_the_posterior_is_near_reml():
    rng = np.random.default_rng(4)
    n, groups = 1200, 300
    group = np.repeat(np.arange(groups), n // groups)
    size = rng.normal(size=groups)[group]
    y = (
        0.3
        + (rng.normal(size=groups) * np.exp(0.5 * (-1.0 + 0.5 * size[:: n // groups])))[group]
        + rng.normal(0, np.sqrt(0.05), n)
    )
    data = pd.DataFrame({"yi": y, "group": group, "size": size})
    model = lsm.LocationScaleModel("yi ~ 1", {"group": "~ size", "residual": "~ 1"}, data=data)
    reml, bayes = model.fit_reml(), model.fit_bayes(seed=5)
    for name, each in reml.terms.items():
        se = np.sqrt(np.diag(each.vcov))
        # Priors with the information of about one group move the mean by 1/300 of an SE² or so.
        np.testing.assert_allclose(
            bayes.terms[name].alpha.mean(axis=0), each.alpha, atol=0.25 * se.max()
        )
        np.testing.assert_allclose(bayes.terms[name].alpha.std(axis=0), se, rtol=0.1)


@pytest.mark.parametrize("b", [0.7, 1.0, 2.5])
def test_the_prior_of_a_partial_correlation(b):
    prior = PartialCorrelation(b)
    kappa = np.linspace(-40, 40, 400_001)
    assert np.trapezoid(np.exp(prior.logpdf(kappa)), kappa) == pytest.approx(1, abs=1e-6)
    drawn = np.tanh(prior.sample(4000, np.random.default_rng(6)))
    assert kstest((drawn + 1) / 2, beta_distribution(b, b).cdf).pvalue > 1e-3


def test_partial_correlations_make_an_lkj_matrix():
    """Under LKJ(1) every correlation of s effects is Beta(s/2, s/2) on (−1, 1)."""
    s, eta = 4, 1.0
    rng = np.random.default_rng(7)
    priors = [PartialCorrelation(eta + (s - 2 - j) / 2) for i in range(s) for j in range(i)]
    kappa = np.column_stack([prior.sample(4000, rng) for prior in priors])
    R = correlation_matrices(kappa, s, "unstructured")
    for i in range(s):
        for j in range(i):
            drawn = (R[:, i, j] + 1) / 2
            assert kstest(drawn, beta_distribution(s / 2, s / 2).cdf).pvalue > 1e-4


def test_priors_of_single_terms_are_named_by_their_grouping():
    design = schools().design
    given = {"district: intrcpt": HalfNormal(0.5), "district/school: intrcpt": Normal()}
    words = Priors(scale=given)
    assert resolve_priors(design, words).scale.priors == (HalfNormal(0.5), Normal())
    both = resolve_priors(design, Priors(scale={"intrcpt": HalfNormal(0.1)})).scale.priors
    assert both == (HalfNormal(0.1), HalfNormal(0.1))
    with pytest.raises(PriorError, match="'district: intrcpt', 'district/school: intrcpt'"):
        resolve_priors(design, Priors(scale={"year": Normal()}))


def test_the_scale_of_a_slope_follows_its_units():
    data = lsm.load_dataset("preterm_iq_ipd").query("study <= 12")
    data = data.assign(per_mille=1000 * data["atterm"])
    fits = [
        lsm.LocationScaleModel(
            f"iq ~ 0 + C(study) + {slope}",
            {f"0 + {slope} | study": "~ 1", "residual": "~ 1"},
            data=data,
        ).fit_bayes(seed=8)
        for slope in ("atterm", "per_mille")
    ]
    one, other = (next(iter(fit.terms.values())).alpha[:, 0] for fit in fits)
    np.testing.assert_allclose(one, other + 2 * np.log(1000), atol=1e-6)


def test_the_summary_names_correlations_and_the_same_seed_gives_the_same_draws():
    model = lsm.LocationScaleModel(
        "yi ~ 0 + outcome",
        {"outcome | trial": "~ 0 + outcome"},
        variance="vi",
        sampling_covariance=lsm.SamplingCovariance("trial", columns=["v1i", "v2i"]),
        data=lsm.load_dataset("berkey1998"),
    )
    fit, again = model.fit_bayes(seed=9), model.fit_bayes(seed=9)
    np.testing.assert_array_equal(fit.draws.location, again.draws.location)
    assert ("correlation", "AL, PD") in fit.summary().index
    text = str(lsm.compare(model.fit_reml(), fit))
    assert "\nCorrelation" in text
    assert "rho0    AL, PD" in text
    posterior = fit.posterior["posterior"].to_dataset()
    assert list(posterior["scale"]["scale_term"].values) == ["outcomeAL", "outcomePD"]
    assert posterior["correlation"].shape == (4, 1000, 1)


def test_a_fit_can_be_pickled():
    assert pickle.loads(pickle.dumps(schools().fit_bayes(seed=1))).seed == 1
