"""What REML or ML found of a design: facts, of which every verb is a function."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.arrays import Array
from bayes_lsm.choices import require_level
from bayes_lsm.design.coefficients import coefficients, scale_places
from bayes_lsm.design.design import Design
from bayes_lsm.likelihood.blocks.covariance import loadings
from bayes_lsm.likelihood.likelihood import likelihood_of
from bayes_lsm.likelihood.protocol import Covariance, Likelihood
from bayes_lsm.reml.divergence import Divergence, together
from bayes_lsm.reml.term_estimate import TermEstimate, at_border, correlation_table
from bayes_lsm.reml.uninformed import location_directions, say, without_unknown
from bayes_lsm.reml.wald import wald_table
from bayes_lsm.results import model_title
from bayes_lsm.specification import Method

Test = Literal["z", "t", "knha"]


@dataclass(frozen=True, eq=False)
class Estimates:
    """What was estimated of a location-scale model.

    Attributes
    ----------
    design : Design
    method : {"REML", "ML"}
    beta : ndarray, shape (p,)
        Location coefficients.
    vcov_location : ndarray, shape (p, p)
        (X'Σ⁻¹X)⁻¹ at the estimated variances.
    terms : mapping of str to TermEstimate
        The scale terms by their grouping.
    vcov_terms : ndarray, shape (m, m)
        Of all scale coefficients and κ, term by term: the inverse negative Hessian; nan in the rows
        of coefficients that diverge, that are held, or of which the data say nothing.
    limit_vcov : ndarray, shape (m, m)
        The same of the coefficients that give ln τ² where others diverge (`limit_alpha`).
    loglik : float
        With metafor's constants; the supremum when a coefficient diverges.
    converged : bool
    stop : ndarray, shape (m,)
        Scale coefficients and κ where an ordinary optimiser stops.
    rival : ndarray, shape (q,), or None
        Scale coefficients of another maximum that is higher, but by so little (less than 0.05 in
        the log-likelihood) that the data do not choose between the two. The one reported is the one
        that ordinary starting values lead to.
    rival_loglik : float
        Its log-likelihood; nan without one.
    test : {"z", "t", "knha"}
    fixed : mapping of str to float
        Scale coefficients that were not estimated.
    at_bound : mapping of str to float
        Scale coefficients that are held by a bound, or with the identity link the studies whose τ²
        is at its border 0. No standard errors are given there.
    """

    design: Design
    method: Method
    beta: Array
    vcov_location: Array
    terms: Mapping[str, TermEstimate]
    vcov_terms: Array
    limit_vcov: Array
    loglik: float
    converged: bool
    stop: Array
    rival: Array | None = None
    rival_loglik: float = math.nan
    test: Test = "z"
    fixed: Mapping[str, float] = field(default_factory=dict)
    at_bound: Mapping[str, float] = field(default_factory=dict)

    @property
    def scale_names(self) -> tuple[str, ...]:
        """The names of `alpha`: with their groupings, ``"school: size"``, where terms are many."""
        return tuple(each.label for each in coefficients(self.design))

    @cached_property
    def alpha(self) -> Array:
        """The scale coefficients of all terms, on ln τ², shape (q,).

        ±inf where the likelihood has no finite maximum, nan where such a limit leaves a coefficient
        unidentified.
        """
        return np.concatenate([each.alpha for each in self.terms.values()])

    @property
    def limit_alpha(self) -> Array:
        """`TermEstimate.limit_alpha` of all terms, shape (q,)."""
        return np.concatenate([each.limit_alpha for each in self.terms.values()])

    @property
    def summit(self) -> Array:
        """`limit_alpha` and κ of all terms, as the likelihood takes them; 0 for what a limit took.

        Shape (m,), or less where a limit took correlated effects.
        """
        found = [np.r_[each.limit_alpha, each.kappa] for each in self.terms.values()]
        return np.asarray(np.nan_to_num(np.concatenate(found)))

    @property
    def is_fixed(self) -> npt.NDArray[np.bool_]:
        """Which of all coefficients and κ are in `fixed`, shape (m,)."""
        found = np.zeros(len(self.stop), dtype=bool)
        found[scale_places(self.design)] = [name in self.fixed for name in self.scale_names]
        return found

    @property
    def vcov_scale(self) -> Array:
        """The covariance of `alpha`, shape (q, q)."""
        places = scale_places(self.design)
        return self.vcov_terms[np.ix_(places, places)]

    @cached_property
    def tau2(self) -> Array:
        """τ² of each row, shape (n,): of several scale terms the diagonal of Σ_l A_l D_l A_l'."""
        found = [each.row_variances for each in self.terms.values()]
        return found[0] if len(found) == 1 else np.sum(found, axis=0)

    @property
    def highest(self) -> float:
        """The highest log-likelihood that was found."""
        return self.loglik if self.rival is None else self.rival_loglik

    @property
    def knapp_hartung(self) -> float:
        """Weighted residual mean square, by which test='knha' multiplies `vcov_location`."""
        residuals = self.design.y - self.design.X @ self.beta
        df = len(residuals) - len(self.beta)
        return float(residuals @ self.covariance.solve(residuals)) / df

    @property
    def df_location(self) -> int | None:
        """n − p where coefficients are tested by t; None with z."""
        return None if self.test == "z" else len(self.design.y) - len(self.beta)

    @property
    def df_scale(self) -> int | None:
        """k − q where independent effects are tested by t, as in metafor; else None.

        Groups that share rows leave no such count of independent variances.
        """
        if self.test == "z" or not self.design.is_independent:
            return None
        return len(self.design.y) - len(self.alpha)

    @property
    def location(self) -> pd.DataFrame:
        """Location coefficients: estimate, se, zval, pval, ci_lb, ci_ub; one row a term."""
        names = self.design.location.names
        return wald_table(names, self.beta, self.known_vcov_location, df=self.df_location)

    @property
    def scale(self) -> pd.DataFrame:
        """Scale coefficients of ln τ²: estimate, se, zval, pval, ci_lb, ci_ub; one row a term.

        Indexed by grouping and term where there are several scale terms.
        """
        return self.scale_at(0.95)

    def scale_at(self, level: float) -> pd.DataFrame:
        """`scale` with intervals of another level."""
        tables = {
            name: wald_table(each.term.names, each.shown, each.vcov, level=level, df=self.df_scale)
            for name, each in self.terms.items()
        }
        return by_grouping(tables, "term")

    @property
    def divergence(self) -> Divergence | None:
        """Which scale coefficients run to infinity, and why; None when all have an estimate."""
        found = {
            name: each.divergence
            for name, each in self.terms.items()
            if each.divergence is not None
        }
        if not found:
            return None
        first = next(iter(found.values()))
        return first if len(self.terms) == 1 else together(found, self.scale_names)

    @property
    def uninformed(self) -> tuple[str, ...]:
        """The scale coefficients of which the data say nothing, such as ``"school: size"``."""
        if not any(each.blind.size for each in self.terms.values()):
            return ()
        silent = np.concatenate([each.is_blind for each in self.terms.values()])
        return tuple(name for name, is_it in zip(self.scale_names, silent, strict=True) if is_it)

    @cached_property
    def blind_location(self) -> Array:
        """Directions b (p, m) of β: V_β has τ² bb' with a τ² of which the data say nothing."""
        if not self.is_flat:
            return np.zeros((len(self.beta), 0))
        known = np.concatenate([each.is_known.ravel() for each in self.terms.values()])
        columns = loadings(self.design)[:, np.flatnonzero(~known)].toarray()
        return location_directions(self.design.X, np.unique(columns, axis=1))

    @property
    def known_vcov_location(self) -> Array:
        """`vcov_location`, but nan where it depends on a variance of which the data say nothing."""
        return without_unknown(self.vcov_location, self.blind_location)

    @property
    def is_known(self) -> npt.NDArray[np.bool_]:
        """Whether the data say anything of `tau2` of each row, shape (n,)."""
        found = np.ones(len(self.design.y), dtype=bool)
        for each in self.terms.values() if self.is_flat else ():
            unknown = ~each.is_known[each.term.index] & (each.term.slopes != 0)
            found &= ~unknown.any(axis=1)
        return found

    @property
    def known_tau2(self) -> Array:
        """`tau2`, but nan where the data say nothing of it."""
        return np.where(self.is_known, self.tau2, np.nan)

    @property
    def has_border(self) -> bool:
        """Whether a correlation is at its border."""
        return any(at_border(each) for each in self.terms.values())

    @property
    def n_parameters(self) -> int:
        """Location and scale coefficients and correlations, less the fixed ones."""
        scale = sum(len(each.alpha) + len(each.kappa) for each in self.terms.values())
        return len(self.beta) + scale - len(self.fixed)

    @property
    def effective_n(self) -> int:
        """The number of observations of BIC and AICc: n − p for REML, as in metafor."""
        return len(self.design.y) - (len(self.beta) if self.method == "REML" else 0)

    @property
    def likelihood(self) -> Likelihood:
        """That of the design, with those variances held at 0 that a limit took.

        `summit` is where the fit is.
        """
        found = likelihood_of(self.design)
        if self.divergence is None:
            return found
        return found.at([each.tau2 == 0 for each in self.terms.values()])

    @property
    def covariance(self) -> Covariance:
        """Σ at the estimated variances."""
        terms = self.terms.values()
        return likelihood_of(self.design).covariance(
            [each.tau2 for each in terms], [each.correlation for each in terms]
        )

    @property
    def is_flat(self) -> bool:
        """Whether the data say nothing of some scale coefficient."""
        return bool(self.uninformed)

    @property
    def label(self) -> str:
        """The method."""
        return self.method

    @property
    def title(self) -> str:
        """The kind of model, its number of effects, and how it was fitted."""
        return model_title(self.design, self.label)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any table of this fit has to know."""
        found = [str(self.divergence)] if self.divergence else []
        if self.uninformed:
            found.append(say(self.uninformed))
        if self.at_bound:
            held = ", ".join(list(self.at_bound)[:8]) + (" …" if len(self.at_bound) > 8 else "")
            identity = self.design.specification.link == "identity"
            what = "the studies with τ² = 0" if identity else "these coefficients"
            found.append(f"the maximum lies on the border, held by {what}: {held}")
        for name, each in self.terms.items():
            if at_border(each):
                found.append(f"{name}: a correlation is at its border; it has no interval")
        if self.rival is not None:
            higher = self.rival_loglik - self.loglik
            found.append(
                f"the likelihood has another maximum, higher by {higher:.4f}, with other scale "
                "coefficients (.rival); the data do not choose between the two"
            )
        for lone in self.design.lone_levels:
            found.append(f"{lone.said}: its heterogeneity is weakly known")
        if not self.converged:
            found.append("the optimiser did not converge; do not use these numbers")
        return (*found, *self.design.notes)

    @property
    def aic(self) -> float:
        """Akaike's information criterion."""
        return -2 * self.loglik + 2 * self.n_parameters

    @property
    def bic(self) -> float:
        """Bayesian information criterion, with n − p observations under REML."""
        return -2 * self.loglik + math.log(self.effective_n) * self.n_parameters

    @property
    def aicc(self) -> float:
        """AIC corrected for small samples, with n − p observations under REML."""
        n = max(self.effective_n, self.n_parameters + 2)
        return -2 * self.loglik + 2 * self.n_parameters * n / (n - self.n_parameters - 1)

    def correlations_at(self, level: float) -> pd.DataFrame:
        """`correlations` with intervals of another level."""
        require_level(level)
        tables = {name: correlation_table(each, level) for name, each in self.terms.items()}
        found = {name: table for name, table in tables.items() if len(table)}
        if not found:
            return pd.DataFrame(columns=["estimate", "ci_lb", "ci_ub"], dtype=float)
        if len(self.terms) == 1:
            return next(iter(found.values())).rename_axis("pair")
        return pd.concat(found, names=["grouping", "pair"])


def by_grouping(tables: Mapping[str, pd.DataFrame], what: str) -> pd.DataFrame:
    """Tables of scale terms as one, indexed by grouping as well; that of a single term as it is."""
    if len(tables) == 1:
        return next(iter(tables.values()))
    return pd.concat(tables, names=["grouping", what])
