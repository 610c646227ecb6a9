"""The front door: a model bound to its data, to be handed to either estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

from bayes_lsm.bayes import (
    BayesFit,
    ModelAverage,
    ModelPrior,
    PriorPredictive,
    average_models,
    fit_bayes,
    prior_predictive,
)
from bayes_lsm.bayes.pymc_model.graph import BUILDERS, check_true_effects
from bayes_lsm.data_files import read_csv, require_inside
from bayes_lsm.datasets import list_datasets, load_dataset
from bayes_lsm.design.design import Design, build_design
from bayes_lsm.errors import DataError, SpecificationError
from bayes_lsm.priors import PresetName, Priors, preset
from bayes_lsm.reml import Bounds, RemlFit, Test, fit_reml
from bayes_lsm.specification import (
    MATRIX,
    Correlation,
    Engine,
    Link,
    Method,
    SamplingCovariance,
    Specification,
    StudyEffects,
    TrueEffects,
    find_specification,
)

if TYPE_CHECKING:
    import pymc as pm


class LocationScaleModel:
    """A location-scale model of one set of effects.

        y_i ~ Normal(x_i'β, v_i + τ_i²),    ln τ_i² = z_i'α

    or, with several scale terms or dependent sampling errors (multilevel, multivariate and
    individual data),

        y ~ Normal(Xβ, V + Σ_l A_l diag(exp(Z_l α_l)) A_l')

    Parameters
    ----------
    location : str
        Formula of the mean: ``"yi ~ continent + I(weeks - 40)"``.
    scale : str or mapping of str to str, default "~ 1"
        Formula of ln τ²; ``"~ 1"`` is the usual random-effects or meta-regression model. With
        several scale terms one formula each, by what the term's effects belong to: ``"district"``,
        ``"district/school"`` (nested), ``"0 + atterm | study"`` (a slope), ``"1 + atterm | study"``
        (both), ``"outcome | trial"`` (correlated effects), ``"residual"`` (each row). A scale
        formula may have random intercepts, ``"~ weeks + (1 | country)"`` (for `fit_bayes` only).
    variance : str, or array of shape (n, n), optional
        Column of the sampling variances, or their covariance matrix. Left out for individual data,
        which have a ``"residual"`` scale term.
    data : DataFrame
        One row an effect. Rows with a missing value in a column that is used are left out, with a
        warning.
    study : str, optional
        Column with the names of the studies, for messages and tables.
    link : {"log", "identity"}, default "log"
        The scale formula gives the logarithm of τ², or τ² itself (for `fit_reml` only).
    study_effects : {"normal", "student_t"}, default "normal"
        The distribution of the true effects around their mean; ``"student_t"`` is robust against
        outlying studies (for `fit_bayes` only). τ is then the scale of the t.
    priors : Priors or preset name, default "weakly_informative"
        For `fit_bayes`.
    correlation : mapping of str to {"none", "compound_symmetric", "unstructured"}, optional
        Of the effects of a group, for scale terms with several; by default unstructured.
    sampling_covariance : SamplingCovariance, optional
        For sampling errors that are correlated within clusters.

    Attributes
    ----------
    specification : Specification
        The model in words.
    design : Design
        The model in numbers.

    Raises
    ------
    SpecificationError
        When the words are faulty.
    DataError
        When the data cannot carry the model.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> model = lsm.LocationScaleModel(
    ...     "yi ~ I(weeks - 40)", scale="~ I(weeks - 40)",
    ...     variance="vi", data=lsm.load_dataset("preterm_iq"))
    >>> round(model.fit_reml().loglik, 2)
    -96.6

    References
    ----------
    Viechtbauer, W., & López-López, J. A. (2022). Location-scale models for meta-analysis.
    Research Synthesis Methods, 13(6), 697-715. doi:10.1002/jrsm.1562
    """

    specification: Specification
    design: Design

    def __init__(
        self,
        location: str,
        scale: str | Mapping[str, str] = "~ 1",
        *,
        variance: Any = None,
        data: pd.DataFrame,
        study: str | None = None,
        link: Link = "log",
        study_effects: StudyEffects = "normal",
        priors: Priors | PresetName = "weakly_informative",
        correlation: Mapping[str, Correlation] | None = None,
        sampling_covariance: SamplingCovariance | None = None,
    ) -> None:
        named = variance is None or isinstance(variance, str)
        specification = Specification(
            location=location,
            scale=dict(scale) if isinstance(scale, Mapping) else scale,
            correlation=_as_correlations(correlation),
            sampling_covariance=sampling_covariance,
            variance=variance if named else MATRIX,
            study=study,
            link=link,
            study_effects=study_effects,
            priors=_as_priors(priors),
        )
        self._bind(specification, data, covariance=None if named else variance)

    def _bind(
        self, specification: Specification, data: pd.DataFrame, *, covariance: Any = None
    ) -> None:
        self.specification = specification
        self.design = build_design(specification, data, covariance=covariance)

    @classmethod
    def from_specification(
        cls,
        specification: Specification,
        data: pd.DataFrame | None = None,
        *,
        covariance: Any = None,
    ) -> Self:
        """Bind a specification to `data`, or to the data that it names.

        `covariance`, of shape (n, n), is that of the sampling errors, where the words say that it
        was given as a matrix.
        """
        model = cls.__new__(cls)
        data = _load(specification) if data is None else data
        model._bind(specification, data, covariance=covariance)
        return model

    @classmethod
    def from_file(cls, name_or_path: str | Path, data: pd.DataFrame | None = None) -> Self:
        """Read a model file, given its path or the name of a bundled one.

        Parameters
        ----------
        name_or_path : str or Path
            ``"models/preterm_continent.toml"`` or ``"preterm_continent"``.
        data : DataFrame, optional
            Used in place of the data that the file names.

        Examples
        --------
        >>> import bayes_lsm as lsm
        >>> lsm.LocationScaleModel.from_file("preterm_weeks").design.n_studies
        37
        """
        return cls.from_specification(find_specification(name_or_path), data)

    def fit_reml(
        self,
        *,
        method: Method | None = None,
        test: Test = "z",
        fixed: Mapping[str, float] | None = None,
        bounds: Bounds | None = None,
        start: Mapping[str, float] | None = None,
    ) -> RemlFit:
        """Fit by restricted (``"REML"``) or ordinary (``"ML"``) maximum likelihood.

        See `bayes_lsm.reml.fit_reml`. The default method is the specification's, ``"REML"`` unless
        a model file says otherwise.
        """
        method = self.specification.method if method is None else method
        return fit_reml(
            self.design, method=method, test=test, fixed=fixed, bounds=bounds, start=start
        )

    def fit_bayes(
        self,
        *,
        prior: Priors | PresetName | None = None,
        engine: Engine | None = None,
        draws: int | None = None,
        seed: int | None = None,
        chains: int = 4,
        tune: int = 1000,
        target_accept: float = 0.95,
        true_effects: TrueEffects = "integrated",
        progress: bool = True,
    ) -> BayesFit:
        """Draw from the posterior.

        See `bayes_lsm.bayes.fit_bayes`. What is not given is taken from the specification: priors,
        engine, number of draws (4000 in all chains together) and seed.
        """
        words = self.specification
        return fit_bayes(
            self.design,
            prior=self._priors(prior),
            engine=words.engine if engine is None else engine,
            draws=words.draws if draws is None else draws,
            seed=words.seed if seed is None else seed,
            chains=chains,
            tune=tune,
            target_accept=target_accept,
            true_effects=true_effects,
            progress=progress,
        )

    def prior_predictive(
        self,
        *,
        prior: Priors | PresetName | None = None,
        draws: int = 10_000,
        seed: int | None = None,
    ) -> PriorPredictive:
        """What the priors say of τ, ratios of τ and new effects, before the data do.

        See `bayes_lsm.bayes.prior_predictive`.
        """
        return prior_predictive(self.design, prior=self._priors(prior), draws=draws, seed=seed)

    def average(
        self,
        *,
        prior: Priors | PresetName | None = None,
        model_prior: ModelPrior | Mapping[str, float] = "uniform",
        keep: Sequence[str] = (),
        draws: int = 4000,
        seed: int | None = None,
        most_models: int = 1000,
        progress: bool = True,
    ) -> ModelAverage:
        """Average over the models that leave out terms of this one.

        See `bayes_lsm.bayes.average_models`.
        """
        words = self.specification
        return average_models(
            self.design,
            prior=self._priors(prior),
            model_prior=model_prior,
            keep=keep,
            draws=draws,
            seed=words.seed if seed is None else seed,
            most_models=most_models,
            progress=progress,
        )

    def to_pymc(
        self,
        *,
        prior: Priors | PresetName | None = None,
        true_effects: TrueEffects = "integrated",
    ) -> pm.Model:
        """The model as a plain `pymc.Model`, to sample or to extend.

        See `bayes_lsm.bayes.build_pymc_model` for the names of its variables, and
        `build_latent_pymc_model` for those with ``true_effects="latent"``.
        """
        check_true_effects(self.design, true_effects)
        return BUILDERS[true_effects](self.design, self._priors(prior))

    def _priors(self, given: Priors | PresetName | None) -> Priors:
        """The specification's, or those given; a preset by name is of the same measure."""
        own = self.specification.priors
        if isinstance(given, str):
            return preset(given, measure=own.measure, unit_information_sd=own.unit_information_sd)
        return own if given is None else given

    def __repr__(self) -> str:
        words = self.specification
        return (
            f"{type(self).__name__}({f'{words.effect} {words.location}'!r}, "
            f"scale={words.scale!r}, variance={words.variance!r})  # {self.design.size}"
        )


def _as_correlations(given: Any) -> dict[str, Correlation]:
    if given is not None and not isinstance(given, Mapping):
        raise SpecificationError(
            "correlation must say which scale term it is of, as in "
            f"{{'outcome | trial': 'unstructured'}}; got {given!r}"
        )
    return dict(given or {})


def _as_priors(priors: Priors | PresetName) -> Priors:
    return priors if isinstance(priors, Priors) else preset(priors)


def _load(specification: Specification) -> pd.DataFrame:
    """The data that a specification names: a bundled dataset or a CSV file."""
    source = specification.data
    if source is None:
        raise SpecificationError(
            'the model file names no data; add data = "NAME or FILE.csv", or pass data'
        )
    if not source.lower().endswith(".csv"):
        return load_dataset(source)
    if specification.folder is not None:
        require_inside(source, specification.folder)
    try:
        return read_csv(source)
    except FileNotFoundError:
        bundled = ", ".join(list_datasets().index)
        raise DataError(
            f"there is no data file {source}; give the path of a CSV file, relative to the model "
            f"file, or the name of a bundled dataset ({bundled})"
        ) from None
