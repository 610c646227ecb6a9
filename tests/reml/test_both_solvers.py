"""Predictions, effects and heterogeneity of independent effects are the same by either solver."""

import warnings

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.design.design import Design
from bayes_lsm.errors import BayesLsmWarning
from bayes_lsm.reml import fit_reml

from .designs import example, homogeneous_group, make_design

VERBS = {
    "predict": lambda fit, new: fit.predict(new).table,
    "predict rows": lambda fit, new: fit.predict().table,
    "predict plug-in": lambda fit, new: fit.predict(new, scale_uncertainty="plug-in").table,
    "predict_tau": lambda fit, new: fit.predict_tau(new).table,
    "blup": lambda fit, new: fit.blup().table,
    "group_effects": lambda fit, new: fit.group_effects().table,
    "heterogeneity": lambda fit, new: fit.heterogeneity().table,
    "by row": lambda fit, new: fit.heterogeneity().by_row,
}


def numbers(**options):
    """A location-scale model of one moderator, and other fits of it."""
    return make_design(example(), "~ x", "~ x", **options), pd.DataFrame({"x": [-1.0, 0.5, 3.0]})


def none_in_a_group():
    """At a limit, group b has no heterogeneity."""
    new = pd.DataFrame({"g": ["a", "b"], "x": [0.5, -0.5]})
    return make_design(homogeneous_group("b"), "~ g + x", "~ g + x"), new


def nothing_known_of_a_group():
    """Group c has two studies with location coefficients of their own."""
    data = example(g=list("ab") * 15, one=np.eye(30)[4], two=np.eye(30)[7])
    data.loc[[4, 7], "g"] = "c"
    new = pd.DataFrame({"g": list("abc"), "one": 0.0, "two": 0.0})
    return make_design(data, "~ one + two", "~ g"), new


CASES = {
    "location-scale": (numbers, {}),
    "random effects": (lambda: (make_design(example()), pd.DataFrame({"a": [1, 2]})), {}),
    "ML": (numbers, {"method": "ML"}),
    "t": (numbers, {"test": "t"}),
    "knha": (numbers, {"test": "knha"}),
    "fixed": (numbers, {"fixed": {"x": 0.6}}),
    "bounded": (numbers, {"bounds": {"x": (2.0, np.inf)}}),
    "limit": (none_in_a_group, {}),
    "limit, fixed": (none_in_a_group, {"fixed": {"x": 0.3}}),
    "limit, knha": (none_in_a_group, {"test": "knha"}),
    "not informed": (nothing_known_of_a_group, {}),
}


def answers(case):
    make, options = CASES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayesLsmWarning)
        design, new = make()
        fit = fit_reml(design, **options)
        return fit, {name: ask(fit, new) for name, ask in VERBS.items()}


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_are_the_same(case, monkeypatch):
    fit, expected = answers(case)
    assert fit.design.is_independent
    monkeypatch.setattr(Design, "is_independent", False)
    other, found = answers(case)
    # Two climbs end within 1e-13 of the likelihood, so their estimates within some 3e-7 SE.
    assert other.loglik == pytest.approx(fit.loglik, abs=1e-10)
    for name, table in expected.items():
        ours = found[name]
        if fit.test != "z" and name.startswith("predict"):
            # Only independent effects have k − q degrees of freedom for their scale coefficients.
            columns = [c for c in table if "tau_ci" not in c and "tau2_ci" not in c]
            columns = [c for c in columns if name != "predict_tau" or not c.startswith("ci_")]
            ours, table = ours[columns], table[columns]
        assert ours.index.equals(table.index)
        assert ours.index.name == table.index.name
        # The SE of a climb in units of it, times the slope of the most sensitive number.
        np.testing.assert_allclose(ours, table, rtol=2e-5, atol=1e-6, err_msg=name)


def test_what_is_not_informed_is_missing_in_every_verb():
    _, found = answers("not informed")
    assert found["predict"]["pi_lb"].isna().to_list() == [False, False, True]
    assert found["predict_tau"]["tau"].isna().to_list() == [False, False, True]
    assert found["predict plug-in"]["pi_ub"].isna().to_list() == [False, False, True]
    for name, column in (("blup", "u"), ("group_effects", "estimate"), ("by row", "tau2")):
        assert found[name][column].isna().to_numpy().nonzero()[0].tolist() == [4, 7], name


def test_a_dense_covariance_of_independent_errors_changes_nothing():
    data = lsm.load_dataset("bcg")
    words = {"location": "yi ~ ablat", "scale": "~ ablat", "data": data}
    one = lsm.LocationScaleModel(variance="vi", **words).fit_reml()
    V = np.diag(data["vi"]) + 1e-14 * np.eye(13)[::-1]  # a correlation that changes nothing
    dense = lsm.LocationScaleModel(variance=V, **words).fit_reml()
    assert not dense.design.is_independent
    for name in ("blup", "group_effects", "heterogeneity"):
        ours, theirs = (getattr(fit, name)().table for fit in (dense, one))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert pytest.approx(one.heterogeneity().R2, rel=1e-5) == dense.heterogeneity().R2
    assert str(dense.heterogeneity()).splitlines()[0] == str(one.heterogeneity()).splitlines()[0]
