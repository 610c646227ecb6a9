"""Small designs for the tests of the fits."""

import numpy as np
import pandas as pd

from bayes_lsm.design.design import build_design
from bayes_lsm.specification import Specification


def make_design(data, location="~ 1", scale="~ 1", **fields):
    """The design of a data frame with yi and vi."""
    return build_design(Specification(location, "vi", "yi", scale, **fields), data)


def example(k=30, seed=1, **columns):
    """Heterogeneous effects that depend on x, with k studies."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=k)
    v = rng.uniform(0.05, 0.5, size=k)
    y = 0.5 + 0.3 * x + rng.normal(size=k) * np.sqrt(v + np.exp(-0.5 + 0.6 * x))
    return pd.DataFrame({"yi": y, "vi": v, "x": x, **columns})


def homogeneous_group(group, *, k=40, seed=3):
    """Effects of groups a and b; those of `group` are all but equal, the others far apart."""
    rng = np.random.default_rng(seed)
    g = np.array(list("ab") * (k // 2))
    v = rng.uniform(0.5, 1.0, size=k)
    y = np.where(g == group, 0.1, 3.0) * rng.normal(size=k)
    return pd.DataFrame({"yi": y, "vi": v, "g": g, "x": rng.normal(size=k)})
