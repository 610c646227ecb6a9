"""Presets with their published numbers, what they need to know, and the order of precedence."""

import math

import numpy as np
import pytest

from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.datasets import load_dataset
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import PriorError
from bayes_lsm.priors import (
    HalfCauchy,
    HalfNormal,
    Horseshoe,
    LogNormal,
    Normal,
    Priors,
    StudentT,
    contrasts,
    from_fold,
    informed,
    preset,
)
from bayes_lsm.specification import Specification


def bind(priors, formula="~ continent + weeks"):
    design = build_design(
        Specification(f"yi {formula}", "vi", scale=formula), load_dataset("preterm_iq")
    )
    return resolve_priors(design, priors)


@pytest.mark.parametrize(
    ("measure", "uisd"),
    [("SMD", math.sqrt(2)), ("OR", 2), ("RR", 2), ("HR", 2), ("IRR", 2), ("ZCOR", 1)],
)
def test_robma_is_in_units_of_one_unit_of_information(measure, uisd):
    bound = bind(preset("robma", measure=measure))
    moderator, slope = Normal(0, uisd / 4), Normal(0, 0.5, on="log_tau")
    assert bound.location.priors == (Normal(0, uisd / 2), moderator, moderator, moderator)
    assert bound.scale.priors == (HalfNormal(uisd / 4), slope, slope, slope)


def test_robma_centres_and_scales_numbers_and_leaves_indicators():
    weeks = load_dataset("preterm_iq")["weeks"]
    expected = np.diag([1, 1, 1, weeks.std()])
    expected[0, 3] = weeks.mean()
    bound = bind(preset("robma", measure="SMD"))
    np.testing.assert_allclose(bound.location.contrasts, expected)
    np.testing.assert_allclose(bound.scale.contrasts, expected)


def test_robma_takes_a_unit_of_its_own():
    assert bind(Priors("robma", unit_information_sd=8.0)).scale.priors[0] == HalfNormal(2)
    assert bind(preset("robma", measure="MD", unit_information_sd=8.0)).scale.priors[0].sd == 2


def test_blsmeta_is_on_ln_tau_of_centred_moderators():
    bound = bind(preset("blsmeta"))
    level, slope = Normal(-2, 1, on="log_tau"), Normal(0, 1, on="log_tau")
    assert bound.scale.priors == (level, slope, slope, slope)
    data = load_dataset("preterm_iq")
    expected = np.eye(4)
    expected[0, 1:] = [
        (data.continent == "America").mean(),
        (data.continent == "Other").mean(),
        data.weeks.mean(),
    ]
    np.testing.assert_allclose(bound.scale.contrasts, expected)


def test_informed_has_the_published_general_distributions():
    # Turner et al. (2015), p. 993: τ² of log odds ratios has the median exp(-2.56) = 0.077.
    log_or = bind(preset("informed", measure="OR")).scale.priors[0]
    assert log_or == LogNormal(-2.56, 1.74, on="tau2")
    assert np.exp(log_or.quantile(0.5)) == pytest.approx(0.0773, abs=1e-4)
    smd = bind(preset("informed", measure="SMD")).scale.priors[0]
    assert smd == StudentT(5, -3.44, 2.59, on="log_tau2")
    weak = bind(Priors())
    assert bind(preset("informed", measure="OR")).scale.priors[1:] == weak.scale.priors[1:]
    assert bind(preset("informed", measure="OR")).location.priors == weak.location.priors


def test_informed_by_outcome_and_comparison():
    told = {"outcome": "all-cause mortality", "comparison": "non-pharmacological vs placebo"}
    assert preset("informed", measure="OR", **told).tau == LogNormal(-4.17, 1.55, on="tau2")
    told = {"outcome": "mental health", "comparison": "non-pharmacological", "area": "cancer"}
    expected = StudentT(5, -0.29, 2.08, on="log_tau2")
    assert preset("informed", measure="SMD", **told).tau == expected


def test_the_published_means_are_sums_of_an_outcome_and_a_comparison():
    """They are predictions of one regression without interactions, printed to two decimals."""
    tables = [[means for means, _ in informed._TURNER.values()]]
    tables += [[means for means, _ in table.values()] for table in informed._RHODES.values()]  # type: ignore[misc]
    for table in tables:
        means = np.array(table, dtype=float)
        by_comparison = means - means[:, [1]]
        # Three roundings of 0.005 and some in the sums; a digit mistaken would be 0.1 or more.
        spread = np.abs(by_comparison - np.nanmedian(by_comparison, axis=0))
        assert np.nanmax(spread) < 0.035


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: preset("robma"), "measure: the preset 'robma' needs the effect measure.*'SMD'"),
        (lambda: Priors(preset="robma"), "or unit_information_sd"),
        (lambda: preset("robma", measure="MD"), "unit information SD of 'MD' is not known"),
        (lambda: preset("robma", measure="d"), "measure: .*'SMD', 'OR'.* got 'd'"),
        (lambda: preset("robma", unit_information_sd=-1.0), "unit_information_sd: .*greater"),
        (lambda: preset("informed"), "needs a measure .*'OR' or 'SMD'; none was given"),
        (lambda: preset("informed", measure="RR"), "got 'RR'. Give one, or tau"),
        (lambda: preset("robma", measure="OR", outcome="pain"), "for the preset 'informed', got"),
        (lambda: preset("informed", measure="OR", outcome="pain"), "belong together"),
        (
            lambda: preset("informed", measure="OR", outcome="pian", comparison="x"),
            "comparison must be 'pharmacological vs placebo', .* got 'x'",
        ),
        (
            lambda: preset(
                "informed", measure="OR", outcome="pian", comparison="pharmacological vs placebo"
            ),
            "outcome must be .* got 'pian'; did you mean 'pain'",
        ),
        (
            lambda: preset(
                "informed",
                measure="SMD",
                outcome="resource use",
                comparison="pharmacological vs placebo",
                area="cancer",
            ),
            "the published figure .* is in doubt",
        ),
        (
            lambda: preset(
                "informed",
                measure="OR",
                outcome="pain",
                comparison="pharmacological vs placebo",
                area="cancer",
            ),
            "area is for measure='SMD'",
        ),
    ],
)
def test_a_preset_that_lacks_what_it_needs_is_refused(make, message):
    with pytest.raises(PriorError, match=message):
        make()


# ---------------------------------------------------------------- precedence


def test_a_name_comes_before_tau_before_star_before_shrinkage_before_the_preset():
    tau, star, own = HalfCauchy(1), Normal(0, 3), Normal(0, 9)
    assert bind(Priors("slides", tau=tau)).scale.priors == (tau, *[Normal(0, 7)] * 3)
    bound = bind(Priors("slides", tau=tau, scale={"*": star, "weeks": own}))
    assert bound.scale.priors == (tau, star, star, own)
    bound = bind(Priors("slides", tau=tau, scale={"intrcpt": own}))
    assert bound.scale.priors[0] == own
    shrunk = Horseshoe()
    bound = bind(Priors("slides", scale_shrinkage=shrunk, scale={"weeks": own}))
    assert bound.scale.priors == (Normal(0, 7), shrunk, shrunk, own)


def test_tau_is_that_of_the_average_study_or_of_each_level():
    design = build_design(Specification("yi ~ weeks", "vi"), load_dataset("preterm_iq"))
    standardised, _ = contrasts(design.X, "standardised")
    bound = bind(Priors("slides", tau=HalfNormal(2)), "~ weeks")
    np.testing.assert_array_equal(bound.scale.contrasts, [standardised[0], [0, 1]])
    levels = bind(Priors(tau=HalfNormal(2)), "~ 0 + continent").scale.priors
    assert levels == (HalfNormal(2),) * 3


def test_a_prior_may_say_itself_that_its_moderator_is_standardised():
    weeks = load_dataset("preterm_iq")["weeks"]
    bound = bind(Priors("slides", scale={"weeks": from_fold(3)}), "~ weeks").scale
    np.testing.assert_allclose(bound.contrasts, np.diag([1, weeks.std()]))
    # A level with standardised moderators is that of the average study.
    level = LogNormal(0, 1, moderators="standardised")
    bound = bind(Priors("slides", scale={"intrcpt": level}), "~ weeks").scale
    np.testing.assert_allclose(bound.contrasts[0], [1, weeks.mean()])


@pytest.mark.parametrize(
    ("priors", "text"),
    [
        (preset("slides"), "preset 'slides' (raw coefficients: location ~ Normal(0, 100), "),
        (preset("robma", measure="SMD"), "mean effect ~ Normal(0, 0.707), τ of the average study "),
        (
            preset("informed", measure="SMD"),
            "τ of the average study as published, StudentT(5, -3.44, 2.59) on ln τ²",
        ),
        (
            Priors(tau=HalfNormal(0.25), scale={"x": from_fold(3)}),
            "), but average study ~ HalfNormal(0.25) on τ, scale x ~ Normal(0, 0.5605) on ln τ "
            "per SD",
        ),
        (Priors(scale_shrinkage=Horseshoe(0.1)), "but scale slopes per SD ~ Horseshoe(global_sc"),
    ],
)
def test_priors_in_a_line(priors, text):
    assert text in priors.describe()
    assert Priors(**priors.to_dict()) == priors
    assert priors.with_terms() == priors
