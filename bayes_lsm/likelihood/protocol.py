"""The seam between kinds of model: what a verb may ask of a likelihood, whatever its effects.

α is one vector: the coefficients of ln τ² of the first scale term, the κ of its correlations, those
of the next term, and so on; `bayes_lsm.design.coefficients` has their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy import sparse

from bayes_lsm.arrays import Array, Index, Mask
from bayes_lsm.design.clusters import Clusters
from bayes_lsm.design.design import Design
from bayes_lsm.specification import Method


@dataclass(frozen=True, eq=False)
class NormalPrior:
    """β ~ N(mean, precision⁻¹), to be integrated out: (p,), and (p, p) positive definite."""

    mean: Array
    precision: Array


Criterion = Method | NormalPrior


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A criterion at one α, with metafor's constants; nan where Σ or X'Σ⁻¹X is singular.

    `score` is (q,), and `hessian` (q, q) exact, not expected; `beta` (p,) is generalised least
    squares, or the conditional mean of β, with the `covariance` (X'Σ⁻¹X)⁻¹, or that of β given α.
    """

    value: float
    score: Array
    hessian: Array
    beta: Array
    covariance: Array


@dataclass(frozen=True, eq=False)
class Locations:
    """Generalised least squares at each of m α; nan where X'Σ⁻¹X is singular.

    `beta` is (m, p), `covariance` (X'Σ⁻¹X)⁻¹ (m, p, p), `squares` r'Σ⁻¹r with r = y − Xβ̂ (m,).
    """

    beta: Array
    covariance: Array
    squares: Array


@dataclass(frozen=True, eq=False)
class Climbs:
    """Where m climbs ended: α (m, q), and what the criterion is there, −inf where there is none.

    The `hessian` (m, q, q) is 0, and −1 on the diagonal, where coefficients were held; `beta` is
    (m, p) and `covariance` (m, p, p).
    """

    alpha: Array
    value: Array
    hessian: Array
    beta: Array
    covariance: Array
    converged: Mask


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Densities of the rows that are left, and predictions of those that are not, at m points.

    `left` (m, F) is ln p(y_left) at the point, of each fold, up to a constant; `unit` (m, U) ln
    p(y_unit | y_left), of the folds' units, and `below` (m, k) P(new effect ≤ y_i | y_left), of the
    units' rows, in their order.
    """

    left: Array
    unit: Array
    below: Array


class Deletion(Protocol):
    """Some rows at m points, of which some can be left out."""

    def leave_out(self, studies: Clusters, folds: Sequence[Index]) -> LeftOut:
        """Predict the studies of each fold from the rows that are neither its own nor missing."""

    def predict_again(self, studies: Clusters, units: Index) -> tuple[Array, Array]:
        """ln p(y) of the rows (m,), and of each study given all of them, its own too (m, U)."""


class Covariance(Protocol):
    """Σ = V + A D A' at given variances of the effects."""

    @property
    def variances(self) -> Array:
        """Its diagonal, shape (n,)."""

    def solve(self, right: Array) -> Array:
        """Σ⁻¹B for B of shape (n, m) or (n,)."""

    def explained(self, left: Any) -> Array:
        """The diagonal of B'Σ⁻¹B (m,), for a sparse or dense B of shape (n, m)."""

    def draw(self, sets: int, rng: np.random.Generator) -> Array:
        """Errors from Normal(0, Σ), shape (sets, n)."""

    def whiten(self, right: Array) -> Array:
        """L⁻¹B with LL' = Σ, for B of shape (n, m) or (n,)."""

    def unwhiten(self, right: Array) -> Array:
        """LB, the inverse of `whiten`."""

    @property
    def matrix(self) -> sparse.csr_array:
        """Σ itself, shape (n, n)."""


class Likelihood(Protocol):
    """The normal likelihood of one design, with β profiled or integrated out."""

    @property
    def design(self) -> Design:
        """The model in numbers."""

    @property
    def cost(self) -> float:
        """What one of many `values` takes, in units of an independent effect."""

    def evaluate(self, alpha: Array, criterion: Criterion) -> Evaluation:
        """A criterion at α (q,), its score and its Hessian."""

    def values(self, alphas: Array, criterion: Criterion) -> Array:
        """A criterion at each row of alphas (m, q), shape (m,)."""

    def information(self, alpha: Array, method: Method) -> Array:
        """Expected information ½ tr(P V_j P V_k) at α, shape (q, q); ½ tr(Σ⁻¹V_jΣ⁻¹V_k) for ML."""

    def locations(self, alphas: Array) -> Locations:
        """Generalised least squares at each row of alphas (m, q)."""

    def location_slopes(self, alpha: Array) -> Array:
        """∂β̂/∂α' (p, q) at α (q,)."""

    def at(self, gone: Sequence[Mask]) -> Likelihood:
        """The same with the variances of some effects (G, s) of each term held at 0.

        The coefficients are those of all effects, and the κ of those that are left.
        """

    def draw_location(self, alphas: Array, noise: Array, prior: NormalPrior) -> Array:
        """One β | α, y for each row of alphas (m, q), from standard normals `noise` (m, p)."""

    def conditional_location(self, alphas: Array, prior: NormalPrior) -> tuple[Array, Array]:
        """Mean (m, p) and covariance (m, p, p) of β | α, y for each row of alphas (m, q)."""

    def densities(self, locations: Array, alphas: Array) -> Array:
        """ln p(y | β, α) (m,) for each row of locations (m, p) and of alphas (m, q)."""

    def deletion(self, rows: Index, alphas: Array, prior: NormalPrior) -> Deletion:
        """What some rows say at each row of alphas (m, q), without others of all rows."""

    def first_guess(self) -> tuple[Array, Array]:
        """ln of every variance by α: its derivatives (m, q), and a guess of it from residuals (m,).

        In these a κ counts as a variance that is guessed to be 1, as informative as there are
        groups that could tell it.
        """

    def covariance(self, tau2: list[Array], correlations: list[Array]) -> Covariance:
        """Σ where each term's effects have the variances (G, s) and correlations (s, s)."""

    def sampling_covariance(self) -> Covariance:
        """V alone; a FitError for individual data, which have no sampling variances."""

    def climb(self, starts: Array, method: Method, *, held: Mask | None = None) -> Climbs:
        """Climb from each of some α (m, q) to a maximum; `held` (q,) stay where they start.

        That is the same place for all climbs then.
        """

    def scores(self, alpha: Array, method: Method, cluster: Index) -> Array:
        """What each of G clusters adds to the score at α, shape (G, q); REML's or ML's.

        `cluster` (n,) is 0, 1, …, G − 1; they are independent of each other under the model.
        """
