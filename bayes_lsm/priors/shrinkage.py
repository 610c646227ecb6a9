"""Shrinkage priors: one prior over all slopes of the scale part together.

With many moderators of τ, most of them do next to nothing. These priors pull small slopes towards
zero and leave large ones alone, and learn from the data how many there are. The slopes θ_j, each
per standard deviation of its moderator on ln τ², are independent and alike given one common
hyperparameter g, so that their joint density is an integral over one number:

    p(θ) = ∫ p(g) Π_j f(θ_j | g) dg,

which `joint_logpdf` computes by the trapezoidal rule in ln g. That is how draws of the slopes alone
have a log prior density. The sampler keeps the hyperparameters instead: see `pymc_model.families`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import special

from bayes_lsm.arrays import Array
from bayes_lsm.priors.family import Checked, Positive

# f(θ | g) is smooth in ln |θ|: 300 knots and a cubic spline give it to about six digits.
_KNOTS = 300
_SMALLEST = 1e-12
_NODES_AT_ONCE = 16


class Shrinkage(Checked):
    """A joint prior of exchangeable slopes."""

    words: ClassVar[str] = ""

    @property
    def moments(self) -> float:
        """θ has moments of every order below this."""
        return math.inf

    def logpdf(self, theta: npt.ArrayLike) -> Array:
        """Log density of one slope by itself, elementwise."""
        return self.joint_logpdf(np.asarray(theta, dtype=float)[..., None])

    def sample(self, size: int, rng: np.random.Generator) -> Array:
        """Independent draws of one slope by itself, shape (size,)."""
        return self.joint_sample(size, 1, rng)[:, 0]

    @abstractmethod
    def joint_sample(self, size: int, count: int, rng: np.random.Generator) -> Array:
        """Independent draws of `count` slopes, shape (size, count)."""

    @abstractmethod
    def times(self, factor: float) -> Self:
        """The prior of slopes that are `factor` times as large."""

    def joint_logpdf(self, theta: Array) -> Array:
        """Joint log density of slopes, shape (..., m), without the last axis."""
        from scipy.interpolate import CubicSpline  # slow to import

        size = np.log(np.maximum(np.abs(np.asarray(theta, dtype=float)), _SMALLEST))
        knots = np.linspace(float(size.min()) - 0.1, float(size.max()) + 0.1, _KNOTS)
        nodes, log_weights = self._common(size.shape[-1])
        tables = self._log_conditional(knots, nodes)
        total = np.full(size.shape[:-1], -np.inf)
        for first in range(0, len(nodes), _NODES_AT_ONCE):
            some = slice(first, first + _NODES_AT_ONCE)
            curves = CubicSpline(knots, tables[:, some])
            joint = log_weights[some] + curves(size).sum(axis=-2)
            total = np.logaddexp(total, special.logsumexp(joint, axis=-1))
        return total

    @abstractmethod
    def _common(self, count: int) -> tuple[Array, Array]:
        """Values of ln g, and the logarithm of what each weighs in the integral."""

    @abstractmethod
    def _log_conditional(self, log_size: Array, nodes: Array) -> Array:
        """ln f(θ | g) at each ln |θ| (rows) and each ln g (columns)."""

    def __str__(self) -> str:
        """For a sentence: ``Horseshoe(global_scale=0.1, slab_scale=2)``."""
        settings = (f"{name}={value:.4g}" for name, value in self if name != "family")
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

    global_scale: Positive = 1.0
    slab_scale: Positive = 2.0
    family: Literal["horseshoe"] = Field(default="horseshoe", repr=False, kw_only=True)

    words: ClassVar[str] = "regularised horseshoe"

    def joint_sample(self, size: int, count: int, rng: np.random.Generator) -> Array:
        common = self.global_scale * np.abs(rng.standard_cauchy((size, 1)))
        local = common * np.abs(rng.standard_cauchy((size, count)))
        sd = local / np.hypot(1.0, local / self.slab_scale)
        return sd * rng.standard_normal((size, count))

    def times(self, factor: float) -> Horseshoe:
        return Horseshoe(factor * self.global_scale, factor * self.slab_scale)

    def _common(self, count: int) -> tuple[Array, Array]:
        step = 0.15
        relative = np.arange(-26.0, 26.0, step)
        log_density = math.log(2 / math.pi) + relative - np.logaddexp(0.0, 2 * relative)
        return relative + math.log(self.global_scale), log_density + math.log(step)

    def _log_conditional(self, log_size: Array, nodes: Array) -> Array:
        """∫ N(θ; 0, v) p(λ) dλ by the trapezoidal rule in ln(t λ), which alone v depends on."""
        step = 0.2
        # Below, N(θ; 0, v) is nothing; above, the half-Cauchy's e^-|ln λ| is.
        log_local = np.arange(log_size.min() - 4.0, nodes.max() + 45.0, step)
        log_v = 2 * log_local - np.logaddexp(0.0, 2 * (log_local - math.log(self.slab_scale)))
        with np.errstate(over="ignore"):
            exponent = -0.5 * (np.exp(2 * log_size[:, None] - log_v) + log_v)
        largest = exponent.max(axis=1, keepdims=True)
        relative = log_local[:, None] - nodes
        weights = np.exp(relative - np.logaddexp(0.0, 2 * relative))
        constant = math.log(2 * step / math.pi) - 0.5 * math.log(2 * math.pi)
        return np.asarray(constant + largest + np.log(np.exp(exponent - largest) @ weights))


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

    concentration: Positive = 0.5
    b: Positive = 0.5
    scale: Positive = 1.0
    family: Literal["r2d2"] = Field(default="r2d2", repr=False, kw_only=True)

    words: ClassVar[str] = "R2-D2"

    @property
    def moments(self) -> float:
        return 2.0 * self.b

    def joint_sample(self, size: int, count: int, rng: np.random.Generator) -> Array:
        gamma = rng.standard_gamma(self.concentration, (size, count))
        xi = rng.standard_gamma(self.b, (size, 1))
        return self.scale * np.sqrt(gamma / xi) * rng.standard_normal((size, count))

    def times(self, factor: float) -> R2D2:
        return R2D2(self.concentration, self.b, factor * self.scale)

    def _common(self, count: int) -> tuple[Array, Array]:
        # Given the slopes, ln ξ has an SD of about 1/√(a m + b) where that is large.
        shape = self.concentration * count + self.b
        step = 0.25 / math.sqrt(1 + shape)
        nodes = np.arange(-36.0 / self.b, math.log(40.0 + 10.0 * (shape + self.b)), step)
        return nodes, self.b * nodes - np.exp(nodes) - math.lgamma(self.b) + math.log(step)

    def _log_conditional(self, log_size: Array, nodes: Array) -> Array:
        """The variance-gamma density: N(0, w) with w ~ Gamma(a, rate r), r = ξ / s²."""
        log_size = log_size[:, None]
        log_rate = nodes - 2 * math.log(self.scale)
        order = self.concentration - 0.5
        log_z = 0.5 * (math.log(2) + log_rate) + log_size
        return np.asarray(
            0.5 * math.log(2 / math.pi)
            - math.lgamma(self.concentration)
            + self.concentration * log_rate
            + order * (log_size - 0.5 * (math.log(2) + log_rate))
            + _log_bessel_k(order, log_z)
        )


def _log_bessel_k(order: float, log_z: Array) -> Array:
    """ln K_ν(z) at ln z, also where z or K are too small or too large for a number."""
    size = abs(order)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        z = np.exp(log_z)
        middle = np.log(special.kve(order, z)) - z
        large = 0.5 * (math.log(math.pi / 2) - log_z) - z
    if size == 0:  # −ln(z/2) − γ
        small = np.log(np.maximum(math.log(2) - log_z - np.euler_gamma, 1.0))
    else:  # ½ Γ(|ν|) (z/2)^-|ν|
        small = math.lgamma(size) - math.log(2) - size * (log_z - math.log(2))
    is_small = (log_z < -690) | (middle == np.inf)
    return np.where(is_small, small, np.where(log_z > 16, large, middle))


AnyShrinkage = Annotated[Horseshoe | R2D2, Field(discriminator="family")]
