"""Warnings point at the caller's line, whatever the package did before it warned."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.errors import ConvergenceWarning, DivergentScaleWarning, DroppedRowsWarning

PACKAGE = Path(lsm.__file__).parent


def effects():
    """Twelve effects of four trials without any heterogeneity."""
    return pd.DataFrame(
        {"yi": np.tile([-0.1, 0.1], 6), "vi": 1.0, "trial": np.repeat(np.arange(4), 3)}
    )


def fit_one_term():
    return lsm.LocationScaleModel("yi ~ 1", variance="vi", data=effects()).fit_reml()


def fit_several_terms():
    scale = {"trial": "~ 1", "residual": "~ 1"}
    return lsm.LocationScaleModel("yi ~ 1", scale, variance="vi", data=effects()).fit_reml()


def drop_a_row():
    data = effects()
    data.loc[3, "yi"] = np.nan
    return lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data)


def drop_a_row_of_several_terms():
    data = effects()
    data.loc[3, "yi"] = np.nan
    scale = {"trial": "~ 1", "residual": "~ 1"}
    return lsm.LocationScaleModel("yi ~ 1", scale, variance="vi", data=data)


def sample_too_little():
    data = lsm.load_dataset("bcg")
    return lsm.LocationScaleModel("yi ~ ablat", "~ ablat", variance="vi", data=data).fit_bayes(
        engine="collapsed", draws=100, seed=1
    )


@pytest.mark.parametrize(
    ("call", "category"),
    [
        (fit_one_term, DivergentScaleWarning),
        (fit_several_terms, DivergentScaleWarning),
        (drop_a_row, DroppedRowsWarning),
        (drop_a_row_of_several_terms, DroppedRowsWarning),
        (sample_too_little, ConvergenceWarning),
    ],
)
def test_a_warning_points_here(call, category):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        call()
    ours = [warning for warning in said if issubclass(warning.category, lsm.BayesLsmWarning)]
    assert category in [warning.category for warning in ours]
    assert {warning.filename for warning in ours} == {__file__}
    line = Path(__file__).read_text(encoding="utf-8").splitlines()[ours[0].lineno - 1]
    assert "lsm." in line or "fit" in line


def test_all_warnings_of_the_package_go_through_one_door():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "errors.py":
            assert "warnings.warn(" not in path.read_text(encoding="utf-8"), path
