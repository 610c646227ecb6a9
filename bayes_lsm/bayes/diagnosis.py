"""Can this posterior be believed? All diagnostics at once, each with its limit and its verdict.

Three different questions, in this order: are the draws the posterior (`diagnostics`), does the
model describe the data (`loo`, `checks`), and does it hang on single studies (`study_influence`).
A bad answer to the first makes the others void. `findings` has the limits.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from scipy.special import ndtri

from bayes_lsm.bayes.checks import PredictiveCheck, posterior_predictive_check
from bayes_lsm.bayes.diagnostics import convergence
from bayes_lsm.bayes.direct import can_sample, sample_directly
from bayes_lsm.bayes.elpd import Elpd
from bayes_lsm.bayes.findings import (
    Finding,
    agreement_findings,
    draws_findings,
    in_few_digits,
    influence_findings,
    loo_findings,
    predictive_findings,
)
from bayes_lsm.bayes.graph import resolve_priors
from bayes_lsm.bayes.loo import loo, psis_loo
from bayes_lsm.bayes.sampling import sample_nuts
from bayes_lsm.bayes.student import df_prior
from bayes_lsm.bayes.study_influence import MAD_TO_SD, study_influence
from bayes_lsm.design import Design
from bayes_lsm.errors import ConvergenceWarning, FitError
from bayes_lsm.results import model_title
from bayes_lsm.tables import Printable

if TYPE_CHECKING:
    from bayes_lsm.bayes.draws import Draws
    from bayes_lsm.bayes.fit import BayesFit


@dataclass(frozen=True, eq=False)
class Diagnosis(Printable):
    """What speaks for and against a Bayesian fit: see `diagnose`.

    Attributes
    ----------
    fit : BayesFit
    findings : tuple of Finding
        Each check with its value, its limit and its status.
    convergence : DataFrame
        By part and term: effective sample size, Monte Carlo error of the median, R-hat.
    loo : Elpd or None
        Leave-one-study-out.
    check : PredictiveCheck
        Posterior predictive.
    studies : DataFrame or None
        One row a study: elpd, p, pareto_k; z, the normal score of its LOO-PIT (of several rows the
        farthest from 0); and how many posterior SDs the median of each coefficient moves without
        it, such as ``scale[weeks]``.
    engines : DataFrame or None
        By part and term: median (of the fit), other (median by the other engine), difference in
        posterior SDs, and in Monte Carlo errors.
    remarks : tuple of str
        What could not be checked, and why.
    """

    fit: BayesFit
    findings: tuple[Finding, ...]
    convergence: pd.DataFrame
    loo: Elpd | None
    check: PredictiveCheck
    studies: pd.DataFrame | None
    engines: pd.DataFrame | None
    remarks: tuple[str, ...]

    _digits: ClassVar[int] = 3

    @property
    def verdict(self) -> str:
        """All of it in a sentence or two."""
        named = {
            status: [each.name for each in self.findings if each.status == status]
            for status in ("bad", "caution")
        }
        count = f"{len(self.findings)} checks"
        if not named["bad"] and not named["caution"]:
            return f"All {count} are within their limits."
        words = {"bad": "far out of bounds", "caution": "out of bounds"}
        said = [f"{words[s]}: {', '.join(names)}" for s, names in named.items() if names]
        good = sum(each.status == "good" for each in self.findings)
        return f"{good} of {count} are within their limits; {'; '.join(said)}."

    @property
    def title(self) -> str:
        """The kind of model, and its number of studies."""
        return model_title(self.fit.design, "posterior diagnostics")

    @property
    def notes(self) -> tuple[str, ...]:
        """The verdict, what is out of bounds, what could not be checked, and how it was made."""
        advice = [each.sentence for each in self.findings if each.status != "good"]
        return (self.verdict, *advice, *self.remarks, *self.fit.notes)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a check, by part and check: value, limit (in words) and status."""
        rows = [
            {"value": each.value, "limit": each.limit, "status": each.status}
            for each in self.findings
        ]
        keys = [(each.part, each.name) for each in self.findings]
        return pd.DataFrame(rows, pd.MultiIndex.from_tuples(keys, names=["part", "check"]))

    def _table(self) -> pd.DataFrame:
        """Counts, p-values and ratios stand below each other: each gets the digits it needs."""
        table = self.to_dataframe()
        return table.assign(value=table["value"].map(in_few_digits))


def diagnose(
    fit: BayesFit, *, engines: bool = False, seed: int | None = None, progress: bool = True
) -> Diagnosis:
    """Check the draws, the model and its dependence on single studies.

    Parameters
    ----------
    fit : BayesFit
    engines : bool, default False
        Also draw by the other engine and compare; NUTS needs 10 to 20 seconds to begin with.
    seed : int, optional
        Of refits and replications; by default that of the fit.
    progress : bool, default True
        Show progress bars on standard error.

    Returns
    -------
    Diagnosis
        `Diagnosis.findings` and `to_dataframe` have each check with its limit. Limits of the draws
        are those of Vehtari et al. (2021) and Betancourt (2016); those of the model say where to
        look, and are no tests: of many good checks some are out of bounds by chance.

    Raises
    ------
    FitError
        For a fit with several scale terms.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_bayes(seed=1)
    >>> found = fit.diagnose(progress=False)
    >>> found.to_dataframe().loc[("Draws", "Pareto k of the weights"), "status"]
    'good'

    References
    ----------
    Vehtari, A., Gelman, A., Simpson, D., Carpenter, B., & Bürkner, P.-C. (2021).
    Rank-normalization, folding, and localization: an improved R-hat. Bayesian Analysis,
    16(2), 667-718. doi:10.1214/20-BA1221

    Gabry, J., Simpson, D., Vehtari, A., Betancourt, M., & Gelman, A. (2019). Visualization in
    Bayesian workflow. Journal of the Royal Statistical Society A, 182(2), 389-402.
    doi:10.1111/rssa.12378
    """
    if not isinstance(fit.design, Design):
        raise FitError(
            f"diagnose takes a fit with one scale term, got a {type(fit).__name__}; its own "
            "problems are in .problems, and its draws in .posterior for ArviZ"
        )
    findings = draws_findings(fit)
    remarks: list[str] = []
    left_out, studies, compared = None, None, None
    check = posterior_predictive_check(fit, seed=seed)
    findings += predictive_findings(check)
    if fit.design.n_studies > 1:
        left_out = _leave_out(fit, seed=seed, progress=progress)
        studies = _studies(left_out, study_influence(fit, progress=progress))
        findings += loo_findings(left_out, len(fit.convergence))
        findings += influence_findings(studies)
    if fit.draws.df is not None:
        remarks.append("study_weights() shows which studies Student-t study effects discount")
    if engines:
        compared = _compare_engines(fit, seed=fit.seed if seed is None else seed, progress=progress)
        if compared is None:
            remarks.append("the other engine cannot take these priors")
        else:
            findings += agreement_findings(compared)
    return Diagnosis(
        fit,
        tuple(findings),
        fit.convergence,
        left_out,
        check,
        studies,
        compared,
        tuple(remarks),
    )


def _leave_out(fit: BayesFit, *, seed: int | None, progress: bool) -> Elpd:
    """By exact refits where they are fast, else by importance sampling."""
    with warnings.catch_warnings():
        # What they warn of becomes a finding.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if can_sample(resolve_priors(fit.design, fit.priors), df_prior(fit.design, fit.priors)):
            return loo(fit, seed=seed, progress=progress)
        return psis_loo(fit, progress=progress)


def _studies(left_out: Elpd, influence: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "elpd": left_out.pointwise,
            "p": left_out.penalty,
            "pareto_k": left_out.columns["pareto_k"],
            "z": _farthest_scores(left_out),
        },
        index=influence.index,
    )
    return table.join(influence)


def _farthest_scores(left_out: Elpd) -> np.ndarray:
    """Of each study the normal score of its LOO-PIT that is farthest from 0."""
    if left_out.pit is None:
        return np.full(len(left_out.pointwise), np.nan)
    tiny = np.finfo(float).tiny
    scores = ndtri(np.clip(left_out.pit, tiny, 1 - np.finfo(float).epsneg))
    rows: Sequence[np.ndarray] = left_out.studies.rows
    return np.array([scores[own][np.argmax(np.abs(scores[own]))] for own in rows])


def _compare_engines(fit: BayesFit, *, seed: int, progress: bool) -> pd.DataFrame | None:
    other = _other_engine(fit, seed=seed, progress=progress)
    if other is None:
        return None
    ours = fit.summary()
    theirs = convergence(fit.design, other)
    found = pd.concat(
        [
            pd.Series(np.median(values.reshape(-1, len(names)), axis=0), index=list(names))
            for names, values in other.parts(fit.design).values()
        ]
    )
    difference = found.to_numpy() - ours["median"].to_numpy()
    error = np.hypot(ours["mcse_median"].to_numpy(), theirs["mcse_median"].to_numpy())
    return pd.DataFrame(
        {
            "median": ours["median"],
            "other": found.to_numpy(),
            "in_sd": difference / (MAD_TO_SD * ours["mad"].to_numpy()),
            "in_mcse": difference / error,
        }
    )


def _other_engine(fit: BayesFit, *, seed: int, progress: bool) -> Draws | None:
    count = len(fit.draws.flat_scale)
    if fit.draws.importance is not None:
        chains = 4
        return sample_nuts(
            fit.design, fit.priors, draws=-(-count // chains), seed=seed, progress=progress
        )
    priors, df = resolve_priors(fit.design, fit.priors), df_prior(fit.design, fit.priors)
    if not can_sample(priors, df):
        return None
    return sample_directly(fit.design, priors, df, draws=count, seed=seed)
