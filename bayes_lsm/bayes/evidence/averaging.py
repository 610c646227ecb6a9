"""Averages over models: which terms belong to the location part, which to the scale part.

Every sub-model of a model gets its marginal likelihood from the collapsed engine, and so a
posterior probability. All have the same kind of study effects; ν, where it is estimated, is in all
of them. What is asked of the models is then averaged over them, and the uncertainty
about the model is part of the answer. The priors are one statement throughout: a sub-model's is the
full model's given that the coefficients of the terms left out are zero.

Hoeting, Madigan, Raftery & Volinsky (1999), Statistical Science 14, 382-417,
doi:10.1214/ss/1009212519; for meta-analysis Gronau, Heck, Berkhout, Haaf & Wagenmakers (2021),
AMPPS 4(3), doi:10.1177/25152459211031256.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayes_lsm.bayes.draws import Array, Draws
from bayes_lsm.bayes.engines.direct import require_direct
from bayes_lsm.bayes.evidence.averages import Averages, sample_models
from bayes_lsm.bayes.evidence.clustered_averaging import ClusteredModelAverage, average_clustered
from bayes_lsm.bayes.evidence.model_prior import ModelPrior
from bayes_lsm.bayes.evidence.submodels import SubModel, find_terms, sample_submodel
from bayes_lsm.bayes.resolved_priors.propriety import require_normalised
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.student.effects import df_prior, new_weights
from bayes_lsm.capabilities import require_capable
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.links import tau2_from_log
from bayes_lsm.priors import Priors


@dataclass(frozen=True, eq=False)
class ModelAverage(Averages[Design]):
    """Models of which terms matter, with their probabilities, and averages over them.

    Its attributes are those of `averages.Averages`.
    """

    def parts(self) -> Mapping[str, tuple[Sequence[str], Array]]:
        """What was estimated: of each part of the model the terms, and draws (1, draws, terms)."""
        return self.draws.parts(self.design)

    def predict(self, data: pd.DataFrame | None = None, *, level: float = 0.95) -> pd.DataFrame:
        """Predictions averaged over the models.

        Parameters
        ----------
        data : DataFrame, optional
            Moderators to predict at. Default: those of the studies.
        level : float, default 0.95

        Returns
        -------
        DataFrame
            One row for each of the data: pred (mean of the average effect x'β), sd, ci_lb, ci_ub;
            pi_lb, pi_ub of the true effect of a new study; tau (median), tau_lb, tau_ub. With
            Student-t study effects τ is the scale of the t.
        """
        if not 0 < level < 1:
            raise FitError(f"level must be between 0 and 1, got {level}")
        new = self.design if data is None else self.design.for_new_data(data)
        bounds = [(1 - level) / 2, (1 + level) / 2]
        noise = np.random.default_rng(self.seed).standard_normal(len(self.draws.flat_scale))
        if self.draws.df is not None:
            noise /= np.sqrt(new_weights(self.draws.flat_df))
        rows = []
        for x, z in zip(new.X, new.Z, strict=True):
            mean = self.draws.flat_location @ x
            tau = np.sqrt(tau2_from_log(self.draws.flat_scale @ z))
            rows.append(
                [
                    mean.mean(),
                    mean.std(ddof=1),
                    *np.quantile(mean, bounds),
                    *np.quantile(mean + tau * noise, bounds),
                    np.median(tau),
                    *np.quantile(tau, bounds),
                ]
            )
        columns = "pred sd ci_lb ci_ub pi_lb pi_ub tau tau_lb tau_ub".split()
        return pd.DataFrame(rows, columns=columns, index=pd.Index(new.labels, name="row"))


def average_models(
    design: Design,
    *,
    prior: Priors | None = None,
    model_prior: ModelPrior | Mapping[str, float] = "uniform",
    keep: Sequence[str] = (),
    draws: int = 4000,
    seed: int | None = None,
    most_models: int = 1000,
    progress: bool = True,
) -> ModelAverage | ClusteredModelAverage:
    """Average over all models that leave out terms of the location or the scale part.

    A factor is kept or left out as a whole, and a term is kept wherever an interaction with it is.
    The intercept, or the factor that stands in for it, is always kept.

    Parameters
    ----------
    design : Design or Design
        Of the full model.
    prior : Priors, optional
        Of the coefficients. Default: those of the design's specification.
    model_prior : {"uniform", "beta_binomial"} or mapping of str to float, default "uniform"
        ``"uniform"``: all models are equally probable. ``"beta_binomial"``: all numbers of terms
        are, and all models of one size, which guards against many idle candidates (Scott & Berger
        2010). A mapping gives terms, as ``"scale[continent]"``, their inclusion probabilities;
        terms that it does not name have ½.
    keep : sequence of str
        Terms that every model has, as ``"location[weeks]"``; with several scale terms
        ``"scale[district: weeks]"``.
    draws : int, default 4000
        Of the average.
    seed : int, optional
        The same seed gives the same result. Without one, a seed is drawn and kept.
    most_models : int, default 1000
        More are refused: each takes some hundredths of a second.
    progress : bool, default True
        Show a progress bar on standard error when there are more than a few models.

    Returns
    -------
    ModelAverage, or with several scale terms ClusteredModelAverage

    Raises
    ------
    FitError
        For too many models, an unknown term, flat priors, priors that the collapsed engine cannot
        take (location priors that are not normal, with normal study effects; a shrinkage prior), or
        when there is nothing to average over.

    Warns
    -----
    ConvergenceWarning
        When the marginal likelihood of a model that matters cannot be trusted.

    Notes
    -----
    The intercept is the effect where all moderators are 0, and so means another thing in each
    model, unless moderators are centred. `ModelAverage.predict` averages what means the same.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> model = lsm.LocationScaleModel(
    ...     "yi ~ ablat", scale="~ ablat", variance="vi", data=lsm.load_dataset("bcg"))
    >>> average = model.average(seed=1)
    >>> len(average.models)
    4
    >>> bool(average.inclusion.loc[("location", "ablat"), "posterior"] > 0.7)
    True

    References
    ----------
    Scott, J. G., & Berger, J. O. (2010). Bayes and empirical-Bayes multiplicity adjustment in the
    variable-selection problem. Annals of Statistics, 38(5), 2587-2619. doi:10.1214/10-AOS792
    """
    require_capable("average", design)
    if not design.is_independent:
        return average_clustered(
            design,
            prior=prior,
            model_prior=model_prior,
            keep=keep,
            draws=draws,
            seed=seed,
            most_models=most_models,
            progress=progress,
        )
    prior = prior or design.specification.priors
    priors, df = resolve_priors(design, prior), df_prior(design, prior)
    require_normalised(priors, "averaging over models")
    require_direct(priors, df, "models can be averaged with such priors only")
    terms = {"location": find_terms(design.location), "scale": find_terms(design.scale)}

    def sample(model: SubModel, its_seed: int) -> Draws:
        return sample_submodel(
            design, priors, df, model.location, model.scale, draws=draws, seed=its_seed
        )

    found = sample_models(
        terms,
        sample,
        df,
        model_prior=model_prior,
        keep=keep,
        draws=draws,
        seed=seed,
        most_models=most_models,
        progress=progress,
    )
    return ModelAverage(
        design,
        prior,
        found.models,
        found.log_prior,
        found.evidences,
        terms,
        found.draws,
        found.seed,
        found.problems,
    )
