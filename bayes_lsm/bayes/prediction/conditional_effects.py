r"""The effects of all groups given the draws and the data: exact.

Rows and effects that have to do with each other form a block (`effect_blocks`). With its effects
u = T w, w ~ Normal(0, I), its rows' multipliers A, and N what no two rows share,

    r = y − Xβ = A u + Normal(0, N),   w | r ~ Normal( K⁻¹b, K⁻¹ ),
    K = I + T'A'N⁻¹A T,   b = T'A'N⁻¹r

for each draw of β, α and the correlations. Where V is diagonal, the effect e of a row that has one
of its own, multiplied by a, is in N = v + a²τ²:

    e | u, r  ~  Normal( q (r − A u), v τ² / N ),   q = a τ² / N

so where effects are independent all is in closed form. Of Student-t effects τ² is divided by the
weight λ of the row, which is drawn from what the data say of it (`effect_family`).

The same pieces make new data of the model, and standardise residuals (`ConditionalEffects.unfold`);
of Student-t effects, which are those of single rows, residuals have no normal root, and are drawn
and scored row by row.

Whatever is asked of the effects is a linear combination of them. Nothing is larger than a block,
for so many draws at a time as keep it small; rows that share nothing are taken some at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from bayes_lsm.arrays import Array, Index
from bayes_lsm.bayes.draws import Draws, row_blocks
from bayes_lsm.bayes.pointwise_likelihood import normal_scores
from bayes_lsm.bayes.prediction.effect_family import EffectFamily, family_of
from bayes_lsm.bayes.pymc_model.effect_blocks import (
    EffectBlock,
    effect_starts,
    factor_starts,
    list_blocks,
)
from bayes_lsm.bayes.student.effects import sample_effects, student_log_likelihood
from bayes_lsm.bayes.term_draws import TermDraws, split_terms
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_factors
from bayes_lsm.links import tau2_from_log


@dataclass(frozen=True, eq=False)
class _Own:
    """The scale term whose groups are single rows: the effect of each row, and its multiplier."""

    effect: Index
    multiplier: Array


@dataclass(frozen=True, eq=False)
class _Given:
    """A block given some draws (S of them): r (n, S), T and K (S, m, m), and b (S, m)."""

    residual: Array
    T: Array
    K: Array
    b: Array


@dataclass(frozen=True, eq=False)
class ConditionalEffects:
    """The posterior of the effects of a fit's groups, numbered over all scale terms.

    Group g's effect k of a term with s effects a group is the term's number g·s + k; see
    `effect_blocks.effect_starts` for where terms begin.
    """

    design: Design
    draws: Draws

    @cached_property
    def terms(self) -> dict[str, TermDraws]:
        """The draws of each scale term."""
        return split_terms(self.design, self.draws)

    @cached_property
    def family(self) -> EffectFamily:
        """How the effects are distributed."""
        return family_of(self.design, self.draws)

    @cached_property
    def starts(self) -> list[int]:
        """The number of each term's first effect; the last is how many there are."""
        return effect_starts(self.design)

    @cached_property
    def _listed(self) -> tuple[list[EffectBlock], tuple[tuple[Index, Array], ...]]:
        return list_blocks(self.design)

    @cached_property
    def _own(self) -> _Own | None:
        """There is one such term at most: two could not be told apart."""
        for effect, _ in self._listed[1]:
            t = int(np.searchsorted(self.starts, effect[0], side="right")) - 1
            return _Own(effect, self.design.terms[t].slopes[:, 0])
        return None

    @cached_property
    def _blocks(self) -> list[EffectBlock]:
        """All blocks; the last have the rows without effects that others share."""
        design = self.design
        listed = self._listed[0]
        alone = np.ones(len(design.y), dtype=bool)
        for block in listed:
            alone[block.rows] = False
        rows, none = np.flatnonzero(alone), np.empty(0, dtype=np.intp)
        last = [
            EffectBlock(each, none, np.empty((len(each), 0)), np.empty((0, 0), np.intp), None)
            for each in (rows[some] for some in row_blocks(len(rows), self.draws.size))
        ]
        return [*listed, *last]

    @cached_property
    def owner(self) -> Index:
        """The block of each effect."""
        owner = np.zeros(self.starts[-1], dtype=np.intp)
        of_row = np.zeros(len(self.design.y), dtype=np.intp)
        for j, block in enumerate(self._blocks):
            owner[block.effects], of_row[block.rows] = j, j
        if self._own is not None:
            owner[self._own.effect] = of_row
        return owner

    def combine(self, combination: sparse.csr_array) -> tuple[Array, Array]:
        """Means and variances (R, S) of combinations (R, effects) of the effects, by draw."""
        row, effect = combination.tocoo().coords
        owner = self.owner[effect]
        mean, variance = np.zeros((2, combination.shape[0], self.draws.size))
        for j in np.unique(owner):
            rows = np.unique(row[owner == j])
            block, part = self._blocks[j], combination[rows]
            for draws in self._draws_at_a_time(block, len(rows)):
                centre, spread = self._combine_within(block, part, draws)
                mean[rows, draws] += centre
                variance[rows, draws] += spread
        return mean, variance

    def loadings(
        self, groups: Mapping[str, Index], slopes: Mapping[str, Array] | None = None
    ) -> sparse.csr_array:
        """Rows (m, effects) of what the effects of known groups are multiplied by.

        `groups` has the group of each row (m,), of the scale terms that are in it, and `slopes` the
        multipliers (m, s), by default those of the data.
        """
        rows, columns, values = [], [], []
        for (name, each), start in zip(self.terms.items(), self.starts, strict=False):
            if name in groups:
                multipliers = each.term.slopes if slopes is None else slopes[name]
                row, effect = np.nonzero(multipliers)
                rows.append(row)
                columns.append(start + groups[name][row] * multipliers.shape[1] + effect)
                values.append(multipliers[row, effect])
        size = len(next(iter(groups.values())))
        places = (np.concatenate(rows), np.concatenate(columns))
        return sparse.csr_array((np.concatenate(values), places), shape=(size, self.starts[-1]))

    def draw_rows(self, chosen: frozenset[str], rng: np.random.Generator) -> Array:
        """One draw (S, n) for each draw of the fit of Σ_l a_i'u_l, over the terms chosen.

        Rows are drawn together: what they share is the same.
        """
        drawn = np.zeros((self.draws.size, len(self.design.y)))
        kept = self._of_terms(chosen)
        for block in self._blocks:
            weights = self.family.given_weights(block.rows, rng)
            for draws in self._draws_at_a_time(block, 1):
                given = self._given(block, draws)
                z = rng.standard_normal(given.b.shape)[..., None]
                root = np.linalg.cholesky(given.K)
                w = np.linalg.solve(given.K, given.b[..., None])
                w = w + np.linalg.solve(np.swapaxes(root, 1, 2), z)
                u = (given.T @ w)[..., 0]
                drawn[draws, block.rows] = (u * kept[block.effects]) @ block.multipliers.T
                if self._own is not None:
                    own = self._own.effect[block.rows]
                    q, spread = self._of_own(self._own, block.rows, weights[:, draws], draws)
                    left = given.residual - block.multipliers @ u.T
                    e = q * left + np.sqrt(spread) * rng.standard_normal(q.shape)
                    loads = kept[own] * self._own.multiplier[block.rows]
                    drawn[draws, block.rows] += (loads[:, None] * e).T
        return drawn

    def standardise(self, residuals: Array) -> Array:
        """z = C⁻¹r of residuals r (S, n), one row for each draw of the fit; see `unfold`.

        Of Student-t effects the normal score of each row's distribution.
        """
        if self.draws.df is None:
            return self._transform(residuals, -0.5)
        draws = self.draws
        log_tau2 = draws.flat_scale @ self.design.Z.T
        return normal_scores(residuals, self.design.v, log_tau2, draws.flat_df)

    def new_residuals(self, rng: np.random.Generator) -> Array:
        """r (S, n) of new groups as large as the observed ones, one set for each draw."""
        shape = (self.draws.size, len(self.design.y))
        if self.draws.df is None:
            return self.unfold(rng.standard_normal(shape))
        tau2 = tau2_from_log(self.draws.flat_scale @ self.design.Z.T)
        return sample_effects(np.zeros(shape), self.design.v, tau2, self.draws.flat_df, rng)

    def unfold(self, z: Array) -> Array:
        """r = Cz of standard normal z (S, n): normal with the covariance Σ = CC' of the draw.

        With Σ = N^½(I + BB')N^½ and B = N^−½AT, C is N^½(I + BB')^½ in symmetric roots. So z does
        not hang on the order of the rows, and of a row without others in its block it is r/√Σ.
        """
        return self._transform(z, 0.5)

    def _transform(self, values: Array, power: float) -> Array:
        found = np.empty_like(values)
        for block in (each for each in self._blocks if len(each.rows)):
            for draws in self._draws_at_a_time(block, len(block.rows)):
                noise = self._noise(block, draws, power)
                B = self._noise(block, draws, -0.5)(block.multipliers) @ self._factors(block, draws)
                x = values[draws][:, block.rows, None]
                if power < 0:
                    x = noise(x)
                transposed = np.swapaxes(B, 1, 2)
                size, Q = np.linalg.eigh(transposed @ B)
                size = np.maximum(size, np.finfo(float).tiny)
                change = np.expm1(power * np.log1p(size)) / size
                along = np.swapaxes(Q, 1, 2) @ (transposed @ x)
                x = x + B @ (Q @ (change[..., None] * along))
                if power > 0:
                    x = noise(x)
                found[draws, block.rows] = x[..., 0]
        return found

    def scores_in_order(self) -> tuple[Array, Array]:
        """Each row given those before it: normal score and log density (S, n) under each draw.

        The rows of a block are taken in one by one, and w and its covariance P given them kept:
        z = (x − a'w)/√(1 + a'Pa), where x is a residual of V or N made independent of variance 1,
        and a its row of B.
        """
        if self.draws.df is not None:
            beta, alpha, df = self.draws.flat_location, self.draws.flat_scale, self.draws.flat_df
            own = student_log_likelihood(self.design, beta, alpha, df)
            return self.standardise(self.design.y - beta @ self.design.X.T), own
        score, log_density = np.empty((2, self.draws.size, len(self.design.y)))
        for block in (each for each in self._blocks if len(each.rows)):
            for draws in self._draws_at_a_time(block, len(block.rows)):
                x, B, log_root = self._independent(block, draws)
                size, n, m = B.shape
                w, P = np.zeros((size, m)), np.tile(np.eye(m), (size, 1, 1))
                for i in range(n):
                    a = B[:, i]
                    Pa = np.einsum("kij,kj->ki", P, a)
                    variance = 1.0 + np.sum(a * Pa, axis=1)
                    error = x[:, i] - np.sum(a * w, axis=1)
                    w += Pa * (error / variance)[:, None]
                    P -= Pa[:, :, None] * (Pa / variance[:, None])[:, None]
                    score[draws, block.rows[i]] = error / np.sqrt(variance)
                    log_density[draws, block.rows[i]] = -0.5 * np.log(variance) - log_root[:, i]
        return score, log_density - 0.5 * (score**2 + np.log(2 * np.pi))

    def log_densities_given_others(self) -> Array:
        """ln p(y_i | y_−i) of each row given all other rows (S, n), under each draw.

        With g = Σ⁻¹r and c the diagonal of Σ⁻¹ it is that of a normal distribution with mean
        y_i − g_i/c_i and variance 1/c_i (Bürkner, Gabry & Vehtari 2021,
        doi:10.1007/s00180-020-01045-4).
        """
        found = np.empty((self.draws.size, len(self.design.y)))
        for block in (each for each in self._blocks if len(each.rows)):
            for draws in self._draws_at_a_time(block, len(block.rows)):
                g, c = self._inverse(block, draws)
                found[draws, block.rows] = 0.5 * (np.log(c / (2 * np.pi)) - g**2 / c)
        return found

    def _inverse(self, block: EffectBlock, draws: slice) -> tuple[Array, Array]:
        """Σ⁻¹r and the diagonal of Σ⁻¹ of a block's rows, shape (S, n) each."""
        given, noise = self._given(block, draws), self._noise(block, draws, -1.0)
        g = noise(given.residual.T[..., None])
        if block.covariance is None:
            c = 1.0 / self._row_noise(block.rows, draws).T
        else:
            c = np.diag(np.linalg.inv(block.covariance))[None]
        if given.b.shape[1]:
            weighted = noise(block.multipliers) @ given.T
            solved = np.linalg.solve(
                given.K, np.concatenate([np.swapaxes(weighted, 1, 2), given.b[..., None]], axis=2)
            )
            g = g - weighted @ solved[..., -1:]
            c = c - np.sum(weighted * np.swapaxes(solved[..., :-1], 1, 2), axis=2)
        return g[..., 0], c

    def _independent(self, block: EffectBlock, draws: slice) -> tuple[Array, Array, Array]:
        """L⁻¹r (S, n) and L⁻¹AT (S, n, m) with N = LL', L lower triangular, and ln L_ii (·, n)."""
        design, rows = self.design, block.rows
        residual = design.y[rows] - self.draws.flat_location[draws] @ design.X[rows].T
        T = self._factors(block, draws)
        if block.covariance is None:
            root = np.sqrt(self._row_noise(rows, draws)).T
            return residual / root, block.multipliers / root[..., None] @ T, np.log(root)
        L = np.linalg.cholesky(block.covariance)
        x = np.linalg.solve(L, residual.T).T
        return x, np.linalg.solve(L, block.multipliers) @ T, np.log(np.diag(L))[None]

    def _noise(self, block: EffectBlock, draws: slice, power: float) -> Callable[[Array], Array]:
        """Multiply columns (S, n, c) by N^power."""
        if block.covariance is None:
            root = (self._row_noise(block.rows, draws).T ** power)[..., None]
            return lambda columns: np.asarray(root * columns)
        size, Q = np.linalg.eigh(block.covariance)
        V = (Q * size**power) @ Q.T
        return lambda columns: np.asarray(V @ columns)

    def _of_terms(self, chosen: frozenset[str]) -> Array:
        """1 for the effects of some terms, 0 for those of others."""
        kept = np.zeros(self.starts[-1])
        for term, start in zip(self.design.terms, self.starts, strict=False):
            kept[start : start + len(term.groups) * len(term.effects)] = term.name in chosen
        return kept

    def _draws_at_a_time(self, block: EffectBlock, combined: int) -> Iterator[slice]:
        n, m = block.multipliers.shape
        width = max(m * (m + combined), n * (m + 1), combined)
        return row_blocks(self.draws.size, width)

    def _combine_within(
        self, block: EffectBlock, combination: sparse.csr_array, draws: slice
    ) -> tuple[Array, Array]:
        """The part of `combine` that the effects of one block have: (R, S) each."""
        given = self._given(block, draws)
        size, m = given.b.shape
        shared = combination[:, block.effects].toarray()
        loads = np.repeat(shared[:, None], size, axis=1)  # (R, S, m)
        mean, variance = np.zeros((2, combination.shape[0], size))
        if self._own is not None:
            part = combination[:, self._own.effect[block.rows]]
            used = np.unique(part.indices)
            part = part[:, used]
            weights = self.family.given_weights(block.rows, None)[used, draws]
            q, spread = self._of_own(self._own, block.rows[used], weights, draws)
            mean += part @ (q * given.residual[used])
            variance += part.power(2) @ spread
            if m:
                (pair, row), c = part.tocoo().coords, part.data[:, None]
                rows = block.multipliers[used[row], None]
                np.subtract.at(loads, pair, (c * q[row])[:, :, None] * rows)
        if m:
            right = np.swapaxes(np.swapaxes(loads, 0, 1) @ given.T, 1, 2)  # (S, m, R)
            solved = np.linalg.solve(given.K, np.concatenate([right, given.b[..., None]], axis=2))
            mean += (np.swapaxes(right, 1, 2) @ solved[..., -1:])[..., 0].T
            variance += np.sum(right * solved[..., :-1], axis=1).T
        return mean, np.maximum(variance, 0.0)

    def _given(self, block: EffectBlock, draws: slice) -> _Given:
        design, beta = self.design, self.draws.flat_location[draws]
        rows, A = block.rows, block.multipliers
        residual = design.y[rows, None] - design.X[rows] @ beta.T
        T = self._factors(block, draws)
        if block.covariance is not None:
            weighted = np.linalg.solve(block.covariance, A)[None]  # (1, n, m)
        elif self._own is not None:
            weighted = A / self._row_noise(rows, draws).T[:, :, None]
        else:
            weighted = (A / design.v[rows, None])[None]
        information = np.swapaxes(weighted, 1, 2) @ A
        b = (np.swapaxes(weighted, 1, 2) @ residual.T[:, :, None])[..., 0]
        transposed = np.swapaxes(T, 1, 2)
        K = np.eye(A.shape[1]) + transposed @ information @ T
        return _Given(residual, T, K, (transposed @ b[..., None])[..., 0])

    def _factors(self, block: EffectBlock, draws: slice) -> Array:
        """T, the factor of the covariance of a block's effects, shape (S, m, m)."""
        tau = np.sqrt(self._tau2(block.effects, draws)).T
        terms = self.terms.values()
        starts = factor_starts(self.design.terms)
        size = len(tau)
        pool = [np.zeros((size, 1)), np.ones((size, 1))]
        pool += [
            correlation_factors(
                each.kappa[draws], len(each.term.effects), each.term.correlation
            ).reshape(size, -1)
            for each, start in zip(terms, starts, strict=True)
            if start >= 0
        ]
        return np.asarray(tau[:, :, None] * np.concatenate(pool, axis=1)[:, block.factor])

    def _tau2(self, effects: Index, draws: slice) -> Array:
        """τ² of some effects, shape (m, S)."""
        of_term = np.searchsorted(self.starts, effects, side="right") - 1
        found = np.empty((len(effects), len(range(self.draws.size)[draws])))
        for t, each in enumerate(self.terms.values()):
            here = of_term == t
            if here.any():
                found[here] = tau2_from_log(each.log_tau2(effects[here] - self.starts[t], draws))
        return found

    def _row_noise(self, rows: Index, draws: slice) -> Array:
        """N of some rows, shape (rows, S)."""
        own = self._own
        if own is None:
            return np.repeat(self.design.v[rows, None], len(range(self.draws.size)[draws]), axis=1)
        square = own.multiplier[rows, None] ** 2
        return self.design.v[rows, None] + square * self._tau2(own.effect[rows], draws)

    def _of_own(self, own: _Own, rows: Index, weights: Array, draws: slice) -> tuple[Array, Array]:
        """q and v τ² / N of the effects that are some rows' own, shape (rows, S) each."""
        tau2, v = self._tau2(own.effect[rows], draws) / weights, self.design.v[rows, None]
        multiplier = own.multiplier[rows, None]
        ratio = tau2 / (v + multiplier**2 * tau2)
        return multiplier * ratio, v * ratio
