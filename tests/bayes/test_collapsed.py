"""The collapsed engine: its pieces by other routes, its answers by brute force, grids and NUTS."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from arviz_stats.base import array_stats
from scipy.stats import beta as beta_distribution
from scipy.stats import genpareto, kstest, multivariate_normal, multivariate_t

import bayes_lsm as lsm
from bayes_lsm.bayes import fit_bayes
from bayes_lsm.bayes.engines.collapsed import CollapsedTarget, normal_prior
from bayes_lsm.bayes.engines.direct import sample_directly
from bayes_lsm.bayes.engines.importance_sampling import _derivatives
from bayes_lsm.bayes.engines.pareto import fit_pareto, smooth_weights
from bayes_lsm.bayes.engines.proposal import Fixed, Mixture, fit_mixture
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import PriorError
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices
from bayes_lsm.likelihood.rows.integrated import Integrated
from bayes_lsm.priors import HalfNormal, Normal, PartialCorrelation, Priors
from bayes_lsm.specification import Specification, find_specification

from .levels import as_dependent

# With one scale term; models of several have their own tests.
ONE_TERM = [name for name in lsm.list_models() if isinstance(find_specification(name).scale, str)]


@pytest.fixture(scope="module")
def pieces(continent):
    design = continent.design
    priors = resolve_priors(design, Priors("weakly_informative"))
    mean, precision = normal_prior(priors.location)
    arrays = (design.y, design.v, design.X, design.Z, mean, precision)
    return tuple(np.ascontiguousarray(each) for each in arrays)


def test_marginal_likelihood_is_that_of_the_dense_normal(pieces):
    y, v, X, Z, mean, precision = pieces
    alphas = np.random.default_rng(1).normal([0, 0, 0, -0.2], 0.3, size=(5, 4))
    ours = Integrated(*pieces).log_marginal(alphas)
    for alpha, value in zip(alphas, ours, strict=True):
        dense = np.diag(v + np.exp(Z @ alpha)) + X @ np.linalg.solve(precision, X.T)
        # The dense covariance has a condition number near 1e6, which costs it half its digits.
        assert value == pytest.approx(multivariate_normal(X @ mean, dense).logpdf(y), abs=1e-8)


def test_location_given_alpha_has_the_exact_mean_and_covariance(pieces):
    y, v, X, Z, mean, precision = pieces
    alpha = np.array([0.5, 0.2, -1.0, -0.1])
    size = 200_000
    noise = np.random.default_rng(2).standard_normal((size, 4))
    drawn = Integrated(*pieces).draw_location(np.tile(alpha, (size, 1)), noise)
    W = np.diag(1 / (v + np.exp(Z @ alpha)))
    A = X.T @ W @ X + precision
    exact = np.linalg.solve(A, X.T @ W @ y + precision @ mean)
    sd = np.sqrt(np.diag(np.linalg.inv(A)))
    # Four Monte Carlo errors of a mean; a covariance of 200,000 draws is good to 1%.
    np.testing.assert_allclose(drawn.mean(axis=0), exact, atol=4 * sd.max() / np.sqrt(size))
    scaled = np.cov(drawn.T) / np.outer(sd, sd)
    np.testing.assert_allclose(scaled, np.linalg.inv(A) / np.outer(sd, sd), atol=0.015)


def test_normal_prior_is_that_of_the_contrasts(continent):
    block = resolve_priors(continent.design, Priors("weakly_informative")).location
    mean, precision = normal_prior(block)
    b = np.array([1.0, 2.0, -1.0, 0.3])
    density = multivariate_normal(mean, np.linalg.inv(precision)).logpdf(b)
    ours = block.logpdf(b).sum() + np.linalg.slogdet(block.contrasts)[1]
    assert density == pytest.approx(ours, rel=1e-9)


def test_mixture_density_and_sampling_agree():
    rng = np.random.default_rng(3)
    fixed = Fixed(
        multivariate_normal([0, 0], 9 * np.eye(2)).logpdf,
        lambda size, rng: rng.normal(0, 3, (size, 2)),
    )
    factors = np.array([[[1.0, 0], [0.5, 0.8]], [[0.3, 0], [-0.1, 0.4]]])
    mixture = Mixture(np.array([0.2, 0.5, 0.3]), np.array([[1.0, 1], [-2, 0]]), factors, fixed)
    x = np.array([[0.3, -0.2], [4, 4]])
    parts = [
        multivariate_t(m, f @ f.T, df=5).pdf(x) for m, f in zip(mixture.means, factors, strict=True)
    ]
    exact = np.log(0.2 * np.exp(fixed.logpdf(x)) + 0.5 * parts[0] + 0.3 * parts[1])
    np.testing.assert_allclose(mixture.logpdf(x), exact, rtol=1e-10)
    drawn = mixture.sample(100_000, rng)
    # E[1 / density · indicator] over a box is its area: 4 here, within 4 Monte Carlo errors.
    inside = (np.abs(drawn) < 1).all(axis=1)
    ratio = inside / np.exp(mixture.logpdf(drawn))
    assert ratio.mean() == pytest.approx(4, abs=4 * ratio.std() / np.sqrt(len(ratio)))


def test_joined_mixture_is_the_mixture_of_both():
    fixed = Fixed(
        multivariate_normal([0.0], 9.0).logpdf, lambda size, rng: rng.normal(0, 3, (size, 1))
    )
    parts = [
        Mixture(np.array([w, 1 - w]), np.array([[m]]), np.array([[[1.0]]]), fixed)
        for w, m in ((0.2, 1.0), (0.5, -4.0))
    ]
    x = np.linspace(-8, 5, 7)[:, None]
    mixed = 0.7 * np.exp(parts[0].logpdf(x)) + 0.3 * np.exp(parts[1].logpdf(x))
    joined = parts[0].joined(parts[1], 0.3)
    np.testing.assert_allclose(np.exp(joined.logpdf(x)), mixed, rtol=1e-12)
    assert joined.weights.sum() == pytest.approx(1)


def test_fitted_mixture_raises_the_likelihood_of_its_points():
    rng = np.random.default_rng(4)
    points = np.concatenate([rng.normal(0, 1, (500, 2)), rng.normal([6, 0], 0.3, (500, 2))])
    weights = np.full(1000, 1e-3)
    fixed = Fixed(
        multivariate_normal([0, 0], 100 * np.eye(2)).logpdf,
        lambda size, rng: rng.normal(0, 10, (size, 2)),
    )
    start = Mixture(
        np.array([0.2, 0.4, 0.3, 0.1]),
        np.array([[1.0, 1], [4, 1], [3, 0]]),
        np.repeat(2 * np.eye(2)[None], 3, axis=0),
        fixed,
    )
    fitted = fit_mixture(start, points, weights)
    assert fitted.logpdf(points).mean() > start.logpdf(points).mean() + 0.5
    np.testing.assert_allclose(fitted.means[1], [6, 0], atol=0.1)


def test_derivatives_are_exact_for_a_quadratic():
    A = np.array([[2.0, 0.5, 0.1], [0.5, 1, 0.2], [0.1, 0.2, 3]])
    here = np.array([0.3, -1.0, 2.0])
    f = lambda x: -0.5 * np.einsum("mi,ij,mj->m", x, A, x)  # noqa: E731
    gradient, hessian = _derivatives(f, here, f(here[None])[0], np.full(3, 1e-2))
    # Central differences of a quadratic are exact but for rounding, 1e-16 / h².
    np.testing.assert_allclose(gradient, -A @ here, atol=1e-10)
    np.testing.assert_allclose(hessian, -A, atol=1e-9)


def test_pareto_fit_finds_the_shape_and_agrees_with_arviz():
    rng = np.random.default_rng(5)
    for shape in (0.2, 0.5, 0.9):
        excess = np.sort(genpareto(shape, scale=2).rvs(20_000, random_state=rng))
        k, sigma = fit_pareto(excess)
        # The standard error of the shape is (1 + k) / √m = 0.013 at most.
        assert k == pytest.approx(shape, abs=0.05)
        assert sigma == pytest.approx(2, rel=0.05)
    log_weights = rng.standard_t(3, 4000)
    smoothed, k = smooth_weights(log_weights)
    theirs, their_k = array_stats.psislw(-log_weights)  # it takes log likelihoods
    # They trim grid points of no weight and cut the tail one point elsewhere: the third digit.
    assert k == pytest.approx(float(their_k), abs=1e-3)
    np.testing.assert_allclose(np.exp(smoothed), np.exp(theirs), rtol=5e-3, atol=1e-12)


def test_a_tie_at_the_cutoff_is_no_doubt():
    """Resampling draws some points twice; k was infinite when one of them stood there."""
    log_weights = np.sort(np.random.default_rng(4).standard_normal(4000))
    _, without = smooth_weights(log_weights)
    tail = 190  # 3 √4000
    log_weights[-tail - 1] = log_weights[-tail]
    smoothed, k = smooth_weights(log_weights)
    assert k == pytest.approx(without, abs=0.02)  # one of 190 points less
    assert np.ptp((smoothed - log_weights)[: -tail + 1]) < 1e-12  # below the tail: as they were
    assert smooth_weights(np.zeros(4000))[1] == 0


def test_the_far_region_has_its_share(continent):
    """Brute force: the same integrals by 4 million draws from the prior, no proposal at all."""
    priors = resolve_priors(continent.design, Priors("slides"))
    target = CollapsedTarget(continent.design, priors)
    rng = np.random.default_rng(6)
    alphas = rng.normal(0, 7, (4_000_000, 4))
    log_weights = target._likelihood.values(alphas, target.location)
    weights = np.exp(log_weights - log_weights.max())
    far = weights[alphas[:, 3] > 1].sum() / weights.sum()
    effective = weights.sum() ** 2 / np.sum(weights**2)
    fit = continent.fit_bayes(engine="collapsed", draws=40_000, seed=2)
    share = np.mean(fit.draws.flat_scale[:, 3] > 1)
    # About 0.6% of the mass; four binomial errors of either side.
    error = np.sqrt(far * (1 / effective + 1 / fit.draws.importance.ess))
    assert share == pytest.approx(far, abs=4 * error)
    evidence = log_weights.max() + np.log(weights.mean())
    # ln of a mean of `effective` independent terms has standard error 1 / √effective.
    assert fit.draws.importance.log_evidence == pytest.approx(evidence, abs=4 / np.sqrt(effective))


@pytest.mark.parametrize("preset", ["weakly_informative", "slides"])
@pytest.mark.parametrize("name", ONE_TERM)
def test_every_model_file_is_sampled_well(name, preset):
    model = lsm.LocationScaleModel.from_file(name)
    evidence = []
    for seed in range(4):
        fit = model.fit_bayes(engine="collapsed", prior=preset, draws=4000, seed=seed)
        assert fit.converged
        assert fit.draws.importance.ess > 2000
        evidence.append(fit.draws.importance.log_evidence)
    # Different seeds adapt to different proposals, and all must find the same mass.
    assert np.ptp(evidence) < 8 * fit.draws.importance.log_evidence_se


@pytest.mark.slow
def test_engines_agree_on_the_hard_case(continent_bayes, continent_nuts):
    ours, theirs = continent_bayes.summary(), continent_nuts.summary()
    error = 4 * np.hypot(ours["mcse_median"], theirs["mcse_median"])
    assert (np.abs(ours["median"] - theirs["median"]) < error).all()


def test_same_seed_same_draws(continent):
    first, again, other = (
        continent.fit_bayes(engine="collapsed", draws=1000, seed=seed) for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(first.draws.scale, again.draws.scale)
    np.testing.assert_array_equal(first.draws.location, again.draws.location)
    assert not np.array_equal(first.draws.scale, other.draws.scale)
    assert first.draws.scale.shape == (4, 250, 4)


def test_auto_takes_the_collapsed_engine_where_it_can_be_trusted(continent, monkeypatch):
    assert continent.fit_bayes(draws=1000, seed=1).draws.importance is not None
    monkeypatch.setattr("bayes_lsm.bayes.engines.diagnostics.LARGEST_PARETO_K", -9.0)
    monkeypatch.setattr("bayes_lsm.bayes.engines.diagnostics.LARGE_WEIGHT", 0.0)
    with pytest.warns(lsm.ConvergenceWarning, match="Pareto k of the importance weights"):
        continent.fit_bayes(engine="collapsed", draws=1000, seed=1)

    def refuse(*_, **__):
        raise lsm.FitError("NUTS was asked")

    monkeypatch.setattr("bayes_lsm.bayes.posterior_sampling.sample_nuts", refuse)
    with pytest.raises(lsm.FitError, match="NUTS was asked"):
        continent.fit_bayes(draws=1000, seed=1)


def test_a_single_scale_coefficient_and_many_studies():
    rng = np.random.default_rng(8)
    k = 3000
    data = pd.DataFrame({"vi": rng.uniform(0.01, 0.2, k), "x": rng.normal(size=k)})
    tau2 = np.exp(-2 + 0.5 * data["x"])
    data["yi"] = rng.normal(0.3 + 0.1 * data["x"], np.sqrt(data["vi"] + tau2))
    model = lsm.LocationScaleModel("yi ~ x", scale="~ x", variance="vi", data=data)
    fit = model.fit_bayes(engine="collapsed", draws=2000, seed=1)
    reml = model.fit_reml()
    # With 3000 studies the priors weigh nothing and both posteriors are normal: half a standard
    # error is far above either's error.
    bayes = fit.to_dataframe()
    frame = reml.to_dataframe()
    assert (np.abs(bayes["mean"] - frame["estimate"]) < 0.5 * frame["se"]).all()
    np.testing.assert_allclose(bayes["sd"], frame["se"], rtol=0.1)


def test_raw_halfnormal_prior_is_sampled_too(continent):
    prior = Priors("slides", scale={"intrcpt": HalfNormal(3), "I(weeks - 40)": Normal(0, 0.2)})
    fit = continent.fit_bayes(prior=prior, engine="collapsed", draws=4000, seed=1)
    assert fit.converged
    assert sample_directly(
        continent.design, resolve_priors(continent.design, prior), draws=400, seed=1
    ).location.shape == (4, 100, 4)


def test_the_way_to_the_summary_loads_neither_pymc_nor_arviz():
    code = (
        "import sys, bayes_lsm as lsm\n"
        "print(lsm.LocationScaleModel.from_file('bcg').fit_bayes(seed=1).summary())\n"
        "heavy = {m for m in sys.modules if m.split('.')[0] in\n"
        "         {'pymc', 'pytensor', 'arviz', 'arviz_stats', 'nutpie', 'matplotlib'}}\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Several scale terms

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
    several = fit_bayes(as_dependent(build_design(words, data)), seed=1)
    ordinary = lsm.LocationScaleModel(
        "yi ~ ablat", scale="~ ablat", variance="vi", data=data
    ).fit_bayes(seed=2)
    error = np.hypot(several.importance.log_evidence_se, ordinary.draws.importance.log_evidence_se)
    assert abs(several.log_evidence - ordinary.log_evidence) < 4 * error
    one, other = several.summary(), ordinary.summary()
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
