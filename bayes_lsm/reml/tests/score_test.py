"""Rao's score test of scale coefficients: the slope of the likelihood at the fit without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import block_diag
from scipy.special import chdtrc

from bayes_lsm.arrays import Array
from bayes_lsm.capabilities import require_capable
from bayes_lsm.design.coefficients import scale_places, term_columns
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.requirements import require_no_bounds
from bayes_lsm.reml.search.estimate import estimate
from bayes_lsm.reml.search.refits import held
from bayes_lsm.tables import format_pval


@dataclass(frozen=True, eq=False)
class ScoreTest:
    """Rao's score test of scale coefficients.

    Attributes
    ----------
    terms : tuple of str, length m
        The coefficients that are 0 under the null hypothesis.
    statistic : float
        χ².
    df : int
    pval : float
    score : ndarray, shape (m,)
        Slope of the log-likelihood in each of them, at the fit without them.
    information : ndarray, shape (m, m)
        Expected information on them, less what estimating the other coefficients costs.
    alpha : ndarray, shape (q,)
        Scale coefficients of the fit without them, with zeros in their places.
    """

    terms: tuple[str, ...]
    statistic: float
    df: int
    pval: float
    score: Array
    information: Array
    alpha: Array

    def __str__(self) -> str:
        return (
            f"Score test of {', '.join(self.terms)}: χ²(df = {self.df}) = {self.statistic:.4f}, "
            f"{format_pval(self.pval)}"
        )

    __repr__ = __str__


def score_test(fit: Estimates, terms: str | Sequence[str] | None = None) -> ScoreTest:
    r"""Test scale coefficients by the slope of the likelihood at the fit without them.

    The statistic is U'I⁻¹U with the (REML or ML) score U and the *expected* information
    I_jk = ½ tr(P V_j P V_k) at the reduced fit, V_j = ∂Σ/∂α_j (Σ⁻¹ in place of P for ML), less what
    estimating the other coefficients and the correlations costs. Expected, because it is positive
    definite wherever the test is made, while the negative Hessian need not be away from its own
    maximum. The full model is never fitted, so the test exists when its coefficients diverge.

    Parameters
    ----------
    fit : RemlFit or Estimates
        Of the full model, by either method; only its design, its method and what it holds fixed
        are used.
    terms : str or sequence of str, optional
        Scale coefficients that are 0 under the null hypothesis: of several scale terms
        ``"school: size"``, or ``"size"`` where no other term has one of that name. By default all
        scale moderators that are not fixed.

    Returns
    -------
    ScoreTest

    Raises
    ------
    FitError
        For an unknown or fixed term; a link other than log, or coefficients at a bound; and when a
        variance is 0 at the reduced fit: on that border the likelihood has no slope to test.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", scale="~ ablat", variance="vi", data=lsm.load_dataset("bcg")).fit_reml()
    >>> round(score_test(fit, "ablat").pval, 3)
    0.995

    References
    ----------
    Rao, C. R. (1948). Large sample tests of statistical hypotheses concerning several parameters.
    Mathematical Proceedings of the Cambridge Philosophical Society, 44(1), 50-57.
    doi:10.1017/S0305004100023987
    """
    require_capable("score_test", fit.design)
    require_no_bounds(fit, "a score test")
    design, free = held(fit)
    names = [fit.scale_names[j] for j in free]
    tested = _tested(fit, names, terms)
    null = estimate(design.without(scale=tested), fit.method)
    zeros = [
        f"τ² is 0 in {(each.term.used & (each.tau2 == 0)).sum()} of {each.term.used.sum()} "
        f"{each.divergence.many}"
        for each in null.terms.values()
        if each.divergence is not None
    ]
    if zeros or not null.converged:
        raise FitError(
            f"there is no score test of {', '.join(names[j] for j in tested)}: without these terms "
            f"{' and '.join(zeros) or 'the fit did not converge'}, where the likelihood has no "
            "slope to be tested; use bootstrap_test"
        )
    places = scale_places(design)[tested]
    others = np.setdiff1d(np.arange(design.places[-1].stop), places)
    alpha = np.zeros(len(places) + len(others))
    alpha[others] = np.concatenate([np.r_[each.alpha, each.kappa] for each in null.terms.values()])
    rotated, R = _orthogonal(design, tested)
    likelihood = likelihood_of(rotated)
    information = likelihood.information(R @ alpha, fit.method)
    slope = likelihood.evaluate(R @ alpha, fit.method).score
    # The others have no slope at the null's maximum, but for where its search ended.
    cross = np.linalg.solve(
        information[np.ix_(others, others)], information[np.ix_(others, places)]
    )
    score = slope[places] - cross.T @ slope[others]
    efficient = information[np.ix_(places, places)] - information[np.ix_(places, others)] @ cross
    statistic = float(score @ np.linalg.solve(efficient, score))
    to_terms = R[np.ix_(places, places)]
    at_null = np.array([fit.fixed.get(name, 0.0) for name in fit.scale_names])
    at_null[free] = alpha[scale_places(design)]
    return ScoreTest(
        terms=tuple(names[j] for j in tested),
        statistic=statistic,
        df=len(tested),
        pval=float(chdtrc(len(tested), statistic)),
        score=(R.T @ slope)[places],
        information=to_terms.T @ efficient @ to_terms,
        alpha=at_null,
    )


def _tested(fit: Estimates, names: Sequence[str], terms: str | Sequence[str] | None) -> list[int]:
    """Which of the free coefficients are tested."""
    if not names:
        raise FitError("there is no score test: every scale coefficient is fixed; free one")
    if terms is not None:
        asked = [fit.scale_names[j] for j in term_columns("scale", fit.scale_names, terms)]
        fixed = [name for name in asked if name in fit.fixed]
        if fixed:
            raise FitError(
                f"there is no score test of {', '.join(fixed)}: the fit holds it fixed; refit with "
                "it free"
            )
        terms = asked
    return term_columns("scale", names, terms)


def _orthogonal(design: Design, tested: Sequence[int]) -> tuple[Design, Array]:
    """The design with orthonormal columns, and R (s, s) from its own scale coefficients and κ.

    Neither units nor origins of moderators lose digits then. The tested columns of each term come
    last, so that each spans what the others leave of it.
    """
    terms, turns = [], []
    for term, at in zip(design.terms, design.columns, strict=True):
        last = [j - at.start for j in tested if at.start <= j < at.stop]
        order = [*(j for j in range(len(term.names)) if j not in last), *last]
        Q, R = np.linalg.qr(term.table[:, order])
        Z, turn = np.empty_like(term.table), np.eye(term.size)
        Z[:, order], turn[np.ix_(order, order)] = Q, R
        terms.append(replace(term, Z=Z.reshape(term.Z.shape)))
        turns.append(turn)
    location = replace(design.location, matrix=np.linalg.qr(design.X)[0])
    turned = replace(design, location=location, terms=tuple(terms))
    return turned, np.asarray(block_diag(*turns))
