"""Shrinkage priors: one prior over all slopes of the scale part together.

With many moderators of τ, most of them do next to nothing. These priors pull small slopes towards
zero and leave large ones alone, and learn from the data how many there are. The slopes θ_j, each
per standard deviation of its moderator on ln τ², are independent and alike given one common
hyperparameter g, so that their joint density is an integral over one number:

    p(θ) = ∫ p(g) Π_j f(θ_j | g) dg,

which `joint_logpdf` computes by the trapezoidal rule in ln g. That is how draws of the slopes alone
have a log prior density. The sampler keeps the hyperparameters instead; see `bayes/families.py`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import special

from bayes_lsm.priors.families import Checked

Array = npt.NDArray[np.float64]

# f(θ | g) is smooth in ln |θ|: 300 knots and a cubic spline give it to about six digits.
_KNOTS = 300
_SMALLEST = 1e-12


class Shrinkage(Checked):
    """A joint prior of exchangeable slopes."""

    words: ClassVar[str] = ""

    def logpdf(self, theta: npt.ArrayLike) -> Array:
        """Log density of one slope by itself, elementwise."""
        return self.joint_logpdf(np.asarray(theta, dtype=float)[..., None])

    def sample(self, size: int, rng: np.random.Generator) -> Array:
        """Independent draws of one slope by itself, shape (size,)."""
        return self.joint_sample(size, 1, rng)[:, 0]

    @abstractmethod
    def joint_sample(self, size: int, count: int, rng: np.random.Generator) -> Array:
        """Independent draws of `count` slopes, shape (size, count)."""

    def joint_logpdf(self, theta: Array) -> Array:
        """Joint log density of slopes, shape (..., m), without the last axis."""
        from scipy.interpolate import CubicSpline  # slow to import

        size = np.log(np.maximum(np.abs(np.asarray(theta, dtype=float)), _SMALLEST))
        lowest, highest = float(size.min()), float(size.max())
        knots = np.linspace(lowest - 0.1, highest + 0.1, _KNOTS)
        nodes, log_weights = self._common(size.shape[-1])
        total = np.full(size.shape[:-1], -np.inf)
        for node, log_weight in zip(nodes, log_weights, strict=True):
            curve = CubicSpline(knots, self._log_conditional(knots, node))
            total = np.logaddexp(total, log_weight + curve(size).sum(axis=-1))
        return total

    @abstractmethod
    def _common(self, count: int) -> tuple[Array, Array]:
        """Values of ln g, and the logarithm of what each weighs in the integral."""

    @abstractmethod
    def _log_conditional(self, log_size: Array, node: float) -> Array:
        """ln f(θ | g) at ln |θ| and ln g."""

    def __str__(self) -> str:
        """For a sentence: ``Horseshoe(global_scale=0.1, slab_scale=2)``."""
        settings = (f"{name}={value:g}" for name, value in self if name != "family")
        return f"{type(self).__name__}({', '.join(settings)})"

    def to_dict(self) -> dict[str, Any]:
        """As a plain table for a model file, the family first."""
        fields = self.model_dump()
        return {"family": fields.pop("family"), **fields}


class Horseshoe(Shrinkage):
    r"""The regularised horseshoe, with a normal slab.

    θ_j ~ N(0, t² λ̃_j²),  λ̃_j² = c² λ_j² / (c² + t² λ_j²),  λ_j ~ C⁺(0, 1),  t ~ C⁺(0, t₀),

    where a slope that escapes the shrinkage has a Normal(0, c²) prior.

    Parameters
    ----------
    global_scale : float, default 1
        t₀. For about p₀ slopes of p that are not small, with k studies: p₀ / (p − p₀) · √(2 / k),
        as ln τ² of one study can be known to ±√2 at best.
    slab_scale : float, default 2
        c, on ln τ² per standard deviation of a moderator; 2 is a ratio of τ of e² ≈ 7.4 at 2 c.

    Examples
    --------
    >>> Horseshoe(global_scale=0.1)
    Horseshoe(global_scale=0.1, slab_scale=2.0)

    References
    ----------
    Piironen, J., & Vehtari, A. (2017). Sparsity information and regularization in the horseshoe and
    other shrinkage priors. Electronic Journal of Statistics, 11(2), 5018-5051.
    doi:10.1214/17-EJS1337SI
    """

    global_scale: float = Field(default=1.0, gt=0, strict=True)
    slab_scale: float = Field(default=2.0, gt=0, strict=True)
    family: Literal["horseshoe"] = Field(default="horseshoe", repr=False, kw_only=True)

    words: ClassVar[str] = "regularised horseshoe"

    def joint_sample(self, size: int, count: int, rng: np.random.Generator) -> Array:
        common = self.global_scale * np.abs(rng.standard_cauchy((size, 1)))
        local = common * np.abs(rng.standard_cauchy((size, count)))
        sd = local / np.hypot(1.0, local / self.slab_scale)
        return sd * rng.standard_normal((size, count))

    def _common(self, count: int) -> tuple[Array, Array]:
        step = 0.15
        relative = np.arange(-26.0, 26.0, step)
        log_density = math.log(2 / math.pi) + relative - np.logaddexp(0.0, 2 * relative)
        return relative + math.log(self.global_scale), log_density + math.log(step)

    def _log_conditional(self, log_size: Array, node: float) -> Array:
        """∫ N(θ; 0, v) p(λ) dλ by the trapezoidal rule in ln λ."""
        # Where v ≈ θ² lies the peak of the normal's part; the half-Cauchy falls like e^-|ln λ|.
        step = 0.2
        log_local = np.arange(-45.0, max(45.0, float(log_size.max()) - node + 30.0), step)
        log_v = 2 * (node + log_local) - np.logaddexp(
            0.0, 2 * (node + log_local - math.log(self.slab_scale))
        )
        log_weight = math.log(2 * step / math.pi) + log_local - np.logaddexp(0.0, 2 * log_local)
        constant = log_weight - 0.5 * log_v - 0.5 * math.log(2 * math.pi)
        with np.errstate(over="ignore"):
            exponent = -0.5 * np.exp(2 * log_size[:, None] - log_v)
        return np.asarray(special.logsumexp(constant + exponent, axis=1))


class R2D2(Shrinkage):
    r"""A prior on the share of the variance of ln τ² that the moderators explain.

    θ_j ~ N(0, w_j),  w_j = s² γ_j / ξ,  γ_j ~ Gamma(a, 1),  ξ ~ Gamma(b, 1).

    Then Σ w_j / (Σ w_j + s²) ~ Beta(a · m, b) for m slopes, split among them by a symmetric
    Dirichlet(a): the R2-D2 prior with s² in the place of a residual variance, which ln τ² has not.

    Parameters
    ----------
    concentration : float, default 0.5
        a, for each slope; below 1/2 few slopes take all.
    b : float, default 0.5
        Tails: θ_j falls like |θ|^(−1 − 2b).
    scale : float, default 1
        s, the standard deviation of ln τ² that the share is measured against.

    Examples
    --------
    >>> R2D2(0.25)
    R2D2(concentration=0.25, b=0.5, scale=1.0)

    References
    ----------
    Zhang, Y. D., Naughton, B. P., Bondell, H. D., & Reich, B. J. (2022). Bayesian regression using
    a prior on the model fit: the R2-D2 shrinkage prior. JASA, 117(538), 862-874.
    doi:10.1080/01621459.2020.1825449
    """

    concentration: float = Field(default=0.5, gt=0, strict=True)
    b: float = Field(default=0.5, gt=0, strict=True)
    scale: float = Field(default=1.0, gt=0, strict=True)
    family: Literal["r2d2"] = Field(default="r2d2", repr=False, kw_only=True)

    words: ClassVar[str] = "R2-D2"

    def joint_sample(self, size: int, count: int, rng: np.random.Generator) -> Array:
        gamma = rng.standard_gamma(self.concentration, (size, count))
        xi = rng.standard_gamma(self.b, (size, 1))
        return self.scale * np.sqrt(gamma / xi) * rng.standard_normal((size, count))

    def _common(self, count: int) -> tuple[Array, Array]:
        # Given the slopes, ln ξ has an SD of about 1/√(a m + b) where that is large.
        shape = self.concentration * count + self.b
        step = 0.25 / math.sqrt(1 + shape)
        nodes = np.arange(-36.0 / self.b, math.log(40.0 + 10.0 * (shape + self.b)), step)
        return nodes, self.b * nodes - np.exp(nodes) - math.lgamma(self.b) + math.log(step)

    def _log_conditional(self, log_size: Array, node: float) -> Array:
        """The variance-gamma density: N(0, w) with w ~ Gamma(a, rate r), r = ξ / s²."""
        log_rate = node - 2 * math.log(self.scale)
        order = self.concentration - 0.5
        log_z = 0.5 * (math.log(2) + log_rate) + log_size
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            z = np.exp(log_z)
            log_bessel = np.log(special.kve(order, z)) - z
        # Where z underflows or K overflows: K_ν(z) ≈ ½ Γ(|ν|) (z/2)^-|ν|, or −ln(z/2) − γ.
        beyond = (log_z < -690) | (log_bessel == np.inf)
        if order == 0:
            small = np.log(np.maximum(math.log(2) - log_z - np.euler_gamma, 1.0))
        else:
            size = abs(order)
            small = math.lgamma(size) - math.log(2) - size * (log_z - math.log(2))
        log_bessel = np.where(beyond, small, np.where(np.isnan(log_bessel), -np.inf, log_bessel))
        return np.asarray(
            0.5 * math.log(2 / math.pi)
            - math.lgamma(self.concentration)
            + self.concentration * log_rate
            + order * (log_size - 0.5 * (math.log(2) + log_rate))
            + log_bessel
        )


AnyShrinkage = Annotated[Horseshoe | R2D2, Field(discriminator="family")]
