"""Profiles: metafor's, roots and grids from many starts, the likelihood by hand, and verdicts."""

import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, multivariate_normal

import bayes_lsm as lsm
from bayes_lsm import plots
from bayes_lsm.datasets import load_dataset
from bayes_lsm.errors import DivergentScaleWarning, FitError
from bayes_lsm.likelihood.blocks.arrange import arrange_design
from bayes_lsm.likelihood.blocks.blocks import evaluate
from bayes_lsm.likelihood.rows.closed_form import log_likelihood
from bayes_lsm.reml import fit_reml
from bayes_lsm.reml.intervals.profile import profile
from bayes_lsm.reml.search.rows_surface import RowsSurface
from bayes_lsm.reml.search.search import Search

from .designs import example, homogeneous_group, make_design
from .peers import PEERS, gums, schools

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "frequentist.json").read_text(encoding="utf-8")
)["profile"]
CASES = [
    (name, method, i)
    for name, case in REFERENCE.items()
    for method in ("REML", "ML")
    if method in case
    for i in range(len(case[method]["alpha"]))
]


EITHER_SOLVER = pytest.mark.usefixtures("solver")


@cache
def fitted(name, method):
    case = REFERENCE[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        design = make_design(load_dataset(case["dataset"]), case["location"], case["scale"])
        return fit_reml(design, method=method)


@pytest.mark.parametrize(("name", "method", "i"), CASES)
def test_metafor(name, method, i):
    theirs = REFERENCE[name][method]["alpha"][i]
    fit = fitted(name, method)
    values = theirs["profile"]["alpha"]
    found = profile(fit, fit.design.scale.names[i], points=values)
    # Never below the best of many starts, and for a finite maximum equal to it: both have their
    # maxima to rounding. Where the model diverges their grid reaches to a coefficient of -2000,
    # where theirs gives up: there ours may be higher.
    checked = np.array(theirs["profile"]["logLik_checked"], dtype=float)
    order = np.argsort(values)
    difference = found.loglik - checked[order]
    assert np.nanmin(difference) > -1e-9
    if not REFERENCE[name][method]["diverging"]:
        assert np.nanmax(difference) < 1e-9
        metafor = np.array(theirs["profile"]["logLik"], dtype=float)[order]
        # metafor's heights are the best of three optimisers, whose grids differ in the 8th digit.
        assert (found.loglik > metafor - 3e-7)[~np.isnan(metafor)].all()
    for ours, side in ((found.lower, "lb"), (found.upper, "ub")):
        # Roots of the deviance: "checked" to 1e-12 of the coefficient, ours to 1e-10, times a
        # slope that can be small.
        root = theirs[f"checked_{side}"]
        if root is not None:
            assert ours == pytest.approx(root, rel=1e-7, abs=1e-7)
        elif theirs[f"{side}_sign"] or theirs[f"deviance_{side}"] < 3.84:
            assert np.isinf(ours)
        # metafor's own bound, where its refits did not break down on the way.
        if theirs[f"deviance_{side}"] == pytest.approx(chi2.ppf(0.95, 1), abs=1e-6):
            assert ours == pytest.approx(theirs[f"ci_{side}"], rel=1e-4, abs=1e-4)


def test_the_talks_picture():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        fit = fitted("preterm_continent", "REML")
    found = profile(fit, "continentOther")
    assert found.verdict == "flat towards -inf"
    assert found.estimate == found.lower == -np.inf
    assert 1.4 < found.upper < 1.5
    # It rises all the way to the left, and ends at the supremum.
    assert (np.diff(found.loglik) < 1e-9).all()
    assert found.maximum - found.loglik[0] < 0.01
    assert np.isinf(found.peaks).all()


@EITHER_SOLVER
@pytest.mark.parametrize("method", ["REML", "ML"])
def test_one_coefficient_by_hand(method):
    design = make_design(example())
    fit = fit_reml(design, method=method)
    found = profile(fit, "intrcpt", level=0.9)
    for value, height in zip(found.values, found.loglik, strict=True):
        tau2 = np.full(30, np.exp(value))
        here = log_likelihood(design.y, design.v, design.X, tau2, method=method)
        assert height == pytest.approx(here, abs=1e-10)
    for bound in (found.lower, found.upper):
        tau2 = np.full(30, np.exp(bound))
        drop = fit.loglik - log_likelihood(design.y, design.v, design.X, tau2, method=method)
        assert 2 * drop == pytest.approx(chi2.ppf(0.9, 1), abs=1e-7)
    assert found.maximum == pytest.approx(fit.loglik, rel=1e-14)  # but for rounding
    assert found.verdict == "peaked"
    assert found.peaks == pytest.approx(fit.alpha)


@EITHER_SOLVER
def test_grid_and_units():
    data = example()
    fit = fit_reml(make_design(data, "~ x", "~ x"))
    found = profile(fit, "x", points=25)
    assert len(found.values) == 25
    assert found.values[0] < found.lower < fit.alpha[1] < found.upper < found.values[-1]
    np.testing.assert_allclose(np.diff(found.values), np.ptp(found.values) / 24)
    shifted = data.assign(x=2000 + 1e-3 * data["x"])
    other = profile(fit_reml(make_design(shifted, "~ x", "~ x")), "x", points=25)
    assert 1e-3 * other.lower == pytest.approx(found.lower, rel=1e-6)
    assert 1e-3 * other.upper == pytest.approx(found.upper, rel=1e-6)
    chosen = profile(fit, "x", points=[1.0, -1.0, 0.5])
    np.testing.assert_array_equal(chosen.values, [-1, 0.5, 1])
    assert (chosen.lower, chosen.upper) == pytest.approx((found.lower, found.upper), abs=1e-8)
    frame = chosen.to_dataframe()
    assert list(frame) == ["value", "loglik", "drop"]
    assert (frame["drop"] > 0).all()


@EITHER_SOLVER
@pytest.mark.parametrize(
    ("group", "scale", "term", "end"),
    [
        ("b", "~ g", "gb", -1),
        ("a", "~ g", "gb", 1),
        ("a", "~ g", "intrcpt", -1),
        ("b", "~ 0 + g + x", "gb", -1),
    ],
)
def test_a_divergent_coefficient_has_one_finite_bound(group, scale, term, end):
    data = homogeneous_group(group)
    with pytest.warns(DivergentScaleWarning):
        fit = fit_reml(make_design(data, "~ g", scale))
    found = profile(fit, term)
    assert found.estimate == end * np.inf
    side = "-inf" if end < 0 else "+inf"
    assert found.verdict == f"flat towards {side}"
    infinite, finite = (found.lower, found.upper)[::-end]
    assert infinite == end * np.inf
    design, Z = fit.design, fit.design.terms[0].table
    j = fit.scale_names.index(term)
    rest = np.delete(Z, j, axis=1)
    offset = finite * Z[:, j]
    search = Search(RowsSurface(design.y, design.v, design.X, rest, "REML", offset=offset))
    best = max(search.best.value, search.rival.value if search.rival else -np.inf)
    assert 2 * (fit.loglik - best) == pytest.approx(chi2.ppf(0.95, 1), abs=1e-6)
    assert "." in str(found)
    assert "nan" not in str(found)


@EITHER_SOLVER
def test_a_divergent_continuous_moderator():
    rng = np.random.default_rng(9)
    x = np.repeat(np.arange(5.0), 8)
    y = np.where(x == 4, 6.0, 0.2) * rng.normal(size=40)
    with pytest.warns(DivergentScaleWarning):
        fit = fit_reml(make_design(pd.DataFrame({"yi": y, "vi": 1.0, "x": x}), scale="~ x"))
    found = profile(fit, "x")
    assert found.estimate == found.upper == np.inf
    assert np.isfinite(found.lower)
    assert found.lower > 0


def test_several_peaks():
    # A steep rise of τ² through an outlier at one end, against another at the other end.
    fit = fitted("preterm_continent", "REML")
    found = profile(fit, "intrcpt")
    assert found.verdict == "several peaks"
    assert len(found.peaks) == 2
    between = profile(fit, "intrcpt", points=np.linspace(*found.peaks, 30)).loglik
    assert min(between[0], between[-1]) - between.min() > 0.05


@EITHER_SOLVER
def test_fixed_coefficients_stay_where_they_are():
    design = make_design(example(k=60), "~ x", "~ x + I(x ** 2)")
    fit = fit_reml(design, fixed={"I(x ** 2)": 0.1})
    found = profile(fit, "x", level=0.9)
    assert found.maximum == fit.loglik
    assert found.estimate == fit.alpha[1]
    for bound in (found.lower, found.upper):
        there = fit_reml(design, fixed={"I(x ** 2)": 0.1, "x": bound}).loglik
        assert 2 * (fit.loglik - there) == pytest.approx(chi2.ppf(0.9, 1), abs=1e-7)
    with pytest.raises(FitError, match=r"no profile of 'I\(x \*\* 2\)', which was fixed at 0.1"):
        profile(fit, "I(x ** 2)")


@EITHER_SOLVER
def test_bad_input():
    fit = fit_reml(make_design(example(), "~ x", "~ x"))
    with pytest.raises(FitError, match="no scale coefficient 'w'; there are 'intrcpt', 'x'"):
        profile(fit, "w")
    with pytest.raises(FitError, match="name of a scale coefficient"):
        profile(fit, 1)
    for level in (0, 1, 95):
        with pytest.raises(FitError, match="level must be between 0 and 1"):
            profile(fit, "x", level=level)
    for points in (2, 1e9, "many", [np.nan], []):
        with pytest.raises(FitError, match="points must be"):
            profile(fit, "x", points=points)
    bounded = fit_reml(fit.design, bounds={"x": (fit.alpha[1] + 0.1, np.inf)})
    with pytest.raises(FitError, match="no bound holds, got x"):
        profile(bounded, "intrcpt")


TAU2 = json.loads(
    (Path(__file__).parents[1] / "reference" / "frequentist.json").read_text(encoding="utf-8")
)["tau2_intervals"]


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("name", TAU2)
def test_one_tau2_for_all_studies(name, method):
    case = TAU2[name]
    theirs = case[method]["PL"]["tau2"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergentScaleWarning)
        fit = fit_reml(make_design(load_dataset(case["dataset"]), case["location"]), method=method)
    found = profile(fit, "intrcpt")
    # metafor's bounds are roots in τ², from 0 on; its maximum is Fisher scoring's.
    assert np.exp(found.lower) == pytest.approx(theirs["ci_lb"], rel=1e-6, abs=1e-9)
    assert np.exp(found.upper) == pytest.approx(theirs["ci_ub"], rel=1e-6)


VERBS_OF_RMA_MV = PEERS["metafor_verbs"]
# In the order of metafor's components: name, and from its units to ours.
PROFILED = [
    ("schools", 0, "district: intrcpt", np.log),
    ("schools", 1, "district/school: intrcpt", np.log),
    ("gums_UN", 0, "outcomeAL", np.log),
    ("gums_UN", 1, "outcome | trial: outcomePD", np.log),
    ("gums_UN", 2, "AL, PD", np.array),
]


@pytest.fixture(scope="module")
def fits():
    return {"schools": schools().fit_reml(), "gums_UN": gums("unstructured").fit_reml()}


@pytest.mark.parametrize(("case", "i", "name", "ours"), PROFILED)
def test_profile_and_interval_of_rma_mv(fits, case, i, name, ours):
    peer = VERBS_OF_RMA_MV[case]["profile"][i]
    loglik = np.array(peer["loglik"], dtype=float)
    found = fits[case].profile(name, points=ours(np.array(peer["value"])))
    # Its refits stop within 1e-9 of their maxima, never above.
    np.testing.assert_allclose(found.loglik, loglik, atol=1e-8)
    estimate, low, high = VERBS_OF_RMA_MV[case]["interval"][i]
    assert found.estimate == pytest.approx(float(ours(estimate)), abs=1e-4)
    # uniroot stops within 1e-8 of the root, in τ² or ρ; where τ² is small, ln τ² has fewer digits.
    assert found.lower == pytest.approx(float(ours(low)), abs=1e-6)
    assert found.upper == pytest.approx(float(ours(high)), abs=1e-6)


def test_intervals_are_those_of_the_profiles(fits):
    fit = fits["gums_UN"]
    table = fit.confidence_intervals(method="profile")
    single = fit.profile("outcomePD")
    np.testing.assert_allclose(
        table.loc["outcomePD"], [single.estimate, single.lower, single.upper]
    )
    pairs = fit.confidence_intervals(part="correlation", method="profile")
    assert pairs.loc["AL, PD", "ci_ub"] == 1.0
    wald = fit.confidence_intervals(level=0.9)
    assert (wald["ci_lb"] > fit.scale["ci_lb"]).all()


def test_a_profile_that_stays_high_says_so(fits):
    found = fits["gums_UN"].profile("AL, PD", points=15)
    assert found.verdict == "flat towards +1"
    assert (np.abs(found.values) < 1).all()
    assert plots.profile(found).get_title(loc="left") == "flat towards +1"


def test_the_interval_is_one_sided_where_the_estimate_diverges():
    data = lsm.load_dataset("konstantopoulos2011")
    words = {"district": "~ 1", "district/school": "~ 1", "year": "~ 1"}
    crossed = lsm.LocationScaleModel("yi ~ 1", words, variance="vi", data=data)
    with pytest.warns(DivergentScaleWarning, match="all 6 groups of 'year'"):
        fit = crossed.fit_reml()
    found = fit.profile("year: intrcpt")
    assert found.estimate == -np.inf
    assert found.lower == -np.inf
    assert found.maximum == pytest.approx(fit.loglik, abs=1e-9)
    assert found.verdict == "flat towards -inf"
    # At the upper end the likelihood has fallen by half the quantile.
    there = fit.profile("year: intrcpt", points=[found.upper]).loglik[0]
    assert there == pytest.approx(fit.loglik - 1.920729, abs=1e-6)


def three_outcomes(seed=3, trials=30):
    """Three outcomes of each trial, some missing, with correlated true effects."""
    rng = np.random.default_rng(seed)
    R = np.array([[1.0, 0.6, 0.2], [0.6, 1.0, 0.4], [0.2, 0.4, 1.0]])
    u = rng.multivariate_normal(np.zeros(3), 0.2 * R, size=trials)
    trial, outcome = np.divmod(np.arange(3 * trials), 3)
    v = rng.uniform(0.02, 0.1, 3 * trials)
    y = u.ravel() + rng.normal(size=3 * trials) * np.sqrt(v)
    data = pd.DataFrame(
        {"yi": y, "vi": v, "trial": trial, "outcome": np.array(list("abc"))[outcome]}
    )
    return data.drop(index=[1, 14, 30])


@pytest.mark.slow
@pytest.mark.parametrize("correlation", ["unstructured", "compound_symmetric"])
def test_every_correlation_is_profiled(correlation):
    model = lsm.LocationScaleModel(
        "yi ~ 0 + outcome",
        {"outcome | trial": "~ 0 + outcome"},
        variance="vi",
        data=three_outcomes(),
        correlation={"outcome | trial": correlation},
    )
    fit = model.fit_reml(method="ML")
    for name, row in fit.correlations.iterrows():
        found = fit.profile(name, points=9)
        assert found.maximum == pytest.approx(fit.loglik, abs=1e-8)
        assert found.estimate == pytest.approx(row["estimate"], abs=1e-6)
        # Wald on Fisher's z and profile are near to each other in thirty trials.
        assert found.lower == pytest.approx(row["ci_lb"], abs=0.08)
        assert found.upper == pytest.approx(row["ci_ub"], abs=0.08)


def test_the_interval_of_a_later_correlation_is_that_of_its_own_order():
    """Sorted the other way round, the pair of the last two is the first, with a z of its own."""
    data = three_outcomes()
    renamed = data.assign(outcome=data["outcome"].map({"a": "z", "b": "b", "c": "c"}))
    tables = []
    for frame in (data, renamed):
        fit = lsm.LocationScaleModel(
            "yi ~ 0 + outcome",
            {"outcome | trial": "~ 0 + outcome"},
            variance="vi",
            data=frame,
        ).fit_reml()
        tables.append(fit.correlations)
    # Two ways to the same maximum: each stops within 1e-13 of it, √ of that in the coefficients.
    np.testing.assert_allclose(tables[0].loc["b, c"], tables[1].loc["b, c"], atol=1e-5)
    np.testing.assert_allclose(tables[0].loc["a, b"], tables[1].loc["b, z"], atol=1e-5)


def test_a_held_coefficient_is_the_likelihood_at_it(fits):
    """The slopes carry it: no other coefficient of the term is left, so its likelihood is plain."""
    fit = fits["schools"]
    data = arrange_design(fit.design)
    other = fit.terms["district/school"].alpha[0]
    held = fit.profile("district: intrcpt", points=[-6.0]).loglik[0]
    grid = np.linspace(other - 2, other + 2, 400)
    best = max(evaluate(np.array([-6.0, x]), data, method="REML").value for x in grid)
    assert best <= held + 1e-9
    assert best == pytest.approx(held, abs=1e-3)  # a grid in steps of 0.01


def test_names_that_are_unknown_or_in_several_terms(fits):
    with pytest.raises(FitError, match="several scale terms have 'intrcpt'; write one of"):
        fits["schools"].profile("intrcpt")
    with pytest.raises(FitError, match="no scale coefficient 'weeks'; there are 'district: intr"):
        fits["schools"].profile("weeks")
    with pytest.raises(FitError, match="must be 'wald', 'profile', 'permutation' or 'bootstrap'"):
        fits["schools"].confidence_intervals(method="jackknife")
    with pytest.raises(FitError, match="part must be"):
        fits["schools"].confidence_intervals(part="tau")


def test_two_effects_with_one_correlation_are_either_way_the_same():
    profiles = [
        gums(kind).fit_reml().profile("AL, PD", points=[-0.5, 0.0, 0.9]).loglik
        for kind in ("unstructured", "compound_symmetric")
    ]
    np.testing.assert_allclose(profiles[0], profiles[1], atol=1e-9)


def test_a_held_correlation_is_that_of_the_dense_likelihood(fits):
    """At ρ = 0.3 and the τ² that the profile chose, Σ by hand."""
    fit = gums("unstructured").fit_reml(method="ML")
    design = fit.design
    V = np.diag(design.v)
    for block in design.blocks:
        V[np.ix_(block.rows, block.rows)] = block.covariance
    term = design.terms[0]
    same = np.equal.outer(term.index, term.index)
    outcome = term.slopes.argmax(axis=1)
    R = np.where(np.equal.outer(outcome, outcome), 1.0, 0.3)

    def dense(alpha):
        tau = np.exp(alpha / 2)[outcome]
        sigma = V + same * R * np.outer(tau, tau)
        W = np.linalg.inv(sigma)
        beta = np.linalg.solve(design.X.T @ W @ design.X, design.X.T @ W @ design.y)
        return multivariate_normal.logpdf(design.y, design.X @ beta, sigma)

    from scipy.optimize import minimize

    found = minimize(lambda a: -dense(a), fit.terms[term.name].alpha, method="Nelder-Mead")
    held = fit.profile("AL, PD", points=[0.3]).loglik[0]
    assert -found.fun == pytest.approx(held, abs=1e-6)
