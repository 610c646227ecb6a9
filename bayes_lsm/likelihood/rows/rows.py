"""The likelihood of independent effects, each with a τ² of its own, behind the common seam."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from bayes_lsm.design.clusters import sum_by_cluster
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.protocol import Climbs, Criterion, Evaluation, NormalPrior
from bayes_lsm.likelihood.rows import closed_form
from bayes_lsm.links import tau2_from_log
from bayes_lsm.specification import Method

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class DiagonalCovariance:
    """Σ of independent effects.

    Attributes
    ----------
    variances : ndarray, shape (n,)
    """

    variances: Array

    def solve(self, right: Array) -> Array:
        """Σ⁻¹B for B of shape (n, m) or (n,)."""
        return (right.T / self.variances).T

    def explained(self, left: Any) -> Array:
        """The diagonal of B'Σ⁻¹B (m,), for a sparse or dense B of shape (n, m)."""
        return np.asarray((1.0 / self.variances) @ sparse.csr_array(left).power(2))

    def draw(self, sets: int, rng: np.random.Generator) -> Array:
        """Errors from Normal(0, Σ), shape (sets, n)."""
        return rng.normal(size=(sets, len(self.variances))) * np.sqrt(self.variances)

    def whiten(self, right: Array) -> Array:
        """L⁻¹B with LL' = Σ, for B of shape (n, m) or (n,)."""
        return (right.T / np.sqrt(self.variances)).T

    def unwhiten(self, right: Array) -> Array:
        """LB, the inverse of `whiten`."""
        return (right.T * np.sqrt(self.variances)).T

    @property
    def matrix(self) -> sparse.csr_array:
        """Σ itself, shape (n, n)."""
        return sparse.csr_array(sparse.diags_array(self.variances))


@dataclass(frozen=True, eq=False)
class Rows:
    """The normal likelihood of a design of independent effects; see `Likelihood`."""

    design: Design

    def evaluate(self, alpha: Array, criterion: Criterion) -> Evaluation:
        """A criterion at α (q,), its score and its Hessian."""
        design = self.design
        if isinstance(criterion, NormalPrior):
            raise FitError("the rows' likelihood with β integrated out has values only")
        found = closed_form.evaluate(
            alpha, design.y, design.v, design.X, design.Z, method=criterion
        )
        location = found.location
        return Evaluation(
            found.value, found.score, found.hessian, location.beta, location.covariance
        )

    def values(self, alphas: Array, criterion: Criterion) -> Array:
        """A criterion at each row of alphas (m, q), shape (m,)."""
        design = self.design
        if isinstance(criterion, NormalPrior):
            return np.asarray(self._integrated(criterion).log_marginal(alphas))
        tau2s = tau2_from_log(alphas @ design.Z.T)
        y, v, X = design.y, design.v, design.X
        return np.array(
            [closed_form.log_likelihood(y, v, X, each, method=criterion) for each in tau2s]
        )

    def information(self, alpha: Array, method: Method) -> Array:
        """Expected information ½ tr(P V_j P V_k) at α, shape (q, q); ½ tr(W V_j W V_k) for ML."""
        design = self.design
        return closed_form.expected_information(alpha, design.v, design.X, design.Z, method=method)

    def locations(self, alphas: Array) -> tuple[Array, Array]:
        """Weighted least squares at each row of alphas (m, q): β̂ (m, p), covariances (m, p, p)."""
        design = self.design
        found = [
            closed_form.estimate_location(design.y, design.v + tau2, design.X)
            for tau2 in tau2_from_log(alphas @ design.Z.T)
        ]
        return np.array([each.beta for each in found]), np.array(
            [each.covariance for each in found]
        )

    def draw_location(self, alphas: Array, noise: Array, prior: NormalPrior) -> Array:
        """One β | α, y for each row of alphas (m, q), from standard normals `noise` (m, p)."""
        return np.asarray(self._integrated(prior).draw_location(alphas, noise))

    def covariance(self, tau2: list[Array], correlations: list[Array]) -> DiagonalCovariance:
        """Σ where each effect has the variance τ² (n, 1)."""
        return DiagonalCovariance(self.design.v + tau2[0][:, 0])

    def sampling_covariance(self) -> DiagonalCovariance:
        """V alone."""
        return DiagonalCovariance(self.design.v)

    def climb(self, starts: Array, method: Method, *, held: Mask | None = None) -> Climbs:
        """Climb from each of some α (m, q) to a maximum; see `Likelihood.climb`."""
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
        found = closed_form.score_contributions(
            tau2_from_log(design.Z @ alpha), design.y, design.v, design.X, design.Z, method=method
        )
        return sum_by_cluster(found, cluster)

    def _integrated(self, prior: NormalPrior) -> Any:
        from bayes_lsm.likelihood.rows.integrated import Integrated  # loads numba

        design = self.design
        return Integrated(design.y, design.v, design.X, design.Z, prior.mean, prior.precision)
