r"""ML and REML log-likelihood of independent effects, with analytic score and Hessian in α.

With W = diag(w), w_i = 1/(v_i + τ_i²), β̂(α) = (X'WX)⁻¹X'Wy, r = y − Xβ̂ and
P = W − WX(X'WX)⁻¹X'W, the log-likelihoods profiled over β are

    ℓ_ML   = −½ [ k ln 2π + Σ ln(v_i + τ_i²) + r'Wr ]
    ℓ_REML = −½ [ (k − p) ln 2π + Σ ln(v_i + τ_i²) + r'Wr + ln|X'WX| − ln|X'X| ]

(Viechtbauer & López-López 2022, doi:10.1002/jrsm.1562; constants as in metafor). With d_i = τ_i²,
V_j = ∂V/∂α_j = diag(d_i z_ij) and V_jk = diag(d_i z_ij z_ik), REML has

    score_j    = −½ tr(P V_j) + ½ y'P V_j P y
    Hessian_jk = −½ tr(P V_jk) + ½ tr(P V_j P V_k) + ½ y'P V_jk P y − y'P V_j P V_k P y

and ML the same with W in place of P in the traces. All terms need only sums over studies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bayes_lsm.arrays import Array, Mask
from bayes_lsm.likelihood.protocol import Evaluation
from bayes_lsm.links import tau2_from_log
from bayes_lsm.specification import Method


@dataclass(frozen=True, eq=False)
class Location:
    """β (p,) given the variances by weighted least squares, with its covariance (X'WX)⁻¹.

    `log_det` is ln |X'WX|, `basis` (n, p) the orthonormal Q with W^½X = QR: sums over it keep their
    digits however X is scaled.
    """

    beta: Array
    covariance: Array
    residuals: Array
    log_det: float
    basis: Array


def estimate_location(y: Array, variance: Array, X: Array) -> Location:
    """Weighted least squares of y (n,) on X (n, p) with total variances (n,)."""
    root = np.sqrt(variance)
    Q, R = np.linalg.qr(X / root[:, None])
    inverse = np.linalg.solve(R, np.eye(X.shape[1]))
    beta = inverse @ (Q.T @ (y / root))
    log_det = 2.0 * float(np.sum(np.log(np.abs(np.diag(R)))))
    return Location(beta, inverse @ inverse.T, y - X @ beta, log_det, Q)


def tau2(alpha: Array, Z: Array, zero: Mask | None = None) -> Array:
    """τ² of each study (n,); exactly 0 where `zero` (n,) says so."""
    values = tau2_from_log(Z @ alpha)
    return values if zero is None else np.where(zero, 0.0, values)


def log_likelihood(y: Array, v: Array, X: Array, tau2: Array, *, method: Method) -> float:
    """The log-likelihood at given τ² (n,), profiled over β."""
    return _value(method, X, v + tau2, estimate_location(y, v + tau2, X))


def _value(method: Method, X: Array, variance: Array, location: Location) -> float:
    n, p = X.shape
    total = np.sum(np.log(variance)) + np.sum(location.residuals**2 / variance)
    if method == "ML":
        return float(-0.5 * (n * math.log(2 * math.pi) + total))
    log_det_xx = 2.0 * float(np.sum(np.log(np.abs(np.diag(np.linalg.qr(X, mode="r"))))))
    return float(-0.5 * ((n - p) * math.log(2 * math.pi) + total + location.log_det - log_det_xx))


def evaluate(
    alpha: Array,
    y: Array,
    v: Array,
    X: Array,
    Z: Array,
    *,
    method: Method,
    zero: Mask | None = None,
    identity: bool = False,
) -> Evaluation:
    """The log-likelihood, its score and its Hessian at α (q,); τ² of some studies may be held at 0.

    y and v are (n,), X (n, p), Z (n, q) and `zero`, which says for which studies, (n,). With
    `identity` Zα is τ² itself, and not ln τ².
    """
    d, bend = _slopes(alpha, Z, zero, identity)
    variance = v + (Z @ alpha if identity else d)
    w = 1.0 / variance
    location = estimate_location(y, variance, X)
    Q = location.basis  # P = W^½ (I − QQ') W^½
    u = w * location.residuals  # = Py
    wd = w * d

    diagonal, products = w, wd**2  # of P (of W for ML), and the diagonal part of P V_j P V_k
    if method == "REML":
        h = np.sum(Q**2, axis=1)
        diagonal, products = w * (1.0 - h), wd**2 * (1.0 - 2.0 * h)

    score = 0.5 * Z.T @ (d * (u**2 - diagonal))
    weights = 0.5 * bend * (u**2 - diagonal) + 0.5 * products - wd * d * u**2
    hessian = Z.T @ (weights[:, None] * Z)
    g = Q.T @ ((np.sqrt(w) * d * u)[:, None] * Z)
    hessian += g.T @ g
    if method == "REML":
        M = ((Z.T * wd)[:, None, :] * Q.T) @ Q  # Q' diag(w d z_j) Q, shape (q, p, p)
        hessian += 0.5 * np.einsum("jab,kba->jk", M, M)
    value = _value(method, X, variance, location)
    return Evaluation(value, score, hessian, location.beta, location.covariance)


def _slopes(alpha: Array, Z: Array, zero: Mask | None, identity: bool) -> tuple[Array, Array]:
    """The first and second derivative of each τ² with respect to its z'α."""
    if identity:
        return np.ones(len(Z)), np.zeros(len(Z))
    d = tau2(alpha, Z, zero)
    return d, d


def expected_information(alpha: Array, v: Array, X: Array, Z: Array, *, method: Method) -> Array:
    """½ tr(P V_j P V_k) at α, shape (q, q); ½ tr(W V_j W V_k) for ML.

    Viechtbauer & López-López (2022), doi:10.1002/jrsm.1562, equations for Fisher scoring; V_j is
    diag(τ_i² z_ij), and P and W are those above.
    """
    d = tau2(alpha, Z)
    wd = d / (v + d)
    if method == "ML":
        return np.asarray(0.5 * Z.T @ (wd[:, None] ** 2 * Z))
    Q = estimate_location(np.zeros_like(v), v + d, X).basis
    h = np.sum(Q**2, axis=1)
    M = ((Z.T * wd)[:, None, :] * Q.T) @ Q
    diagonal = Z.T @ ((wd**2 * (1.0 - 2.0 * h))[:, None] * Z)
    return np.asarray(0.5 * (diagonal + np.einsum("jab,kba->jk", M, M)))


def score_contributions(
    tau2: Array, y: Array, v: Array, X: Array, Z: Array, *, method: Method
) -> Array:
    """Each study's part of the score of α (n, q); at a maximum they add up to 0.

    With u_i = w_i r_i, h_i the study's hat value, and dβ̂/dα = M B', M = (X'WX)⁻¹,
    B = −Σ_i τ_i² w_i u_i z_i x_i',

        s_i = ½ τ_i² (u_i² − w_i + w_i h_i) z_i  +  B M x_i u_i

    where w_i h_i, the study's part of d ln|X'WX|/dα, is REML's alone. The second term is what β̂
    passes on; it adds up to 0 over all studies. Studies with τ² = 0 contribute through β̂ only.
    """
    variance = v + tau2
    location = estimate_location(y, variance, X)
    w = 1.0 / variance
    u = w * location.residuals
    h = np.sum(location.basis**2, axis=1) if method == "REML" else 0.0
    own = 0.5 * (tau2 * (u**2 - w + w * h))[:, None] * Z
    # With X in the coordinates W^-½Q, in which (X'WX)⁻¹ is the identity.
    X = location.basis * np.sqrt(variance)[:, None]
    B = -(Z.T * (tau2 * w * u)) @ X
    return np.asarray(own + (u[:, None] * X) @ B.T)


def log_tau2_of_residuals(y: Array, v: Array, X: Array) -> tuple[Array, Array]:
    """A first guess: β (p,) by least squares, and ln τ² (k,) of each study by its residual."""
    root = np.sqrt(v + v.mean())
    b = np.linalg.lstsq(X / root[:, None], y / root, rcond=None)[0]
    # The mean of ln χ²₁ is −1.27.
    return b, np.log(np.maximum((y - X @ b) ** 2 - v, 0.05 * v)) + 1.27
