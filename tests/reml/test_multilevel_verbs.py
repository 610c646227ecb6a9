"""What the verbs of one scale term say of several, and what bad input says."""

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.errors import DataError

from .nested import nested_data, nested_model
from .peers import PEERS, crimes, gums, schools


@pytest.fixture(scope="module")
def fit():
    return nested_model(nested_data(slopes=(0, 0.7)), location="yi ~ z", school="~ x").fit_reml()


@pytest.mark.parametrize("case", ["schools", "crimes_correlated", "gums_UN"])
def test_cochrans_q_is_that_of_metafor(case):
    model = {"schools": schools(), "crimes_correlated": crimes(), "gums_UN": gums("unstructured")}
    peer = PEERS["metafor"][case]["REML"]
    found = model[case].fit_reml().qe
    assert found.statistic == pytest.approx(peer["QE"], rel=1e-9)
    assert found.pval == pytest.approx(peer["QEp"], rel=1e-6)


def model_of(scale, data=None, **options):
    data = nested_data(2, districts=6, rows=2) if data is None else data
    options = {"variance": "vi", **options}
    return lsm.LocationScaleModel("yi ~ 1", scale, data=data, **options)


def test_groups_that_coincide():
    data = nested_data(2, districts=6, rows=1)
    with pytest.raises(DataError, match="'school' and 'residual' have the same groups"):
        model_of({"school": "~ 1", "residual": "~ 1"}, data)
    with pytest.raises(DataError, match="'district' and 'county' have the same groups"):
        model_of({"district": "~ 1", "county": "~ 1"}, data.assign(county=data["district"] + 7))


def test_a_level_with_one_group():
    data = nested_data(2, districts=6).assign(country="NL")
    with pytest.raises(DataError, match=r"'country' has one group \(NL\)"):
        model_of({"country": "~ 1", "district": "~ 1"}, data)


def test_a_slope_that_is_constant_within_groups():
    with pytest.raises(DataError, match="'z' is constant within every group"):
        model_of({"0 + z | district": "~ 1", "school": "~ 1"})


def test_a_moderator_that_differs_within_groups():
    with pytest.raises(DataError, match="'x' of 'district' must have one value in each group"):
        model_of({"district": "~ x", "school": "~ 1"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda V: V[:-1, :-1], "must be 36 × 36"),
        (lambda V: V - 10 * np.eye(36), "must be > 0"),
        (lambda V: V + 0.5 * np.eye(36, k=1), "must be symmetric"),
        (lambda V: V + 5 * (np.eye(36, k=1) + np.eye(36, k=-1)), "must be positive definite"),
        (lambda V: np.where(np.eye(36, k=1) > 0, np.nan, V), "must be finite"),
        (lambda V: V.astype(str), "must hold numbers"),
    ],
)
def test_a_covariance_that_is_none(change, message):
    data = nested_data(2, districts=6)
    with pytest.raises(DataError, match=message):
        model_of({"district": "~ 1"}, data, variance=change(np.diag(data["vi"].to_numpy())))


def test_a_covariance_in_another_order():
    data = nested_data(2, districts=6)
    V = pd.DataFrame(np.diag(data["vi"]), index=data.index[::-1], columns=data.index[::-1])
    with pytest.raises(DataError, match="must have the index of the data"):
        model_of({"district": "~ 1"}, data, variance=V)
