"""Limits at infinity: which coefficients diverge, which way, and how it is said."""

import math

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.errors import DivergentScaleWarning
from bayes_lsm.reml import Divergence, fit_reml
from bayes_lsm.reml.divergence import Cone

from .designs import homogeneous_group, make_design

DIVERGES = pytest.warns(DivergentScaleWarning)


def one_hot(codes, levels):
    return (np.array(codes)[:, None] == np.arange(levels)).astype(float)


def treatment(codes, levels):
    return np.column_stack([np.ones(len(codes)), one_hot(codes, levels)[:, 1:]])


def test_no_heterogeneity_at_all():
    data = pd.DataFrame({"yi": np.tile([-0.1, 0.1], 10), "vi": 1.0})
    with pytest.warns(DivergentScaleWarning, match="intrcpt to -inf.*all 20 studies"):
        fit = fit_reml(make_design(data))
    assert fit.alpha[0] == -np.inf
    assert (fit.tau2 == 0).all()
    assert fit.divergence.everywhere
    # The common-effect model: inverse-variance weights.
    assert fit.location.loc["intrcpt", "se"] == pytest.approx(np.sqrt(1 / 20))
    assert fit.scale.loc["intrcpt"].drop("estimate").isna().all()


def test_no_heterogeneity_with_a_moderator_leaves_its_slope_open():
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"yi": 0.1 * rng.normal(size=20), "vi": 1.0, "x": rng.normal(size=20)})
    with DIVERGES:
        fit = fit_reml(make_design(data, scale="~ x"))
    assert fit.alpha[0] == -np.inf
    assert np.isnan(fit.alpha[1])
    assert fit.divergence.everywhere
    assert (fit.tau2 == 0).all()
    assert "x not identified" in str(fit.divergence)


@pytest.mark.parametrize(
    ("group", "scale", "terms"),
    [
        ("b", "~ g", {"gb": -np.inf}),
        ("a", "~ g", {"intrcpt": -np.inf, "gb": np.inf}),
        ("a", "~ 0 + g", {"ga": -np.inf}),
        ("b", "~ 0 + g", {"gb": -np.inf}),
    ],
)
def test_a_group_without_heterogeneity(group, scale, terms):
    data = homogeneous_group(group)
    with DIVERGES:
        fit = fit_reml(make_design(data, "~ g", scale))
    assert fit.divergence.terms == terms
    gone = data["g"] == group
    assert (fit.tau2[gone] == 0).all()
    # With its own mean the other group is a meta-analysis by itself.
    alone = fit_reml(make_design(data[~gone]))
    np.testing.assert_allclose(fit.tau2[~gone], alone.tau2[0], rtol=1e-6)
    assert list(fit.scale.index[np.isinf(fit.alpha)]) == list(terms)


def test_a_continuous_moderator_beside_a_group():
    rng = np.random.default_rng(7)
    data = homogeneous_group("b", k=80)
    data.loc[data["g"] == "a", "yi"] = rng.normal(size=40) * np.exp(0.7 + 0.5 * data["x"][::2])
    with DIVERGES:
        fit = fit_reml(make_design(data, "~ g + x", "~ g + x"))
    assert fit.divergence.terms == {"gb": -np.inf}
    assert np.isfinite(fit.scale.loc[["intrcpt", "x"], "se"]).all()


def test_a_continuous_moderator_with_heterogeneity_at_one_end_only():
    rng = np.random.default_rng(9)
    x = np.repeat(np.arange(5.0), 8)
    y = np.where(x == 4, 6.0, 0.2) * rng.normal(size=40)
    with DIVERGES:
        fit = fit_reml(make_design(pd.DataFrame({"yi": y, "vi": 1.0, "x": x}), scale="~ x"))
    assert fit.divergence.terms == {"intrcpt": -np.inf, "x": np.inf}
    assert (fit.tau2[x < 4] == 0).all()
    assert np.ptp(fit.tau2[x == 4]) == 0
    assert fit.tau2[x == 4][0] > 10


@pytest.mark.parametrize("unit", [1.0, 1e-4, 1e5])
def test_units_and_origin_of_a_moderator_do_not_matter(unit):
    x = np.repeat(np.arange(5.0), 3)
    Z = np.column_stack([np.ones(15), 2000 + unit * x])
    limit = Cone(Z).limit(x == 4)
    np.testing.assert_array_equal(limit.zero, x < 4)
    assert Cone(Z).signs(limit.zero)[0] == {0: -np.inf, 1: np.inf}


def test_only_faces_are_limits():
    x = np.repeat(np.arange(5.0), 3)
    Z = np.column_stack([np.ones(15), x])
    assert Cone(Z).limit(x == 2) is None
    assert Cone(Z).limit(x >= 3) is None
    np.testing.assert_array_equal(Cone(Z).limit(x == 0).zero, x > 0)
    np.testing.assert_array_equal(Cone(Z).limit(x < -1).zero, np.ones(15, bool))


def test_rows_that_hold_each_other_leave_the_others_free():
    """(2, 2) and (−1, −1) can only stay; along (1, −1) the first row goes by itself."""
    rows = np.array([[-1.0, 0.0], [2.0, 2.0], [2.0, 2.0], [2.0, 2.0], [-1.0, -1.0]])
    limit = Cone(rows).limit(np.zeros(5, dtype=bool))
    assert limit.zero.tolist() == [True, False, False, False, False]


def test_any_set_of_groups_is_a_limit():
    codes = np.repeat(np.arange(4), 3)
    for gone in ([1], [2, 3], [0], [0, 2], [0, 1, 2]):
        zero = np.isin(codes, gone)
        limit = Cone(treatment(codes, 4)).limit(~zero)
        np.testing.assert_array_equal(limit.zero, zero)
        assert len(limit.kept) == 4 - len(gone)
        signs, direction = Cone(treatment(codes, 4)).signs(zero)
        assert (treatment(codes, 4)[zero] @ direction < 0).all()
        np.testing.assert_allclose(treatment(codes, 4)[~zero] @ direction, 0, atol=1e-12)
        cells, _ = Cone(one_hot(codes, 4)).signs(zero)
        assert cells == dict.fromkeys(gone, -np.inf)
        if 0 not in gone:
            assert signs == dict.fromkeys(gone, -np.inf)


def test_reference_group_gone_leaves_other_differences_open():
    codes = np.repeat(np.arange(4), 3)
    signs, _ = Cone(treatment(codes, 4)).signs(np.isin(codes, [0, 2]))
    assert signs[0] == -np.inf
    assert signs[1] == signs[3] == np.inf
    assert math.isnan(signs[2])


def test_two_moderators_and_a_corner():
    # The studies of one corner of a square; those beside it can go together, not one alone.
    a, b = np.repeat([0.0, 0, 1, 1], 3), np.repeat([0.0, 1, 0, 1], 3)
    Z = np.column_stack([np.ones(12), a, b])
    corner = (a == 1) & (b == 1)
    np.testing.assert_array_equal(Cone(Z).limit(corner).zero, ~corner)
    assert Cone(Z).signs(~corner)[0] == {0: -np.inf, 1: np.inf, 2: np.inf}
    np.testing.assert_array_equal(Cone(Z).limit(a == 1).zero, a == 0)
    assert Cone(Z).limit(a == b) is None


def test_messages():
    terms = {"gb": -np.inf, "gc": np.inf, "x": np.nan}
    several = Divergence(terms, {}, ("5", "7", "16"), False)
    assert str(several) == (
        "the likelihood has no finite maximum: scale coefficients gb to -inf, gc to +inf "
        "(x not identified), because τ² goes to 0 in 3 studies: 5, 7, 16"
    )
    one = Divergence({"x": np.inf}, {}, ("Smith 1999",), False)
    assert str(one).endswith(
        "scale coefficient x to +inf, because τ² goes to 0 in the study Smith 1999"
    )
    everywhere = Divergence({"intrcpt": -np.inf}, {}, tuple("abcdefghij"), True)
    assert str(everywhere).endswith("intrcpt to -inf, because τ² goes to 0 in all 10 studies")
    many = Divergence({"x": np.inf}, {}, tuple("abcdefghij"), False)
    assert str(many).endswith("in 10 studies: a, b, c, d, e, f, g, h …")


@pytest.mark.filterwarnings("ignore::bayes_lsm.errors.DivergentScaleWarning")
def test_a_fixed_coefficient_leaves_studies_their_name():
    model = lsm.LocationScaleModel.from_file("preterm_continent")
    fit = model.fit_reml(fixed={"I(weeks - 40)": -0.6})
    assert "τ² goes to 0 in 8 studies: 5, 16" in str(fit.divergence)
