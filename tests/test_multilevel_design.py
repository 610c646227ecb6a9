"""Models with several scale terms, from words and data to numbers."""

import numpy as np
import pandas as pd
import pytest

from bayes_lsm.design.design import build_design
from bayes_lsm.errors import DataError, DroppedRowsWarning
from bayes_lsm.specification import SamplingCovariance, Specification


@pytest.fixture
def schools():
    """Nine effects of six schools in three districts."""
    return pd.DataFrame(
        {
            "yi": [0.1, 0.3, -0.2, 0.5, 0.2, 0.0, 0.4, 0.6, 0.1],
            "vi": [0.1] * 9,
            "district": [11, 11, 11, 12, 12, 12, 18, 18, 18],
            "school": [1, 1, 2, 1, 1, 2, 1, 1, 2],
            "year": [76, 76, 89, 94, 94, 76, 80, 80, 81],
            "x": [0, 1, 0, 1, 0, 1, 0, 1, 1],
            "outcome": list("ababababa"),
            "person": range(9),
        }
    )


def build(data, scale, *, location="yi ~ 1", variance="vi", covariance=None, **fields):
    specification = Specification(location, variance, scale=scale, **fields)
    return build_design(specification, data, covariance=covariance)


def test_nested_groups_are_found_and_their_formula_is_evaluated_once_a_group(schools):
    design = build(schools, {"district": "~ 1", "district/school": "~ year"})
    district, school = design.terms
    assert district.groups == ("11", "12", "18")
    assert school.groups == ("11/1", "11/2", "12/1", "12/2", "18/1", "18/2")
    np.testing.assert_array_equal(school.index, [0, 0, 1, 2, 2, 3, 4, 4, 5])
    np.testing.assert_array_equal(school.Z[:, 0, 1], [76, 89, 94, 76, 80, 81])
    np.testing.assert_array_equal(district.slopes, np.ones((9, 1)))
    assert not design.notes


def test_groups_that_are_crossed_are_said_to_be(schools):
    design = build(schools, {"district": "~ 1", "school": "~ 1"})
    assert any("crossed" in note and "'district/school'" in note for note in design.notes)


def test_a_slope_multiplies_the_effect_of_its_group(schools):
    (term,) = build(schools, {"0 + x | district": "~ 1"}).terms
    np.testing.assert_array_equal(term.slopes[:, 0], schools["x"])
    assert term.groups == ("11", "12", "18")


def test_individual_data_have_no_sampling_variance(schools):
    design = build(schools, {"district": "~ 1", "residual": "~ x"}, variance=None)
    np.testing.assert_array_equal(design.v, 0)
    np.testing.assert_array_equal(design.terms[1].index, np.arange(9))
    np.testing.assert_array_equal(design.terms[1].Z[:, 0, 1], schools["x"])


def test_correlated_effects_are_pairs_of_a_cluster_and_a_level(schools):
    scale = {"outcome | district": "~ 0 + outcome"}
    (term,) = build(schools, scale, correlation={"outcome | district": "compound_symmetric"}).terms
    assert (term.effects, term.groups, term.names) == (
        ("a", "b"),
        ("11", "12", "18"),
        ("outcomea", "outcomeb"),
    )
    np.testing.assert_array_equal(term.slopes, np.eye(2)[[0, 1] * 4 + [0]])
    np.testing.assert_array_equal(term.Z, np.broadcast_to(np.eye(2), (3, 2, 2)))
    assert term.correlation == "compound_symmetric"


def test_an_outcome_that_a_cluster_lacks_has_no_rows(schools):
    data = schools.drop(index=[0, 2])
    (term,) = build(data, {"outcome | district": "~ 0 + outcome"}).terms
    index, effect = np.nonzero(term.slopes)
    assert [term.effects[j] for j in effect] == list(data["outcome"].iloc[index])
    assert not term.Z[0, list(term.effects).index("a")].any()


def test_an_intercept_and_a_slope_have_coefficients_of_their_own(schools):
    (term,) = build(schools, {"1 + x | district": "~ 1"}).terms
    assert term.names == term.effects == ("intrcpt", "x")
    np.testing.assert_array_equal(term.slopes, np.column_stack([np.ones(9), schools["x"]]))
    np.testing.assert_array_equal(term.Z, np.broadcast_to(np.eye(2), (3, 2, 2)))
    by_size = schools.assign(size=schools["district"] % 5)
    (term,) = build(by_size, {"1 + x | district": "~ size"}).terms
    assert term.names[2:] == ("x: intrcpt", "x: size")
    np.testing.assert_array_equal(term.Z[1], [[1, 2, 0, 0], [0, 0, 1, 2]])


def test_a_correlation_of_sampling_errors_makes_blocks(schools):
    errors = SamplingCovariance("district", rho=0.5)
    design = build(schools, {"person": "~ 1"}, sampling_covariance=errors)
    assert [list(block.rows) for block in design.blocks] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    expected = np.full((3, 3), 0.05) + np.diag([0.05] * 3)
    np.testing.assert_allclose(design.blocks[1].covariance, expected, rtol=1e-15)


def test_columns_and_a_matrix_and_a_correlation_say_the_same(schools):
    by_rho = build(schools, "~ 1", sampling_covariance=SamplingCovariance("district", rho=0.5))
    matrix = np.diag(schools["vi"].to_numpy())
    for block in by_rho.blocks:
        matrix[np.ix_(block.rows, block.rows)] = block.covariance
    by_matrix = build(schools, "~ 1", covariance=matrix)
    wide = schools.assign(
        **{f"v{j}": matrix[np.arange(9), np.arange(9) // 3 * 3 + j] for j in range(3)}
    )
    errors = SamplingCovariance("district", columns=["v0", "v1", "v2"])
    by_columns = build(wide, "~ 1", sampling_covariance=errors)
    for design in (by_matrix, by_columns):
        np.testing.assert_allclose(design.v, by_rho.v, rtol=1e-15)
        for block, expected in zip(design.blocks, by_rho.blocks, strict=True):
            np.testing.assert_array_equal(block.rows, expected.rows)
            np.testing.assert_allclose(block.covariance, expected.covariance, rtol=1e-15)


def test_a_matrix_loses_the_rows_that_the_data_lose(schools):
    schools.loc[4, "year"] = np.nan
    matrix = np.diag(np.arange(1.0, 10.0))
    matrix[3, 5] = matrix[5, 3] = 0.5
    with pytest.warns(DroppedRowsWarning):
        design = build(schools, {"person": "~ year"}, covariance=matrix)
    np.testing.assert_array_equal(design.v, [1, 2, 3, 4, 6, 7, 8, 9])
    np.testing.assert_array_equal(design.blocks[0].rows, [3, 4])


def test_a_matrix_that_is_labelled_must_be_in_the_order_of_the_data(schools):
    matrix = pd.DataFrame(np.eye(9)).sort_index(ascending=False)
    with pytest.raises(DataError, match="must have the index of the data"):
        build(schools, "~ 1", covariance=matrix)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (
            {"district": "~ 1", "district/person": "~ 1", "residual": "~ 1"},
            "'residual' have the same",
        ),
        ({"district": "~ 1", "1 | district": "~ 1"}, "cannot be told apart"),
        ({"one": "~ 1"}, "has one group"),
        ({"0 + half | district": "~ 1"}, "constant within every group"),
        (
            {"district": "~ year"},
            "'year' of 'district' must have one value in each group, got 76.0",
        ),
        ({"distrct": "~ 1"}, "did you mean 'district'"),
    ],
)
def test_terms_that_cannot_be_told_apart_are_refused(schools, scale, message):
    data = schools.assign(one=1, half=schools["district"] / 2)
    with pytest.raises(DataError, match=message):
        build(data, scale)


@pytest.mark.parametrize(
    ("covariance", "message"),
    [
        (np.eye(8), "must be 9 × 9.*got 8 × 8"),
        (np.eye(9) + np.eye(9, k=1), "symmetric"),
        (np.eye(9) + 2 * (np.eye(9, k=1) + np.eye(9, k=-1)), "positive definite"),
        (np.zeros((9, 9)), "must be > 0"),
        (np.ones(9), "got 9"),
    ],
)
def test_a_matrix_that_is_no_covariance_is_refused(schools, covariance, message):
    with pytest.raises(DataError, match=message):
        build(schools, "~ 1", covariance=covariance)


def test_individual_data_need_a_residual(schools):
    specification = Specification("yi ~ 1", scale={"district": "~ 1", "residual": "~ 1"})
    assert build_design(specification, schools).n_effects == 9
