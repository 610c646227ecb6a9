"""Every number of the talk's frequentist models, at its printed rounding."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from bayes_lsm.datasets import load_dataset
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import DivergentScaleWarning
from bayes_lsm.reml import fit_reml, likelihood_ratio_test
from bayes_lsm.specification import find_specification

SLIDES = json.loads(
    (Path(__file__).parents[1] / "reference" / "slides.json").read_text(encoding="utf-8")
)
FILES = {
    "random_effects": "preterm_random_effects",
    "meta_regression": "preterm_meta_regression",
    "location_scale_weeks": "preterm_weeks",
    "location_scale_continent_weeks": "preterm_continent",
}
TERMS = {"weeks - 40": "I(weeks - 40)"}
COEFFICIENTS = [
    (model, part, term)
    for model in FILES
    for part in ("location", "scale")
    for term in SLIDES[model].get(f"{part}_coef", {})
]


@cache
def fitted(model):
    specification = find_specification(FILES[model])
    design = build_design(specification, load_dataset(specification.data))
    if model != "location_scale_continent_weeks":
        return fit_reml(design)
    with pytest.warns(DivergentScaleWarning, match="continentOther to -inf"):
        return fit_reml(design)


def assert_printed(value, printed):
    """`value`, rounded to two digits, is what a slide prints: 2.70, or "<.01"."""
    if printed == "<.01":
        assert value < 0.01
    else:
        assert round(float(value), 2) == printed


def assert_row(row, printed):
    for name in ("estimate", "se", "zval", "pval"):
        assert_printed(row[name], printed[name])
    assert_printed(row["ci_lb"], printed["ci"][0])
    assert_printed(row["ci_ub"], printed["ci"][1])


def test_random_effects():
    fit, printed = fitted("random_effects"), SLIDES["random_effects"]
    found = fit.heterogeneity()
    assert fit.method == printed["method"]
    assert fit.design.n_studies == printed["k"]
    for name in ("tau2", "se_tau2", "tau", "I2", "H2"):
        assert_printed(getattr(found, name), printed[name])
    assert_printed(found.Q.statistic, printed["Q"])
    assert found.Q.df == printed["Q_df"]
    assert_printed(found.Q.pval, printed["Q_pval"])
    assert_row(fit.location.loc["intrcpt"], printed)


def test_meta_regression():
    found, printed = fitted("meta_regression").heterogeneity(), SLIDES["meta_regression"]
    for name in ("tau2", "tau", "I2", "H2", "R2"):
        assert_printed(getattr(found, name), printed[name])


@pytest.mark.parametrize(("model", "part", "term"), COEFFICIENTS)
def test_coefficients(model, part, term):
    printed = SLIDES[model][f"{part}_coef"][term]
    row = getattr(fitted(model), part).loc[TERMS.get(term, term)]
    if printed.get("diverges_to") != "-inf":
        assert_row(row, printed)
        return
    assert row["estimate"] == -np.inf
    assert row.drop("estimate").isna().all()
    # Where an optimiser stops, and its standard error, are accidents: not the digits, their size.
    stop = fitted(model).at_stop.loc[part, term]
    assert stop["estimate"] < -10
    assert stop["se"] > 1000
    assert_printed(stop["pval"], printed["pval"])
    assert_printed(stop["zval"], printed["zval"])


def test_every_printed_coefficient_is_tested():
    for model in FILES:
        for part in ("location", "scale"):
            printed = SLIDES[model].get(f"{part}_coef")
            if printed is not None:
                names = [TERMS.get(term, term) for term in printed]
                assert list(getattr(fitted(model), part).index) == names


def test_likelihood_ratio_test():
    printed = SLIDES["location_scale_weeks"]["likelihood_ratio_test"]
    test = likelihood_ratio_test(fitted("location_scale_weeks"), fitted("meta_regression"))
    assert_printed(test.statistic, printed["LRT"])
    assert_printed(test.pval, printed["pval"])
    for row in ("Full", "Reduced"):
        for name, value in printed[row].items():
            assert_printed(test.table.loc[row, name], value)


@pytest.mark.parametrize("symbol", SLIDES["side_by_side"]["rows"])
def test_side_by_side(symbol):
    estimate, se, *_ = SLIDES["side_by_side"]["rows"][symbol]
    fit = fitted("location_scale_continent_weeks")
    table = fit.location if symbol.startswith("beta") else fit.scale
    row = table.iloc[int(symbol[-1])]
    if symbol == "alpha2":
        assert row["estimate"] == -np.inf
        assert np.isnan(row["se"])
        return
    assert_printed(row["estimate"], estimate)
    assert_printed(row["se"], se)
