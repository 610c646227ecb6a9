"""The surface of effects in blocks: of several scale terms, of groups, slopes and correlations.

A limit is a smaller model of the same data: effects without variance leave their term, and so do
the coefficients that go with them, and their correlations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
from scipy.linalg import block_diag

from bayes_lsm.arrays import Array, Index
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.blocks import blocks
from bayes_lsm.likelihood.blocks.arrange import sampling_covariance
from bayes_lsm.likelihood.blocks.correlation_matrices import kappa_of
from bayes_lsm.likelihood.blocks.terms import BlockTerm
from bayes_lsm.reml.search.geometry import Face, geometry_of
from bayes_lsm.reml.search.left import Left, what_is_left
from bayes_lsm.reml.search.surface import Effort, Point, Surface
from bayes_lsm.specification import Method

_TOLERANCE = 1e-13
# Slopes of the steep starts, in ln τ² for each SD of a coefficient's column.
_STEEP = (2.0, 5.0)
# With more coefficients no random starts.
_MANY = 12
# A random step of κ, relative to one of ln τ².
_TURN = 0.1


class BlocksSurface(Surface):
    """The log-likelihood of a design in blocks.

    `held` are correlations that are not estimated, by the number of their term: that of its first
    two effects where the matrix is unstructured, that of all pairs where it is compound symmetric.
    `turns` are rounds of further climbs once a best point is known. With 0, for refits in their
    hundreds, there are fewer starts as well: nearly twice as fast. Of 240 sets that were simulated
    from the fits of four models it missed no highest point from where the fit stopped; without the
    corners, 5.
    """

    def __init__(
        self,
        design: Design,
        method: Method,
        *,
        held: Mapping[int, float] | None = None,
        turns: int = 3,
    ) -> None:
        self._design, self._method, self._held = design, method, dict(held or {})
        self._V = sampling_covariance(design)
        terms = design.terms
        self._used = [term.used for term in terms]
        tables = [term.Z[used] for term, used in zip(terms, self._used, strict=True)]
        self.offset = np.concatenate(
            [term.offsets[used] for term, used in zip(terms, self._used, strict=True)]
        )
        parts = tuple(table.shape for table in tables)
        self.geometry = geometry_of(np.asarray(block_diag(*tables)), parts)
        # With one coefficient for each effect there is hardly room for a second maximum.
        self._is_steep = any(
            len(term.names) > len(term.effects) or len(term.effects) > 1 for term in terms
        )
        self._lie_in(None, self.geometry.coordinates)
        self._prepare()
        self._is_small = self._data.q <= _MANY
        wide = self._is_small and self._is_steep and turns > 0
        self.effort = Effort(
            ordinary=1 + len(terms),
            cloud=3,
            clouds=self._is_small * (3 if wide else 2),
            rounds=turns * wide,
            origins=3 * wide,
            returns=4,
            joined=0,
            corner_rows=4 * (self._is_small and self._is_steep),
            equal=1e-9,
            floor=1e-8,
            least=1e-2,
        )
        sizes = np.repeat([max(1, table.shape[1]) for table in tables], [p[1] for p in parts])
        self.spread = np.r_[1.0 / np.sqrt(sizes), np.full(self.n_correlations, _TURN)]

    @property
    def n_correlations(self) -> int:
        return sum(left.n_correlations for left in self._left)

    def _prepare(self) -> None:
        design, places, kappas, first = self._design, [], [], 0
        self._left = what_is_left(design.terms, self.limit)
        terms = tuple(map(_block_term, self._left))
        self._data = blocks.arrange(design.y, design.X, terms, variance=self._V)
        for left in self._left:
            middle = first + len(left.kept)
            places.append(np.arange(first, middle))
            first = middle + left.n_correlations
            kappas.append(np.arange(middle, first))
        # Where the coordinates' coefficients stand in the likelihood's.
        self._places = np.concatenate([*places, *kappas]).astype(np.intp)

    def allows(self, face: Face) -> bool:
        own = self._design.v > 0
        if own.all():
            return True
        for left in what_is_left(self._design.terms, face.limit):
            if len(left.term.groups) == len(own):
                own = own | ~left.zero[left.term.index, 0]
        return bool(own.all())

    def sizes(self, tau2: Array) -> Array:
        """The total variance of the rows of each effect, by its slope there."""
        terms, each = self._design.terms, self._of_groups(tau2)
        total = self._design.v + sum(
            (term.slopes**2 * values[term.index]).sum(axis=1)
            for term, values in zip(terms, each, strict=True)
        )
        found = []
        for term, used in zip(terms, self._used, strict=True):
            weight = np.zeros(used.shape)
            for k in range(used.shape[1]):
                np.maximum.at(weight[:, k], term.index, term.slopes[:, k] ** 2 / total)
            found.append(1.0 / weight[used])
        return np.concatenate(found)

    def _of_groups(self, values: Array) -> list[Array]:
        """Values (n,) of the effects as (G, s) of each term; 0 for those that no row has."""
        found, first = [], 0
        for used in self._used:
            each, count = np.zeros(used.shape), int(used.sum())
            each[used] = values[first : first + count]
            found.append(each)
            first += count
        return found

    def inside(self, natural: Array) -> Array:
        found = natural[self._places]
        q = len(self.forth)
        return np.concatenate([self.forth @ found[:q], found[q:]])

    def natural(self, rotated: Array) -> Array:
        """The inverse of `inside`, at a limit of what it leaves."""
        found, q = np.empty(self._data.q), len(self.back)
        found[self._places] = np.concatenate([self.back @ rotated[:q], rotated[q:]])
        return found

    def climb(self, starts: Array) -> list[Point]:
        return [self._climb(start) for start in starts]

    def reach(self, starts: Array) -> tuple[list[Point], Index]:
        """The same; what was reached before is not looked for."""
        return self.climb(starts), np.arange(len(starts))

    def _climb(self, start: Array) -> Point:
        kappa = {}
        for t, rho in self._held.items():
            left = self._left[t]
            kind = left.term.correlation
            pair = kind == "compound_symmetric" or left.effects[:2] == (0, 1)
            if len(left.effects) > 1 and kind != "none" and pair:
                kappa[self._first_kappa(t)] = kappa_of(rho, len(left.effects), kind)
        ascent = self._ascend(self.natural(start), kappa)
        beyond = self._beyond(ascent.alpha)
        if beyond:
            kappa |= beyond
            ascent = self._ascend(ascent.alpha, kappa)
        hessian, q = ascent.at.hessian, len(self.back)
        for place in kappa:
            hessian[place, place] = 0.0  # no information
        hessian = hessian[np.ix_(self._places, self._places)]
        hessian[:q] = self.back.T @ hessian[:q]
        hessian[:, :q] = hessian[:, :q] @ self.back
        here = self.inside(ascent.alpha)
        value = ascent.at.value if np.isfinite(ascent.at.value) else -np.inf
        return Point(
            surface=self,
            rotated=here,
            ordinary=here,
            hessian=hessian,
            value=value,
            beta=ascent.at.beta,
            vcov_location=ascent.at.covariance,
            converged=ascent.converged,
        )

    def _ascend(self, start: Array, kappa: Mapping[int, float]) -> blocks.Ascent:
        """Climb with these κ held, by their places."""
        held = np.isin(np.arange(self._data.q), list(kappa))
        start = start.copy()
        start[list(kappa)] = list(kappa.values())
        return blocks.ascend(
            start, self._data, method=self._method, tolerance=_TOLERANCE, held=held
        )

    def _first_kappa(self, t: int) -> int:
        return int(self._data.starts[t]) + len(self._left[t].kept)

    def _beyond(self, natural: Array) -> dict[int, float]:
        """κ at the least that the model allows, by its place, where fewer effects would allow less.

        A compound-symmetric ρ of s effects is above −1/(s − 1), and so is that of those which a
        limit leaves, though two of them alone could have any.
        """
        found = {}
        for t, left in enumerate(self._left):
            m, s = len(left.effects), len(left.term.effects)
            kind = left.term.correlation
            if kind == "compound_symmetric" and 1 < m < s and t not in self._held:
                least = kappa_of(-1 / (s - 1), m, kind)
                if natural[self._first_kappa(t)] < least:
                    found[self._first_kappa(t)] = least
        return found

    def first_starts(self, given: Sequence[Array]) -> Array:
        """The residual variance shared out among the terms several ways; steep; what was given."""
        starts = list(self._shared_out())
        if self._is_small:
            starts += list(starts[0] + self.steep_steps)
        return np.array([*starts, *given])

    def _shared_out(self) -> Iterator[Array]:
        design = self._design
        residuals = design.y - design.X @ np.linalg.lstsq(design.X, design.y, rcond=None)[0]
        n, p = design.X.shape
        total = float(np.mean(residuals**2)) * n / max(1, n - p)
        total = max(total, 1e-9 * float(np.mean(design.v + design.y**2)), 1e-100)
        spread = max(total - float(np.mean(design.v)), 0.05 * total)
        terms = len(design.terms)
        yield self._start(np.full(terms, spread / terms))
        for t in range(terms):
            yield self._start(spread * np.where(np.arange(terms) == t, 0.9, 0.1 / terms))
        if any(term.Z.shape[2] > 1 for term in design.terms):
            yield self._start(np.full(terms, spread / terms), residuals)

    def _start(self, levels: Array, residuals: Array | None = None) -> Array:
        """ln τ² of each term: constant, or that of each group's own residuals."""
        parts = []
        for term, used, level in zip(self._design.terms, self._used, levels, strict=True):
            offset = term.offsets[term.index]
            most = offset.max(axis=0)
            size = np.maximum(np.mean(term.slopes**2 * np.exp(offset - most), axis=0), 1e-300)
            target = np.broadcast_to(np.log(level / size) - most, used.shape)
            if residuals is not None:
                groups = len(term.groups)
                counts = np.maximum(np.bincount(term.index, minlength=groups), 1)
                overall = max(float(np.mean(residuals**2)), 1e-100)
                mean = np.bincount(term.index, residuals**2, groups) / counts / overall
                target = target + np.log(np.maximum(mean, 0.01))[:, None]
            parts.append(target[used])
        alpha = self.geometry.regress(np.concatenate(parts))
        return np.concatenate([alpha, np.zeros(self.n_correlations)])

    @cached_property
    def steep_steps(self) -> Array:
        """Steps that make ln τ² of one term steeper along one of its coefficients, both ways."""
        size = len(self.back) + self.n_correlations
        if not self._is_steep:
            return np.zeros((0, size))
        axes = [j for at in self._design.columns for j in range(at.start + 1, at.stop)]
        slopes = [sign * steep for steep in _STEEP for sign in (-1, 1)]
        return np.concatenate(
            [np.zeros((0, size)), *(slope * np.eye(size)[[j]] for j in axes for slope in slopes)]
        )


def _block_term(left: Left) -> BlockTerm:
    """What is left of a term, as the likelihood reads it."""
    term, effects = left.term, list(left.effects)
    return BlockTerm(
        term.index,
        term.Z[:, effects][:, :, list(left.kept)],
        np.where(left.zero[term.index], 0.0, term.slopes)[:, effects],
        term.correlation if len(effects) > 1 else "none",
        term.offsets[:, effects],
    )
