"""The DataTree of a fit: the same groups for every kind of model, which ArviZ can read."""

import warnings
from functools import cache

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta as beta_distribution
from scipy.stats import halfnorm, multivariate_normal

import bayes_lsm as lsm
from bayes_lsm.bayes.cross_validation.entries import pointwise_log_likelihood
from bayes_lsm.bayes.datatree import build_datatree

from .levels import (
    DESIGNS,
    chosen_draws,
    crossed_model,
    dense_model,
    individuals,
    with_draws,
)
from .test_scale_random_intercepts import SMALL, model_of


def bcg(location="yi ~ 1", **words):
    return lsm.LocationScaleModel(location, data=lsm.load_dataset("bcg"), **words)


def dense():
    data = lsm.load_dataset("bcg")
    sd, place = np.sqrt(data["vi"].to_numpy()), np.arange(13)
    return bcg(variance=np.exp(-np.abs(place[:, None] - place) / 2) * np.outer(sd, sd))


def one_stage():
    words = {"0 + atterm | study": "~ 1", "residual": "~ 1"}
    return lsm.LocationScaleModel("iq ~ 0 + C(study) + atterm", words, data=individuals())


MODELS = {
    "random effects": lambda: bcg(variance="vi"),
    "location-scale": lambda: bcg("yi ~ ablat", scale="~ ablat", variance="vi"),
    "Student-t": lambda: bcg(variance="vi", study_effects="student_t"),
    "nested": lambda: lsm.LocationScaleModel.from_file("konstantopoulos2011"),
    "crossed": crossed_model,
    "slopes": lambda: lsm.LocationScaleModel(
        "iq ~ atterm", {"1 + atterm | study": "~ 1", "residual": "~ 1"}, data=individuals()
    ),
    "correlated outcomes": lambda: lsm.LocationScaleModel.from_file("berkey1998"),
    "dense V": dense,
    "individual data": one_stage,
    "random intercepts of ln τ²": lambda: model_of(SMALL),
}
ONE_BLOCK = ("crossed", "dense V")
COMMON = {"posterior", "log_likelihood", "log_prior", "prior", "prior_predictive"}
COMMON |= {"posterior_predictive", "observed_data"}


@cache
def fit_of(kind, seed=1):
    model = MODELS[kind]()
    if kind == "random intercepts of ln τ²":
        return _by_hand(model.design, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lsm.ConvergenceWarning)  # of so few draws
        return model.fit_bayes(engine="collapsed", draws=400, seed=seed)


def _by_hand(design, seed):
    """What takes NUTS a minute to compile: draws that are no posterior, but near one."""
    rng = np.random.default_rng(seed)
    alpha, sd = rng.normal([-1.0, 0.5], 0.2, (400, 2)), rng.uniform(0.5, 1, 400)
    effect = sd[:, None] * rng.normal(size=(400, 4))
    location = rng.normal(0.3, 0.1, (400, 1))
    return with_draws(design, location, [alpha], random=[(sd, effect)])


def assert_arviz_reads(tree, other):
    """Leave-one-out, power-scaling, predictive check and comparison."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a Pareto k of so few draws
        entries = tree.log_likelihood["effect"].shape[-1]
        assert np.isfinite(az.loo(tree).elpd)
        assert az.loo(tree, pointwise=True).elpd_i.shape == (entries,)
        table = az.psense_summary(tree)
        compared = az.compare({"one": tree, "other": other})
    unknowns = sum(each[0, 0].size for each in tree.posterior.data_vars.values())
    assert len(table) == unknowns
    assert np.isfinite(table[["prior", "likelihood"]].to_numpy(float)).all()
    assert list(compared.index.sort_values()) == ["one", "other"]
    az.plot_ppc_dist(tree)
    plt.close("all")


@pytest.mark.parametrize("kind", MODELS)
def test_arviz_reads_every_kind_of_model(kind):
    fit = fit_of(kind)
    tree = fit.posterior
    assert set(tree.children) == COMMON
    assert_arviz_reads(tree, fit_of(kind, seed=2).posterior)
    names = set(tree.posterior.data_vars)
    assert names == set(tree.prior.data_vars)
    assert names - {"scale_effect"} == set(tree.log_prior.data_vars)
    assert "scale_effect" not in tree.log_prior.data_vars
    for group in ("posterior_predictive", "prior_predictive"):
        assert tree[group]["effect"].shape[-1] == len(fit.design.y)
    np.testing.assert_array_equal(tree.observed_data["effect"], fit.design.y)
    (dim,) = tree.log_likelihood["effect"].dims[2:]
    independent = "study" if fit.design.is_independent else "cluster"
    alone = kind in ONE_BLOCK or kind == "random intercepts of ln τ²"
    assert dim == ("row" if alone else independent)


@pytest.mark.slow
def test_arviz_reads_a_fit_by_nuts_with_random_intercepts_of_the_scale(tmp_path):
    fit = model_of(SMALL).fit_bayes(draws=2000, seed=5, target_accept=0.99, progress=False)
    assert set(fit.posterior.children) == COMMON | {"sample_stats"}
    assert_arviz_reads(fit.posterior, fit_of("random intercepts of ln τ²").posterior)
    back = az.from_netcdf(fit.to_netcdf(tmp_path / "fit.nc"))
    np.testing.assert_array_equal(back.posterior["scale_effect"], fit.draws.scale_effect)
    assert "SDs of random intercepts" in str(lsm.compare(fit))


def test_fits_with_random_intercepts_of_the_scale_stand_side_by_side():
    one, other = (fit_of("random intercepts of ln τ²", seed) for seed in (1, 2))
    text = str(lsm.compare(one, other))
    assert "SDs of random intercepts of ln τ²\n  omega0  country" in text
    assert "Random intercepts of ln τ²: country\n  u0      country 00" in text


def _rows_given(fit, draw):
    A, D, V = dense_model(fit, draw)
    return fit.design.X @ fit.draws.flat_location[draw], V + A @ D @ A.T


@pytest.mark.parametrize(
    "make",
    [
        *(lambda name=name: chosen_draws(DESIGNS[name]()) for name in DESIGNS),
        *(lambda kind=kind: fit_of(kind) for kind in ("nested", "dense V", "individual data")),
        lambda: fit_of("random intercepts of ln τ²"),
    ],
)
def test_the_log_likelihood_is_that_of_dense_matrices(make):
    """The sum over clusters is that of all rows; of one block, each row given the others."""
    fit = make()
    found = pointwise_log_likelihood(fit.design, fit.draws)
    values, y = found.values.reshape(fit.draws.size, -1), fit.design.y
    assert values.shape[1] == len(found.names)
    for draw in (0, fit.draws.size - 1):
        mean, sigma = _rows_given(fit, draw)
        whole = multivariate_normal.logpdf(y, mean, sigma)
        if found.unit != "row":
            assert values[draw].sum() == pytest.approx(whole, abs=1e-8)
            continue
        for i in (0, len(y) // 2):
            rest = np.arange(len(y)) != i
            others = multivariate_normal.logpdf(y[rest], mean[rest], sigma[np.ix_(rest, rest)])
            assert values[draw, i] == pytest.approx(whole - others, abs=1e-8)


def test_clusters_are_named_and_predicted_as_a_whole():
    fit = fit_of("nested")
    found = pointwise_log_likelihood(fit.design, fit.draws)
    assert found.names == fit.design.terms[0].groups
    with pytest.warns(lsm.ConvergenceWarning, match="Pareto k"):
        ours = fit.psis_loo()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same, by ArviZ
        theirs = az.loo(fit.posterior, pointwise=True, reff=1.0)
    good = ours.columns["pareto_k"] < 0.7
    assert good.sum() > 5
    # Of 400 draws: the tail is smoothed a little otherwise.
    np.testing.assert_allclose(ours.pointwise[good], theirs.elpd_i.values[good], atol=0.02)


def test_log_priors_of_correlations_and_of_sds_are_those_of_their_densities():
    fit = fit_of("correlated outcomes")
    share = (1 + fit.posterior.posterior["correlation"].values[..., 0]) / 2
    # LKJ(1) of two effects: (1 + r)/2 is Beta(1, 1), and κ half its logit.
    expected = beta_distribution.logpdf(share, 1, 1) + np.log(2 * share * (1 - share))
    found = fit.posterior.log_prior["correlation"].values[..., 0]
    np.testing.assert_allclose(found, expected, atol=1e-8)
    assert fit.posterior.log_prior["scale"].shape == (4, 100, 2)
    fit = fit_of("random intercepts of ln τ²")
    sd = fit.draws.scale_sd
    # A half-normal SD, by the density of ln of its square.
    expected = halfnorm.logpdf(sd) + np.log(sd) - np.log(2)
    np.testing.assert_allclose(fit.posterior.log_prior["scale_sd"], expected, rtol=1e-10)


def test_predictions_have_the_covariance_of_the_model():
    fit = fit_of("nested")
    many = fit.draws.take(np.zeros(20_000, dtype=int))
    tree = build_datatree(fit.design, fit.priors, many, seed=3)
    drawn = tree.posterior_predictive["effect"].values[0][:, :12]
    mean, sigma = (each[:12] for each in _rows_given(fit, 0))
    sd = np.sqrt(np.diag(sigma[:, :12]))
    # Five standard errors for some hundred numbers.
    assert (np.abs(drawn.mean(axis=0) - mean) < 5 * sd / np.sqrt(20_000)).all()
    error = np.abs(np.cov(drawn.T) - sigma[:, :12])
    assert (error < 5 * np.sqrt(2 / 20_000) * np.outer(sd, sd)).all()


def test_draws_from_the_priors_have_all_that_a_model_has():
    tree = fit_of("random intercepts of ln τ²").posterior
    sd, effect = tree.prior["scale_sd"].values[0, :, 0], tree.prior["scale_effect"].values[0]
    # HalfNormal(1): 1000 draws, five standard errors of the mean and of a mean square.
    assert sd.mean() == pytest.approx(np.sqrt(2 / np.pi), abs=5 * 0.6 / np.sqrt(1000))
    standard = effect / sd[:, None]
    assert np.mean(standard**2) == pytest.approx(1, abs=5 * np.sqrt(2 / 4000))
    assert next(iter(tree.prior["scale_level"].values)) == "country[country 00]"
    correlation = fit_of("correlated outcomes").posterior.prior["correlation"].values
    # LKJ(1) of two effects is uniform: its mean square is 1/3.
    assert np.mean(correlation**2) == pytest.approx(1 / 3, abs=5 * 0.3 / np.sqrt(1000))


def test_names_that_repeat_do_not_matter():
    """Several rows of a study have its name."""
    data = pd.DataFrame({"yi": [0.1, 0.4, -0.2, 0.6, 0.0, 0.3], "vi": 0.1, "s": list("aabbcc")})
    model = lsm.LocationScaleModel(
        "yi ~ 1", {"s": "~ 1", "residual": "~ 1"}, variance="vi", study="s", data=data
    )
    tree = model.fit_bayes(engine="collapsed", draws=4000, seed=1).posterior
    assert list(tree.observed_data["row"].values) == list("aabbcc")
    assert list(tree.log_likelihood["cluster"].values) == list("abc")
    az.plot_ppc_dist(tree)
    plt.close("all")
