"""Likelihood-ratio tests: the number, and what cannot be compared."""

import numpy as np
import pytest
from scipy.stats import chi2

from bayes_lsm.errors import DivergentScaleWarning, FitError
from bayes_lsm.reml import fit_reml, likelihood_ratio_test

from .designs import example, homogeneous_group, make_design


@pytest.fixture
def full():
    return fit_reml(make_design(example(), "~ x", "~ x"))


@pytest.fixture
def reduced():
    return fit_reml(make_design(example(), "~ x"))


def test_statistic(full, reduced):
    test = likelihood_ratio_test(full, reduced)
    assert test.statistic == pytest.approx(2 * (full.loglik - reduced.loglik))
    assert test.df == 1
    assert test.pval == pytest.approx(chi2.sf(test.statistic, 1))
    assert list(test.table.index) == ["Full", "Reduced"]
    assert test.table.loc["Full", "AIC"] == full.aic
    assert np.isnan(test.table.loc["Full", "LRT"])
    for text in (str(test), test._repr_html_()):
        assert f"{test.statistic:.4f}" in text
        assert "nan" not in text.lower()


def test_small_p_values_are_printed_as_such():
    data = homogeneous_group("b", k=100)
    with pytest.warns(DivergentScaleWarning):
        full = fit_reml(make_design(data, "~ g", "~ g"))
    test = likelihood_ratio_test(full, fit_reml(make_design(data, "~ g")))
    assert test.pval < 1e-4
    assert "<.0001" in str(test)
    assert "&lt;.0001" in test._repr_html_()


def test_another_coding_of_the_location_is_the_same_location():
    data = example().assign(z=lambda d: 3 - 2 * d["x"])
    full = fit_reml(make_design(data, "~ x", "~ x"))
    test = likelihood_ratio_test(full, fit_reml(make_design(data, "~ z")))
    plain = likelihood_ratio_test(full, fit_reml(make_design(data, "~ x")))
    # |X'X| differs by the coding, and |X'WX| with it.
    assert test.statistic == pytest.approx(plain.statistic, abs=1e-9)


def test_locations_are_compared_by_ml():
    data = example()
    full, reduced = make_design(data, "~ x", "~ x"), make_design(data, "~ 1", "~ x")
    with pytest.raises(FitError, match="method='ML'"):
        likelihood_ratio_test(fit_reml(full), fit_reml(reduced))
    test = likelihood_ratio_test(fit_reml(full, method="ML"), fit_reml(reduced, method="ML"))
    assert test.df == 1
    assert test.statistic > 0


def test_what_cannot_be_compared(full, reduced):
    with pytest.raises(FitError, match=r"order \(full, reduced\)"):
        likelihood_ratio_test(reduced, full)
    with pytest.raises(FitError, match="REML with ML"):
        likelihood_ratio_test(full, fit_reml(reduced.design, method="ML"))
    with pytest.raises(FitError, match="different rows"):
        likelihood_ratio_test(full, fit_reml(make_design(example().iloc[1:], "~ x")))
    other = example().assign(u=np.sin(np.arange(30)))
    two = fit_reml(make_design(other, "~ x", "~ x + I(x ** 2)"))
    with pytest.raises(FitError, match="nested"):
        likelihood_ratio_test(two, fit_reml(make_design(other, "~ x", "~ u")))
