"""Scale coefficients of which the data say nothing: printed so, and nothing that needs them."""

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.errors import ConvergenceWarning, FitError
from bayes_lsm.likelihood.blocks.arrange import arrange_design
from bayes_lsm.likelihood.blocks.blocks import evaluate
from bayes_lsm.reml import wald_test

FLAT = pytest.mark.filterwarnings("ignore::bayes_lsm.errors.ConvergenceWarning")
SAYS = "not informed by the data: scale coefficient"
LEVELS = {"one term": "~ g", "several terms": {"id": "~ g", "grade": "~ 1"}}


def studies(*, equal=()):
    """Level c has two studies, each with a location coefficient of its own.

    So no contrast that X leaves has anything of their effects, and REML says nothing of their τ².
    Level d, if there is one, has studies that are all but equal.
    """
    data = lsm.load_dataset("bangertdrowns2004")
    data["g"] = np.where(np.arange(48) % 2, "a", "b")
    data.loc[[5, 9], "g"] = "c"
    data["one"], data["two"] = (np.arange(48) == 5) * 1.0, (np.arange(48) == 9) * 1.0
    data.loc[list(equal), "g"] = "d"
    data.loc[list(equal), "yi"] = 0.2
    return data


def fitted(kind, data=None, *, scale=None, method="REML"):
    model = lsm.LocationScaleModel(
        "yi ~ one + two",
        scale or LEVELS[kind],
        variance="vi",
        study="id",
        data=studies() if data is None else data,
    )
    return model.fit_reml(method=method)


def scale_of(fit):
    table = fit.scale
    return table.loc["id"] if isinstance(table.index, pd.MultiIndex) else table


def new_studies(levels="abc", **columns):
    return pd.DataFrame({"g": list(levels), "one": 0.0, "two": 0.0, "id": 1, "grade": 1} | columns)


@pytest.mark.parametrize("kind", LEVELS)
def test_it_is_said(kind):
    with pytest.warns(ConvergenceWarning, match=SAYS):
        fit = fitted(kind)
    row = scale_of(fit)
    assert row.loc["gc"].drop("df", errors="ignore").isna().all()
    assert np.isfinite(row.loc[["intrcpt", "gb"], "se"]).all()
    assert fit.is_flat
    assert [name.split(": ")[-1] for name in fit.uninformed] == ["gc"]
    assert SAYS in str(fit)
    assert "inf" not in str(fit.scale)
    assert fit.divergence is None


@FLAT
def test_the_likelihood_is_the_same_at_any_value():
    fit = fitted("several terms")
    data, place = arrange_design(fit.design), 2
    for value in (-12.0, -3.0, 2.0):
        alpha = fit.alpha.copy()
        alpha[place] = value
        # Rounding of a sum of 48 terms.
        assert evaluate(alpha, data, method="REML").value == pytest.approx(fit.loglik, abs=1e-11)


@FLAT
@pytest.mark.parametrize("kind", LEVELS)
def test_nothing_is_predicted_that_depends_on_it(kind):
    fit = fitted(kind)
    table = fit.predict(new_studies()).table
    tau2 = "tau2" if kind == "one term" else "tau2 (id)"
    assert table[["pi_lb", "pi_ub", "tau2", tau2]].isna().all(axis=1).to_list() == [False] * 2 + [
        True
    ]
    assert np.isfinite(table.iloc[:2]).all(axis=None)
    plug_in = fit.predict(new_studies(), scale_uncertainty="plug-in").table
    assert plug_in["pi_lb"].isna().to_list() == [False, False, True]
    effects = fit.blup().table
    assert effects["u_se"].isna().to_numpy().nonzero()[0].tolist() == [5, 9]
    # The study has its own mean: what it found is its true effect, but for its sampling error.
    assert effects["se"].iloc[5] == pytest.approx(np.sqrt(fit.design.v[5]), rel=1e-12)
    deviations = fit.group_effects().table
    missing = deviations.index[deviations["se"].isna()]
    names = ["6", "10"] if kind == "one term" else [("id", i, "intrcpt") for i in ("6", "10")]
    assert missing.to_list() == names


@FLAT
@pytest.mark.parametrize("kind", LEVELS)
def test_a_standard_error_of_beta_that_depends_on_it_is_missing(kind):
    """V_β has τ² of study 6 in it where the study's own coefficient is."""
    fit = fitted(kind)
    assert fit.location["se"].isna().to_list() == [False, True, True]
    assert np.isnan(fit.qm.statistic)
    with pytest.raises(FitError, match="a Wald test of one does not exist"):
        wald_test(fit, terms="one", part="location")
    assert np.isfinite(wald_test(fit, terms="intrcpt", part="location").statistic)
    table = fit.predict(new_studies("aa", one=[0.0, 1.0])).table
    assert table[["se", "ci_lb", "pi_lb", "pi_ub"]].isna().all(axis=1).to_list() == [False, True]


@FLAT
@pytest.mark.parametrize("kind", LEVELS)
def test_means_are_of_what_is_known(kind):
    """Leaving the two studies out changes neither the other τ² nor their mean."""
    fit, data = fitted(kind), studies().drop(index=[5, 9])
    without = lsm.LocationScaleModel(
        "yi ~ 1", LEVELS[kind], variance="vi", study="id", data=data
    ).fit_reml()
    # Both climbs end within 1e-13 of the log-likelihood, τ² within the root of that.
    assert fit.loglik == pytest.approx(without.loglik, abs=1e-9)
    np.testing.assert_allclose(fit.components["tau2"], without.components["tau2"], rtol=1e-5)
    found, other = fit.heterogeneity(), without.heterogeneity()
    assert found.by_study["tau2"].isna().sum() == 2
    # The first is the term with the two studies; each grade's own mean is of all its studies.
    for column in ("tau2", "se"):
        ours, theirs = (each.table[column].iloc[0] for each in (found, other))
        assert ours == pytest.approx(theirs, rel=1e-5), column


@FLAT
@pytest.mark.parametrize("kind", LEVELS)
def test_the_coding_does_not_matter(kind):
    """With c as the reference every coefficient moves with it, but τ² of a and b is known."""
    data = studies()
    expected = fitted(kind, data).predict(new_studies()).table
    data["g"] = pd.Categorical(data["g"], ["c", "a", "b"])
    fit = fitted(kind, data)
    assert scale_of(fit)["se"].isna().all()
    found = fit.predict(new_studies(g=pd.Categorical(list("abc"), ["c", "a", "b"]))).table
    # A Sobol sequence along other axes gives tails that differ by its own error.
    np.testing.assert_allclose(found, expected, rtol=2e-3)


@pytest.mark.filterwarnings("ignore::bayes_lsm.errors.DivergentScaleWarning")
@pytest.mark.parametrize("kind", LEVELS)
def test_under_ml_the_variance_goes_to_zero(kind):
    fit = fitted(kind, method="ML")
    assert scale_of(fit).loc["gc", "estimate"] == -np.inf
    assert not fit.is_flat


@FLAT
@pytest.mark.filterwarnings("ignore::bayes_lsm.errors.DivergentScaleWarning")
@pytest.mark.parametrize("reference", ["a", "c"])
@pytest.mark.parametrize("kind", LEVELS)
def test_what_is_gone_is_told_from_what_is_not_known(kind, reference):
    data = studies(equal=(0, 3, 8, 11, 17, 20))
    order = [reference, *(level for level in "abcd" if level != reference)]
    data["g"] = pd.Categorical(data["g"], order)
    fit = fitted(kind, data)
    divergence = next(iter(fit.terms.values())).divergence
    assert divergence.terms == {"gd": -np.inf}
    assert len(divergence.studies) == 6
    assert f"{'gc' if reference == 'a' else 'ga'}" in str(fit.uninformed)
    table = fit.predict(new_studies(g=pd.Categorical(list("acd"), order))).table
    tau2 = table["tau2" if kind == "one term" else "tau2 (id)"].to_numpy()
    assert tau2[0] > 0
    assert np.isnan(tau2[1])
    assert tau2[2] == 0


def one_effect_each(seed):
    """Twenty studies of three effects, and twenty of another kind with one."""
    rng = np.random.default_rng(seed)
    study = np.r_[np.repeat(np.arange(20), 3), np.arange(20, 40)]
    n, v = len(study), rng.uniform(0.02, 0.1, 80)
    y = 0.4 * rng.normal(size=40)[study] + rng.normal(size=n) * np.sqrt(0.09 + v)
    kind = np.where(study < 20, "several", "single")
    return pd.DataFrame({"yi": y, "vi": v, "study": study, "row": np.arange(n), "kind": kind})


@FLAT
@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("seed", range(3))
def test_two_variances_that_are_known_by_their_sum_alone(seed, method):
    """Neither of them is 0, as either limit would have it, which are as high."""
    data = one_effect_each(seed)
    scale = {"study": "~ 0 + kind", "row": "~ 0 + kind"}
    fit = lsm.LocationScaleModel("yi ~ 1", scale, variance="vi", data=data).fit_reml(method=method)
    assert fit.divergence is None
    assert fit.uninformed == ("study: kindsingle", "row: kindsingle")
    assert fit.scale["se"].isna().to_list() == [False, True] * 2
    # The same sum gives the same likelihood however it is shared out, and another sum a lower one.
    data, total = arrange_design(fit.design), np.exp(fit.alpha[1]) + np.exp(fit.alpha[3])
    for share in (1e-6, 0.3, 1 - 1e-6):
        shared = np.log([share * total, (1 - share) * total])
        values = [
            evaluate(np.r_[fit.alpha[0], parts[0], fit.alpha[2], parts[1]], data, method=method)
            for parts in (shared, shared + 0.1)
        ]
        assert values[0].value == pytest.approx(fit.loglik, abs=1e-10)
        assert values[1].value < fit.loglik - 1e-4
        # Σ is known, so β and its standard error are.
        assert values[0].covariance[0, 0] == pytest.approx(fit.vcov_location[0, 0], rel=1e-9)
    assert np.isfinite(fit.location["se"]).all()
    new = pd.DataFrame({"kind": ["several", "single"], "study": 1, "row": 1})
    assert fit.predict(new).table["tau2"].isna().to_list() == [False, True]
