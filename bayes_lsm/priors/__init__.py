"""Priors: what is believed about the coefficients before the data are seen.

A `Family` is one univariate distribution; a `Priors` says which one each coefficient gets. Presets
are ready by name (`preset`); the default, ``"weakly_informative"``, follows the units of the
effects and of every moderator. What one knows of the spread of true effects becomes a prior by
`from_spread`, `at_most`, `around` and `from_fold`.

A prior need not be stated on a coefficient itself. What it is stated on is always one linear
function of the coefficients (the mean of an average study, a slope per standard deviation of its
moderator), or τ or τ² of it, so `blocks` binds `Priors` and the design's arrays into a
`PriorBlock` per part: ``contrasts @ coefficients = theta`` with an independent prior on each
``theta[j]``; only under a shrinkage prior slopes share one.

`family` says what a distribution is, `families` and `variances` have them, `shrinkage` the joint
priors of many scale slopes, `correlations` those of correlated effects, `stretching` makes any
prior wider; `rules` says what the presets are and `informed` has the published figures among it,
`statement` the `Priors`, `presets` their names, `blocks` what the engines use, `elicitation` priors
in words.
"""

from bayes_lsm.priors.blocks import PriorBlock, ResolvedPriors
from bayes_lsm.priors.correlations import PartialCorrelation
from bayes_lsm.priors.degrees_of_freedom import DegreesOfFreedom
from bayes_lsm.priors.elicitation import around, at_most, from_fold, from_spread, spread_to_tau
from bayes_lsm.priors.families import (
    Cauchy,
    Flat,
    Laplace,
    Logistic,
    Normal,
    Prior,
    StudentT,
    Uniform,
)
from bayes_lsm.priors.family import Family
from bayes_lsm.priors.presets import independent_normal, preset
from bayes_lsm.priors.rules import Measure, PresetName, contrasts
from bayes_lsm.priors.shrinkage import R2D2, Horseshoe, Shrinkage
from bayes_lsm.priors.statement import EVERY_OTHER_TERM, Priors
from bayes_lsm.priors.stretching import Stretched, stretch
from bayes_lsm.priors.variances import (
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    InverseGamma,
    LogNormal,
)

__all__ = [
    "EVERY_OTHER_TERM",
    "R2D2",
    "Cauchy",
    "DegreesOfFreedom",
    "Family",
    "Flat",
    "HalfCauchy",
    "HalfNormal",
    "HalfStudentT",
    "Horseshoe",
    "InverseGamma",
    "Laplace",
    "LogNormal",
    "Logistic",
    "Measure",
    "Normal",
    "PartialCorrelation",
    "PresetName",
    "Prior",
    "PriorBlock",
    "Priors",
    "ResolvedPriors",
    "Shrinkage",
    "Stretched",
    "StudentT",
    "Uniform",
    "around",
    "at_most",
    "contrasts",
    "from_fold",
    "from_spread",
    "independent_normal",
    "preset",
    "spread_to_tau",
    "stretch",
]
