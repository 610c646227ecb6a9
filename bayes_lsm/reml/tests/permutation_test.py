"""Permutation tests: reshuffle the moderators of one part, cluster by cluster, and refit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import require_choice, seed_or_new
from bayes_lsm.design.clusters import Cluster
from bayes_lsm.design.coefficients import term_columns
from bayes_lsm.design.exchangeable import PartName, exchangeable
from bayes_lsm.errors import FitError
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.requirements import require_no_bounds
from bayes_lsm.reml.resampling import batches, check_iterations, share_at_least
from bayes_lsm.reml.search.refits import Refits, Starts, free_part, held
from bayes_lsm.reml.search.refitter import refitter_of
from bayes_lsm.reml.tests.permutations import ExactOrders, RandomOrders, is_exhaustive
from bayes_lsm.reml.wald import joint_test
from bayes_lsm.tables import Tabled, format_pval


@dataclass(frozen=True, eq=False)
class PermutationTest(Tabled):
    """A permutation test of all coefficients of one part.

    Attributes
    ----------
    part : {"location", "scale"}
    table : DataFrame
        estimate, se and zval of the fit, and the permutation pval; one row a free coefficient.
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

    The moderators of a part are permuted, as whole rows, and the model is refitted; the p-value of
    a coefficient is the share of permutations whose z is as far from 0 as that of the data. As in
    metafor's ``permutest``, the data as they are count as the first permutation, so that no p-value
    is below 1 / `iterations`.

    What changes places are clusters, as a whole and in all scale terms at once: rows of a cluster
    depend on each other, and rows of different clusters do not. Independent effects are clusters of
    their own. The effects, their sampling errors and what the fit holds fixed stay where they are.

    Each permutation of independent effects is fitted from one start (the common τ² of all studies),
    as metafor does (from a regression of the residuals). So a permutation with several maxima may
    count with one that is not its highest, and differently in the two programs. With
    ``starts="several"`` there are also a steep slope up and one down for each moderator, and the
    highest maximum counts. The result says when the data as they are lead to another maximum than
    the fit's. Other effects are searched, in each permutation, with fewer starts than the data but
    where the fit stopped among them; with ``starts="several"`` they are searched as the data are.

    Permutations in which a coefficient diverges count with the limit of z, which is 0 for what
    diverges. (metafor takes z where its optimiser stops, which is about that, or where its Hessian
    cannot be inverted draws again, or if exact leaves out the permutation.) Where a coefficient of
    the fit itself diverges there is no z to compare, and its p-value is missing.

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
        What is reshuffled as a whole: the grouping of a scale term, or the cluster of each row. By
        default the outermost groups, and where effects are independent the rows themselves.
    progress : bool, default True
        Show a progress bar on standard error when it takes more than a second or two.

    Returns
    -------
    PermutationTest

    Raises
    ------
    FitError
        For a part without moderators, moderators that differ within a cluster, clusters that depend
        on each other, a link other than log, coefficients at a bound, and an exact test of more
        than a million permutations.

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
    require_capable("permutation_test", fit.design)
    require_no_bounds(fit, "a permutation test")
    what = exchangeable(held(fit)[0], part, cluster)
    count, exhaustive = is_exhaustive(what.moderators, iterations, exact)
    seed = None if exhaustive else seed_or_new(seed)
    orders = ExactOrders(what.moderators) if exhaustive else RandomOrders(len(what), seed)
    (table, tested, joint), refitter = _observe(fit, part), refitter_of(fit)
    z = table["zval"].to_numpy()
    z_null, joint_null = [], []
    if not exhaustive:  # the data as they are count as one
        z_null, joint_null = [np.nan_to_num(z)], [np.nan_to_num([joint])]
    diverged, same_maximum = 0, True
    total = count if exhaustive else iterations - 1
    # The data as they are come first, to see where the starts lead.
    unmoved = np.arange(len(what))[None, :]
    for batch in batches(total, refitter.work, "Refitting permutations", progress=progress):
        first = int(batch.start == 0)
        reordered = orders(batch.stop - batch.start)
        refits = refitter.orders(
            what, np.vstack([unmoved, reordered]) if first else reordered, starts=starts
        )
        if first:
            same_maximum = _leads_to(fit, refits)
        found = refits.statistics(part, tested)
        z_null.append(found[0][first:])
        joint_null.append(found[1][first:])
        diverged += int(refits.diverged[first:].sum())
    null, all_joint = np.vstack(z_null), np.concatenate(joint_null)
    pval = [share_at_least(np.abs(each), abs(at)) for each, at in zip(null.T, z, strict=True)]
    return PermutationTest(
        part=part,
        table=table.assign(pval=pval),
        statistic=joint,
        df=len(tested),
        pval=share_at_least(all_joint, joint),
        null=pd.DataFrame(null, columns=list(table.index)),
        null_joint=all_joint,
        iterations=len(all_joint),
        exact=exhaustive,
        diverged=diverged,
        failed=int(np.isinf(all_joint).sum()),
        seed=seed,
        same_maximum=same_maximum,
    )


def _observe(fit: Estimates, part: PartName) -> tuple[pd.DataFrame, list[int], float]:
    """The free estimates, standard errors and z; which are moderators', and their joint χ²."""
    names, estimate, V = free_part(fit, part)
    known = np.isfinite(estimate) & np.isfinite(np.diag(V))
    se = np.sqrt(np.where(known, np.diag(V), np.nan))
    table = pd.DataFrame(
        {"estimate": estimate, "se": se, "zval": np.where(known, estimate, np.nan) / se},
        index=pd.Index(names, name="term"),
    )
    tested = term_columns(part, names)
    joint = joint_test(estimate[tested], V[np.ix_(tested, tested)], None).statistic
    return table, tested, joint


def _leads_to(fit: Estimates, refits: Refits) -> bool:
    """Whether the first of some refits, of the data as they are, is the fit."""
    tau2 = np.exp(refits.log_tau2[0])
    # A limit is reached to within what is negligible beside the variance of the effects.
    negligible = 1e-4 * float((fit.design.v + fit.tau2).min())
    return bool(np.allclose(tau2, fit.tau2, rtol=1e-3, atol=negligible))
