"""Links, fixed and bounded coefficients, and reference distributions, against metafor's numbers."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

import bayes_lsm as lsm
from bayes_lsm.likelihood.rows.closed_form import log_likelihood
from bayes_lsm.reml import fit_reml

PINNED = json.loads((Path(__file__).parents[1] / "reference/frequentist.json").read_text())
METHODS = ("REML", "ML")


def _design(case, link="log"):
    spec = lsm.Specification("yi " + case["location"], "vi", scale=case["scale"], link=link)
    return lsm.build_design(spec, lsm.load_dataset(case["dataset"]))


def _numbers(values):
    return np.array([np.nan if each is None else each for each in values], dtype=float)


IDENTITY = [(name, method) for name in PINNED["identity"] for method in METHODS]


@pytest.mark.parametrize(("name", "method"), IDENTITY)
def test_identity_link(name, method):
    case = PINNED["identity"][name]
    pinned = case[method]
    fit = fit_reml(_design(case, "identity"), method=method)
    border = pinned.get("boundary") or {}
    # metafor's optimiser stops a little inside the border, so its log-likelihood may be lower, by
    # up to 3e-8; the maximum on the border itself agrees to rounding.
    assert fit.loglik == pytest.approx(border.get("logLik", pinned["logLik"]), abs=1e-9)
    assert fit.loglik > pinned["logLik"] - 1e-9
    exact = np.array(border.get("tau2", pinned["tau2"]), dtype=float)
    np.testing.assert_allclose(fit.tau2, exact, rtol=1e-5, atol=1e-7 * exact.max())
    assert bool(fit.at_bound) == pinned["at_boundary"]
    if pinned["at_boundary"]:
        assert fit.scale["se"].isna().all()
        assert set(fit.at_bound) <= {f"row {i}" for i in range(fit.design.n_studies)}
        assert "the maximum lies on the border" in " ".join(str(fit).split())
    else:
        # metafor differentiates numerically.
        np.testing.assert_allclose(fit.scale["se"], _numbers(pinned["scale"]["se"]), rtol=1e-4)
    assert fit.aic == pytest.approx(pinned["AIC"], abs=1e-6)


def test_identity_link_equals_the_log_link_without_moderators():
    data = lsm.load_dataset("bcg")
    log, identity = (
        lsm.LocationScaleModel("yi ~ ablat", variance="vi", data=data, link=link).fit_reml()
        for link in ("log", "identity")
    )
    assert identity.loglik == pytest.approx(log.loglik, abs=1e-10)
    assert identity.alpha[0] == pytest.approx(np.exp(log.alpha[0]), rel=1e-6)


FIXED = [
    (name, i, method)
    for name, cases in PINNED["fixed_alpha"].items()
    for i in range(len(cases))
    for method in METHODS
]


@pytest.mark.parametrize(("name", "i", "method"), FIXED)
def test_fixed_coefficients(name, i, method):
    case = PINNED["fixed_alpha"][name][i]
    pinned = case[method]
    design = _design(case)
    fixed = {
        term: value
        for term, value in zip(design.scale.names, case["alpha"], strict=True)
        if value is not None
    }
    fit = fit_reml(design, method=method, fixed=fixed)
    assert fit.loglik == pytest.approx(pinned["logLik"], abs=1e-9)
    for criterion, value in (("aic", "AIC"), ("bic", "BIC"), ("aicc", "AICc")):
        assert getattr(fit, criterion) == pytest.approx(pinned[value], abs=1e-7)
    np.testing.assert_allclose(
        fit.scale["estimate"], _numbers(pinned["scale"]["estimate"]), rtol=1e-5, atol=1e-6
    )
    assert fit.scale.loc[list(fixed), "se"].isna().all()
    np.testing.assert_allclose(fit.location["se"], _numbers(pinned["location"]["se"]), rtol=1e-6)


WALD = [
    (name, method, test)
    for name in PINNED["fits"]
    for method in METHODS
    for test in ("z", "t", "knha")
    if name != "preterm_continent"  # two maxima, and metafor's is the other one
]


@pytest.mark.parametrize(("name", "method", "test"), WALD)
def test_reference_distributions(name, method, test):
    case = PINNED["fits"][name]
    pinned = case[method]["tests"][test]
    fit = fit_reml(_design(case), method=method, test=test)
    for part in ("location", "scale"):
        ours, theirs = getattr(fit, part), pinned[part]
        statistic = "zval" if test == "z" else "tval"
        # metafor's Hessian is numerical; what hangs on it is good to about 1e-5.
        np.testing.assert_allclose(ours["se"], _numbers(theirs["se"]), rtol=2e-4)
        np.testing.assert_allclose(
            ours[statistic], _numbers(theirs["statistic"]), rtol=2e-4, atol=1e-4
        )
        np.testing.assert_allclose(ours["pval"], _numbers(theirs["pval"]), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(ours["ci_lb"], _numbers(theirs["ci_lb"]), rtol=2e-4, atol=1e-4)
        if test != "z":
            assert set(ours["df"]) == {theirs["df"]}
    for ours, theirs in ((fit.qm, pinned["QM"]), (fit.qs, pinned["QS"])):
        assert ours.statistic == pytest.approx(theirs["statistic"], rel=1e-3)
        assert ours.pval == pytest.approx(theirs["pval"], rel=1e-3, abs=1e-6)
        assert getattr(ours, "df2", None) == theirs["df2"]


@pytest.mark.parametrize(
    "bounds",
    [
        {"I(weeks - 40)": (-0.2, np.inf)},
        {"I(weeks - 40)": (-5.0, -0.6)},
        {"intrcpt": (0.0, 1.0), "I(weeks - 40)": (-0.3, 0.1)},
        {"intrcpt": (-10.0, 10.0)},
    ],
)
def test_bounds_agree_with_a_bounded_optimiser(bounds):
    design = lsm.LocationScaleModel.from_file("preterm_weeks").design
    fit = fit_reml(design, bounds=bounds)
    names = design.scale.names
    box = [bounds.get(name, (None, None)) for name in names]

    def objective(alpha):
        tau2 = np.exp(np.minimum(design.Z @ alpha, 50))
        return -log_likelihood(design.y, design.v, design.X, tau2, method="REML")

    others = [
        minimize(objective, [start, slope], method="L-BFGS-B", bounds=box, tol=1e-12).fun
        for start in (-3.0, 0.5)
        for slope in (-0.6, -0.1)
    ]
    # L-BFGS-B with numerical derivatives is good to about 1e-6.
    assert fit.loglik == pytest.approx(-min(others), abs=1e-5)
    held = [name for name in names if name in fit.at_bound]
    assert fit.scale.loc[held, "se"].isna().all()
    for name, (low, high) in bounds.items():
        assert low <= fit.scale.loc[name, "estimate"] <= high


def test_bounds_hold_back_a_diverging_coefficient(continent):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = continent.fit_reml(bounds={"continentOther": (-6.0, 6.0)})
    assert fit.divergence is None
    assert fit.at_bound == {"continentOther": -6.0}
    assert fit.scale.loc["continentOther", "estimate"] == -6.0
    assert "held by these coefficients: continentOther" in " ".join(str(fit).split())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test": "f"}, "test must be"),
        ({"fixed": {"week": 0}}, "there is no scale term 'week'; there are 'intrcpt', "),
        ({"fixed": {"intrcpt": np.inf}}, "must be finite"),
        ({"bounds": {"intrcpt": (1.0, 0.0)}}, r"must be \(lower, upper\)"),
        ({"bounds": {"intrcpt": (0, 1)}, "fixed": {"intrcpt": 0.5}}, "both fixed and bounded"),
        (
            {"bounds": {"intrcpt": (0, 1)}, "start": {"intrcpt": 2.0, "I(weeks - 40)": 0.0}},
            "exclude its start 2.0",
        ),
        ({"start": {"intrcpt": 2.0}}, r"missing: I\(weeks - 40\)"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    model = lsm.LocationScaleModel.from_file("preterm_weeks")
    with pytest.raises(lsm.FitError, match=message):
        model.fit_reml(**settings)


def test_identity_link_without_a_feasible_point_is_refused():
    model = lsm.LocationScaleModel(
        "yi ~ 1", scale="~ ablat", variance="vi", data=lsm.load_dataset("bcg"), link="identity"
    )
    with pytest.raises(lsm.FitError, match="no scale coefficients give τ² >= 0"):
        model.fit_reml(fixed={"intrcpt": -5.0}, bounds={"ablat": (-1.0, 0.01)})


def test_some_coefficient_of_tau2_itself_is_free():
    model = lsm.LocationScaleModel(
        "yi ~ 1", variance="vi", data=lsm.load_dataset("bcg"), link="identity"
    )
    with pytest.raises(lsm.FitError, match="some scale coefficient must be free, got all of them"):
        model.fit_reml(fixed={"intrcpt": 0.1})


def test_bayes_refuses_the_identity_link():
    model = lsm.LocationScaleModel(
        "yi ~ 1", scale="~ ablat", variance="vi", data=lsm.load_dataset("bcg"), link="identity"
    )
    for verb in ("fit_bayes", "to_pymc", "prior_predictive"):
        with pytest.raises(lsm.FitError, match=f"{verb} does not take link='identity'"):
            getattr(model, verb)()


def test_a_start_can_be_given():
    model = lsm.LocationScaleModel.from_file("preterm_weeks")
    fit = model.fit_reml(start={"intrcpt": -3.0, "I(weeks - 40)": -0.4})
    assert fit.loglik == pytest.approx(model.fit_reml().loglik, abs=1e-10)
