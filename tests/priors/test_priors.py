"""Priors: proper densities, bound to the right coefficients, and equivariant to all units."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.datasets import load_dataset
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import PriorError
from bayes_lsm.priors import (
    HalfNormal,
    Normal,
    Priors,
    ResolvedPriors,
    independent_normal,
    preset,
)
from bayes_lsm.specification import Specification


def bind(design, priors=None) -> ResolvedPriors:
    return resolve_priors(design, priors or Priors())


def design_of(data, formula):
    return build_design(Specification(f"yi {formula}", "vi", scale=formula), data)


# ---------------------------------------------------------------- single distributions


@pytest.mark.parametrize(
    "prior", [Normal(), Normal(-3, 0.01), Normal(2, 100), HalfNormal(), HalfNormal(0.01)]
)
def test_a_density_integrates_to_one(prior):
    # In units of the prior, so that the quadrature meets the same curve whatever the scale.
    if isinstance(prior, Normal):
        middle, unit = prior.mean, prior.sd
    else:
        middle, unit = 2 * math.log(prior.sd), 1.0
    total, _ = integrate.quad(
        lambda u: unit * math.exp(prior.logpdf(np.array(middle + unit * u))), -60, 60, limit=500
    )
    # quad promises about 1e-8.
    assert total == pytest.approx(1, abs=1e-7)


def test_the_half_normal_on_log_tau2_is_the_half_normal_on_tau():
    tau = np.array([0.1, 1.0, 7.0])
    jacobian = tau / 2
    expected = stats.halfnorm(scale=3).pdf(tau) * jacobian
    np.testing.assert_allclose(np.exp(HalfNormal(3).logpdf(2 * np.log(tau))), expected)


def test_the_normal_is_the_normal():
    x = np.linspace(-5, 9, 7)
    np.testing.assert_allclose(Normal(2, 3).logpdf(x), stats.norm(2, 3).logpdf(x))


@pytest.mark.filterwarnings("error")
def test_densities_far_out_are_zero_and_silent():
    theta = np.array([-2000.0, 2000.0])
    # Far below, the density of log τ² falls like its Jacobian; far above, like exp(-τ²).
    assert HalfNormal(1).logpdf(theta)[0] == pytest.approx(-1000, rel=0.01)
    assert HalfNormal(1).logpdf(theta)[1] == -np.inf
    assert np.isfinite(Normal().logpdf(theta)).all()


@pytest.mark.parametrize("prior", [Normal(1, 2), HalfNormal(2)])
def test_draws_follow_the_density(prior):
    draws = prior.sample(20_000, np.random.default_rng(1))
    grid = np.quantile(draws, [0.1, 0.5, 0.9])
    lowest = grid[0] - 60

    def below(theta):
        return integrate.quad(
            lambda t: math.exp(prior.logpdf(np.array(t))), lowest, theta, limit=500
        )[0]

    # Three standard errors of a quantile's level from 20,000 draws: 3·√(0.25/20000) ≈ 0.011.
    np.testing.assert_allclose([below(theta) for theta in grid], [0.1, 0.5, 0.9], atol=0.011)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normal(0, 0), "sd: .*greater than 0, got 0"),
        (lambda: Normal(0, -1), "greater than 0, got -1"),
        (lambda: HalfNormal(-1), "greater than 0"),
        (lambda: HalfNormal(math.nan), "finite number"),
        (lambda: Normal(math.inf), "finite number"),
        (lambda: Normal(0, "7"), "valid number, got '7'"),
        (lambda: Normal(True), "valid number, got True"),
        (lambda: Normal(sdd=3), "sdd: unknown key"),  # type: ignore[call-arg]
        (lambda: preset("flat"), "preset: .*'weakly_informative', .* or 'informed', got 'flat'"),
        (lambda: Priors(location={"x": HalfNormal(1)}), r"location.x: .*use a normal prior"),
        (lambda: Priors(scale={"x": 3}), "scale.x: "),
        (lambda: independent_normal(location=-1, scale=1), "greater than 0"),
    ],
)
def test_an_improper_prior_is_refused(make, message):
    with pytest.raises(PriorError, match=message):
        make()


def test_priors_take_values_by_position_and_numpy_numbers():
    assert Normal(np.int64(1), np.float32(2)) == Normal(mean=1, sd=2)
    with pytest.raises(TypeError, match="takes 2 values"):
        Normal(0, 1, "normal", 2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="twice"):
        Normal(0, mean=1)  # type: ignore[misc]


def test_priors_cannot_be_changed_and_can_be_hashed_and_pickled():
    priors = Priors("slides", scale={"x": Normal(0, 1)})
    with pytest.raises(TypeError, match="immutable"):
        priors.scale["x"] = Normal(0, 2)
    with pytest.raises(TypeError, match="immutable"):
        priors.location.update({"x": Normal()})
    with pytest.raises(Exception, match="frozen"):
        priors.preset = "weakly_informative"
    assert hash(priors) == hash(Priors("slides", scale={"x": Normal(0, 1)}))
    assert pickle.loads(pickle.dumps(priors)) == priors


def test_with_terms_leaves_the_others_alone():
    before = Priors("slides", location={"a": Normal(0, 1)})
    after = before.with_terms(location={"b": Normal(0, 2)}, scale={"c": HalfNormal(3)})
    assert after.location == {"a": Normal(0, 1), "b": Normal(0, 2)}
    assert after.scale == {"c": HalfNormal(3)}
    assert before.location == {"a": Normal(0, 1)}
    assert Priors(**after.to_dict()) == after


# ---------------------------------------------------------------- presets on data


def test_weakly_informative_is_what_it_says():
    design = design_of(load_dataset("preterm_iq"), "~ I(weeks - 40)")
    bound = bind(design)
    s = max(design.y.std(ddof=1), math.sqrt(design.v.mean()))
    assert bound.location.priors == (Normal(design.y.mean(), 2.5 * s), Normal(0, 2.5 * s))
    assert bound.scale.priors == (HalfNormal(s), Normal(0, 2))
    weeks = design.X[:, 1]
    np.testing.assert_allclose(
        bound.location.contrasts, [[1, weeks.mean()], [0, weeks.std(ddof=1)]], rtol=1e-12
    )


def test_imprecise_studies_widen_the_unit():
    data = pd.DataFrame({"yi": [0.0, 0.1, -0.1, 0.0], "vi": 9.0})
    assert bind(design_of(data, "~ 1")).scale.priors == (HalfNormal(3),)


def test_slides_is_on_the_raw_coefficients():
    bound = bind(design_of(load_dataset("preterm_iq"), "~ continent + weeks"), preset("slides"))
    assert set(bound.location.priors) == {Normal(0, 100)}
    assert set(bound.scale.priors) == {Normal(0, 7)}
    assert bound.location.is_raw
    assert bound.scale.is_raw


def test_a_term_and_a_star_override_the_preset_on_the_raw_coefficient():
    design = design_of(load_dataset("preterm_iq"), "~ continent + weeks")
    given = Priors(
        location={"weeks": Normal(1, 2)}, scale={"*": Normal(0, 3), "intrcpt": HalfNormal(4)}
    )
    bound = bind(design, given)
    assert bound.location.priors[3] == Normal(1, 2)
    np.testing.assert_array_equal(bound.location.contrasts[3], [0, 0, 0, 1])
    assert bound.scale.priors == (HalfNormal(4), Normal(0, 3), Normal(0, 3), Normal(0, 3))
    assert bound.scale.is_raw
    assert not bound.location.is_raw


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        (Priors(location={"continentAmerca": Normal()}), "did you mean 'continentAmerica'"),
        (Priors(scale={"weeks": HalfNormal(1)}), "a slope, not a log τ²"),
        (Priors(scale={"*": HalfNormal(1)}), "a slope, not a log τ²"),
        (Priors(scale={"nothing": Normal()}), "the scale terms are 'intrcpt', 'continentAmerica'"),
    ],
)
def test_a_prior_for_a_term_that_cannot_have_it_is_refused(priors, message):
    design = design_of(load_dataset("preterm_iq"), "~ continent + weeks")
    with pytest.raises(PriorError, match=message):
        bind(design, priors)


@pytest.mark.parametrize(
    "formula", ["~ 0 + continent", "~ 0 + continent + weeks", "~ 0 + C(late) + continent"]
)
def test_level_means_get_the_prior_of_a_level(formula):
    data = load_dataset("preterm_iq")
    data["late"] = (data["weeks"] > 29).map({True: "late", False: "early"})
    bound = bind(design_of(data, formula))
    levels = 2 if "late" in formula else 3
    assert sum(isinstance(prior, HalfNormal) for prior in bound.scale.priors) == levels


def test_levels_are_found_beside_other_columns_of_zeros_and_ones():
    data = load_dataset("preterm_iq")
    data["late"] = (data["weeks"] > 29).astype(int)
    bound = bind(design_of(data, "~ 0 + late + continent"))
    kinds = [type(prior) for prior in bound.scale.priors]
    names = design_of(data, "~ 0 + late + continent").scale.names
    assert [kind is HalfNormal for kind in kinds] == [name != "late" for name in names]


def test_through_the_origin_nothing_is_centred():
    bound = bind(design_of(load_dataset("preterm_iq"), "~ 0 + weeks"))
    assert bound.scale.priors == (Normal(0, 2),)


@pytest.mark.parametrize("formula", ["~ 1", "~ weeks", "~ continent*weeks", "~ 0 + continent"])
def test_draws_of_coefficients_have_the_stated_distribution_of_theta(formula):
    bound = bind(design_of(load_dataset("preterm_iq"), formula))
    draws = bound.location.sample(4000, np.random.default_rng(2)) @ bound.location.contrasts.T
    means = [prior.mean for prior in bound.location.priors]
    sds = np.array([prior.sd for prior in bound.location.priors])
    # Four standard errors of a mean of 4000 draws.
    assert (np.abs(draws.mean(axis=0) - means) < 4 * sds / math.sqrt(4000)).all()


# ---------------------------------------------------------------- equivariance, as an identity


def _total(block, coefficients) -> float:
    return float(block.logpdf(coefficients).sum())


@settings(max_examples=60, deadline=None)
@given(
    unit_y=st.sampled_from([1e-6, 0.01, 3.0, 1e5]),
    unit_x=st.sampled_from([-7.0, 1e-6, 0.1, 365.25, 1e8]),
    shift_x=st.sampled_from([0.0, -40.0, 1e4]),
    recoded=st.sampled_from([(0, 1), (1, 2), (-0.5, 0.5), (0, 100), (1, 0)]),
    seed=st.integers(0, 1000),
)
def test_weakly_informative_follows_the_units_of_effects_and_moderators(
    unit_y, unit_x, shift_x, recoded, seed
):
    """log p'(β') + log|det ∂β'/∂β| = log p(β), and the same for α, for every β and α.

    With y' = cy, x' = a + bx and z' = low + (high - low)z: β' is what gives X'β' = c Xβ, and α'
    what gives Z'α' = Zα + 2 log c.
    """
    rng = np.random.default_rng(seed)
    n, (low, high) = 20, recoded
    data = pd.DataFrame({"yi": rng.normal(3, 2, n), "vi": rng.uniform(0.1, 1, n)})
    data["x"], data["z"] = rng.normal(30, 3, n), np.arange(n) % 3 % 2
    data["g"] = np.array(list("abcd"))[np.arange(n) % 4]
    changed = data.assign(
        yi=unit_y * data.yi,
        vi=unit_y**2 * data.vi,
        x=shift_x * unit_x + unit_x * data.x,
        z=low + (high - low) * data.z,
    )
    before, after = (bind(design_of(each, "~ x + z + g")) for each in (data, changed))

    slopes = {1: (shift_x * unit_x, unit_x), 2: (low, high - low)}
    to_new = np.eye(6)
    for j, (a, b) in slopes.items():
        to_new[j, j] = 1 / b
        to_new[0, j] = -a / b
    beta, alpha = rng.normal(size=6), rng.normal(size=6)
    new_beta = unit_y * (to_new @ beta)
    new_alpha = to_new @ (alpha + np.eye(6)[0] * 2 * math.log(unit_y))

    def log_density(block, coefficients):
        return _total(block, coefficients) + np.linalg.slogdet(block.contrasts)[1]

    jacobian = np.linalg.slogdet(to_new)[1]
    # Rounding: a shift of 1e4 beside an SD of 3 loses about four of sixteen digits, squared.
    assert log_density(after.location, new_beta) + jacobian + 6 * math.log(unit_y) == pytest.approx(
        log_density(before.location, beta), rel=1e-6, abs=1e-6
    )
    assert log_density(after.scale, new_alpha) + jacobian == pytest.approx(
        log_density(before.scale, alpha), rel=1e-6, abs=1e-6
    )


def test_shifting_the_effects_shifts_the_prior_of_their_mean_alone():
    data = load_dataset("preterm_iq")
    before = bind(design_of(data, "~ weeks"))
    after = bind(design_of(data.assign(yi=data.yi + 100), "~ weeks"))
    assert after.scale.priors[1:] == before.scale.priors[1:]
    # The SD of shifted effects differs in the last digits.
    assert after.location.priors[0].mean == pytest.approx(before.location.priors[0].mean + 100)
    assert after.scale.priors[0].sd == pytest.approx(before.scale.priors[0].sd)
