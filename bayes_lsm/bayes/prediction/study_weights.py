"""Which studies are discounted by Student-t study effects, and by how much.

A t is a normal whose precision is multiplied by a weight λ_i ~ Gamma(ν/2, ν/2), of mean 1. A study
that the others do not expect has a small λ_i: its own true effect is allowed to be far away, so it
pulls little on the coefficients (West 1984, doi:10.1111/j.2517-6161.1984.tb01317.x).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.student.effects import arrays, log_sd_ratio
from bayes_lsm.capabilities import require_capable
from bayes_lsm.tables import Printable


@dataclass(frozen=True, eq=False)
class StudyWeights(Printable):
    """Posterior weights of the studies; all arrays have length k.

    Attributes
    ----------
    fit : BayesFit
    mean : ndarray
        Posterior mean of x_i'β.
    sd : ndarray
        Posterior median of the SD of the study effects, τ_i √(ν/(ν − 2)); infinite where most of
        the posterior has ν ≤ 2.
    true_effect : ndarray
        Posterior mean of the study's own true effect.
    weight : ndarray
        E(λ_i | y).
    """

    fit: Posterior
    mean: Array
    sd: Array
    true_effect: Array
    weight: Array

    @property
    def title(self) -> str:
        """What the table is of."""
        return f"Weights of the Studies (k = {self.fit.design.n_studies})"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the columns are."""
        return (
            "mean is x'β, sd the SD of the study effects around it, true_effect that of the study "
            "itself; weight is E(λ | y): near 1 for a study as expected, small for an outlier",
            *self.fit.notes[1:],
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Columns effect, mean, sd, true_effect and weight, indexed by part and study."""
        design = self.fit.design
        table = pd.DataFrame(
            {
                "effect": design.y,
                "mean": self.mean,
                "sd": self.sd,
                "true_effect": self.true_effect,
                "weight": self.weight,
            },
            index=pd.Index(design.labels, name="study"),
        )
        return pd.concat({"studies": table}, names=["part"])


def study_weights(fit: Posterior) -> StudyWeights:
    """How far Student-t study effects discount each study.

    Parameters
    ----------
    fit : BayesFit
        Of a model with ``study_effects="student_t"``.

    Returns
    -------
    StudyWeights

    Raises
    ------
    FitError
        When the study effects are normal: then all weights are 1.

    Notes
    -----
    The true effect given the coefficients is y_i + v_i ∂ ln f(y_i)/∂y_i (Tweedie's formula; Efron
    2011, doi:10.1198/jasa.2011.tm11181), averaged over the draws, as is the weight.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> model = lsm.LocationScaleModel(
    ...     "yi ~ 1", variance="vi", data=lsm.load_dataset("bcg"), study_effects="student_t")
    >>> table = model.fit_bayes(seed=1).study_weights().to_dataframe()
    >>> bool((table["weight"] > 0).all())
    True
    """
    draws, design = fit.draws, fit.design
    require_capable("study_weights", design)
    from bayes_lsm.likelihood.student.kernels import BY_RESIDUAL, WEIGHT, averaged

    df = draws.flat_df.astype(float)
    terms = averaged(draws.flat_location, draws.flat_scale, df, *arrays(design))
    inflation = log_sd_ratio(df)
    # Median of the logarithm: one study at a time needs one column of draws.
    log_sd = [np.median(0.5 * (draws.flat_scale @ z) + inflation) for z in design.Z]
    return StudyWeights(
        fit,
        mean=design.X @ draws.flat_location.mean(axis=0),
        sd=np.exp(log_sd),
        true_effect=design.y + design.v * terms[BY_RESIDUAL],
        weight=terms[WEIGHT],
    )
