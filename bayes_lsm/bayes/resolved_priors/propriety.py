r"""Whether a posterior with flat priors on scale coefficients has a finite mass.

The coefficients' priors are distributions of θ = Cα. Say f of the θ are flat; along a direction
d of those alone, ln τ² of an effect changes by z'C⁻¹d. The criterion:

    the posterior is proper just when every d ≠ 0 sends τ² to infinity in some effect that the
    location coefficients with flat priors cannot take over,

given that the other priors of the scale part have moments of order f. An effect with the column a
(of study i: the i-th unit vector) can be taken over when a lies in the span of the columns of X
with flat priors: then these coefficients fit it whatever it is.

*If.* Let Q project out those columns, and integrate them out; the rest of the location part has a
proper prior, and the bound below holds whatever it is. The likelihood is at most a constant times
|QΣQ'|^-½, and Σ ≥ V + τ² aa' for each effect, so that it is at most c · exp(−h(α)/2), with h(α)
the largest (z'α)₊ among the effects that cannot be taken over. (Of Student-t study effects: the
density of y_i is at most c/τ_i, and of the other studies there are enough to bound the
coefficients that are integrated out.) h is convex and grows in proportion: where it is positive in
all directions of the flat θ it is at least ε|t| − K|s| at (t, s), t the flat and s the other θ.
So the integral over t is at most C(1 + |s|)^f, because the likelihood is bounded, and that has a
mean under priors with moments of order f.

*Only if.* Where h(d) = 0, go along d from any point of a small ball. τ² goes to 0, or stays, in all
effects but those that are taken over, and these leave no trace once the flat coefficients are
integrated out. So the likelihood tends to that of a smaller model, which is positive since V > 0,
on a tube of infinite volume.

A prior with fewer moments (Cauchy) has a bounded density, so the posterior is proper if it were so
with a flat prior in its place. If it were not, nothing is known, and that is said.

An effect of group g of a scale term has the column a = A_g: its slopes in the rows of g, 0
elsewhere. The bound Σ ≥ V + τ² aa' holds for effects that are independent. Correlated effects of a
group have the bound Σ ≥ V + A_g D A_g' with D of any correlations, which grows with every τ² as
long as the columns of the group's effects, without what location coefficients with flat priors can
fit, are linearly independent. The random intercepts of ln τ² are like other coefficients of it:
with normal SDs they have all moments, and else nothing is claimed.

Whether there is such a d is a question of linear programming: d ≠ 0 with M d ≤ 0, the rows of M
being those z'C⁻¹. (Stiemke: there is none just when M has full column rank and w'M = 0 for some
w > 0.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bayes_lsm.arrays import Array, Index, Mask
from bayes_lsm.bayes.coordinates import are_correlations, scale_names
from bayes_lsm.design.clusters import Clusters
from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.errors import FitError, PriorError
from bayes_lsm.priors import Family, Flat, HalfNormal, PriorBlock, Priors, ResolvedPriors

# Relative size below which a number is the rounding of 0.
_ZERO = 1e-9
# Share of a squared length below which nothing is left of it.
_ROUNDING = 1e-10


@dataclass(frozen=True, eq=False)
class Effects:
    """The random effects of a model, m of them: ln τ² of each is Zα, with Z (m, q).

    `felt` (m,): no location coefficients with flat priors can take the effect over. `bounded` (m,):
    those of them with which the likelihood is known to fall as their τ² grows; `doubt` says why not
    all are. `names` are of the q scale coefficients, `many` is what the effects are called.
    """

    Z: Array
    felt: Mask
    bounded: Mask
    names: tuple[str, ...]
    many: str
    doubt: str


def require_proper(design: Design, resolved: ResolvedPriors, priors: Priors) -> None:
    """Refuse flat priors on scale coefficients that the data do not bound, by a PriorError.

    It says what runs to infinity, and why the likelihood does not hold it.
    """
    if not _flat(resolved.scale):
        return
    if not (design.v > 0).all():
        raise PriorError(
            "a flat prior on a scale coefficient needs sampling variances > 0; with individual "
            "data the posterior cannot be shown to have a finite mass; use a proper prior, such as "
            "Normal(0, 2)"
        )
    reason = find_impropriety(random_effects(design, resolved.location, priors), resolved.scale)
    if reason is not None:
        raise PriorError(f"{reason}; use a proper prior in place of the flat, such as Normal(0, 2)")


def require_normalised(priors: ResolvedPriors, what: str) -> None:
    """Refuse flat priors, by a FitError, where `what` needs a prior that integrates to one."""
    if not priors.is_proper:
        part = "scale" if priors.location.is_proper else "location"
        raise FitError(
            f"{what} needs priors that integrate to 1, got a flat {part} prior; give a wide normal "
            "prior in its place"
        )


def require_proper_without(
    design: Design,
    resolved: ResolvedPriors,
    priors: Priors,
    studies: Clusters,
    folds: Sequence[Index],
) -> None:
    """Refuse to leave studies out whose effects a coefficient with a flat prior hangs on.

    `folds` are the studies that are left out together; the refusal is a FitError.
    """
    if not _flat(resolved.scale) and not _flat(resolved.location):
        return
    columns = _flat_columns(design.X, resolved.location)
    everything = np.arange(sum(map(len, studies.rows)))
    for fold in folds:
        out = np.concatenate([studies.rows[unit] for unit in fold])
        left = np.setdiff1d(everything, out)
        effects = random_effects(design, resolved.location, priors, left)
        reason = find_impropriety(effects, resolved.scale)
        if np.linalg.matrix_rank(columns[left]) < columns.shape[1]:
            reason = "the rest cannot tell all location coefficients with flat priors"
        if reason is not None:
            names = ", ".join(studies.names[unit] for unit in fold)
            raise FitError(f"without {studies.unit} {names} {reason}; use a proper prior")


def random_effects(
    design: Design, location: PriorBlock, priors: Priors, rows: Index | None = None
) -> Effects:
    """The effects of all groups of all scale terms that have rows, or that have some of them."""
    chosen = np.arange(len(design.y)) if rows is None else rows
    Q = _flat_basis(design.X[chosen], location)
    tails = not isinstance(priors.scale_sd, HalfNormal | None)
    found: list[tuple[Array, Mask, Mask]] = []
    width = sum(term.size for term in design.terms)
    for term, at in zip(design.terms, design.places, strict=True):
        Z = np.zeros((*term.Z.shape[:2], width))
        Z[:, :, at.start : at.start + len(term.names)] = term.Z
        used, felt, apart = _columns(term, chosen, Q)
        if tails and term.random:
            apart = np.zeros_like(apart)
        found.append((Z[used], felt[used], apart[used]))
    Z, felt, bounded = (np.concatenate(parts) for parts in zip(*found, strict=True))
    doubt = (
        "random intercepts of ln τ², unless their SDs have normal priors"
        if tails
        else "correlated effects that the rows of their groups cannot tell apart"
    )
    names = np.full(width, "", dtype=object)
    names[~are_correlations(design)] = scale_names(design)
    many = {"study": "studies", "row": "effects of groups"}[design.unit]
    return Effects(Z, felt, bounded, tuple(names), many, doubt)


def _columns(term: ScaleTerm, rows: Index, Q: Array) -> tuple[Mask, Mask, Mask]:
    """Which effects have rows, are felt, and are known to be bounded: each (G, s).

    By the products of the columns of each group with each other, less those of what Q (n, m) fits.
    """
    index, slopes = term.index[rows], term.slopes[rows]
    G, s = len(term.groups), slopes.shape[1]
    products, fitted = np.zeros((G, s, s)), np.zeros((G, Q.shape[1], s))
    np.add.at(products, index, slopes[:, :, None] * slopes[:, None, :])
    np.add.at(fitted, index, Q[:, :, None] * slopes[:, None, :])
    sizes = np.sqrt(np.einsum("gii->gi", products))
    used = sizes > 0
    unit = np.where(used, sizes, 1.0)
    rest = (products - np.einsum("gmi,gmj->gij", fitted, fitted)) / (
        unit[:, :, None] * unit[:, None, :]
    )
    felt = np.einsum("gii->gi", rest) > _ROUNDING
    if not term.n_correlations:
        return used, felt, felt
    # An effect without rows is no part of the group's.
    rest += np.where(used, 0.0, 1.0)[:, :, None] * np.eye(s)
    apart = np.linalg.eigvalsh(rest)[:, 0] > _ROUNDING
    return used, felt, felt & apart[:, None]


def _flat_basis(X: Array, location: PriorBlock) -> Array:
    """An orthonormal basis (n, m) of what the m location coefficients with flat priors can fit."""
    return np.asarray(np.linalg.qr(_flat_columns(X, location))[0])


def _flat_columns(X: Array, location: PriorBlock) -> Array:
    """What the m location coefficients with flat priors multiply (n, m)."""
    return np.asarray((X @ np.linalg.inv(location.contrasts))[:, _flat(location)])


def find_impropriety(effects: Effects, scale: PriorBlock) -> str | None:
    """Why a posterior has no finite mass, or cannot be shown to have one; None where it has."""
    flat = _flat(scale)
    if not flat:
        return None
    changes = effects.Z @ np.linalg.inv(scale.contrasts)
    direction = unbounded_direction(changes[effects.felt][:, flat])
    if direction is not None:
        return _say(effects, flat, changes[:, flat], direction)
    heavy = _with_few_moments(scale, len(flat))
    loose = sorted(flat + heavy)
    single = all(isinstance(scale.priors[j], Family) for j in heavy)
    if single and unbounded_direction(changes[effects.bounded][:, loose]) is None:
        return None
    start = (
        "the posterior cannot be shown to have a finite mass under the flat prior of "
        f"{_quoted(_names(effects, flat))}"
    )
    if not heavy:
        return f"{start}, because of {effects.doubt}"
    others = ", ".join(f"{effects.names[j]!r} ~ {scale.priors[j]}" for j in heavy)
    return f"{start} and others with long tails ({others})"


def unbounded_direction(rows: Array) -> Array | None:
    """A d (f,) other than 0 with ``rows @ d <= 0``, of rows (m, f); None where there is none.

    If one coefficient alone can go, it is taken to do so.

    Examples
    --------
    >>> unbounded_direction(np.array([[1.0], [-2.0]])) is None
    True
    >>> unbounded_direction(np.array([[1.0, 0.0], [2.0, 1.0], [0.0, -1.0]]))
    array([-1., -0.])
    """
    from scipy.optimize import linprog

    f = rows.shape[1]
    sizes = np.abs(rows).max(axis=0, initial=0.0)
    for j in range(f):
        for sign in (-1.0, 1.0):
            if (sign * rows[:, j] <= _ZERO * sizes[j]).all():
                return np.asarray(sign * np.eye(f)[j])
    _, stretch, axes = np.linalg.svd(np.linalg.qr(rows / sizes, mode="r"), full_matrices=True)
    rank = int((stretch > _ZERO * stretch[0]).sum())
    if rank < f:
        return np.asarray(axes[-1] / sizes)
    # With columns that are orthogonal and have a mean square of 1, some change is as large as d.
    back = axes.T / stretch * np.sqrt(len(rows)) / sizes[:, None]
    found = linprog(
        (rows @ back).sum(axis=0), A_ub=rows @ back, b_ub=np.zeros(len(rows)), bounds=(-1.0, 1.0)
    )
    if not found.success:
        raise FitError(f"the linear program of a flat prior was not solved: {found.message}")
    direction = back @ np.asarray(found.x, dtype=float)
    return direction if (rows @ direction).sum() < -0.5 else None


def _flat(block: PriorBlock) -> list[int]:
    return [j for j, prior in enumerate(block.priors) if isinstance(prior, Flat)]


def _with_few_moments(block: PriorBlock, flat: int) -> list[int]:
    """The priors without a moment of the order of the number of flat ones, which they add to."""
    heavy: list[int] = []
    while True:
        order = flat + len(heavy)
        found = [j for j, prior in enumerate(block.priors) if prior.moments <= order]
        if len(found) == len(heavy):
            return heavy
        heavy = found


def _say(effects: Effects, flat: list[int], changes: Array, direction: Array) -> str:
    """What runs to infinity along a direction, and why the likelihood does not mind."""
    steps = np.abs(changes * direction).max(axis=0)
    least = _ZERO * steps.max()
    goes = [
        f"{effects.names[j]!r} goes to {'+' if d > 0 else '−'}∞"
        for j, d, step in zip(flat, direction, steps, strict=True)
        if step > least or steps.max() == 0
    ]
    change = changes @ direction
    lost, taken = int((change < -least).sum()), int((change > least).sum())
    what = [f"τ² goes to 0 in {lost} of {len(change)} {effects.many}"] if lost else []
    if taken:
        what.append(
            f"to infinity in {taken} that location coefficients with flat priors fit in any case"
        )
    return (
        f"the posterior has no finite mass under the flat prior of "
        f"{_quoted(_names(effects, flat))}: as {' and '.join(goes)}, and what the other priors are "
        f"of stays where it is, {' and '.join(what) or 'no τ² changes'}, so that the likelihood "
        "tends to a constant above 0"
    )


def _names(effects: Effects, places: list[int]) -> list[str]:
    return [effects.names[j] for j in places]


def _quoted(names: list[str]) -> str:
    return " and ".join(map(repr, names))
