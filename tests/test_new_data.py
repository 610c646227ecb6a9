"""New rows meet the transforms and the levels of the fitted data, not their own."""

import numpy as np
import pandas as pd
import pytest
from scipy.interpolate import BSpline

from bayes_lsm.design.design import build_design
from bayes_lsm.errors import DataError
from bayes_lsm.specification import Specification

N = 30
RNG = np.random.default_rng(7)
TRAINING = pd.DataFrame(
    {
        "yi": RNG.normal(size=N),
        "vi": RNG.uniform(0.1, 1, N),
        "x": RNG.permutation(np.linspace(20, 40, N)),
        "mean age": RNG.uniform(1, 9, N),
        "g": list("abc") * 10,
        "year": [2001, 2002] * 15,
        "flag": [True, True, False] * 10,
    }
)
X = TRAINING["x"].to_numpy()
# Two rows with a mean and a spread unlike those of the fitted data.
NEW = pd.DataFrame({"x": [21.0, 39.5], "mean age": [5.0, 8.0]})
NEW = NEW.assign(g=["c", "a"], year=[2002, 2001], flag=[False, True])


def design(location, scale="~ 1", data=TRAINING, **fields):
    return build_design(Specification(location, "vi", "yi", scale, **fields), data)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("scale(x)", (NEW.x - X.mean()) / X.std(ddof=1)),
        ("scale(x, ddof=0)", (NEW.x - X.mean()) / X.std()),
        ("standardize(x)", (NEW.x - X.mean()) / X.std()),
        ("center(x)", NEW.x - X.mean()),
        ("center(log(x))", np.log(NEW.x) - np.log(X).mean()),
        ("I(center(x)**2)", (NEW.x - X.mean()) ** 2),
        ("scale(I(x**2))", (NEW.x**2 - (X**2).mean()) / (X**2).std(ddof=1)),
        ("log(x)", np.log(NEW.x)),
        ("I(x - 40)", NEW.x - 40),
        (
            "scale(`mean age`)",
            (NEW["mean age"] - TRAINING["mean age"].mean()) / TRAINING["mean age"].std(),
        ),
    ],
)
def test_transforms_keep_the_training_state(formula, expected):
    new = design(f"~ {formula}", f"~ 0 + {formula}").for_new_data(NEW)
    # The same arithmetic in another order: a few units in the last place.
    np.testing.assert_allclose(new.X, np.column_stack([np.ones(2), expected]), rtol=1e-12)
    np.testing.assert_allclose(new.Z[:, 0], expected, rtol=1e-12)


def test_a_transform_inside_an_interaction_keeps_the_training_state():
    new = design("~ g:scale(x)").for_new_data(NEW)
    z = (NEW.x - X.mean()) / X.std(ddof=1)
    np.testing.assert_allclose(new.X, [[1, 0, 0, z[0]], [1, z[1], 0, 0]], rtol=1e-12)


def test_splines_keep_the_training_knots():
    new = design("~ bs(x, df=5)").for_new_data(NEW)
    inner = np.quantile(X, [1 / 3, 2 / 3])
    knots = np.r_[[X.min()] * 4, inner, [X.max()] * 4]
    expected = BSpline.design_matrix(NEW.x, knots, 3).toarray()[:, 1:]
    np.testing.assert_allclose(new.X[:, 1:], expected, atol=1e-12)


def test_polynomials_keep_the_training_basis():
    fitted = design("~ poly(x, 2)")
    new = fitted.for_new_data(NEW)
    # An orthogonal polynomial is one function of x; its coefficients follow from the fitted rows.
    for j in (1, 2):
        coefficients = np.polyfit(X, fitted.X[:, j], 2)
        np.testing.assert_allclose(new.X[:, j], np.polyval(coefficients, NEW.x), rtol=1e-8)


@pytest.mark.parametrize(
    "formula",
    ["g", "C(year)", "C(g, Sum)", "g*x", "C(I(x > 30))", "flag", "C(flag):x", "C(year):g", "1"],
)
def test_the_fitted_rows_as_new_rows_give_the_fitted_matrix(formula):
    fitted = design(f"~ {formula}", "~ scale(x) + poly(x, 2):flag + g")
    new = fitted.for_new_data(TRAINING)
    np.testing.assert_allclose(new.X, fitted.X, rtol=1e-12)
    np.testing.assert_allclose(new.Z, fitted.Z, rtol=1e-10, atol=1e-12)
    one_by_one = [fitted.for_new_data(TRAINING.iloc[[i]]).X[0] for i in range(4)]
    np.testing.assert_allclose(one_by_one, fitted.X[:4], rtol=1e-12)


def test_one_new_level_at_a_time_keeps_all_columns():
    new = design("~ g").for_new_data(pd.DataFrame({"g": ["b"]}))
    np.testing.assert_array_equal(new.X, [[1, 1, 0]])
    category = pd.Categorical(["c"], categories=["c", "z"])
    new = design("~ g").for_new_data(pd.DataFrame({"g": category}))
    np.testing.assert_array_equal(new.X, [[1, 0, 1]])


@pytest.mark.parametrize(
    ("formula", "new", "message"),
    [
        ("~ g", {"g": ["a", "z"]}, r"has the level 'z'.*they have 'a', 'b', 'c'"),
        ("~ C(g, Sum)", {"g": ["z"]}, "has the level 'z'"),
        ("~ C(year)", {"year": [1999]}, "has the level 1999.*they have 2001, 2002"),
        ("~ C(year)", {"year": ["2001"]}, "'year' holds text, but held numbers"),
        ("~ g", {"g": [1]}, "'g' holds numbers, but held text"),
        ("~ x", {"x": ["a lot"]}, "'x' holds text, but held numbers"),
        ("~ x", {"x": [np.nan]}, "'x' has no value in row 0"),
        ("~ x", {"x": [1.0, None]}, "no value in row 1"),
        ("~ g", {"g": ["a", None]}, "no value in row 1"),
        ("~ x", {"z": [1]}, "no column 'x'"),
        ("~ x", {"x": [np.inf]}, "'x' is not finite"),
        ("~ log(x)", {"x": [0.0]}, r"new data"),
        ("~ x", {"x": []}, "no rows"),
        ("~ bs(x, df=4)", {"x": [100.0]}, "cannot evaluate"),
        ("~ flag", {"flag": [2]}, "'flag' holds numbers other than 0 and 1"),
        ("~ x", {"x": pd.to_datetime(["2020"])}, "dates or times"),
    ],
)
def test_new_data_that_the_model_cannot_answer_for(formula, new, message):
    with pytest.raises(DataError, match=message) as refusal:
        design(formula).for_new_data(pd.DataFrame(new))
    assert "\n" not in str(refusal.value)


def test_new_data_must_be_a_data_frame():
    with pytest.raises(DataError, match="must be a pandas DataFrame"):
        design("~ x").for_new_data({"x": [1]})


def test_whole_and_decimal_numbers_and_truth_values_are_interchangeable():
    by_year = design("~ C(year)")
    for dtype in ["int8", "float64", "Int64", "object"]:
        new = pd.DataFrame({"year": np.array([1, 2])}) + 2000
        new = new.astype("int16" if dtype == "int8" else dtype)
        np.testing.assert_array_equal(by_year.for_new_data(new).X, [[1, 0], [1, 1]])
    by_flag = design("~ flag + C(flag):x")
    as_numbers = by_flag.for_new_data(NEW.assign(flag=[0, 1]))
    np.testing.assert_array_equal(as_numbers.X, by_flag.for_new_data(NEW).X)


def test_labels_of_new_data():
    with_studies = TRAINING.assign(study=range(N))
    fitted = design("~ x", data=with_studies, study="study")
    assert fitted.for_new_data(NEW).labels == ("row 0", "row 1")
    assert fitted.for_new_data(NEW.assign(study=["A", 2.0])).labels == ("A", "2")
    assert fitted.for_new_data(NEW.set_index("g")).labels == ("row c", "row a")


def test_a_repeated_index_does_not_multiply_new_rows():
    new = pd.concat([NEW, NEW])
    assert design("~ g*x").for_new_data(new).X.shape == (4, 6)


def test_asking_does_not_change_the_training_state():
    fitted = design("~ scale(`mean age`) + poly(x, 2) + bs(x, df=4):flag")
    first = fitted.for_new_data(NEW).X
    fitted.for_new_data(NEW.assign(x=[30.0, 31.0]))
    np.testing.assert_array_equal(fitted.for_new_data(NEW).X, first)
