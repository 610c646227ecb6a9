"""The front door: a model bound to its data, to be handed to either estimator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pandas as pd

from bayes_lsm.bayes import BayesFit, build_latent_pymc_model, build_pymc_model, fit_bayes
from bayes_lsm.datasets import list_datasets, load_dataset
from bayes_lsm.design import Design, build_design
from bayes_lsm.errors import DataError, FitError, SpecificationError
from bayes_lsm.priors import PresetName, Priors, preset
from bayes_lsm.reml import Bounds, RemlFit, Test, fit_reml
from bayes_lsm.specification import (
    Engine,
    Link,
    Method,
    Specification,
    StudyEffects,
    find_specification,
)

if TYPE_CHECKING:
    import pymc as pm


class LocationScaleModel:
    """A location-scale model of one set of effects.

        y_i ~ Normal(x_i'β, v_i + τ_i²),    ln τ_i² = z_i'α

    Parameters
    ----------
    location : str
        Formula of the mean: ``"yi ~ continent + I(weeks - 40)"``.
    scale : str, default "~ 1"
        Formula of ln τ²; ``"~ 1"`` is the usual random-effects or meta-regression model.
    variance : str
        Column of the sampling variances.
    data : DataFrame
        One row an effect. Rows with a missing value in a column that is used are left out, with a
        warning.
    study : str, optional
        Column with the names of the studies, for messages and tables.
    link : {"log", "identity"}, default "log"
        The scale formula gives the logarithm of τ², or τ² itself (for `fit_reml` only).
    priors : Priors or preset name, default "weakly_informative"
        For `fit_bayes`.

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
        scale: str = "~ 1",
        *,
        variance: str,
        data: pd.DataFrame,
        study: str | None = None,
        link: Link = "log",
        priors: Priors | PresetName = "weakly_informative",
    ) -> None:
        specification = Specification(
            location=location,
            scale=scale,
            variance=variance,
            study=study,
            link=link,
            priors=_as_priors(priors),
        )
        self._bind(specification, data)

    def _bind(self, specification: Specification, data: pd.DataFrame) -> None:
        self.specification = specification
        self.design = build_design(specification, data)

    @classmethod
    def from_specification(
        cls, specification: Specification, data: pd.DataFrame | None = None
    ) -> Self:
        """Bind a specification to `data`, or to the data that it names."""
        model = cls.__new__(cls)
        model._bind(specification, _load(specification) if data is None else data)
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
        return fit_reml(
            self.design,
            method=method or self.specification.method,
            test=test,
            fixed=fixed,
            bounds=bounds,
            start=start,
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
        study_effects: StudyEffects = "integrated",
        progress: bool = True,
    ) -> BayesFit:
        """Draw from the posterior.

        See `bayes_lsm.bayes.fit_bayes`. What is not given is taken from the specification: priors,
        engine, number of draws (4000 in all chains together) and seed.
        """
        words = self.specification
        return fit_bayes(
            self.design,
            prior=words.priors if prior is None else _as_priors(prior),
            engine=engine or words.engine,
            draws=words.draws if draws is None else draws,
            seed=words.seed if seed is None else seed,
            chains=chains,
            tune=tune,
            target_accept=target_accept,
            study_effects=study_effects,
            progress=progress,
        )

    def to_pymc(
        self,
        *,
        prior: Priors | PresetName | None = None,
        study_effects: StudyEffects = "integrated",
    ) -> pm.Model:
        """The model as a plain `pymc.Model`, to sample or to extend.

        See `bayes_lsm.bayes.build_pymc_model` for the names of its variables, and
        `build_latent_pymc_model` for those with ``study_effects="latent"``.
        """
        builders = {"integrated": build_pymc_model, "latent": build_latent_pymc_model}
        if study_effects not in builders:
            raise FitError(f"study_effects must be 'integrated' or 'latent', got {study_effects!r}")
        return builders[study_effects](self.design, None if prior is None else _as_priors(prior))

    def __repr__(self) -> str:
        words = self.specification
        return (
            f"{type(self).__name__}({f'{words.effect} {words.location}'!r}, "
            f"scale={words.scale!r}, variance={words.variance!r})  # k = {self.design.n_studies}"
        )


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
    try:
        return pd.read_csv(source)
    except FileNotFoundError:
        bundled = ", ".join(list_datasets().index)
        raise DataError(
            f"there is no data file {source}; give the path of a CSV file, relative to the model "
            f"file, or the name of a bundled dataset ({bundled})"
        ) from None
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the data file {source} as CSV: {error}") from None
