"""Flat priors on scale coefficients: posteriors by quadrature, and masses that grow with bounds."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from scipy.stats import halfnorm

import bayes_lsm as lsm
from bayes_lsm.bayes import average_models, bayes_factor, savage_dickey, sensitivity
from bayes_lsm.bayes.engines.diagnostics import weight_problems
from bayes_lsm.bayes.resolved_priors.propriety import random_effects, unbounded_direction
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.student.effects import arrays
from bayes_lsm.likelihood.student.kernels import log_likelihood
from bayes_lsm.priors import (
    R2D2,
    Cauchy,
    Flat,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    Horseshoe,
    Normal,
    Priors,
    StudentT,
)
from bayes_lsm.reml.divergence import Cone

Y = np.array([0.1, 1.9, -0.4, 0.6, 0.2, -1.3, 0.8, 0.3])
V = np.array([0.10, 0.20, 0.05, 0.30, 0.10, 0.15, 0.08, 0.20])
A = np.array([1.0, 0.5, -1.0, 0.0, -0.5, 0.3, -0.2, 0.1])
B = np.array([0.0, 1.0, 0.3, -1.0, 0.4, -0.2, -0.8, 0.9])
LOCATION_SD = 10.0


def model_of(scale, *, location="yi ~ 1", study_effects="normal", **columns):
    data = pd.DataFrame({"yi": Y, "vi": V, "a": A, "b": B, **columns})
    return lsm.LocationScaleModel(
        location, scale=scale, variance="vi", data=data, study_effects=study_effects
    )


def flat(*terms, **options):
    options.setdefault("location", {"*": Normal(0, LOCATION_SD)})
    return Priors(scale=dict.fromkeys(terms, Flat()), **options)


def log_marginal(eta, precision=LOCATION_SD**-2):
    """ln p(y | ln τ²) (...), μ integrated out, for ln τ² (..., k); up to a constant."""
    w = 1 / (V + np.exp(np.minimum(eta, 300)))
    total, cross = w.sum(axis=-1) + precision, (w * Y).sum(axis=-1)
    fit = (w * Y**2).sum(axis=-1) - cross**2 / total
    return -0.5 * (fit + np.log(total) - np.log(w).sum(axis=-1))


def assert_drawn_from(draws, ess, grid, log_density):
    """The distribution function of a grid at the draws' quantiles, to 4 Monte Carlo errors."""
    weight = np.exp(log_density - logsumexp(log_density))
    # Of half a step at each edge there is no more than that in either tail.
    assert max(weight[0], weight[-1]) < 1e-5
    below = np.cumsum(weight) - weight / 2
    for p in (0.05, 0.25, 0.5, 0.75, 0.95):
        error = np.sqrt(p * (1 - p) / ess)
        assert np.interp(np.quantile(draws, p), grid, below) == pytest.approx(p, abs=4 * error)


def test_one_flat_coefficient_is_that_of_quadrature():
    fit = model_of("~ 0 + a").fit_bayes(prior=flat("a"), engine="collapsed", draws=20_000, seed=1)
    assert fit.problems == ()
    grid = np.linspace(-60, 40, 20_001)
    assert_drawn_from(
        fit.draws.flat_scale[:, 0], fit.draws.importance.ess, grid, log_marginal(grid[:, None] * A)
    )


def test_two_flat_coefficients_are_those_of_quadrature():
    model = model_of("~ 0 + a + b")
    fit = model.fit_bayes(prior=flat("*"), engine="collapsed", draws=20_000, seed=2)
    assert fit.problems == ()
    a, b = np.linspace(-80, 60, 561), np.linspace(-60, 60, 481)
    density = log_marginal(a[:, None, None] * A + b[None, :, None] * B)
    for j, (grid, other) in enumerate([(a, 1), (b, 0)]):
        draws, ess = fit.draws.flat_scale[:, j], fit.draws.importance.ess
        assert_drawn_from(draws, ess, grid, logsumexp(density, axis=other))


@pytest.mark.parametrize("tau", [HalfNormal(0.5), HalfCauchy(0.5)], ids=str)
def test_a_flat_slope_beside_a_proper_intercept_is_that_of_quadrature(tau):
    """The slope is free where τ² is all but 0, so its tails are as long as the intercept's."""
    model = model_of("~ a")
    fit = model.fit_bayes(prior=flat("a", tau=tau), engine="collapsed", draws=20_000, seed=3)
    assert fit.problems == ()
    level, slope = np.linspace(-60, 40, 401), np.linspace(-90, 90, 721)
    eta = level[:, None, None] + slope[None, :, None] * (A - A.mean())
    density = log_marginal(eta) + tau.logpdf(level)[:, None]
    draws, ess = fit.draws.flat_scale, fit.draws.importance.ess
    assert_drawn_from(draws[:, 1], ess, slope, logsumexp(density, axis=0))
    average = draws[:, 0] + draws[:, 1] * A.mean()
    assert_drawn_from(average, ess, level, logsumexp(density, axis=1))


def test_with_student_study_effects_it_is_that_of_quadrature_too():
    model = model_of("~ 0 + a", study_effects="student_t")
    fit = model.fit_bayes(prior=flat("a", df=4.0), engine="collapsed", draws=20_000, seed=7)
    assert fit.problems == ()
    mean, slope = np.linspace(-6, 6, 241), np.linspace(-120, 80, 801)
    b, a = (grid.reshape(-1, 1) for grid in np.meshgrid(mean, slope, indexing="ij"))
    density = log_likelihood(b, a, np.full(len(b), 4.0), *arrays(model.design))
    density = (density - 0.5 * (b[:, 0] / LOCATION_SD) ** 2).reshape(241, 801)
    draws, ess = fit.draws, fit.draws.importance.ess
    assert_drawn_from(draws.flat_scale[:, 0], ess, slope, logsumexp(density, axis=0))
    assert_drawn_from(draws.flat_location[:, 0], ess, mean, logsumexp(density, axis=1))


def mass_within(bound, changes, precision):
    """∫ p(y | t·changes) dt over |t| < bound."""
    t = np.linspace(-bound, bound, 20_001)
    return np.exp(log_marginal(t[:, None] * changes, precision)).sum() * (t[1] - t[0])


def refusal(model, prior):
    with pytest.raises(lsm.PriorError) as caught:
        model.fit_bayes(prior=prior)
    return str(caught.value)


def test_a_posterior_whose_mass_grows_with_the_bounds_is_refused():
    """Without a negative moderator nothing holds the coefficient from below."""
    c = np.abs(A)
    masses = [mass_within(bound, c, LOCATION_SD**-2) for bound in (200, 400, 800)]
    # The likelihood is constant below −50, and far above nothing: the mass grows in proportion.
    assert masses[2] - masses[1] == pytest.approx(2 * (masses[1] - masses[0]), rel=0.01)
    text = refusal(model_of("~ 0 + c", c=c), flat("c"))
    assert "as 'c' goes to −∞" in text
    assert "τ² goes to 0 in 7 of 8 studies" in text
    held = [mass_within(bound, A, LOCATION_SD**-2) for bound in (200, 400)]
    assert held[1] == pytest.approx(held[0], rel=1e-4)  # the step of the grid is twice as wide


def test_an_effect_that_a_flat_location_coefficient_fits_bounds_nothing():
    """The dummy of study 2 takes its effect over, and with it what held the slope from above."""
    only = np.where(np.arange(8) == 1, 1.0, -np.abs(A))
    dummy = np.where(np.arange(8) == 1, 1.0, 0.0)
    model = model_of("~ 0 + c", location="yi ~ dummy", c=only, dummy=dummy)
    text = refusal(model, flat("c", location={"*": Flat()}))
    assert "as 'c' goes to +∞" in text
    assert "to infinity in 1 that location coefficients with flat priors fit in any case" in text
    # With its dummy integrated out under a flat prior, study 2 has no part in the likelihood.
    rest = np.delete(only, 1)
    t = np.linspace(0, 400, 4001)[:, None]
    w = 1 / (np.delete(V, 1) + np.exp(t * rest))
    assert np.log(w).sum(axis=1)[-1] == pytest.approx(np.log(w).sum(axis=1)[-2], abs=1e-12)
    # Under a proper prior of the dummy, or without it, the study holds the slope.
    for location in ({"*": Normal(0, LOCATION_SD)}, {"dummy": Normal(0, 1), "intrcpt": Flat()}):
        resolve_priors(model.design, flat("c", location=location))
    resolve_priors(model_of("~ 0 + c", c=only).design, flat("c", location={"*": Flat()}))


def test_coefficients_that_only_go_together_are_named_together():
    """e and f alone change ln τ² both ways, but −e − f lowers it everywhere."""
    e = np.tile([1.0, -1.0, 2.0, -2.0], 2)
    text = refusal(model_of("~ 0 + e + f", e=e, f=0.5 + np.abs(A) - e), flat("*"))
    assert "'e' goes to −∞ and 'f' goes to −∞" in text
    assert "τ² goes to 0 in " in text


@pytest.mark.parametrize("df", [1.0, 1.5])
def test_a_flat_slope_needs_a_first_moment_of_the_level(df):
    """Where the level goes to −s the slope is free between bounds in proportion to s.

    So there is a mass of ∫ s · s^(−1 − df) ds beyond any s: in each decade as much under a Cauchy
    prior, and 10^(1 − df) times as much as in the one before under other Student-t priors.
    """
    prior = StudentT(df, on="log_tau")
    s, u = np.geomspace(1e4, 1e7, 301), np.linspace(-5, 5, 801)
    eta = s[:, None, None] * (u[None, :, None] * (A - A.mean()) - 1.0)
    free = np.exp(log_marginal(eta) - log_marginal(np.full(8, -1e3))).sum(axis=1)
    mass = (free * s * np.exp(prior.logpdf(-s)) * s).reshape(-1)[:300].reshape(3, 100).sum(axis=1)
    np.testing.assert_allclose(mass[1:] / mass[:-1], 10 ** (1 - df), rtol=0.03)
    if df > 1:
        resolve_priors(model_of("~ a").design, flat("a", tau=prior))
        refusal(model_of("~ a + b"), flat("a", "b", tau=prior))
    for heavy in (prior, Cauchy(on="log_tau")) if df == 1 else ():
        text = refusal(model_of("~ a"), flat("a", tau=heavy))
        assert "cannot be shown" in text
        assert f"'intrcpt' ~ {heavy}" in text


def test_long_tails_do_no_harm_to_what_the_data_bound_in_any_case():
    heavy = Priors(scale={"a": Flat(), "b": Cauchy(0, 1)})
    resolve_priors(model_of("~ 0 + a + b").design, heavy)
    for tau in (HalfCauchy(1), Normal(0, 1, on="log_tau")):  # of ln τ the former is no long tail
        resolve_priors(model_of("~ a").design, flat("a", tau=tau))


def test_shrinkage_priors_beside_a_flat_one_need_moments_too():
    model = model_of("~ a + b")
    for good in (Horseshoe(), R2D2(0.5, 0.6)):
        resolve_priors(model.design, flat("a", scale_shrinkage=good))
    assert "cannot be shown" in refusal(model, flat("a", scale_shrinkage=R2D2(0.5, 0.5)))


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_directions_are_those_of_the_cone_of_the_rows(columns):
    """Against Gordan's theorem by non-negative least squares, of small whole numbers."""
    rng = np.random.default_rng(columns)
    found = []
    for _ in range(150):
        rows = rng.integers(-2, 3, size=(rng.integers(2, 9), columns)).astype(float)
        direction = unbounded_direction(rows)
        if direction is not None:
            assert np.abs(direction).max() > 0
            assert (rows @ direction <= 1e-6 * np.abs(direction).max()).all()
        if np.linalg.matrix_rank(rows) == columns:
            limit = Cone(rows).limit(np.zeros(len(rows), dtype=bool))
            assert (direction is None) == (limit is None)
            found.append(direction is None)
        else:
            assert direction is not None
    assert 15 < sum(found) < len(found) - 15  # both answers come up


def test_units_and_origins_of_moderators_do_not_matter():
    year = 1950.0 + 30 * (A - A.mean())
    model = model_of("~ year + b", year=year)
    resolve_priors(model.design, flat("year", "b"))
    tiny = model_of("~ year", year=1e-7 * year)
    resolve_priors(tiny.design, flat("year"))
    # With the intercept held at year 0 all τ² go the same way.
    text = refusal(model, Priors("slides", scale={"year": Flat()}))
    assert "'year' goes to −∞" in text
    assert "8 of 8 studies" in text


def test_a_flat_level_is_refused():
    for prior in (flat("intrcpt"), Priors(tau=Flat())):
        text = refusal(model_of("~ a"), prior)
        assert "as 'intrcpt' goes to −∞" in text
        assert "use a proper prior in place of the flat" in text
    model = model_of("~ 0 + group", group=list("uvuvuvuv"))
    assert "τ² goes to 0 in 4 of 8 studies" in refusal(model, flat("groupu"))


@pytest.fixture(scope="module")
def fitted():
    return model_of("~ a").fit_bayes(
        prior=flat("a", tau=HalfNormal(0.5)), engine="collapsed", seed=4
    )


def test_what_needs_a_prior_that_integrates_to_one_is_refused(fitted):
    for ask in (
        lambda: fitted.log_evidence,
        lambda: bayes_factor(fitted, fitted),
        lambda: savage_dickey(fitted, "a"),
        lambda: sensitivity(fitted, progress=False),
        lambda: average_models(fitted.design, prior=fitted.priors),
    ):
        with pytest.raises(lsm.FitError, match="integrate to 1, got a flat scale prior"):
            ask()
    model = model_of("~ a")
    with pytest.raises(lsm.PriorError, match="a flat scale prior says nothing before the data"):
        model.prior_predictive(prior=fitted.priors)
    with pytest.raises(lsm.PriorError, match="a flat prior is no distribution"):
        lsm.calibrate(model.design, fitted.priors, simulations=20, progress=False)


def test_no_bound_of_the_weights_is_claimed_under_a_flat_prior(fitted):
    """A Pareto k above 0.7 counts, however small the largest weight."""
    good = fitted.draws.importance
    assert not good.bounded
    assert weight_problems(good) == []
    long = replace(good, pareto_k=0.8, largest_weight=0.001)
    assert "0.80 (at most 0.7 is good): a flat prior leaves" in " ".join(weight_problems(long))
    assert weight_problems(replace(long, bounded=True)) == []


def test_the_other_verbs_work(fitted):
    assert np.isfinite(fitted.loo(progress=False).elpd)
    assert fitted.predict(pd.DataFrame({"a": [0.0]})).to_dataframe().notna().all(axis=None)
    tree = fitted.posterior
    assert "prior" not in tree.children
    assert (np.asarray(tree.log_prior["scale"])[..., 1] == 0).all()
    assert "Flat" in str(fitted)


def test_a_study_that_alone_holds_a_flat_coefficient_cannot_be_left_out():
    only = np.where(np.arange(8) == 1, 1.0, -np.abs(A))
    fit = model_of("~ 0 + c", c=only).fit_bayes(prior=flat("c"), engine="collapsed", seed=5)
    for ask in (fit.loo, fit.psis_loo, lambda: fit.kfold(8)):
        with pytest.raises(lsm.FitError, match="without study row 1 the posterior has no finite"):
            ask()


def test_leaving_a_study_out_is_that_of_quadrature(fitted):
    """p(y_i | the others) = ∫∫ p(y) / ∫∫ p(y without i), under the same prior."""
    level, slope = np.linspace(-60, 40, 401), np.linspace(-90, 90, 721)
    eta = level[:, None, None] + slope[None, :, None] * (A - A.mean())
    prior = halfnorm(scale=0.5).logpdf(np.exp(level / 2)) + level / 2
    found = fitted.loo(progress=False)
    s = V + np.exp(eta)
    whole = _log_density(s, np.ones(8, dtype=bool)) + prior[:, None]
    for i in (0, 1, 5):
        rest = _log_density(s, np.arange(8) != i) + prior[:, None]
        exact = logsumexp(whole) - logsumexp(rest)
        assert found.pointwise[i] == pytest.approx(exact, abs=4 * found.columns["mcse"][i] + 1e-3)


def _log_density(s, kept):
    """ln p(y) of the kept studies given their total variances, μ ~ N(0, 10²)."""
    w, y = 1 / s[..., kept], Y[kept]
    total, cross = w.sum(axis=-1) + LOCATION_SD**-2, (w * y).sum(axis=-1)
    square = (w * y**2).sum(axis=-1) - cross**2 / total
    constant = kept.sum() * np.log(2 * np.pi) + 2 * np.log(LOCATION_SD)
    return -0.5 * (square + np.log(total) - np.log(w).sum(axis=-1) + constant)


@pytest.mark.slow
def test_nuts_under_flat_priors_agrees_with_the_collapsed_engine():
    model = model_of("~ 0 + a + b")
    fits = [
        model.fit_bayes(prior=flat("*"), engine=engine, draws=20_000, seed=6, progress=False)
        for engine in ("collapsed", "nuts")
    ]
    first, second = (fit.summary() for fit in fits)
    error = np.hypot(first["mcse_median"], second["mcse_median"])
    assert (np.abs(first["median"] - second["median"]) < 4 * error).all()
    # In the coordinates of the collapsed engine: 0.9 or so, and a quarter without them.
    assert second["ess_bulk"].min() > 0.5 * 20_000


# Several scale terms


def schools(n_groups=6, rows=3, *, alone=(), scale, location="yi ~ 1", **options):
    """Groups of rows; c is 1 in the last group and −1 in the others, as is the dummy 1 and 0."""
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(n_groups), [1 if i in alone else rows for i in range(n_groups)])
    last = g == n_groups - 1
    data = pd.DataFrame(
        {
            "yi": rng.normal(0, 0.6, len(g)),
            "vi": 0.1,
            "g": g,
            "c": np.where(last, 1.0, -1.0),
            "dummy": np.where(last, 1.0, 0.0),
            "x": rng.normal(size=len(g)),
        }
    )
    options.setdefault("variance", "vi")
    return lsm.LocationScaleModel(location, scale=scale, data=data, **options)


def accepts(model, prior):
    return resolve_priors(model.design, prior) is not None


def test_a_flat_coefficient_beside_correlated_errors_is_that_of_quadrature():
    covariance = np.diag(V)
    covariance[0, 1] = covariance[1, 0] = 0.5 * np.sqrt(V[0] * V[1])
    data = pd.DataFrame({"yi": Y, "a": A})
    model = lsm.LocationScaleModel("yi ~ 1", scale="~ 0 + a", variance=covariance, data=data)
    fit = model.fit_bayes(prior=flat("a"), engine="collapsed", draws=20_000, seed=1)
    grid = np.linspace(-60, 40, 4001)
    tau2 = np.exp(grid[:, None] * A)
    sigma = covariance + tau2[:, :, None] * np.eye(8) + LOCATION_SD**2
    square = np.einsum("i,gij,j->g", Y, np.linalg.inv(sigma), Y)
    exact = -0.5 * (np.linalg.slogdet(sigma)[1] + square)
    (term,) = fit.terms.values()
    assert_drawn_from(term.alpha[:, 0], fit.importance.ess, grid, exact)
    with pytest.raises(lsm.FitError, match="integrate to 1, got a flat scale prior"):
        _ = fit.log_evidence


def test_a_level_is_refused_by_its_term():
    model = schools(scale={"g": "~ 1", "residual": "~ 1"})
    text = refusal(model, Priors(scale={"g: intrcpt": Flat()}))
    assert "as 'g: intrcpt' goes to −∞" in text
    assert "τ² goes to 0 in 6 of 24 effects of groups" in text


def test_groups_that_a_flat_dummy_takes_over_bound_nothing():
    flat_dummy = {"location": {"*": Flat()}, "scale": {"g: c": Flat()}}
    outer = {"g": "~ 0 + c", "residual": "~ 1"}
    text = refusal(schools(scale=outer, location="yi ~ dummy"), Priors(**flat_dummy))
    assert "as 'g: c' goes to +∞" in text
    assert "to infinity in 1 that location coefficients with flat priors fit in any case" in text
    assert accepts(schools(scale=outer), Priors(**flat_dummy))
    proper = {**flat_dummy, "location": {"*": Normal(0, 1)}}
    assert accepts(schools(scale=outer, location="yi ~ dummy"), Priors(**proper))
    # The dummy fits the mean of its three rows, and not each of them.
    inner = {"g": "~ 1", "residual": "~ 0 + c"}
    rows = {**flat_dummy, "scale": {"residual: c": Flat()}}
    assert accepts(schools(scale=inner, location="yi ~ dummy"), Priors(**rows))
    single = schools(scale=inner, location="yi ~ dummy", alone=(5,))
    assert "has no finite mass" in refusal(single, Priors(**rows))


def test_what_is_taken_over_is_what_the_columns_span():
    """By the rank of the flat columns of X with and without each group's column."""
    model = schools(scale={"0 + x | g": "~ 1", "residual": "~ 1"}, location="yi ~ x:dummy + dummy")
    design = model.design
    priors = Priors(location={"*": Flat()})
    effects = random_effects(design, resolve_priors(design, priors).location, priors)
    columns = []
    for term in design.terms:
        for group in range(len(term.groups)):
            columns.append(np.where(term.index == group, term.slopes[:, 0], 0.0))
    rank = np.linalg.matrix_rank
    spanned = [rank(np.column_stack([design.X, a])) == rank(design.X) for a in columns]
    assert sum(spanned) == 1
    assert (effects.felt == ~np.array(spanned)).all()


def test_correlated_effects_bound_where_the_rows_tell_them_apart():
    """Intercept and slope of one row can cancel: with a correlation of −1 nothing is left of both.

    So a group of one row is not relied on, and if it alone is there, that is said.
    """
    prior = Priors(scale={"*": Flat()}, location={"*": Normal(0, 1)})
    scale = {"1 + x | g": "~ 0 + c"}
    assert accepts(schools(scale=scale), prior)
    text = refusal(schools(scale=scale, alone=(5,)), prior)
    assert "cannot be shown" in text
    assert "correlated effects that the rows of their groups cannot tell apart" in text


def test_random_intercepts_of_the_scale_need_thin_tails():
    model = schools(scale={"residual": "~ 0 + c + (1 | g)"})
    prior = Priors(scale={"c": Flat()}, location={"*": Normal(0, 1)})
    assert accepts(model, prior)
    assert accepts(model, prior.model_copy(update={"scale_sd": HalfNormal(2)}))
    text = refusal(model, prior.model_copy(update={"scale_sd": HalfStudentT(3, 1)}))
    assert "because of random intercepts of ln τ², unless their SDs have normal priors" in text


def test_individual_data_are_refused():
    model = schools(scale={"g": "~ 1", "residual": "~ 0 + c"}, variance=None)
    assert "needs sampling variances > 0" in refusal(model, Priors(scale={"residual: c": Flat()}))


def test_a_cluster_that_alone_holds_a_flat_coefficient_cannot_be_left_out():
    model = schools(scale={"g": "~ 0 + c", "residual": "~ 1"})
    prior = Priors(scale={"g: c": Flat()}, location={"*": Normal(0, 1)})
    fit = model.fit_bayes(prior=prior, engine="collapsed", draws=1000, seed=1)
    for ask in (fit.loo, fit.psis_loo, lambda: fit.kfold(6)):
        with pytest.raises(lsm.FitError, match="without g 5 the posterior has no finite mass"):
            ask(**({"k": 6} if ask == fit.kfold else {}))
