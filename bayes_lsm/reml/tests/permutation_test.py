"""Permutation tests: reshuffle the moderators of one part as whole rows, and refit.

Statistics of a batch of refits are computed at once from the Hessians that the compiled ascents
return. A refit whose likelihood has its supremum at infinity has no Wald statistic, but has the
limit of one: standard errors grow faster than coefficients, so that z → 0 for the coefficients that
diverge, while the others keep theirs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.choices import require_choice
from bayes_lsm.design.clusters import Cluster
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.rows.closed_form import estimate_location
from bayes_lsm.links import tau2_from_log
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.search.surface import Surface
from bayes_lsm.reml.tests.batch import climb_highest
from bayes_lsm.reml.tests.bootstrap_test import TIED, batches, check_iterations, checked_seed
from bayes_lsm.reml.tests.orders import ExactOrders, Orders, RandomOrders, is_exhaustive
from bayes_lsm.reml.tests.wald_and_ratio import (
    PartName,
    format_pval,
    require_free_log_link,
    term_columns,
)
from bayes_lsm.tables import Printable

if TYPE_CHECKING:
    from bayes_lsm.likelihood.rows.ascent import Summits

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Information on a combination of ln τ² (SE 1000) below which an ascent was on its way to infinity:
# it ends there with 1e-12 or less, while even two or three studies with τ² have 0.1.
_DIVERGING = 1e-6
# Slopes of further starts, in ln τ² for each SD of a moderator.
_STEEP = 3.0
Starts = Literal["one", "several"]


@dataclass(frozen=True, eq=False)
class PermutationTest(Printable):
    """A permutation test of all coefficients of one part.

    Attributes
    ----------
    part : {"location", "scale"}
    table : DataFrame
        estimate, se and zval of the fit, and the permutation pval; one row a term.
    statistic : float
        Joint Wald χ² of the moderators: QS for the scale part, QM for the location part.
    df : int
    pval : float
        Permutation p-value of the joint test.
    null : DataFrame, shape (iterations, terms)
        z of every permutation, the first (or, if exact, one) of which is the data as they are; inf
        where a refit failed, so that the test errs on the safe side.
    null_joint : ndarray, shape (iterations,)
        χ² of every permutation.
    iterations : int
        Number of permutations, the data as they are among them.
    exact : bool
        Whether these are all different permutations there are.
    diverged, failed : int
        Permutations in which a scale coefficient diverges, and in which the refit failed.
    seed : int or None
        None when exact.
    same_maximum : bool
        Whether the starts of the permutations lead to the fit when nothing is permuted.
    """

    part: PartName
    table: pd.DataFrame
    statistic: float
    df: int
    pval: float
    null: pd.DataFrame
    null_joint: Array
    iterations: int
    exact: bool
    diverged: int
    failed: int
    seed: int | None
    same_maximum: bool

    @property
    def mc_se(self) -> float:
        """Monte Carlo standard error of the joint p-value; 0 when exact."""
        return 0.0 if self.exact else math.sqrt(self.pval * (1 - self.pval) / self.iterations)

    @property
    def title(self) -> str:
        """What was permuted, how often, and the joint test."""
        kind = "Exact" if self.exact else "Approximate"
        seed = "" if self.exact else f", seed {self.seed}"
        how = f"{kind} permutation test ({self.part}; {self.iterations} permutations{seed})"
        name = "QS" if self.part == "scale" else "QM"
        joint = "."
        if math.isfinite(self.statistic):
            joint = f"{self.statistic:.4f}, {format_pval(self.pval)}"
        return f"{how}: {name}(df = {self.df}) = {joint}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know of the refits."""
        found = []
        if math.isnan(self.statistic):
            found.append(
                "a coefficient of the fit diverges and has no Wald statistic to be compared; use "
                "bootstrap_test"
            )
        if not self.same_maximum:
            found.append(
                "the likelihood has several maxima, and where the permutations start the data as "
                "they are lead to another than the fit's; use starts='several', or bootstrap_test"
            )
        if self.diverged:
            found.append(
                f"in {self.diverged} permutations a scale coefficient diverges; its z counts as 0, "
                "which is its limit"
            )
        if self.failed:
            found.append(f"{self.failed} refits failed and count as at least as extreme")
        return tuple(found)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a term."""
        return self.table.copy()


def permutation_test(
    fit: Estimates,
    *,
    part: PartName = "scale",
    iterations: int = 1000,
    seed: int | None = None,
    exact: bool | Literal["auto"] = "auto",
    starts: Starts = "one",
    cluster: Cluster | None = None,
    progress: bool = True,
) -> PermutationTest:
    """Test the coefficients of one part by reshuffling its moderators.

    The rows of the part's moderators are permuted over the studies, as whole rows, and the model is
    refitted; the p-value of a coefficient is the share of permutations whose z is as far from 0 as
    that of the data. As in metafor's ``permutest``, the data as they are count as the first
    permutation, so that no p-value is below 1 / `iterations`.

    Each permutation is fitted from one start (the common τ² of all studies), as metafor does (from
    a regression of the residuals). So a permutation with several maxima may count with one that is
    not its highest, and differently in the two programs. With ``starts="several"`` there are also a
    steep slope up and one down for each moderator, and the highest maximum counts. The result says
    when the data as they are lead to another maximum than the fit's.

    Permutations in which a coefficient diverges count with the limit of z, which is 0 for what
    diverges. (metafor takes z where its optimiser stops, which is about that, or where its Hessian
    cannot be inverted draws again, or if exact leaves out the permutation.) Where a coefficient of
    the fit itself diverges there is no z to compare, and its p-value is missing.

    With several scale terms whole clusters are reshuffled: the moderators of a part must have one
    value in each cluster, and each permutation is fitted by a search, with fewer starts than the
    data.

    Parameters
    ----------
    fit : RemlFit or Estimates
    part : {"scale", "location"}, default "scale"
    iterations : int, default 1000
        Number of permutations, the data as they are among them.
    seed : int, optional
        The same seed gives the same result; by default a new one, which the result keeps.
    exact : {"auto", True, False}, default "auto"
        Use all different permutations in place of random ones; by default when there are at most
        `iterations` of them.
    starts : {"one", "several"}, default "one"
    cluster : str or sequence of length n, optional
        Of a fit of several scale terms: what is reshuffled as a whole, the grouping of a scale term
        or the cluster of each row; by default the outermost groups.
    progress : bool, default True
        Show a progress bar on standard error when it takes more than a second or two.

    Returns
    -------
    PermutationTest

    Raises
    ------
    FitError
        For an intercept-only part, a link other than log, fixed or bounded coefficients, and an
        exact test of more than a million permutations.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> fit = lsm.LocationScaleModel(
    ...     "yi ~ ablat", scale="~ ablat", variance="vi", data=lsm.load_dataset("bcg")).fit_reml()
    >>> test = permutation_test(fit, seed=1)
    >>> test.null.shape
    (1000, 2)
    >>> bool(test.pval > 0.9)
    True

    References
    ----------
    Viechtbauer, W., López-López, J. A., Sánchez-Meca, J., & Marín-Martínez, F. (2015). A comparison
    of procedures to test for moderators in mixed-effects meta-regression models. Psychological
    Methods, 20(3), 360-374. doi:10.1037/met0000023
    """
    require_choice("part", part, PartName)
    require_choice("starts", starts, Starts)
    check_iterations(iterations)
    if exact not in (True, False, "auto"):
        raise FitError(f"exact must be 'auto', True or False, got {exact!r}")
    if not fit.design.is_independent:
        from bayes_lsm.reml.tests.clustered_permutation import permute_clusters

        if starts != "one":
            raise FitError(
                "with several scale terms every permutation is searched; leave out starts"
            )
        return permute_clusters(fit, part, cluster, iterations, seed, exact, progress)
    if cluster is not None:
        raise FitError("cluster is for fits of several scale terms; leave it out")
    require_free_log_link(fit, "a permutation test")
    shuffler = Shuffler(fit, part, starts=starts)
    count, exhaustive = is_exhaustive(shuffler.moderators, iterations, exact)
    seed = None if exhaustive else checked_seed(seed)
    names = getattr(fit.design, part).names
    moderators = term_columns(part, names)
    observed = _observed(fit, part)
    z_null, joint_null = np.empty((0, len(names))), np.empty(0)
    diverged, same_maximum = 0, True
    total = count if exhaustive else iterations - 1
    orders = (
        ExactOrders(shuffler.moderators) if exhaustive else RandomOrders(fit.design.n_studies, seed)
    )
    # The data as they are come first, to see where the starts lead.
    unmoved = np.arange(fit.design.n_studies)[None, :]
    for batch in batches(total, fit.design.n_studies, "Refitting permutations", progress=progress):
        first = int(batch.start == 0)
        reordered = orders(batch.stop - batch.start)
        refits = shuffler.refit(np.vstack([unmoved, reordered]) if first else reordered)
        if first:
            same_maximum = shuffler.leads_to(fit, refits.alpha[0])
        z, joint = refits.statistics(part, moderators)
        z_null, joint_null = np.vstack([z_null, z[first:]]), np.append(joint_null, joint[first:])
        diverged += int(refits.diverged[first:].sum())
    failed = int(np.isinf(joint_null).sum())
    table, joint_test = observed
    z_fit = table["zval"].to_numpy()
    if not exhaustive:
        z_null = np.vstack([np.nan_to_num(z_fit), z_null])
        joint_null = np.append(0.0 if math.isnan(joint_test[0]) else joint_test[0], joint_null)
    table["pval"] = [
        share_at_least(np.abs(z), abs(at)) for z, at in zip(z_null.T, z_fit, strict=True)
    ]
    return PermutationTest(
        part=part,
        table=table,
        statistic=joint_test[0],
        df=joint_test[1],
        pval=share_at_least(joint_null, joint_test[0]),
        null=pd.DataFrame(z_null, columns=list(names)),
        null_joint=joint_null,
        iterations=len(joint_null),
        exact=exhaustive,
        diverged=diverged,
        failed=failed,
        seed=seed,
        same_maximum=same_maximum,
    )


def share_at_least(null: Array, value: float) -> float:
    """The share of `null` that is at least `value`, ties included; nan where there is no value."""
    if math.isnan(value):
        return math.nan
    return float(np.mean(null >= value - TIED * max(1.0, abs(value))))


def _observed(fit: Estimates, part: PartName) -> tuple[pd.DataFrame, tuple[float, int]]:
    """The fit's table (estimate, se, zval) and its joint χ² with degrees of freedom."""
    names = getattr(fit.design, part).names
    estimate, covariance = (
        (fit.beta, fit.vcov_location) if part == "location" else (fit.alpha, fit.vcov_scale)
    )
    finite = np.isfinite(estimate)
    se = np.sqrt(np.where(finite, np.diag(covariance), np.nan))
    table = pd.DataFrame(
        {"estimate": estimate, "se": se, "zval": np.where(finite, estimate, np.nan) / se},
        index=pd.Index(names, name="term"),
    )
    tested = term_columns(part, names)
    b, V = estimate[tested], covariance[np.ix_(tested, tested)]
    known = np.isfinite(b).all() and np.isfinite(V).all()
    return table, (float(b @ np.linalg.solve(V, b)) if known else math.nan, len(tested))


@dataclass(frozen=True, eq=False)
class PermutedFits:
    """Refits of m permutations.

    Attributes
    ----------
    alpha : ndarray, shape (m, q)
    information : ndarray, shape (m, q, q)
        −H of `alpha`, in the coordinates in which Z is orthogonal.
    back : ndarray, shape (q, q)
        From those coordinates to the design's.
    beta, covariance : ndarray, shapes (m, p) and (m, p, p)
    diverged, failed : ndarray of bool, shape (m,)
    """

    alpha: Array
    information: Array
    back: Array
    beta: Array
    covariance: Array
    diverged: Mask
    failed: Mask

    @classmethod
    def of(cls, summits: Summits, back: Array) -> Self:
        """Where ascents ended, whose coordinates `back` (q, q) takes to the design's."""
        failed = ~(summits.converged & np.isfinite(summits.value))
        information = -summits.hessian
        information[failed] = np.eye(len(back))
        return cls(
            alpha=summits.alpha,
            information=information,
            back=back,
            beta=summits.beta,
            covariance=summits.covariance,
            diverged=is_diverging(information) & ~failed,
            failed=failed,
        )

    def statistics(self, part: PartName, tested: list[int]) -> tuple[Array, Array]:
        """z of each coefficient (m, terms), and joint χ² of the `tested` (m,)."""
        if part == "location":
            estimate, covariance = self.beta, self.covariance
            z = estimate / np.sqrt(np.einsum("ijj->ij", covariance))
        else:
            estimate, covariance, blind = self._scale_covariances()
            z = np.where(blind, 0.0, estimate / np.sqrt(np.einsum("ijj->ij", covariance)))
        chosen = estimate[:, tested]
        V = covariance[:, tested][:, :, tested]
        with np.errstate(all="ignore"):
            joint = np.einsum("ij,ij->i", chosen, _solve(V, chosen))
        if part == "scale":
            for i in np.flatnonzero(self.diverged):
                joint[i] = self._joint_at_limit(int(i), tested)
        z[self.failed], joint[self.failed] = np.inf, np.inf
        return z, joint

    def _scale_covariances(self) -> tuple[Array, Array, Mask]:
        """Of α: estimates, covariances of what is finite, and which coefficients diverge."""
        estimate = self.alpha @ self.back.T
        information = self.information.copy()
        information[self.diverged | self.failed] = np.eye(self.back.shape[0])
        covariance = self.back @ np.linalg.inv(information) @ self.back.T
        blind = np.zeros(estimate.shape, dtype=bool)
        for i in np.flatnonzero(self.diverged):
            values, vectors = np.linalg.eigh(self.information[i])
            informed = values > _DIVERGING
            directions = self.back @ vectors
            size = np.linalg.norm(directions, axis=1)
            blind[i] = np.linalg.norm(directions[:, ~informed], axis=1) > 1e-6 * size
            kept = directions[:, informed]
            covariance[i] = kept / values[informed] @ kept.T
            covariance[i][blind[i], blind[i]] = 1.0
        return estimate, covariance, blind

    def _joint_at_limit(self, i: int, tested: list[int]) -> float:
        """χ² of what is left to be tested: a'I a with the information I on the tested ones.

        Along the direction of divergence I is 0, so that it does not matter how far α has run.
        """
        forth = np.linalg.inv(self.back)
        information = forth.T @ self.information[i] @ forth
        others = [j for j in range(len(forth)) if j not in tested]
        alpha = (self.back @ self.alpha[i])[tested]
        efficient = information[np.ix_(tested, tested)]
        if others:
            cross = information[np.ix_(others, tested)]
            nuisance = information[np.ix_(others, others)]
            efficient = efficient - cross.T @ np.linalg.pinv(nuisance, 1e-9, hermitian=True) @ cross
        return max(0.0, float(alpha @ efficient @ alpha))


def _solve(V: Array, b: Array) -> Array:
    """V⁻¹b of each i; nan where V is singular."""
    try:
        return np.linalg.solve(V, b[..., None])[..., 0]
    except np.linalg.LinAlgError:
        return (np.linalg.pinv(V) @ b[..., None])[..., 0]


class Shuffler:
    """Refits of a fit's effects with the moderators of one part reordered."""

    def __init__(self, fit: Estimates, part: PartName, *, starts: Starts = "one") -> None:
        design = fit.design
        names, moderators = getattr(design, part).names, getattr(design, part).matrix
        if np.ptp(moderators, axis=0).max() == 0:
            raise FitError(
                f"there is nothing to permute: the {part} part has no moderators, only "
                f"{', '.join(names)}; use part={'location' if part == 'scale' else 'scale'!r}, or "
                "give a formula with moderators"
            )
        self.moderators = moderators
        surface = Surface(design.y, design.v, design.X, design.Z, fit.method)
        self.back, Z = surface.back, surface.rotated_Z
        self._problem = surface.problem
        self._part = part
        start = common_start(design.y, design.v, design.X, Z)
        steps = _STEEP * np.eye(len(start))[1 if starts == "several" else len(start) :]
        self._starts = [start, *(start + sign * step for step in steps for sign in (-1, 1))]

    def refit(self, orders: Orders) -> PermutedFits:
        """Fit each reordering (m, n)."""
        best = climb_highest(self._starts, self._problem, orders=orders, part=self._part)
        return PermutedFits.of(best, self.back)

    def leads_to(self, fit: Estimates, alpha: Array) -> bool:
        """Whether a refit of the data as they are is the fit."""
        tau2 = tau2_from_log(alpha @ self._problem.Z)
        # A limit is reached to within what is negligible beside v.
        return bool(np.allclose(tau2, fit.tau2, rtol=1e-3, atol=1e-4 * float(fit.design.v.min())))


def is_diverging(information: Array) -> Mask:
    """Whether ascents ended on the way to infinity, by their information (m, q, q)."""
    return np.asarray(np.linalg.eigvalsh(information)[:, 0] < _DIVERGING)


def common_start(y: Array, v: Array, X: Array, Z: Array) -> Array:
    """Coefficients (q,) of one common τ², by moments; Z has orthogonal columns of mean square 1."""
    residuals = estimate_location(y, v + np.mean(v), X).residuals
    spread = len(y) / max(1, len(y) - X.shape[1]) * float(np.mean(residuals**2 - v))
    return np.asarray(math.log(max(spread, 0.05 * float(np.median(v)))) * np.mean(Z, axis=0))
