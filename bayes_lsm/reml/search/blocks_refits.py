"""Refits of effects in blocks, one after the other: there is no compiled loop over sets.

Each set is searched, with fewer starts than the data but where the fit stopped among them; a
permutation whose moderators stay in the model as an offset is climbed once, as it is one of many.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.linalg import block_diag

from bayes_lsm.design.coefficients import coefficients, pairs, scale_places
from bayes_lsm.design.design import Design
from bayes_lsm.design.exchangeable import Exchangeable
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.links import tau2_from_log
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.search import maximum
from bayes_lsm.reml.search.refits import Refits, Shift, Starts, free_places, held
from bayes_lsm.reml.term_estimate import TermEstimate

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

# Of the work that `batches` puts into one of its batches: some tenths of a second.
_WORK = 50_000
# Rounds of climbs from around the best point, with one start and with several.
_TURNS: Mapping[Starts, int] = {"one": 0, "several": 3}
# Share of a row's variance below which no climb starts.
_FLOOR = 0.05
_TOLERANCE = 1e-13
# ln τ² of what has no variance.
_NOTHING = -700.0
# Variance of a combination of coefficients, each of variance 1, that stands for none.
_BLIND = 1e-12


@dataclass(frozen=True, eq=False)
class _Refit:
    """The same as `Refits`, of one set."""

    value: float
    converged: bool
    beta: Array
    vcov_location: Array
    rotated: Array
    information: Array
    log_tau2: Array
    correlations: Array
    infinite: Mapping[int, float]


class BlocksRefitter:
    """Refits of effects in blocks; see `Refitter`.

    Parameters
    ----------
    fit : Estimates
        What it holds fixed is an offset of ln τ².
    """

    def __init__(self, fit: Estimates) -> None:
        self._fit, self._design = fit, held(fit)[0]
        self._stop = fit.stop[free_places(fit)]
        self._back = _back(self._design)
        self._forth = np.linalg.inv(self._back)

    @property
    def work(self) -> int:
        """That of a search."""
        return _WORK

    def effects(self, Y: Array, near: Sequence[Array] = ()) -> Refits:
        """Fit each row of Y (m, n); a search starts near the fit, and has no use for `near`."""
        return self._refits(self._search(replace(self._design, y=y), turns=0) for y in Y)

    def orders(
        self,
        what: Exchangeable,
        orders: Index,
        *,
        starts: Starts = "one",
        shift: Shift | None = None,
    ) -> Refits:
        """Fit with each of some orders (m, G) of the clusters' moderators."""
        if shift is None:
            turns = _TURNS[starts]
            return self._refits(self._search(what.reorder(order), turns) for order in orders)
        shifted, start = self._shifted(what, *shift)
        return self._refits(self._climb(shifted.reorder(order), start) for order in orders)

    def _refits(self, found: Iterable[_Refit]) -> Refits:
        each = list(found)
        return Refits(
            value=np.array([one.value for one in each]),
            converged=np.array([one.converged for one in each]),
            beta=np.array([one.beta for one in each]),
            vcov_location=np.array([one.vcov_location for one in each]),
            rotated=np.array([one.rotated for one in each]),
            information=np.array([one.information for one in each]),
            back=self._back,
            places=scale_places(self._design),
            log_tau2=np.array([one.log_tau2 for one in each]),
            correlations=np.array([one.correlations for one in each]),
            infinite=lambda i: each[i].infinite,
        )

    def _search(self, design: Design, turns: int) -> _Refit:
        """The highest point of a set, limits at infinity included."""
        try:
            found = maximum.estimate(design, self._fit.method, turns=turns, near=[self._stop])
        except FitError:  # no starting value has a likelihood
            return self._nothing()
        alpha, information = _finite(found, self._back)
        matrices = [each.correlation for each in found.terms.values()]
        scale = found.knapp_hartung if self._fit.test == "knha" else 1.0
        return _Refit(
            value=found.highest,
            converged=found.converged and math.isfinite(found.highest),
            beta=found.beta,
            vcov_location=found.vcov_location * scale,
            rotated=self._forth @ alpha,
            information=information,
            log_tau2=_log(found.tau2),
            correlations=np.array([matrices[at.t][at.a, at.b] for at in pairs(design)]),
            infinite={j: a for j, a in enumerate(found.alpha) if not math.isfinite(a)},
        )

    def _nothing(self) -> _Refit:
        """Of a set that has no likelihood anywhere."""
        p, s, design = self._design.X.shape[1], len(self._back), self._design
        return _Refit(
            value=-math.inf,
            converged=False,
            beta=np.full(p, np.nan),
            vcov_location=np.full((p, p), np.nan),
            rotated=np.full(s, np.nan),
            information=np.zeros((s, s)),
            log_tau2=np.full(len(design.y), np.nan),
            correlations=np.full(len(pairs(design)), np.nan),
            infinite={},
        )

    def _climb(self, design: Design, start: Array) -> _Refit:
        """Where one climb ends."""
        from bayes_lsm.likelihood.blocks.arrange import arrange_design
        from bayes_lsm.likelihood.blocks.blocks import ascend

        end = ascend(start, arrange_design(design), method=self._fit.method, tolerance=_TOLERANCE)
        tau2, correlations = _variances(design, end.alpha)
        scale = 1.0
        if self._fit.test == "knha" and end.converged:
            covariance = likelihood_of(design).covariance(tau2, correlations)
            residuals = design.y - design.X @ end.at.beta
            df = len(residuals) - len(end.at.beta)
            scale = float(residuals @ covariance.solve(residuals)) / df
        return replace(
            self._nothing(),
            value=end.at.value,
            converged=bool(end.converged and np.isfinite(end.at.value)),
            beta=end.at.beta,
            vcov_location=end.at.covariance * scale,
            rotated=self._forth @ end.alpha,
            information=-self._back.T @ end.at.hessian @ self._back,
            log_tau2=_log(_of_rows(design, tau2, correlations)),
        )

    def _shifted(self, what: Exchangeable, j: int, c: float) -> tuple[Exchangeable, Array]:
        """What is permuted, with c in its effects or its ln τ², and where climbs start."""
        design = what.design
        start = np.concatenate(list(self._common()))
        if what.part == "location":
            return replace(what, design=replace(design, y=design.y - c * design.X[:, j])), start
        which = coefficients(design)[j]
        terms = list(design.terms)
        term = terms[which.t]
        column = term.Z[:, :, which.j]
        terms[which.t] = replace(term, offset=term.offsets + c * column)
        # One common τ² less the offset, which the permuted columns can follow in its mean alone.
        offset = np.full(term.Z.shape[:2], c * float(np.mean(column[term.used])))
        first = int(scale_places(design)[j]) - which.j
        start[first : first + len(term.names)] -= _coefficients_of(term.Z, term.used, offset)
        return replace(what, design=replace(design, terms=tuple(terms))), start

    def _common(self) -> Iterator[Array]:
        """α and κ of each term with the same τ² in all groups: the mean of the fit's."""
        row = [
            float(np.mean(np.sum(each.term.slopes**2 * each.tau2[each.term.index], axis=1)))
            for each in self._fit.terms.values()
        ]
        total = float(np.mean(self._design.v)) + sum(row)
        for term, size in zip(self._design.terms, row, strict=True):
            offset = term.offsets[term.index]
            most = float(offset.max())
            slope = float(np.mean(np.sum(term.slopes**2 * np.exp(offset - most), axis=1)))
            level = math.log(max(size, _FLOOR * total) / slope) - most
            alpha = _coefficients_of(term.Z, term.used, np.full(term.Z.shape[:2], level))
            yield np.r_[alpha, np.zeros(term.size - len(term.names))]


def _variances(design: Design, alpha: Array) -> tuple[list[Array], list[Array]]:
    """τ² (G, s) and R (s, s) of each term at some α and κ."""
    tau2, correlations, first = [], [], 0
    for term in design.terms:
        q, s = len(term.names), len(term.effects)
        tau2.append(tau2_from_log(term.offsets + term.Z @ alpha[first : first + q]))
        kind = term.correlation if term.n_correlations else "none"
        kappa = alpha[None, first + q : first + term.size]
        correlations.append(correlation_matrices(kappa, s, kind)[0])
        first += term.size
    return tau2, correlations


def _of_rows(design: Design, tau2: list[Array], correlations: list[Array]) -> Array:
    """The variance of each row's effects, shape (n,)."""
    found = np.zeros(len(design.y))
    for term, values, R in zip(design.terms, tau2, correlations, strict=True):
        loads = term.slopes * np.sqrt(values)[term.index]
        found += np.einsum("ij,jk,ik->i", loads, R, loads)
    return found


def _log(tau2: Array) -> Array:
    """Its logarithm; that of next to nothing where it is 0."""
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(tau2), _NOTHING)


def _coefficients_of(Z: Array, used: npt.NDArray[np.bool_], log_tau2: Array) -> Array:
    """The coefficients that come nearest to some ln τ² (G, s)."""
    return np.asarray(np.linalg.lstsq(Z[used], log_tau2[used], rcond=None)[0])


def _back(design: Design) -> Array:
    """From coordinates in which each term's columns are orthogonal, of mean square 1."""
    parts = []
    for term in design.terms:
        Z = term.Z[term.used]
        R = np.linalg.qr(Z, mode="r") / math.sqrt(len(Z))
        parts += [np.linalg.inv(R), np.eye(term.size - len(term.names))]
    return np.asarray(block_diag(*parts))


def _finite(found: Estimates, back: Array) -> tuple[Array, Array]:
    """A finite α and κ with the variances that were found, and the information in coordinates.

    At a limit ln τ² of the effects that are left is a function of some coefficients, and these are
    functions of all: Z = Z_kept M. So the information on all is M'IM, which is 0 along what
    diverges.
    """
    terms, V = found.terms.values(), found.limit_vcov
    alpha = np.concatenate([_all(each, each.limit_alpha, each.kappa) for each in terms])
    known = np.isfinite(np.diag(V))
    if known.all():
        forth = np.linalg.inv(back)
        return alpha, _information(forth @ V @ forth.T)
    moved = block_diag(*[_kept_of_all(each) for each in terms])[known] @ back
    information = _information(V[np.ix_(known, known)])
    return np.nan_to_num(alpha), np.asarray(moved.T @ information @ moved)


def _information(covariance: Array) -> Array:
    """Its inverse; 0 along directions of which the data say nothing, which have no variance."""
    size = np.sqrt(np.diag(covariance))
    size[size == 0] = 1.0
    values, vectors = np.linalg.eigh(covariance / np.outer(size, size))
    told = values > _BLIND
    vectors = vectors[:, told] / size[:, None]
    return np.asarray(vectors / values[told] @ vectors.T)


def _all(each: TermEstimate, alpha: Array, kappa: Array) -> Array:
    """α and κ of a term; κ are 0 where a limit left fewer of them."""
    count = each.term.size - len(alpha)
    return np.asarray(np.r_[alpha, kappa if len(kappa) == count else np.zeros(count)])


def _kept_of_all(each: TermEstimate) -> Array:
    """M (s, s) of a term: the coefficients that are left, from all of them."""
    q, size = len(each.alpha), each.term.size
    found = np.eye(size)
    if each.divergence is not None:
        kept = np.flatnonzero(np.isfinite(each.limit_alpha))
        rows = each.term.Z[each.term.used & (each.tau2 > 0)]
        found[:q, :q] = 0.0
        if len(kept):
            found[kept, :q] = np.linalg.lstsq(rows[:, kept], rows, rcond=None)[0]
    return found
