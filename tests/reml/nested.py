"""Simulated effects of schools in districts, with moderators of either's heterogeneity."""

import numpy as np
import pandas as pd

import bayes_lsm as lsm


def nested_data(
    seed=1, *, districts=20, schools=3, rows=2, tau2=(0.2, 0.1), slopes=(0.0, 0.0), effect=0.0
):
    """Columns yi, vi, district, school (numbered throughout), z (of districts), x (of schools).

    ln τ² of districts has the slope ``slopes[0]`` on z, that of schools ``slopes[1]`` on x, and the
    mean effect has the slope `effect` on z.
    """
    rng = np.random.default_rng(seed)
    school = np.repeat(np.arange(districts * schools), rows)
    district = school // schools
    z, x = rng.normal(size=districts), rng.normal(size=districts * schools)
    v = rng.uniform(0.02, 0.1, len(school))
    between = rng.normal(size=districts) * np.sqrt(tau2[0] * np.exp(slopes[0] * z))
    within = rng.normal(size=len(x)) * np.sqrt(tau2[1] * np.exp(slopes[1] * x))
    y = effect * z[district] + between[district] + within[school]
    y = y + rng.normal(size=len(v)) * np.sqrt(v)
    return pd.DataFrame(
        {"yi": y, "vi": v, "district": district, "school": school, "z": z[district], "x": x[school]}
    )


def nested_model(data, *, location="yi ~ 1", district="~ 1", school="~ 1"):
    """The model with a variance of districts and one of schools."""
    return lsm.LocationScaleModel(
        location, {"district": district, "school": school}, variance="vi", data=data
    )
