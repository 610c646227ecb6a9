"""Figures of several scale terms hold the numbers of the fit, or say in one error what to do."""

import numpy as np
import pytest

import bayes_lsm as lsm
from bayes_lsm import plots
from bayes_lsm.errors import FitError
from bayes_lsm.reml.clustered_residuals import standard_errors


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
    weights = 1 / standard_errors(schools)[0] ** 2
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


def test_caterpillar_of_a_level(schools, gums):
    for fit, name in ((schools, "district"), (gums, "outcome | trial")):
        ax = plots.caterpillar(fit, grouping=name)
        (points,) = artists(ax, "blup")
        expected = fit.blup().table.loc[name]["estimate"]
        np.testing.assert_allclose(points.get_xdata(), np.sort(expected)[::-1])
    with pytest.raises(FitError, match="say which level with grouping="):
        plots.caterpillar(schools)
    with pytest.raises(FitError, match="no scale term 'school'"):
        plots.caterpillar(schools, grouping="school")
    with pytest.raises(FitError, match="deviations from x'β"):
        plots.caterpillar(schools, grouping="district", of="effect")


@pytest.mark.parametrize("name", ["bubble", "heterogeneity", "new_effect"])
def test_figures_for_one_term_say_so(schools, name):
    arguments = ("year",) if name in ("bubble", "heterogeneity") else ()
    with pytest.raises(FitError, match="one scale term and independent effects"):
        getattr(plots, name)(schools, *arguments)


@pytest.mark.parametrize(
    "name",
    [
        *("bootstrap_null", "funnel", "influence", "permutation_null"),
        *("prior_posterior", "profile", "profiles", "qq"),
    ],
)
def test_figures_of_results_refuse_a_fit(schools, name):
    with pytest.raises(FitError, match=r"this figure takes .*, got a ClusteredFit; pass "):
        getattr(plots, name)(schools)


def test_forest_of_what_it_cannot_show(schools):
    with pytest.raises(FitError, match="caterpillar"):
        plots.forest(schools, blups=True)
    with pytest.raises(FitError, match="no scale term 'county'"):
        plots.forest(schools, by="county")
