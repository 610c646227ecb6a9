"""The highest point of the likelihood of several scale terms, inside or where some of them vanish.

As in `search`, climbs start from several points inside, and wherever they stop with variances near
0, the limit in which those groups have none is climbed as well. A limit is a smaller model of the
same data: groups without variance leave their term, and so do the coefficients that go with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bayes_lsm.design.design import Design
from bayes_lsm.design.scale_terms import correlation_count
from bayes_lsm.likelihood.blocks import blocks
from bayes_lsm.likelihood.blocks.arrange import sampling_covariance
from bayes_lsm.likelihood.blocks.correlation_matrices import kappa_of
from bayes_lsm.reml.divergence import Cone, split_space
from bayes_lsm.reml.search.spots import Remaining, Spot, shares
from bayes_lsm.specification import Method

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_TOLERANCE = 1e-13
_EQUAL = 1e-9
# Log-likelihoods that differ by less (a likelihood ratio of 1.05) do not choose between two maxima.
_UNDECIDED = 0.05
# Share of a row's total variance of an effect that has lost its variance, when a climb has ended.
_VANISHED = 1e-6
# The share that is given back to an effect without variance, to see whether it loses it again, and
# below which it has.
_RETURNED, _PRESENT = 1e-2, 1e-3
# Share of a row's total variance below which an effect may be one without variance.
_SMALL_SHARES = (1e-1, 1e-2, 1e-4, 1e-6, 1e-8)
# Random starts, and how far from their centre they lie, in ln τ².
_CLOUD = (1.0, 3.0, 6.0)
# That many of the first starts have such a cloud, and limits are climbed from as many first climbs.
_CLOUDS = 3
# Slopes of the steep starts, in ln τ² for each SD of a coefficient's column.
_STEEP = (2.0, 5.0)
# Rounds of climbs from around the best point and from near so many limits.
_TURNS, _RETURNS = 3, 4
# With more coefficients no random starts.
_MANY = 12
# No variance at all, for its logarithm; and how far below the largest ln τ² a start may be.
_TINY, _LOWEST = 1e-300, np.log(1e8)
# A limit of a limit of …; each loses an effect.
_ROUNDS = 12


class BlocksSearch:
    """The search for the highest point of one log-likelihood.

    Parameters
    ----------
    design : Design
    method : {"REML", "ML"}
    held : mapping of int to float, optional
        Correlations that are not estimated, by the number of their term: that of its first two
        effects where the matrix is unstructured, that of all pairs where it is compound symmetric.
    turns : int, default 3
        Rounds of further climbs once a best point is known. With 0, for refits in their hundreds,
        there are fewer starts as well: twice as fast. Of sets that were simulated from
        fits of the nasty data of the simulated tests it misses the highest point of about 2%,
        and of 1 in 472 from `near` the fit's.
    near : sequence of ndarray, shape (m,), optional
        Further coefficients and κ to start from, such as `summits` of a search in similar data.

    Attributes
    ----------
    highest : Spot
    summits : tuple of ndarray, shape (m,)
        The highest point, the best, and the highest inside, as starts inside.
    inside : Spot
        The highest point at which every effect has a variance: where an ordinary optimiser stops.
    """

    def __init__(
        self,
        design: Design,
        method: Method,
        *,
        held: Mapping[int, float] | None = None,
        turns: int = _TURNS,
        near: Sequence[Array] = (),
    ) -> None:
        self._design, self._method, self._held = design, method, dict(held or {})
        self._turns = turns
        rows = [term.table for term in design.terms]
        self._cones, self._bases = [Cone(Z) for Z in rows], [np.linalg.qr(Z) for Z in rows]
        self._V = sampling_covariance(design)
        # With one coefficient for each effect there is hardly room for a second maximum.
        self._is_steep = any(
            len(term.names) > len(term.effects) or len(term.effects) > 1 for term in design.terms
        )
        self._is_wide = turns > 0 and self._is_steep
        self._spots: dict[tuple[bytes, ...], Spot] = {}
        whole = tuple(
            Remaining(np.zeros(term.Z.shape[:2], dtype=bool), tuple(range(term.Z.shape[2])))
            for term in design.terms
        )
        data = self._arrange(whole)
        climbs = [self._climb(whole, data, start) for start in (*self._starts(data), *near)]
        self._first = _distinct(climbs)
        home = max(climbs[: 1 + len(design.terms)], key=lambda spot: spot.value)
        self.inside = max(climbs, key=lambda spot: spot.value)
        self._spots[tuple(left.key for left in whole)] = self.inside
        self._follow(climbs)
        for t in range(len(design.terms)):
            self._without(self.inside, t)
        self._explore(whole, data)
        self.highest = self._highest(self._spots.values())
        self._ordinary = self._highest([home, *self._limits_of(home)])
        higher = self.highest.value - self._ordinary.value
        self._is_undecided = _slack(self.highest.value) < higher < _UNDECIDED

    @cached_property
    def best(self) -> Spot:
        """The highest point, or that which ordinary starts lead to if the data do not choose."""
        return self._settled(self._ordinary if self._is_undecided else self.highest)

    @cached_property
    def rival(self) -> Spot | None:
        """Then the highest."""
        return self._settled(self.highest) if self._is_undecided else None

    @property
    def summits(self) -> tuple[Array, ...]:
        """Starts for a search in similar data."""
        whole = self.inside.remaining
        found = {id(spot): spot for spot in (self.inside, self.best, self.highest)}
        return tuple(
            spot.ascent.alpha if spot.is_inside else self._restart(whole, spot)
            for spot in found.values()
        )

    def _explore(self, whole: tuple[Remaining, ...], data: blocks.Arranged) -> None:
        """Climb inside from around the best point and from near good limits, while that helps."""
        if data.q > _MANY or not self._is_wide:
            return
        random = np.random.default_rng(1)
        for _ in range(self._turns):
            before = self._highest(self._spots.values()).value
            good = sorted(self._spots.values(), key=lambda spot: -spot.value)[:_RETURNS]
            starts = [self._restart(whole, spot) for spot in good if not spot.is_inside]
            here = self.inside.ascent.alpha
            starts += [here + self._jumps(radius, random) for radius in _CLOUD]
            starts += [here + step for step in self._steep()]
            climbs = [self._climb(whole, data, start) for start in starts]
            best = max(climbs, key=lambda spot: spot.value)
            if best.value > self.inside.value:
                self.inside = best
                self._spots[tuple(left.key for left in whole)] = best
            highest = self._highest(self._spots.values())
            corners = [found for spot in (self.inside, highest) for found in self._corners(spot)]
            self._follow([*climbs, *corners])
            after = self._highest(self._spots.values()).value
            if after <= before + _slack(before):
                return

    def _arrange(self, remaining: tuple[Remaining, ...]) -> blocks.Arranged:
        """The model of what remains."""
        design = self._design
        terms = []
        for term, left in zip(design.terms, remaining, strict=True):
            effects = list(left.effects)
            slopes = np.where(left.zero[term.index], 0.0, term.slopes)[:, effects]
            terms.append(
                blocks.BlockTerm(
                    term.index,
                    term.Z[:, effects][:, :, list(left.kept)],
                    slopes,
                    term.correlation if len(effects) > 1 else "none",
                    term.offsets[:, effects],
                )
            )
        return blocks.arrange(design.y, design.X, tuple(terms), variance=self._V)

    def _climb(self, remaining: tuple[Remaining, ...], data: blocks.Arranged, start: Array) -> Spot:
        kappa = {}
        for t, rho in self._held.items():
            term, effects = data.terms[t], remaining[t].effects
            if term.correlation != "none" and (
                term.correlation == "compound_symmetric" or effects[:2] == (0, 1)
            ):
                place = int(data.starts[t]) + term.table.shape[2]
                kappa[place] = kappa_of(rho, len(effects), term.correlation)
        spot = self._ascend(remaining, data, start, kappa)
        beyond = self._beyond(spot)
        if not beyond:
            return spot
        return self._ascend(remaining, data, spot.ascent.alpha, {**kappa, **beyond})

    def _ascend(
        self,
        remaining: tuple[Remaining, ...],
        data: blocks.Arranged,
        start: Array,
        kappa: Mapping[int, float],
    ) -> Spot:
        """Climb with these κ held, by their places, which are given no information."""
        held = np.isin(np.arange(data.q), list(kappa))
        start = start.copy()
        start[list(kappa)] = list(kappa.values())
        ascent = blocks.ascend(start, data, method=self._method, tolerance=_TOLERANCE, held=held)
        if kappa:
            hessian = np.where(np.diag(held), 0.0, ascent.at.hessian)
            ascent = replace(ascent, at=replace(ascent.at, hessian=hessian))
        return Spot(remaining, data, ascent)

    def _beyond(self, spot: Spot) -> dict[int, float]:
        """κ at the least that the model allows, by its place, where fewer effects would allow less.

        A compound-symmetric ρ of s effects is above −1/(s − 1), and so is that of those which a
        limit leaves, though two of them alone could have any.
        """
        found = {}
        for t, (term, left) in enumerate(zip(self._design.terms, spot.remaining, strict=True)):
            m, s = len(left.effects), len(term.effects)
            if term.correlation == "compound_symmetric" and 1 < m < s and t not in self._held:
                least = kappa_of(-1 / (s - 1), m, term.correlation)
                place = int(spot.data.starts[t]) + spot.data.terms[t].table.shape[2]
                if spot.ascent.alpha[place] < least:
                    found[place] = least
        return found

    def _starts(self, data: blocks.Arranged) -> Iterator[Array]:
        """Starting values: the residual variance shared out among the terms in several ways."""
        design = self._design
        residuals = design.y - design.X @ np.linalg.lstsq(design.X, design.y, rcond=None)[0]
        total = (
            float(np.mean(residuals**2)) * len(design.y) / max(1, len(design.y) - design.X.shape[1])
        )
        total = max(total, 1e-9 * float(np.mean(design.v + design.y**2)), 1e-100)
        spread = max(total - float(np.mean(design.v)), 0.05 * total)
        terms = len(design.terms)
        shares = [np.full(terms, 1.0 / terms)]
        shares += [np.where(np.arange(terms) == t, 0.9, 0.1 / terms) for t in range(terms)]
        starts = [self._start(spread * share, residuals, own=False) for share in shares]
        if any(term.Z.shape[2] > 1 for term in design.terms):
            starts.append(self._start(spread * shares[0], residuals, own=True))
        yield from starts
        if data.q > _MANY:
            return
        if self._is_steep:
            yield from (starts[0] + step for step in self._steep())
        random = np.random.default_rng(0)
        for start in starts[: _CLOUDS if self._is_wide else 1]:
            yield from (start + self._jumps(radius, random) for radius in _CLOUD)

    def _steep(self) -> Iterator[Array]:
        """Steps that make ln τ² of one term steeper along one of its coefficients, both ways."""
        sizes = [
            len(R) + term.n_correlations
            for term, (_, R) in zip(self._design.terms, self._bases, strict=True)
        ]
        first = 0
        for (Q, R), size in zip(self._bases, sizes, strict=True):
            for j in range(1, len(R)):
                step = np.zeros(sum(sizes))
                direction = np.sqrt(len(Q)) * np.eye(len(R))[j]
                step[first : first + len(R)] = np.linalg.solve(R, direction)
                yield from (slope * step for steep in _STEEP for slope in (-steep, steep))
            first += size

    def _jumps(self, radius: float, random: np.random.Generator) -> Array:
        """A random step in all terms."""
        terms = range(len(self._design.terms))
        return np.concatenate([self._jump(t, radius, random) for t in terms])

    def _start(self, levels: Array, residuals: Array, *, own: bool) -> Array:
        """ln τ² of each term: constant, or (`own`) that of each group's own residuals."""
        parts = []
        overall = max(float(np.mean(residuals**2)), 1e-100)
        for term, level, (Q, R) in zip(self._design.terms, levels, self._bases, strict=True):
            offset = term.offsets[term.index]
            most = offset.max(axis=0)
            size = np.maximum(np.mean(term.slopes**2 * np.exp(offset - most), axis=0), 1e-300)
            target = np.broadcast_to(np.log(level / size) - most, term.Z.shape[:2])
            if own:
                groups = len(term.groups)
                counts = np.maximum(np.bincount(term.index, minlength=groups), 1)
                mean = np.bincount(term.index, residuals**2, groups) / counts / overall
                target = target + np.log(np.maximum(mean, 0.01))[:, None]
            alpha = np.linalg.solve(R, Q.T @ target.reshape(-1))
            parts.append(np.r_[alpha, np.zeros(term.n_correlations)])
        return np.concatenate(parts)

    def _jump(self, t: int, radius: float, random: np.random.Generator) -> Array:
        """A random step that changes ln τ² of the term's effects by about `radius`."""
        term = self._design.terms[t]
        Q, R = self._bases[t]
        step = radius * random.normal(size=len(R)) * np.sqrt(len(Q) / max(1, len(R)))
        correlations = term.n_correlations
        return np.concatenate([np.linalg.solve(R, step), 0.3 * random.normal(size=correlations)])

    def _follow(self, spots: Sequence[Spot]) -> None:
        """Climb the limits that these points are near to, and the limits of those."""
        todo = _distinct(spots)
        for _ in range(_ROUNDS):
            found = [limit for spot in todo for limit in self._limits_near(spot)]
            todo = _distinct(found)
            if not todo:
                return

    def _corners(self, spot: Spot) -> Iterator[Spot]:
        """Climb the limits in which of one term the groups farthest out alone keep a variance."""
        for t, term in enumerate(self._design.terms):
            for j in range(len(term.names)):
                column = term.Z[:, :, j]
                for extreme in {column[term.used].min(), column[term.used].max()}:
                    limit = self._limit(t, column == extreme, spot.remaining[t])
                    if limit is not None:
                        remaining = (*spot.remaining[:t], limit, *spot.remaining[t + 1 :])
                        yield from self._try(remaining, spot)

    def _limits_near(self, spot: Spot) -> Iterator[Spot]:
        found = shares(self._design, spot)
        for threshold in _SMALL_SHARES:
            remaining = list(spot.remaining)
            changed = False
            for t, share in enumerate(found):
                free = (share >= threshold) & ~spot.remaining[t].zero
                limit = self._limit(t, free, spot.remaining[t])
                if limit is not None:
                    remaining[t], changed = limit, True
            if changed:
                yield from self._try(tuple(remaining), spot)

    def _limit(self, t: int, free: Mask, now: Remaining) -> Remaining | None:
        """Term t with variance in the effects `free` and in those that cannot lose it."""
        if free.all() or (free | now.zero).all() or not self._design.terms[t].names:
            return None
        limit = self._cones[t].limit(free.reshape(-1))
        if limit is None:
            return None
        zero, unused = limit.zero.reshape(free.shape), ~self._design.terms[t].used
        zero = zero | (unused & (zero | unused).all(axis=0))
        return None if np.array_equal(zero, now.zero) else Remaining(zero, limit.kept)

    def _without(self, spot: Spot, t: int) -> None:
        """Climb the limit in which the whole of a term has no variance."""
        nothing = self._limit(t, np.zeros_like(spot.remaining[t].zero), spot.remaining[t])
        if nothing is None or not nothing.zero.all():
            return
        remaining = (*spot.remaining[:t], nothing, *spot.remaining[t + 1 :])
        self._follow(list(self._try(remaining, spot)))

    def _try(self, remaining: tuple[Remaining, ...], origin: Spot) -> Iterator[Spot]:
        key = tuple(left.key for left in remaining)
        if key in self._spots or not _has_variance(self._design, remaining):
            return
        data = self._arrange(remaining)
        starts = [self._restart(remaining, origin)]
        if data.q <= _MANY and self._is_wide:
            starts += [self._restart(remaining, other) for other in self._first[:_CLOUDS]]
        climbs = [self._climb(remaining, data, start) for start in starts]
        spot = max(climbs, key=lambda each: each.value)
        self._spots[key] = spot
        yield spot

    def _restart(self, remaining: tuple[Remaining, ...], origin: Spot) -> Array:
        """α of what remains, near to where the climb came from."""
        parts = []
        for term, left, tau2 in zip(self._design.terms, remaining, origin.tau2, strict=True):
            if left.zero.all():
                continue
            rows = term.table[~left.zero.reshape(-1)][:, list(left.kept)]
            every = np.log(tau2 + _TINY) - term.offsets
            # Not far below the largest of the origin, also where the limit takes that one away.
            target = np.maximum(every[~left.zero], every.max() - _LOWEST)
            alpha = np.linalg.lstsq(rows, target, rcond=None)[0]
            kappa = np.zeros(correlation_count(len(left.effects), term.correlation))
            parts.append(np.r_[alpha, kappa])
        return np.concatenate(parts or [np.zeros(0)])

    def _limits_of(self, spot: Spot) -> Iterator[Spot]:
        """The limits that a point inside is on its way to."""
        vanished = [share < _VANISHED for share in shares(self._design, spot)]
        for limit in list(self._spots.values()):
            if not limit.is_inside and all(
                gone[left.zero].all() for gone, left in zip(vanished, limit.remaining, strict=True)
            ):
                yield limit

    def _settled(self, spot: Spot) -> Spot:
        """The limit that a point is at all but rounding; and of a limit, what the data ask for."""
        vanished = [share < _VANISHED for share in shares(self._design, spot)]
        limits = list(spot.remaining)
        for t, (gone, left) in enumerate(zip(vanished, spot.remaining, strict=True)):
            if (gone & self._design.terms[t].used & ~left.zero).any():
                limits[t] = self._limit(t, ~(gone | left.zero), left) or left
        remaining = tuple(limits)
        if remaining != spot.remaining and _has_variance(self._design, remaining):
            start = self._restart(remaining, spot)
            found = self._climb(remaining, self._arrange(remaining), start)
            spot = found if found.value >= spot.value - _slack(spot.value) else spot
        return self._informed(spot)

    def _informed(self, spot: Spot) -> Spot:
        """The same, with the variances that only seem to be gone put back.

        Where the likelihood does not depend on a variance, it has the same value without it. So all
        that a limit took is given back, a little of it, and climbed from: what the data send to 0
        returns there, and what stays away from it at no loss they say nothing of.
        """
        if spot.is_inside or not np.isfinite(spot.value):
            return spot
        whole = self.inside.remaining
        back = self._climb(whole, self._arrange(whole), self._return(spot))
        gone = [
            left.zero & (share < _PRESENT)
            for left, share in zip(spot.remaining, shares(self._design, back), strict=True)
        ]
        same = all(
            np.array_equal(zero, left.zero) for zero, left in zip(gone, spot.remaining, strict=True)
        )
        if same or back.value < spot.value - _slack(spot.value):
            return spot
        pairs = zip(whole, gone, strict=True)
        limits = [self._limit(t, ~zero, all_) or all_ for t, (all_, zero) in enumerate(pairs)]
        if any((zero & ~left.zero).any() for zero, left in zip(gone, limits, strict=True)):
            return spot  # what is not known goes along with what is gone
        remaining = tuple(limits)
        if not any(left.zero.any() for left in remaining):
            return back
        found = self._climb(remaining, self._arrange(remaining), self._restart(remaining, back))
        return found if found.value >= spot.value - _slack(spot.value) else spot

    def _return(self, spot: Spot) -> Array:
        """A start inside next to a limit: what it took has a small share of the variance."""
        design, parts = self._design, []
        total = design.v + sum(
            (term.slopes**2 * tau2[term.index]).sum(axis=1)
            for term, tau2 in zip(design.terms, spot.tau2, strict=True)
        )
        for term, left, tau2, both in zip(
            design.terms, spot.remaining, spot.tau2, spot.coefficients, strict=True
        ):
            weight = np.full(left.zero.shape, 1e-300)
            for k in range(weight.shape[1]):
                np.maximum.at(weight[:, k], term.index, term.slopes[:, k] ** 2 / total)
            kept, lost = term.used & ~left.zero, term.used & left.zero
            alpha = both[0]
            if lost.any():
                stay, move = split_space(term.Z[kept], len(term.names))
                here = np.log(tau2[kept] + _TINY) - term.offsets[kept]
                alpha = stay @ np.linalg.lstsq(term.Z[kept] @ stay, here)[0]
                rest = np.log(_RETURNED / weight[lost]) - term.offsets[lost] - term.Z[lost] @ alpha
                alpha = alpha + move @ np.linalg.lstsq(term.Z[lost] @ move, rest)[0]
            same = len(both[1]) == term.n_correlations
            kappa = both[1] if same else np.zeros(term.n_correlations)
            parts.append(np.r_[alpha, kappa])
        return np.concatenate(parts)

    def _highest(self, spots: Iterable[Spot]) -> Spot:
        """The highest point; of equal ones, that with most effects without variance."""
        spots = list(spots)
        top = max(spot.value for spot in spots)
        equal = [spot for spot in spots if spot.value >= top - _slack(top)]
        return max(equal, key=lambda spot: sum(int(left.zero.sum()) for left in spot.remaining))


def _slack(value: float) -> float:
    return _EQUAL * max(1.0, abs(value))


def _has_variance(design: Design, remaining: Sequence[Remaining]) -> bool:
    """Whether every row keeps a variance of its own."""
    if (design.v > 0).all():
        return True
    own = design.v > 0
    for term, left in zip(design.terms, remaining, strict=True):
        if len(term.groups) == len(design.y):
            own = own | ~left.zero[term.index, 0]
    return bool(own.all())


def _distinct(spots: Sequence[Spot]) -> list[Spot]:
    """One of the points that are the same."""
    return list({round(spot.value, 6): spot for spot in spots if np.isfinite(spot.value)}.values())
