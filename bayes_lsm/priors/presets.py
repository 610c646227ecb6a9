"""Ready-made priors, by name."""

from __future__ import annotations

from bayes_lsm.choices import require_choice
from bayes_lsm.errors import PriorError
from bayes_lsm.priors import informed
from bayes_lsm.priors.families import Normal, Prior
from bayes_lsm.priors.rules import Measure, PresetName
from bayes_lsm.priors.statement import EVERY_OTHER_TERM, Priors


def preset(
    name: PresetName,
    *,
    measure: Measure | None = None,
    unit_information_sd: float | None = None,
    outcome: str | None = None,
    comparison: str | None = None,
    area: informed.Area | None = None,
) -> Priors:
    """Ready-made priors.

    Parameters
    ----------
    name : {"weakly_informative", "slides", "robma", "blsmeta", "informed"}
        ``"weakly_informative"``: with s_y = max(sd(y), √mean(v)), at a study with average
        moderators the effect is Normal(mean(y), 2.5·s_y) and τ is HalfNormal(s_y); per standard
        deviation of a numeric moderator (per step of an indicator) the effect changes by
        Normal(0, 2.5·s_y) and ln τ² by Normal(0, 2), a ratio of τ up to about 7 either way.
        The priors follow the units of the effects and of every moderator.

        ``"slides"``: Normal(0, 100) on each raw location coefficient, Normal(0, 7) on each raw
        scale coefficient, those of ln τ². The talk this package starts from does not print its
        priors; these come near its Bayesian column.

        ``"robma"``: the defaults of ``brma`` in the R package RoBMA. With U the standard deviation
        of one unit of information (√2 for SMD, 2 for log ratios, 1 for Fisher's z), the effect is
        Normal(0, U/2) and τ is HalfNormal(U/4) where numeric moderators are average and indicators
        are 0; per standard deviation of a numeric moderator, and per indicator, the effect changes
        by Normal(0, U/4) and ln τ by Normal(0, 0.5). Columns of zeros and ones are indicators.

        ``"blsmeta"``: those of the R package blsmeta, whose moderators are centred but not scaled:
        at the average study ln τ ~ Normal(-2, 1), per unit of a moderator ln τ changes by
        Normal(0, 1). On location coefficients, for which the versions of blsmeta differ,
        Normal(0, √1000).

        ``"informed"``: as ``"weakly_informative"``, but τ of the average study has a published
        predictive distribution: for log odds ratios τ² ~ LogNormal(-2.56, 1.74), for standardised
        mean differences ln τ² ~ t₅(-3.44, 2.59), or that for an outcome and a comparison.
    measure : {"SMD", "OR", "RR", "HR", "IRR", "ZCOR", "MD"}, optional
        What the effects are; needed by ``"robma"`` and ``"informed"``.
    unit_information_sd : float, optional
        For ``"robma"``, in place of that of the measure.
    outcome, comparison : str, optional
        For ``"informed"``: ``"pain"``, ``"pharmacological vs placebo"``; a wrong word is answered
        with the list of what is allowed.
    area : {"other", "respiratory", "cancer"}, optional
        For ``"informed"`` with SMD, an outcome and a comparison; default ``"other"``.

    Raises
    ------
    PriorError
        When the preset lacks what it needs, or is told what it has no use for.

    Examples
    --------
    >>> preset("slides").preset
    'slides'
    >>> preset("informed", measure="OR", outcome="pain",
    ...        comparison="pharmacological vs placebo").tau
    LogNormal(mean_log=-1.83, sd_log=1.52, on='tau2')

    References
    ----------
    Bartoš, F., & Maier, M. (2026). RoBMA: Robust Bayesian meta-analyses (version 4.0) [R package].

    Röver, C., Bender, R., Dias, S., et al. (2021). On weakly informative prior distributions for
    the heterogeneity parameter in Bayesian random-effects meta-analysis. Research Synthesis
    Methods, 12(4), 448-474. doi:10.1002/jrsm.1475

    Williams, D. R., Rodriguez, J. E., & Bürkner, P.-C. (2021). Putting variation into variance:
    modeling between-study heterogeneity in meta-analysis. PsyArXiv. doi:10.31234/osf.io/9vkqy

    Turner et al. (2015), doi:10.1002/sim.6381; Rhodes et al. (2015),
    doi:10.1016/j.jclinepi.2014.08.012.
    """
    tau = None
    if area is not None:
        require_choice("area", area, informed.Area, error=PriorError)
    if outcome is not None or comparison is not None or area is not None:
        if name != "informed":
            raise PriorError(
                f"outcome, comparison and area are for the preset 'informed', got {name!r}; leave "
                "them out"
            )
        if outcome is None or comparison is None:
            raise PriorError(
                "outcome and comparison belong together (and area to them), got "
                f"outcome={outcome!r}, comparison={comparison!r}; give both, or none for the "
                "general distribution"
            )
        tau = _published(measure, outcome, comparison, area)
    return Priors(name, measure=measure, unit_information_sd=unit_information_sd, tau=tau)


def _published(
    measure: Measure | None, outcome: str, comparison: str, area: informed.Area | None
) -> Prior | None:
    if measure == "SMD":
        return informed.mean_difference(outcome, comparison, area=area or "other")
    if measure != "OR":
        return None  # `Priors` refuses the measure
    if area is not None:
        raise PriorError(f"area is for measure='SMD', got {area!r} with 'OR'; leave it out")
    return informed.odds_ratio(outcome, comparison)


def independent_normal(*, location: float, scale: float) -> Priors:
    """Independent Normal(0, sd) priors on the raw, unstandardised coefficients.

    Parameters
    ----------
    location, scale : float
        Standard deviations; `scale` is on ln τ².

    Examples
    --------
    >>> independent_normal(location=10, scale=2.5).scale["*"]
    Normal(mean=0.0, sd=2.5)
    """
    return Priors(
        location={EVERY_OTHER_TERM: Normal(0, location)},
        scale={EVERY_OTHER_TERM: Normal(0, scale)},
    )
