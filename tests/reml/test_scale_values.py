"""Linear functions of the scale coefficients, inside and at limits, by either solver."""

import numpy as np
import pytest

from bayes_lsm.errors import DivergentScaleWarning
from bayes_lsm.reml import fit_reml
from bayes_lsm.reml.scale_values import scale_values

from .designs import example, homogeneous_group, make_design

pytestmark = pytest.mark.usefixtures("solver")


def diverging(data, location, scale, **options):
    with pytest.warns(DivergentScaleWarning):
        return fit_reml(make_design(data, location, scale), **options)


def test_inside():
    fit = fit_reml(make_design(example(), "~ x", "~ x"))
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, -2.0]])
    found = scale_values(fit, rows)
    np.testing.assert_allclose(found.estimate, rows @ fit.alpha)
    np.testing.assert_allclose(found.se, np.sqrt(np.diag(rows @ fit.vcov_scale @ rows.T)))
    assert not found.blind.any()


def test_units_do_not_matter_at_a_limit():
    data = homogeneous_group("b")
    found = []
    for scaled in (data, data.assign(x=1e4 * data["x"] + 2000)):
        fit = diverging(scaled, "~ g", "~ g + x")
        x = float(scaled["x"].iloc[0])
        found.append(scale_values(fit, np.array([[1.0, 0.0, x], [1.0, 1.0, x]])))
    # A climb stops within the root of 1e-13 of its maximum.
    np.testing.assert_allclose(found[0].estimate, found[1].estimate, rtol=1e-6)
    np.testing.assert_allclose(found[0].se, found[1].se, rtol=1e-6)
    assert found[0].estimate[1] == -np.inf


def test_linear_functions_at_a_limit():
    fit = diverging(homogeneous_group("b"), "~ g + x", "~ g + x")
    assert fit.scale_names == ("intrcpt", "gb", "x")
    # x is shared by the groups, so its coefficient stays; ln τ² in b goes down, −ln τ² up.
    found = scale_values(fit, np.array([[0, 0, 1.0], [0, 1, 0], [0, -1, 0], [1, 1, 3], [0, 0, 0]]))
    assert found.estimate[0] == pytest.approx(fit.alpha[2], abs=1e-6)
    assert found.se[0] == pytest.approx(fit.scale.loc["x", "se"], rel=1e-5)
    np.testing.assert_array_equal(found.estimate[1:4], [-np.inf, np.inf, -np.inf])
    assert np.isnan(found.se[1:4]).all()
    assert (found.estimate[4], found.se[4]) == (0, 0)


def test_what_is_fixed_is_certain_also_at_a_limit():
    fit = diverging(homogeneous_group("b"), "~ g + x", "~ g + x", fixed={"x": 0.4})
    rows = np.array([[0, 0, 2.0], [1, 0, 2], [1, 0, 0], [1, 1, 2]])
    found = scale_values(fit, rows)
    assert (found.estimate[0], found.se[0]) == (pytest.approx(0.8), 0)
    assert found.estimate[1] == pytest.approx(fit.alpha[0] + 0.8)
    assert found.se[1] == found.se[2] == pytest.approx(fit.scale.loc["intrcpt", "se"])
    assert (found.estimate[3], np.isnan(found.se[3])) == (-np.inf, True)


def test_what_a_bound_holds_has_no_standard_error():
    design = make_design(example(), "~ x", "~ x")
    free = fit_reml(design)
    fit = fit_reml(design, bounds={"x": (free.alpha[1] + 0.3, np.inf)})
    found = scale_values(fit, np.eye(2))
    assert np.isfinite(found.se).tolist() == [True, False]
    np.testing.assert_allclose(found.estimate, fit.alpha)


def test_fixed_coefficients_are_in_every_tau2():
    fit = fit_reml(make_design(example(), "~ x", "~ x"), fixed={"x": 0.4})
    np.testing.assert_allclose(np.log(fit.tau2), fit.design.terms[0].table @ fit.alpha)
