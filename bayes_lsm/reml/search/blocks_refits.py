"""Refits of effects in blocks, one after the other: there is no compiled loop over sets.

Each set is searched, with fewer starts than the data but where the fit stopped among them; a
permutation whose moderators stay in the model as an offset is climbed once, as it is one of many.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.linalg import block_diag

from bayes_lsm.arrays import Array, Index
from bayes_lsm.design.coefficients import coefficients, pairs
from bayes_lsm.design.design import Design
from bayes_lsm.design.exchangeable import Exchangeable
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.search.blocks_surface import BlocksSurface
from bayes_lsm.reml.search.estimate import facts_at
from bayes_lsm.reml.search.refits import Refits, Refitter, Shift, Starts, free_places, shifted
from bayes_lsm.reml.search.search import Search
from bayes_lsm.reml.search.surface import Point

# Of the work that `batches` puts into one of its batches: some tenths of a second.
_WORK = 50_000
# Rounds of climbs from around the best point, with one start and with several.
_TURNS: Mapping[Starts, int] = {"one": 0, "several": 3}
# Share of a row's variance below which no climb starts.
_FLOOR = 0.05
# ln τ² of what has no variance.
_NOTHING = -700.0


class _Refit(NamedTuple):
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


class BlocksRefitter(Refitter):
    """Refits of effects in blocks; see `Refitter`."""

    def __init__(self, fit: Estimates) -> None:
        super().__init__(fit)
        self._stop = fit.stop[free_places(fit)]
        surface = BlocksSurface(self._design, fit.method)
        self._q = len(surface.back)
        self._back = np.asarray(block_diag(surface.back, np.eye(surface.n_correlations)))

    @property
    def work(self) -> int:
        return _WORK

    def effects(self, Y: Array, near: Sequence[Array] = ()) -> Refits:
        return self._refits(self._search(replace(self._design, y=y), turns=0) for y in Y)

    def orders(
        self,
        what: Exchangeable,
        orders: Index,
        *,
        starts: Starts = "one",
        shift: Shift | None = None,
    ) -> Refits:
        if shift is None:
            turns = _TURNS[starts]
            return self._refits(self._search(what.reorder(order), turns) for order in orders)
        moved, levels = shifted(what, *shift), self._levels(what, *shift)
        return self._refits(self._climb(moved.reorder(order), levels) for order in orders)

    def _refits(self, found: Iterable[_Refit]) -> Refits:
        each = list(found)
        *numbers, infinite = zip(*each, strict=True)
        facts = dict(zip(_Refit._fields, map(np.array, numbers), strict=False))
        return Refits(
            **facts, back=self._back, places=np.arange(self._q), infinite=lambda i: infinite[i]
        )

    def _search(self, design: Design, turns: int) -> _Refit:
        """The highest point of a set, limits at infinity included."""
        surface = BlocksSurface(design, self._fit.method, turns=turns)
        search = Search(surface, [surface.inside(self._stop)])
        return self._refit(design, search.best, search.rival or search.best)

    def _climb(self, design: Design, levels: Array) -> _Refit:
        """Where one climb from some ln τ² of the effects ends."""
        surface = BlocksSurface(design, self._fit.method)
        start = np.zeros(len(self._back))
        start[: self._q] = surface.geometry.regress(levels)
        (point,) = surface.climb(start[None])
        return self._refit(design, point, point)

    def _refit(self, design: Design, point: Point, highest: Point) -> _Refit:
        if not math.isfinite(point.value):
            return self._nothing()
        found = facts_at(design, self._fit.method, point, point.ordinary)
        kappas = len(self._back) - self._q
        there, information = _of_all(point, kappas)
        # From the refits' coordinates to those of the moderators where they are in this set.
        forth = point.surface.geometry.coordinates.forth
        turn = block_diag(forth, np.eye(kappas)) @ self._back
        matrices = [each.correlation for each in found.terms.values()]
        scale = found.knapp_hartung if self._fit.test == "knha" else 1.0
        with np.errstate(divide="ignore"):
            log_tau2 = np.maximum(np.log(found.tau2), _NOTHING)
        return _Refit(
            value=highest.value,
            converged=point.converged,
            beta=point.beta,
            vcov_location=point.vcov_location * scale,
            rotated=np.linalg.solve(turn, there),
            information=turn.T @ information @ turn,
            log_tau2=log_tau2,
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

    def _levels(self, what: Exchangeable, j: int, c: float) -> Array:
        """The ln τ² to start from."""
        levels = self._common()
        if what.part == "scale":
            which = coefficients(what.design)[j]
            term = what.design.terms[which.t]
            # Less the offset, which the permuted columns can follow in its mean alone.
            levels[which.t] -= c * float(np.mean(term.Z[:, :, which.j][term.used]))
        return np.concatenate(levels)

    def _common(self) -> list[Array]:
        """ln τ² of each term's effects, the same in all groups: the mean of the fit's."""
        row = [
            float(np.mean(np.sum(each.term.slopes**2 * each.tau2[each.term.index], axis=1)))
            for each in self._fit.terms.values()
        ]
        total, levels = float(np.mean(self._design.v)) + sum(row), []
        for term, size in zip(self._design.terms, row, strict=True):
            offset = term.offsets[term.index]
            most = float(offset.max())
            slope = float(np.mean(np.sum(term.slopes**2 * np.exp(offset - most), axis=1)))
            level = math.log(max(size, _FLOOR * total) / slope) - most
            levels.append(np.full(int(term.used.sum()), level))
        return levels


def _of_all(point: Point, kappas: int) -> tuple[Array, Array]:
    """Coefficients and κ of all effects that give a point's variances, and the information on them.

    At a limit the coefficients that are left are functions Ma of all, so that the information on
    all is M'IM: 0 along what diverges. The κ of fewer effects are others, and eliminated.
    """
    q, rotated, information = len(point.alpha), point.rotated, -point.hessian
    if point.limit is None:
        return rotated, information
    geometry = point.surface.geometry
    face = geometry.face_of(point.limit)
    M = face.regress(geometry.coordinates.columns[:, face.free].T)
    if len(rotated) - q == kappas:
        M = block_diag(M, np.eye(kappas))
        kappa = rotated[q:]
    else:
        cross, own = information[q:, :q], information[q:, q:]
        information = information[:q, :q] - cross.T @ np.linalg.pinv(own, hermitian=True) @ cross
        M, kappa = np.hstack([M, np.zeros((q, kappas))]), np.zeros(kappas)
    log_tau2 = rotated[:q] @ point.surface.columns[:, face.free]
    return np.concatenate([face.inside(log_tau2), kappa]), np.asarray(M.T @ information @ M)
