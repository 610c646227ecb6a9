"""Can this posterior be believed? All diagnostics at once, each with its limit and its verdict.

Three different questions, in this order: are the draws the posterior (`diagnostics`), does the
model describe the data (`loo`, `checks`), and does it hang on single studies, or clusters where
effects are shared (`study_influence`). A bad answer to the first makes the others void. `findings`
has the limits.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy.special import ndtri

from bayes_lsm.bayes.cross_validation.elpd import Elpd
from bayes_lsm.bayes.cross_validation.loo import loo, psis_loo
from bayes_lsm.bayes.cross_validation.units import Unit, read_units
from bayes_lsm.bayes.diagnostics.checks import PredictiveCheck, posterior_predictive_check
from bayes_lsm.bayes.diagnostics.findings import (
    Finding,
    agreement_findings,
    draws_findings,
    in_few_digits,
    influence_findings,
    loo_findings,
    predictive_findings,
)
from bayes_lsm.bayes.diagnostics.study_influence import MAD_TO_SD, study_influence
from bayes_lsm.bayes.engines.direct import can_sample
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.posterior_sampling import Settings, draw_posterior
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.choices import seed_or
from bayes_lsm.design.clusters import Cluster
from bayes_lsm.errors import ConvergenceWarning, FitError
from bayes_lsm.results import model_title
from bayes_lsm.specification import Engine
from bayes_lsm.tables import Printable


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
        Leave-one-study-out, or leave-one-cluster-out. Of a study with several rows its ``pit`` are
        of each effect given the other studies and the effects before it in its own (Rosenblatt), so
        that they are independent if the model is right.
    check : PredictiveCheck
        Posterior predictive.
    studies : DataFrame or None
        One row a study, or cluster: elpd, p, pareto_k; z, the normal score of its LOO-PIT (of
        several rows the farthest from 0); and how many posterior SDs the median of each coefficient
        moves without it, such as ``scale[weeks]``.
    engines : DataFrame or None
        By part and term: median (of the fit), other (median by the other engine), difference in
        posterior SDs, and in Monte Carlo errors.
    remarks : tuple of str
        What could not be checked, and why.
    """

    fit: Posterior
    findings: tuple[Finding, ...]
    convergence: pd.DataFrame
    loo: Elpd | None
    check: PredictiveCheck
    studies: pd.DataFrame | None
    engines: pd.DataFrame | None
    remarks: tuple[str, ...]

    _digits: ClassVar[int] = 3

    @property
    def has_student_effects(self) -> bool:
        """Whether study effects have tails of a t."""
        return self.fit.draws.df is not None

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
    fit: Posterior,
    *,
    cluster: Cluster | None = None,
    unit: Unit = "cluster",
    engines: bool = False,
    seed: int | None = None,
    progress: bool = True,
) -> Diagnosis:
    """Check the draws, the model and its dependence on single studies.

    Parameters
    ----------
    fit : BayesFit
    cluster, unit
        What is left out at a time: its studies, or clusters where effects are shared, as in `loo`.
        Of crossed groups, which connect all rows, nothing is left out unless one of the two is
        given.
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
        For a cluster or unit that is unknown, or has too few of them.

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
    findings = draws_findings(fit)
    studies, compared = None, None
    check = posterior_predictive_check(fit, seed=seed)
    findings += predictive_findings(check)
    if cluster is not None or unit != "cluster":
        read_units(fit.design, cluster, unit)  # What was asked for and cannot be is an error.
    left_out, remarks = _leave_out(fit, cluster, unit, seed=seed, progress=progress)
    if left_out is not None:
        left_out, influence = study_influence(fit, left_out, progress=progress)
        studies = _studies(left_out, influence)
        several = left_out.studies.plural
        findings += loo_findings(left_out, len(fit.convergence))
        findings += influence_findings(studies, len(fit.design.y), several)
    if engines:
        other = _other_engine(fit, seed=seed_or(fit.seed, seed), progress=progress)
        if other is None:
            remarks.append("the other engine cannot take these priors")
        else:
            compared = _compare_engines(fit, other)
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


def _leave_out(
    fit: Posterior, cluster: Cluster | None, unit: Unit, *, seed: int | None, progress: bool
) -> tuple[Elpd | None, list[str]]:
    """Each study or cluster, and what is to be said of it."""
    remarks = []
    if fit.draws.df is not None:
        remarks.append("study_weights() shows which studies Student-t study effects discount")
    with warnings.catch_warnings():
        # What they warn of becomes a finding.
        warnings.simplefilter("ignore", ConvergenceWarning)
        left_out, refused = _refit_or_weight(fit, cluster, unit, seed=seed, progress=progress)
    if left_out is None:
        return None, [*remarks, f"nothing was left out: {refused}"]
    one = left_out.studies.unit
    if any(len(rows) > 1 for rows in left_out.studies.rows):
        remarks.append(
            f"LOO-PIT and z are of each effect given the data without its {one}, and the effects "
            f"before it in that {one}"
        )
    if refused:
        remarks.append(f"without refits, by importance sampling: {refused}")
    return left_out, remarks


def _refit_or_weight(
    fit: Posterior, cluster: Cluster | None, unit: Unit, *, seed: int | None, progress: bool
) -> tuple[Elpd | None, str]:
    """By exact refits where they are fast, else by importance sampling; and why not the first."""
    refused = "those of random intercepts of ln τ² are slow; see loo()"
    try:
        if not any(term.random for term in fit.design.terms):
            return loo(fit, cluster=cluster, unit=unit, seed=seed, progress=progress), ""
    except FitError as error:
        refused = str(error)
    try:
        return psis_loo(fit, cluster=cluster, unit=unit, progress=progress), refused
    except FitError:
        return None, refused


def _other_engine(fit: Posterior, *, seed: int, progress: bool) -> pd.DataFrame | None:
    """The summary by the engine that was not used."""
    design = fit.design
    engine: Engine = "nuts" if fit.importance is not None else "collapsed"
    priors = resolve_priors(design, fit.priors)
    if engine == "collapsed" and not can_sample(design, priors):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        how = Settings(engine, fit.draws.size, seed, progress=progress)
        return draw_posterior(design, fit.priors, how).summary()


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


def _compare_engines(fit: Posterior, other: pd.DataFrame) -> pd.DataFrame:
    ours, found = fit.summary(), other["median"].to_numpy()
    difference = found - ours["median"].to_numpy()
    error = np.hypot(ours["mcse_median"].to_numpy(), other["mcse_median"].to_numpy())
    return pd.DataFrame(
        {
            "median": ours["median"],
            "other": found,
            "in_sd": difference / (MAD_TO_SD * ours["mad"].to_numpy()),
            "in_mcse": difference / error,
        }
    )
