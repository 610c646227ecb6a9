"""The likelihood of grouped, correlated or densely dependent effects, behind the common seam."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bayes_lsm.arrays import Array, Index, Mask
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.likelihood.blocks import blocks
from bayes_lsm.likelihood.blocks.arrange import arrange_design
from bayes_lsm.likelihood.blocks.block_deletion import BlockDeletion
from bayes_lsm.likelihood.blocks.covariance import BlockCovariance, block_covariance
from bayes_lsm.likelihood.blocks.first_guess import derivatives_of_variances, guess_variances
from bayes_lsm.likelihood.blocks.information import expected_information, location_slopes
from bayes_lsm.likelihood.blocks.row_sums import RowSums
from bayes_lsm.likelihood.blocks.scores import scores
from bayes_lsm.likelihood.protocol import Climbs, Criterion, Evaluation, Locations, NormalPrior
from bayes_lsm.specification import Method

if TYPE_CHECKING:
    from bayes_lsm.likelihood.blocks.sums import Sums

# Predicted gain, relative to the log-likelihood, below which nothing is left to climb.
_TOLERANCE = 1e-13
# What a row, and all blocks together, cost at least where one independent effect costs 1.
_ROW, _BLOCKS = 1.3, 52.0


@dataclass(frozen=True, eq=False)
class Blocks:
    """The normal likelihood of a design in blocks; see `Likelihood`."""

    design: Design

    @cached_property
    def data(self) -> blocks.Arranged:
        """The design, arranged for the compiled loops."""
        found: blocks.Arranged = arrange_design(self.design)
        return found

    @property
    def cost(self) -> float:
        return _ROW * len(self.design.y) + _BLOCKS

    def evaluate(self, alpha: Array, criterion: Criterion) -> Evaluation:
        return blocks.evaluate(alpha, self.data, method=criterion)

    def values(self, alphas: Array, criterion: Criterion) -> Array:
        return blocks.log_likelihoods(alphas, self.data, method=criterion)

    def information(self, alpha: Array, method: Method) -> Array:
        """Expected information ½ tr(P V_j P V_k) at α, shape (q, q); of Σ⁻¹ for ML."""
        return expected_information(alpha, self.design, method=method)

    def locations(self, alphas: Array) -> Locations:
        return blocks.locations(alphas, self.data)

    def location_slopes(self, alpha: Array) -> Array:
        return location_slopes(alpha, self.design)

    def at(self, gone: Sequence[Mask]) -> Blocks:
        """The same with the variances of some effects (G, s) of each term held at 0."""
        terms = zip(self.design.terms, gone, strict=True)
        return Blocks(replace(self.design, terms=tuple(term.at_zero(each) for term, each in terms)))

    def draw_location(self, alphas: Array, noise: Array, prior: NormalPrior) -> Array:
        return blocks.draw_location(alphas, noise, self.data, prior=prior)

    def conditional_location(self, alphas: Array, prior: NormalPrior) -> tuple[Array, Array]:
        away, covariance = self._sums(alphas, prior.mean).location(prior.precision)
        return prior.mean + away, covariance

    def densities(self, locations: Array, alphas: Array) -> Array:
        centre = locations.mean(axis=0)
        return self._sums(alphas, centre).log_density(locations - centre)

    def _sums(self, alphas: Array, centre: Array) -> Sums:
        """What the rows say of β at each row of alphas (m, q), counted from `centre`."""
        return RowSums(self.design, centre).of(np.arange(len(self.design.y)), alphas)

    def deletion(self, rows: Index, alphas: Array, prior: NormalPrior) -> BlockDeletion:
        return BlockDeletion.of(self.design, rows, alphas, prior)

    def first_guess(self) -> tuple[Array, Array]:
        return derivatives_of_variances(self.design), guess_variances(self.design)

    def covariance(self, tau2: list[Array], correlations: list[Array]) -> BlockCovariance:
        return block_covariance(self.design, tau2, correlations)

    def sampling_covariance(self) -> BlockCovariance:
        if not (self.design.v > 0).all():
            raise FitError("individual data have no sampling variances")
        nothing = [np.zeros(term.Z.shape[:2]) for term in self.design.terms]
        return block_covariance(
            self.design, nothing, [np.eye(len(term.effects)) for term in self.design.terms]
        )

    def climb(self, starts: Array, method: Method, *, held: Mask | None = None) -> Climbs:
        found = [
            blocks.ascend(start, self.data, method=method, tolerance=_TOLERANCE, held=held)
            for start in starts
        ]
        return Climbs(
            alpha=np.array([each.alpha for each in found]),
            value=np.nan_to_num([each.at.value for each in found], nan=-np.inf),
            hessian=np.array([each.at.hessian for each in found]),
            beta=np.array([each.at.beta for each in found]),
            covariance=np.array([each.at.covariance for each in found]),
            converged=np.array([each.converged for each in found]),
        )

    def scores(self, alpha: Array, method: Method, cluster: Index) -> Array:
        """What each of G clusters adds to the score at α, shape (G, q); REML's or ML's."""
        return scores(alpha, self.design, cluster, method=method)
