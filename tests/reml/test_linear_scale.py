"""Linear functions of the scale coefficients, inside and at limits at infinity."""

import numpy as np
import pytest

from bayes_lsm.errors import DivergentScaleWarning
from bayes_lsm.reml import fit_reml
from bayes_lsm.reml.prediction.linear_scale import scale_at

from .designs import example, homogeneous_group, make_design


def test_inside():
    fit = fit_reml(make_design(example(), "~ x", "~ x"))
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, -2.0]])
    found = scale_at(fit, rows)
    np.testing.assert_allclose(found.estimate, rows @ fit.alpha)
    np.testing.assert_allclose(found.se, np.sqrt(np.diag(rows @ fit.vcov_scale @ rows.T)))


def test_units_do_not_matter_at_a_limit():
    data = homogeneous_group("b")
    found = []
    for scaled in (data, data.assign(x=1e4 * data["x"] + 2000)):
        with pytest.warns(DivergentScaleWarning):
            fit = fit_reml(make_design(scaled, "~ g", "~ g + x"))
        x = float(scaled["x"].iloc[0])
        found.append(scale_at(fit, np.array([[1.0, 0.0, x], [1.0, 1.0, x]])))
    np.testing.assert_allclose(found[0].estimate, found[1].estimate, rtol=1e-6)
    np.testing.assert_allclose(found[0].se, found[1].se, rtol=1e-6)
    assert found[0].estimate[1] == -np.inf


def test_linear_functions_at_a_limit():
    with pytest.warns(DivergentScaleWarning):
        fit = fit_reml(make_design(homogeneous_group("b"), "~ g + x", "~ g + x"))
    n = list(fit.design.scale.names)
    assert n == ["intrcpt", "gb", "x"]
    # x is shared by the groups, so its coefficient stays; ln τ² in b goes down, −ln τ² up.
    found = scale_at(fit, np.array([[0, 0, 1.0], [0, 1, 0], [0, -1, 0], [1, 1, 3], [0, 0, 0]]))
    assert found.estimate[0] == pytest.approx(fit.alpha[2], abs=1e-6)
    assert found.se[0] == pytest.approx(fit.scale.loc["x", "se"], rel=1e-5)
    np.testing.assert_array_equal(found.estimate[1:4], [-np.inf, np.inf, -np.inf])
    assert np.isnan(found.se[1:4]).all()
    assert (found.estimate[4], found.se[4]) == (0, 0)
