"""The likelihood of independent effects, each with a τ² of its own, behind the common seam."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from bayes_lsm.arrays import Array, Index, Mask
from bayes_lsm.design.clusters import sum_by_cluster
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.protocol import Climbs, Criterion, Evaluation, Locations, NormalPrior
from bayes_lsm.likelihood.rows import closed_form
from bayes_lsm.likelihood.rows.row_deletion import RowDeletion
from bayes_lsm.links import tau2_from_log
from bayes_lsm.specification import Method

# A row's weight, relative to the largest, below which X'WX might become singular.
_SMALLEST_WEIGHT = 1e-10
# Numbers in the largest table of weights.
_LARGEST_TABLE = 2_000_000


@dataclass(frozen=True, eq=False)
class DiagonalCovariance:
    """Σ of independent effects, by their `variances` (n,); see `Covariance`."""

    variances: Array

    def solve(self, right: Array) -> Array:
        return (right.T / self.variances).T

    def explained(self, left: Any) -> Array:
        return np.asarray((1.0 / self.variances) @ sparse.csr_array(left).power(2))

    def draw(self, sets: int, rng: np.random.Generator) -> Array:
        return rng.normal(size=(sets, len(self.variances))) * np.sqrt(self.variances)

    def whiten(self, right: Array) -> Array:
        return (right.T / np.sqrt(self.variances)).T

    def unwhiten(self, right: Array) -> Array:
        return (right.T * np.sqrt(self.variances)).T

    @property
    def matrix(self) -> sparse.csr_array:
        return sparse.csr_array(sparse.diags_array(self.variances))


@dataclass(frozen=True, eq=False)
class Rows:
    """The normal likelihood of a design of independent effects; see `Likelihood`.

    `gone` (n,) are rows whose τ² is held at 0.
    """

    design: Design
    gone: Mask | None = None

    @property
    def cost(self) -> float:
        return len(self.design.y)

    def evaluate(self, alpha: Array, criterion: Criterion) -> Evaluation:
        design = self.design
        if isinstance(criterion, NormalPrior):
            raise FitError("the rows' likelihood with β integrated out has values only")
        return closed_form.evaluate(
            alpha,
            design.y,
            design.v,
            design.X,
            design.Z,
            method=criterion,
            zero=self.gone,
            identity=self._is_identity,
        )

    def values(self, alphas: Array, criterion: Criterion) -> Array:
        design = self.design
        if isinstance(criterion, NormalPrior):
            return np.asarray(self._integrated(criterion).log_marginal(alphas))
        y, v, X = design.y, design.v, design.X
        return np.array(
            [
                closed_form.log_likelihood(y, v, X, tau2, method=criterion)
                for tau2 in self._tau2(alphas)
            ]
        )

    def information(self, alpha: Array, method: Method) -> Array:
        """Expected information ½ tr(P V_j P V_k) at α, shape (q, q); ½ tr(W V_j W V_k) for ML."""
        design = self.design
        return closed_form.expected_information(alpha, design.v, design.X, design.Z, method=method)

    def locations(self, alphas: Array) -> Locations:
        """Weighted least squares at each row of alphas (m, q)."""
        design, (m, (n, p)) = self.design, (len(alphas), self.design.X.shape)
        # In orthonormal coordinates of X the normal equations keep their digits.
        back = np.linalg.solve(np.linalg.qr(design.X, mode="r"), np.eye(p))
        X = design.X @ back
        XX = (X[:, :, None] * X[:, None, :]).reshape(n, p * p)
        Xy = X * design.y[:, None]
        found = Locations(np.empty((m, p)), np.empty((m, p, p)), np.empty(m))
        for here in np.array_split(np.arange(m), min(m, math.ceil(m * n / _LARGEST_TABLE))):
            w = 1.0 / (design.v + self._tau2(alphas[here]))
            w = np.maximum(w, _SMALLEST_WEIGHT * w.max(axis=1, keepdims=True))
            inverse = np.linalg.inv((w @ XX).reshape(-1, p, p))
            beta = np.einsum("kij,kj->ki", inverse, w @ Xy)
            found.beta[here] = beta @ back.T
            found.covariance[here] = back @ inverse @ back.T
            found.squares[here] = np.sum(w * (design.y - beta @ X.T) ** 2, axis=1)
        return found

    def location_slopes(self, alpha: Array) -> Array:
        """∂β̂/∂α' = −(X'WX)⁻¹X' diag(w_i² r_i ∂τ_i²/∂α'), shape (p, q)."""
        design = self.design
        tau2 = self._tau2(alpha[None])[0]
        w = 1.0 / (design.v + tau2)
        there = closed_form.estimate_location(design.y, 1.0 / w, design.X)
        slope = np.ones_like(w) if self._is_identity else tau2
        moved = (w**2 * there.residuals * slope)[:, None] * design.Z
        return np.asarray(-there.covariance @ (design.X.T @ moved))

    def at(self, gone: Sequence[Mask]) -> Rows:
        """The same with the τ² of some rows held at 0."""
        return replace(self, gone=gone[0][:, 0])

    @property
    def _is_identity(self) -> bool:
        return self.design.specification.link == "identity"

    def _tau2(self, alphas: Array) -> Array:
        """τ² (m, n) at each row of alphas (m, q)."""
        predictor = alphas @ self.design.Z.T
        tau2 = np.maximum(predictor, 0.0) if self._is_identity else tau2_from_log(predictor)
        return tau2 if self.gone is None else np.where(self.gone, 0.0, tau2)

    def draw_location(self, alphas: Array, noise: Array, prior: NormalPrior) -> Array:
        return np.asarray(self._integrated(prior).draw_location(alphas, noise))

    def conditional_location(self, alphas: Array, prior: NormalPrior) -> tuple[Array, Array]:
        from bayes_lsm.likelihood.rows.deletion import location_moments  # loads numba

        design = self.design
        y, v, X, Z, mean, precision = map(
            np.ascontiguousarray,
            (design.y, design.v, design.X, design.Z, prior.mean, prior.precision),
        )
        centre, covariance = location_moments(
            np.ascontiguousarray(alphas), y, v, X, Z, mean, precision
        )
        return centre, covariance

    def densities(self, locations: Array, alphas: Array) -> Array:
        design, m = self.design, len(alphas)
        found = np.empty(m)
        size = max(1, math.ceil(m * len(design.y) / _LARGEST_TABLE))
        for here in np.array_split(np.arange(m), size):
            variance = design.v + self._tau2(alphas[here])
            residuals = design.y - locations[here] @ design.X.T
            each = np.log(2 * math.pi * variance) + residuals**2 / variance
            found[here] = -0.5 * each.sum(axis=1)
        return found

    def deletion(self, rows: Index, alphas: Array, prior: NormalPrior) -> RowDeletion:
        return RowDeletion.of(self.design, rows, alphas, prior)

    def first_guess(self) -> tuple[Array, Array]:
        """ln τ² of each row by α: its derivatives (n, q), and a guess of it (n,)."""
        design = self.design
        _, log_tau2 = closed_form.log_tau2_of_residuals(design.y, design.v, design.X)
        return design.Z, log_tau2

    def covariance(self, tau2: list[Array], correlations: list[Array]) -> DiagonalCovariance:
        """Σ where each effect has the variance τ² (n, 1)."""
        return DiagonalCovariance(self.design.v + tau2[0][:, 0])

    def sampling_covariance(self) -> DiagonalCovariance:
        """V alone."""
        return DiagonalCovariance(self.design.v)

    def climb(self, starts: Array, method: Method, *, held: Mask | None = None) -> Climbs:
        from bayes_lsm.likelihood.rows.climbing import Climber  # loads numba

        held = np.zeros(starts.shape[1], dtype=bool) if held is None else held
        key = method, held.tobytes()
        if key not in self._climbers:
            self._climbers[key] = Climber(self.design, method, held)
        found: Climbs = self._climbers[key].climb(starts)
        return found

    @cached_property
    def _climbers(self) -> dict[tuple[Method, bytes], Any]:
        """What was prepared for climbs with some coefficients held."""
        return {}

    def scores(self, alpha: Array, method: Method, cluster: Index) -> Array:
        """What each of G clusters adds to the score at α, shape (G, q); REML's or ML's."""
        design = self.design
        tau2 = self._tau2(alpha[None])[0]
        found = closed_form.score_contributions(
            tau2, design.y, design.v, design.X, design.Z, method=method
        )
        return sum_by_cluster(found, cluster)

    @cached_property
    def _known(self) -> dict[NormalPrior, Any]:
        return {}

    def _integrated(self, prior: NormalPrior) -> Any:
        """With β integrated out; kept for the prior, as its products take as long as a call."""
        from bayes_lsm.likelihood.rows.integrated import Integrated  # loads numba

        if prior not in self._known:
            y, v, X, Z = self.design.y, self.design.v, self.design.X, self.design.Z
            self._known[prior] = Integrated(y, v, X, Z, prior.mean, prior.precision)
        return self._known[prior]
