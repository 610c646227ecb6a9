"""Rao's score test of scale coefficients: the slope of the likelihood at the fit without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc

from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.rows.closed_form import evaluate, expected_information
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.search.rows_search import Search
from bayes_lsm.reml.tests.wald_and_ratio import format_pval, require_free_log_link, term_columns

Array = npt.NDArray[np.float64]


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
    I_jk = ½ tr(P V_j P V_k) at the reduced fit (W in place of P for ML). Expected, because it is
    positive definite wherever the test is made, while the negative Hessian need not be away from
    its own maximum. The full model is never fitted, so the test exists when its coefficients
    diverge.

    Parameters
    ----------
    fit : RemlFit or Estimates
        Of the full model, by either method; only its design and method are used.
    terms : str or sequence of str, optional
        Scale terms that are 0 under the null hypothesis; default: all scale moderators.

    Returns
    -------
    ScoreTest

    Raises
    ------
    FitError
        For an unknown term; a link other than log, fixed or bounded coefficients; and when τ² is 0
        in some studies at the reduced fit: on that border the likelihood has no slope to test.

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
    if not fit.design.is_independent:
        from bayes_lsm.reml.tests.clustered_score import score_at_null

        return ScoreTest(*score_at_null(fit, terms))
    require_free_log_link(fit, "a score test")
    design, method = fit.design, fit.method
    y, v, X, Z = design.y, design.v, design.X, design.Z
    names = design.scale.names
    tested = term_columns("scale", names, terms)
    others = [j for j in range(len(names)) if j not in tested]
    alpha = np.zeros(len(names))
    if others:
        best = Search(y, v, X, Z[:, others], method).best
        if best.limit is not None:
            raise FitError(
                f"there is no score test of {', '.join(names[j] for j in tested)}: without these "
                f"terms τ² is 0 in {int(best.limit.zero.sum())} of {len(y)} studies, where the "
                "likelihood has no slope; use bootstrap_test"
            )
        alpha[others] = best.alpha
    # Orthogonal columns, the tested ones last: neither units nor origins of moderators lose digits.
    Q, R = np.linalg.qr(Z[:, [*others, *tested]])
    m = len(others)
    rotated = R @ alpha[[*others, *tested]]
    information = expected_information(rotated, v, X, Q, method=method)
    slope = evaluate(rotated, y, v, X, Q, method=method).score[m:]
    efficient = information[m:, m:]
    if others:
        cross = information[:m, m:]
        efficient = efficient - cross.T @ np.linalg.solve(information[:m, :m], cross)
    statistic = float(slope @ np.linalg.solve(efficient, slope))
    to_terms = R[m:, m:]
    return ScoreTest(
        terms=tuple(names[j] for j in tested),
        statistic=statistic,
        df=len(tested),
        pval=float(chdtrc(len(tested), statistic)),
        score=to_terms.T @ slope,
        information=to_terms.T @ efficient @ to_terms,
        alpha=alpha,
    )
