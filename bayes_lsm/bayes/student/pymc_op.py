"""The quadrature of `likelihood.student` inside PyTensor graphs, with its gradient.

Import this module inside the functions that need it: it loads PyMC.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.link.numba.dispatch.basic import numba_njit, register_funcify_default_op_cache_key

from bayes_lsm.likelihood.student import kernels


class StudentTerms(Op):  # type: ignore[misc]
    """Log density (k,) and its derivatives in the residual, ln τ² and ν, each (k,).

    Inputs: residuals, sampling variances and ln τ², each (k,), and ν. The first output has a
    gradient, made of the others, so value and gradient cost one sum; in the variances, which are
    known, it has none.
    """

    __props__ = ()

    def make_node(self, *inputs: Any) -> Apply:
        r, v, log_tau2, df = (pt.as_tensor(each, dtype="float64") for each in inputs)
        return Apply(self, [r, v, log_tau2, df], [pt.vector() for _ in range(4)])

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        return [shapes[0]] * 4

    def perform(self, node: Apply, inputs: Any, storage: Any) -> None:
        r, v, log_tau2, df = inputs
        rows = kernels.terms(r, v, log_tau2, float(df))
        for cell, row in zip(storage, rows[: kernels.WEIGHT], strict=True):
            cell[0] = np.ascontiguousarray(row)

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        known = [False] * 4
        return [[True, False, False, False], known, *[[True, False, False, False]] * 2]

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        g = cotangents[0]
        _, by_r, by_log_tau2, by_df = outputs
        return [g * by_r, DisconnectedType()(), g * by_log_tau2, pt.sum(g * by_df)]


@register_funcify_default_op_cache_key(StudentTerms)  # type: ignore[untyped-decorator]
def _compiled(op: StudentTerms, node: Apply, **_: Any) -> tuple[Any, int]:
    terms = kernels.terms

    @numba_njit
    def student_terms(r, v, log_tau2, df):  # type: ignore[no-untyped-def]
        rows = terms(r, v, log_tau2, df.item())
        return rows[0].copy(), rows[1].copy(), rows[2].copy(), rows[3].copy()

    return student_terms, 1


def log_density(effect: Any, mean: Any, v: Any, log_tau2: Any, df: Any) -> Any:
    """ln f(y_i), (k,), of effects whose study effects are t_ν(0, τ_i)."""
    return StudentTerms()(effect - mean, v, log_tau2, df)[0]


def new_effect(mean: Any, v: Any, log_tau2: Any, df: Any, size: Any) -> Any:
    """A t for the study and a normal for its sampling error, as PyMC draws them."""
    study = pm.StudentT.dist(nu=df, mu=0.0, sigma=pt.exp(log_tau2 / 2), size=size)
    return mean + study + pm.Normal.dist(0.0, pt.sqrt(v), size=size)
