"""Figures of several scale terms hold the numbers of the fit, or say in one error what to do."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import bayes_lsm as lsm
from bayes_lsm import plots
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import FitError
from bayes_lsm.priors import Flat, Normal, Priors
from bayes_lsm.reml import blup
from bayes_lsm.reml.search.maximum import estimate
from bayes_lsm.specification import Specification


@pytest.fixture(scope="module")
def schools():
    return lsm.LocationScaleModel(
        "yi ~ 1",
        {"district": "~ 1", "district/school": "~ 1"},
        variance="vi",
        data=lsm.load_dataset("konstantopoulos2011"),
    ).fit_reml()


@pytest.fixture(scope="module")
def gums():
    return lsm.LocationScaleModel(
        "yi ~ 0 + outcome",
        {"outcome | trial": "~ 0 + outcome"},
        sampling_covariance=lsm.SamplingCovariance("trial", columns=["v1i", "v2i"]),
        variance="vi",
        data=lsm.load_dataset("berkey1998"),
    ).fit_reml()


def artists(ax, gid):
    return [each for each in ax.findobj() if each.get_gid() == gid]


def test_forest_of_levels(schools):
    ax = plots.forest(schools, by="district")
    (squares,) = artists(ax, "study")
    np.testing.assert_allclose(squares.get_offsets()[:, 0], schools.design.y)
    (diamond,) = artists(ax, "summary")
    row = schools.location.iloc[0]
    assert diamond.get_xy()[:, 0].min() == pytest.approx(row["ci_lb"])
    assert diamond.get_xy()[:, 0].max() == pytest.approx(row["ci_ub"])
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert sum(label.startswith("district ") for label in labels) == 11
    # The first number is the weight 1/Σ_ii in per cent.
    weights = 1 / (schools.design.v + schools.tau2)
    share = 100 * weights[0] / weights.sum()
    assert f"{share:.1f}%" in [text.get_text() for text in artists(ax, "number")]


def test_forest_of_outcomes_shows_what_is_fitted(gums):
    ax = plots.forest(gums)
    (fitted,) = artists(ax, "fitted")
    left = [path.vertices[:, 0].min() for path in fitted.get_paths()]
    means = gums.design.X @ gums.beta
    se = np.sqrt(np.einsum("ij,jk,ik->i", gums.design.X, gums.vcov_location, gums.design.X))
    np.testing.assert_allclose(left, means - 1.959964 * se, rtol=1e-5)
    assert not artists(ax, "summary")
    new = lsm.load_dataset("berkey1998").iloc[:2][["outcome", "trial"]]
    new.index = ["depth", "level"]
    assert len(artists(plots.forest(gums, summary=new), "summary")) == 2


def test_forest_with_the_rows_own_effects(schools):
    ax = plots.forest(schools, by="district", blups=True)
    (points,) = artists(ax, "blup")
    shown = schools.blup().table
    order = np.argsort(-points.get_ydata())
    np.testing.assert_allclose(points.get_xdata()[order], shown["estimate"], rtol=1e-12)
    # A row's effect is its mean, its district's and its school's.
    effects = schools.group_effects().table["estimate"]
    district = schools.terms["district"].term
    school = schools.terms["district/school"].term
    sums = schools.beta[0] + np.array(
        [
            effects["district", district.groups[d], "intrcpt"]
            + effects["district/school", school.groups[s], "intrcpt"]
            for d, s in zip(district.index, school.index, strict=True)
        ]
    )
    np.testing.assert_allclose(shown["estimate"], sums, rtol=1e-10)


@pytest.fixture(scope="module")
def bayes():
    return lsm.LocationScaleModel.from_file("konstantopoulos2011").fit_bayes(seed=1)


def test_forest_of_a_bayesian_fit(bayes):
    ax = plots.forest(bayes, by="district", blups=True)
    (points,) = artists(ax, "blup")
    order = np.argsort(-points.get_ydata())
    # Means over one draw of the effects for each draw of the coefficients: errors of 1/√4000 SD.
    drawn = bayes.true_effects().reshape(-1, len(bayes.design.y))
    found = points.get_xdata()[order]
    assert (np.abs(found - drawn.mean(axis=0)) < 0.07 * drawn.std(axis=0)).all()
    tau2 = sum(np.exp(each.log_tau2(each.term.index)) for each in bayes.terms.values())
    variances = bayes.design.v + np.median(tau2, axis=1)
    share = 100 / variances / (1 / variances).sum()
    numbers = [text.get_text() for text in artists(ax, "number")]
    assert [each for each in numbers if each.endswith("%")] == [f"{each:.1f}%" for each in share]
    new = pd.DataFrame({"year": [1990], "district": [0], "school": [0]}, index=["in 1990"])
    (diamond,) = artists(plots.forest(bayes, summary=new), "summary")
    row = bayes.location.iloc[0]
    assert diamond.get_xy()[:, 0].min() == pytest.approx(row["ci_lb"])
    assert diamond.get_xy()[:, 0].max() == pytest.approx(row["ci_ub"])


def test_forest_of_outcomes_of_a_bayesian_fit():
    fit = lsm.LocationScaleModel.from_file("berkey1998").fit_bayes(seed=1)
    ax = plots.forest(fit)
    (fitted,) = artists(ax, "fitted")
    left = [path.vertices[:, 0].min() for path in fitted.get_paths()]
    lower = fit.location["ci_lb"].to_numpy()
    np.testing.assert_allclose(left, np.where(fit.design.X[:, 0] > 0, *lower), rtol=1e-10)
    # One effect a row: the correlation is in no weight.
    (each,) = fit.terms.values()
    tau2 = (each.tau2[each.term.index] * each.term.slopes).sum(axis=1)
    weights = 1 / (fit.design.v + tau2)
    numbers = [text.get_text() for text in artists(ax, "number")]
    assert f"{100 * weights[0] / weights.sum():.1f}%" in numbers


def test_own_effects_of_one_term_are_the_blups():
    data = lsm.load_dataset("bcg")
    words = Specification("yi ~ ablat", "vi", scale={"residual": "~ ablat"})
    several = blup(estimate(build_design(words, data), "REML")).table
    one = lsm.LocationScaleModel("yi ~ ablat", "~ ablat", variance="vi", data=data).fit_reml()
    columns = ["estimate", "se", "pi_lb", "pi_ub"]
    # Both stop within 1e-13 of the likelihood: √ of that in the coefficients.
    np.testing.assert_allclose(several[columns], one.blup().table[columns], rtol=1e-4, atol=1e-6)


def test_own_effects_with_a_matrix_of_sampling_errors(gums):
    """V − VPV and y − VPy with the matrices written out."""
    design, n = gums.design, len(gums.design.y)
    V = np.diag(design.v)
    for block in design.blocks:
        V[np.ix_(block.rows, block.rows)] = block.covariance
    (each,) = gums.terms.values()
    A = np.zeros((n, 2 * len(each.term.groups)))
    for k in range(2):
        A[np.arange(n), 2 * each.term.index + k] = each.term.slopes[:, k]
    tau = np.sqrt(each.tau2)
    D = np.kron(np.eye(len(tau)), each.correlation) * np.outer(tau.ravel(), tau.ravel())
    W, X = np.linalg.inv(V + A @ D @ A.T), design.X
    P = W - W @ X @ np.linalg.inv(X.T @ W @ X) @ X.T @ W
    found = gums.blup().table
    np.testing.assert_allclose(found["estimate"], design.y - V @ P @ design.y, rtol=1e-8)
    np.testing.assert_allclose(found["se"], np.sqrt(np.diag(V - V @ P @ V)), rtol=1e-8)


def test_caterpillar_of_a_level(schools, gums):
    for fit, name in ((schools, "district"), (gums, "outcome | trial")):
        ax = plots.caterpillar(fit, grouping=name)
        (points,) = artists(ax, "blup")
        effects = fit.group_effects().table
        expected = (effects.loc[name] if len(fit.terms) > 1 else effects)["estimate"]
        np.testing.assert_allclose(points.get_xdata(), np.sort(expected)[::-1])
    with pytest.raises(FitError, match="say which level with grouping="):
        plots.caterpillar(schools)
    with pytest.raises(FitError, match="no scale term 'school'"):
        plots.caterpillar(schools, grouping="school")
    with pytest.raises(FitError, match="deviations from x'β"):
        plots.caterpillar(schools, grouping="district", of="effect")


@pytest.mark.parametrize(
    "name",
    [
        *("bootstrap_null", "funnel", "influence", "permutation_null"),
        *("prior_posterior", "profile", "profiles", "qq"),
    ],
)
def test_figures_of_results_refuse_a_fit(schools, name):
    with pytest.raises(FitError, match=r"this figure takes .*, got a RemlFit; pass "):
        getattr(plots, name)(schools)


def test_forest_of_what_it_cannot_show(schools):
    with pytest.raises(FitError, match="no moderator 'county'"):
        plots.forest(schools, by="county")


def prior_of(ax):
    (line,) = artists(ax, "prior")
    return line.get_data()


def test_priors_of_several_terms_beside_their_posteriors():
    schools = lsm.LocationScaleModel(
        "yi ~ 1",
        {"district": "~ 1", "district/school": "~ 0 + late"},
        variance="vi",
        data=lsm.load_dataset("konstantopoulos2011").assign(late=lambda d: d["year"] - 1990),
        priors=Priors(scale={"district: intrcpt": Normal(-2, 1), "late": Flat()}),
    )
    fit = schools.fit_bayes(engine="collapsed", draws=2000, seed=1)
    district, school = plots.prior_posterior(fit)
    assert district.get_xlabel() == "scale (district): intrcpt"
    x, density = prior_of(district)
    np.testing.assert_allclose(density, norm(-2, 1).pdf(x))
    assert not artists(school, "prior")
    assert "prior: flat" in [text.get_text() for text in school.get_legend().get_texts()]


def test_the_prior_of_a_correlation_is_shown_as_a_correlation():
    fit = lsm.LocationScaleModel.from_file("berkey1998").fit_bayes(draws=2000, seed=1)
    (ax,) = plots.prior_posterior(fit, part="correlation")
    x, density = prior_of(ax)
    # Uniform on (−1, 1), of 20,000 draws; a kernel smooths the corners.
    inside = np.abs(x) < 0.8
    assert inside.sum() > 10
    np.testing.assert_allclose(density[inside], 0.5, atol=0.05)
