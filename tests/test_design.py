"""From words and data to numbers: what goes in, what comes out, and what is refused."""

import decimal
import pickle
import re
import subprocess
import sys
import tracemalloc

import numpy as np
import pandas as pd
import pytest

from bayes_lsm.datasets import load_dataset
from bayes_lsm.design.columns import redundant_column
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import BayesLsmError, DataError, DroppedRowsWarning, FormulaError
from bayes_lsm.specification import Specification

N = 24


@pytest.fixture
def data():
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "yi": rng.normal(size=N),
            "vi": rng.uniform(0.1, 1, N),
            "x": rng.normal(size=N),
            "g": list("abcd") * 6,
            "year": [2001, 2002, 2003] * 8,
            "flag": ([True, True, False, True, False] * 5)[:N],
        }
    )


def design(data, location="~ 1", scale="~ 1", **fields):
    return build_design(Specification(location, "vi", "yi", scale, **fields), data)


# ---------------------------------------------------------------- the five traps


def test_trap_scale_with_one_missing_value_drops_one_row_not_all(data):
    data.loc[3, "x"] = np.nan
    with pytest.warns(DroppedRowsWarning):
        built = design(data, "~ scale(x)")
    x = data["x"].drop(3)
    assert built.n_studies == N - 1
    np.testing.assert_allclose(built.X[:, 1], (x - x.mean()) / x.std(ddof=1))


def test_trap_columns_inside_transforms_are_required(data):
    for formula in ["~ scale(z)", "~ I(x * z)", "~ C(z)", "~ x:log(z)", "~ bs(`z`, df=4)"]:
        with pytest.raises(DataError, match="no column 'z'"):
            design(data, formula)
        with pytest.raises(DataError, match="no column 'z'"):
            design(data, scale=formula)


def test_trap_each_part_has_its_own_intercept(data):
    built = design(data, "~ x", "~ x")
    assert built.location.names == built.scale.names == ("intrcpt", "x")
    assert design(data, "~ x", "~ 0 + x").scale.names == ("x",)


def test_trap_an_unseen_level_does_not_become_the_reference(data):
    built = design(data, "~ g")
    with pytest.raises(DataError, match="has the level 'z', which the fitted data do not have"):
        built.for_new_data(pd.DataFrame({"g": ["a", "z"]}))


def test_trap_a_formula_sees_no_variable_of_the_caller(data):
    w = data["x"]
    assert len(w) == N
    with pytest.raises(DataError, match="no column 'w'"):
        design(data, "~ w")
    with pytest.raises(DataError, match="no column 'np'"):
        design(data, "~ I(np * 2)")


# ---------------------------------------------------------------- matrices and names


@pytest.mark.parametrize(
    ("formula", "names"),
    [
        ("~ 1", ["intrcpt"]),
        ("~ 0 + x", ["x"]),
        ("~ x - 1", ["x"]),
        ("~ g", ["intrcpt", "gb", "gc", "gd"]),
        ("~ 0 + g", ["ga", "gb", "gc", "gd"]),
        ("~ C(year)", ["intrcpt", "year2002", "year2003"]),
        ("~ C(flag) + flag:x", ["intrcpt", "flagTrue", "flag:x"]),
        ("~ flag", ["intrcpt", "flag"]),
        ("~ I(x - 40) + I(x**2)", ["intrcpt", "I(x - 40)", "I(x ** 2)"]),
        ("~ g*x", ["intrcpt", "gb", "gc", "gd", "x", "gb:x", "gc:x", "gd:x"]),
        ("~ 0 + C(year):x", ["year2001:x", "year2002:x", "year2003:x"]),
        ("~ C(g, Treatment('c'))", ["intrcpt", "ga", "gb", "gd"]),
        ("~ C(year, Treatment(2003))", ["intrcpt", "year2001", "year2002"]),
        ("~ C(g, Sum)", ["intrcpt", "C(g, Sum)[S.a]", "C(g, Sum)[S.b]", "C(g, Sum)[S.c]"]),
        ("~ poly(x, 2)", ["intrcpt", "poly(x, 2)1", "poly(x, 2)2"]),
        ("~ C(I(x > 0))", ["intrcpt", "I(x > 0)True"]),
        ("~ Q('x') + C(Q('g'))", ["intrcpt", "x", "gb", "gc", "gd"]),
    ],
)
def test_term_names(data, formula, names):
    built = design(data, formula)
    assert list(built.location.names) == names
    assert built.X.shape == (N, len(names))
    assert built.X.dtype == float


def test_levels_with_the_letters_of_the_formula_language(data):
    data["g"] = ["a:b", "c[d]", "T.x", "e]f"] * 6
    assert design(data, "~ 0 + g").location.names == ("gT.x", "ga:b", "gc[d]", "ge]f")
    assert design(data, "~ g:x").location.names[1:] == ("gT.x:x", "ga:b:x", "gc[d]:x", "ge]f:x")


def test_names_that_would_be_the_same_stay_in_full(data):
    data = data.assign(a=["c", "bc"] * 12, ab=list("cccddd") * 4)
    data.loc[0, "a"] = "bc"
    assert design(data, "~ 0 + a + ab").location.names == ("abc", "ac", "abd")
    data["a"] = data["a"].replace({"c": "bd"})
    assert design(data, "~ 0 + a + ab").location.names == ("a[bc]", "a[bd]", "ab[T.d]")


@pytest.mark.parametrize("name", ["mean age", "β 1", "1st", 'it\'s (a) "b"', "a+b", "x.y"])
def test_columns_of_any_name_can_be_quoted(data, name):
    data = data.rename(columns={"x": name})
    built = design(data, f"~ `{name}` + I(`{name}`**2)")
    np.testing.assert_array_equal(built.X[:, 1], data[name])
    np.testing.assert_array_equal(built.X[:, 2], data[name] ** 2)


def test_a_column_with_a_name_of_pythons_is_used_as_it_is_or_refused(data):
    data = data.rename(columns={"x": "if"})
    np.testing.assert_array_equal(design(data, "~ `if`").X[:, 1], data["if"])
    with pytest.raises(BayesLsmError, match="'if', which is a word of Python; rename"):
        design(data, "~ scale(`if`)")


@pytest.mark.parametrize("name", ["scale", "C", "I", "log", "Q", "np", "contr", "poly", "print"])
def test_a_column_with_the_name_of_a_transform_does_no_harm(data, name):
    data[name] = data["x"] * 2
    np.testing.assert_array_equal(design(data, f"~ {name}").X[:, 1], data[name])
    # It is not even seen where the formula does not name it.
    unnamed = design(data, "~ scale(x) + C(g) + I(x**2) + log(year)")
    names = ("intrcpt", "scale(x)", "gb", "gc", "gd", "I(x ** 2)", "log(year)")
    assert unnamed.location.names == names


def test_a_column_of_one_part_does_not_shadow_a_transform_of_the_other(data):
    data["scale"] = data["x"] ** 2
    built = design(data, "~ scale", "~ scale(x)")
    assert built.scale.names == ("intrcpt", "scale(x)")


def test_other_functions_in_the_data_are_never_called(data):
    called = []
    data["scale"] = pd.Series([called.append] * N, dtype=object)
    data["f"] = data["scale"]
    assert design(data, "~ scale(x)").location.names == ("intrcpt", "scale(x)")
    with pytest.raises(DataError, match="unusable types"):
        design(data, "~ f")
    with pytest.raises(DataError, match="unusable types"):
        design(data, "~ scale")
    assert not called


def test_the_matrix_is_the_one_worked_out_by_hand():
    built = design(load_dataset("preterm_iq"), "~ continent + I(weeks - 40)")
    frame = load_dataset("preterm_iq")
    expected = np.column_stack(
        [
            np.ones(37),
            frame["continent"] == "America",
            frame["continent"] == "Other",
            frame["weeks"] - 40,
        ]
    )
    np.testing.assert_array_equal(built.X, expected)
    np.testing.assert_array_equal(built.y, frame["yi"])
    np.testing.assert_array_equal(built.v, frame["vi"])


def test_a_design_keeps_numbers_of_its_own(data):
    built = design(data, "~ x")
    before = built.X.copy(), built.y.copy()
    data.loc[:, ["x", "yi"]] = 99.0
    np.testing.assert_array_equal(built.X, before[0])
    np.testing.assert_array_equal(built.y, before[1])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(built)).X, built.X)


def test_kept_rows_keep_their_order(data):
    """Each row keeps its own moderators: in X, and in Z, which is known by group."""
    data["x"] = np.arange(len(data)) / 7.0
    built = design(data, "~ x", "~ x")
    rows = np.array([5, 2, 7])
    kept = built.keep(rows)
    np.testing.assert_array_equal(kept.X, built.X[rows])
    np.testing.assert_array_equal(kept.Z, built.Z[rows])
    assert kept.terms[0].groups == tuple(built.terms[0].groups[i] for i in rows)


def test_the_data_are_left_as_they_were(data):
    data["g"] = pd.Categorical(data["g"], categories=list("abcdz"))
    before = data.copy()
    design(data, "~ g + C(year) + flag", "~ x")
    pd.testing.assert_frame_equal(data, before)


def test_the_caution_of_the_data_is_carried_along(data):
    assert design(data).caution == ""
    assert "29 of the 37 rows" in design(load_dataset("preterm_iq")).caution
    assert "29 of the 37 rows" in design(load_dataset("preterm_iq").iloc[:20]).caution


# ---------------------------------------------------------------- kinds of columns


@pytest.mark.parametrize("dtype", ["object", "str", "string", "category"])
def test_text_of_every_dtype_gives_the_same_design(data, dtype):
    expected = design(data, "~ g*x")
    built = design(data.assign(g=data["g"].astype(dtype)), "~ g*x")
    assert built.location.names == expected.location.names
    np.testing.assert_array_equal(built.X, expected.X)


@pytest.mark.parametrize(
    "dtype", ["int8", "int64", "uint16", "float32", "Int64", "Float64", "object"]
)
def test_numbers_of_every_dtype_give_the_same_design(data, dtype):
    data["n"] = (data["year"] - 2000) * 40
    expected = design(data, "~ n + I(n**2) + scale(n):x")
    # 120² does not fit into 8 bits: an integer would wrap around without a word.
    built = design(data.assign(n=data["n"].astype(dtype)), "~ n + I(n**2) + scale(n):x")
    np.testing.assert_array_equal(built.X, expected.X)


def test_large_powers_of_whole_numbers_do_not_wrap_around(data):
    built = design(data, "~ I(year**6)")
    np.testing.assert_allclose(built.X[:, 1], data["year"].astype(float) ** 6, rtol=1e-14)


@pytest.mark.parametrize("dtype", ["bool", "boolean", "object"])
def test_truth_values(data, dtype):
    built = design(data.assign(flag=data["flag"].astype(dtype)), "~ flag + C(flag):x")
    np.testing.assert_array_equal(built.X[:, 1], data["flag"].astype(float))


def test_decimals_and_sparse_columns_are_numbers(data):
    data["d"] = [decimal.Decimal(i % 7) for i in range(N)]
    data["s"] = pd.arrays.SparseArray([0.0, 0, 1, 0, 2, 3] * 4)
    built = design(data, "~ d + s")
    np.testing.assert_array_equal(built.X[:, 1:], data[["d", "s"]].astype(float))


def test_the_order_of_categories_is_kept_and_unused_ones_are_not(data):
    data["g"] = pd.Categorical(data["g"], categories=list("zdcba"), ordered=True)
    assert design(data, "~ g").location.names == ("intrcpt", "gc", "gb", "ga")


def test_unused_categories_after_dropping_rows_are_not_columns_of_zeros(data):
    data["g"] = pd.Categorical(data["g"])
    data.loc[data["g"] == "d", "x"] = np.nan
    with pytest.warns(DroppedRowsWarning, match="6 of 24"):
        assert design(data, "~ g + x").location.names == ("intrcpt", "gb", "gc", "x")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pd.date_range("2020", periods=N), r"dates or times.*dt\.year"),
        (pd.to_timedelta(range(N)), "dates or times"),
        (pd.period_range("2020", periods=N, freq="M"), "dates or times"),
        ([1, "a"] * 12, "different or unusable types.*int, str.*all of them text"),
        ([True, "a"] * 12, "different or unusable types"),
        ([(1, 2)] * N, "different or unusable types.*tuple"),
        ([print] * N, "different or unusable types"),
        (pd.Categorical([1, "a"] * 12), "partly text"),
        (np.arange(N) + 1j, "complex"),
    ],
)
def test_other_columns_are_refused(data, values, message):
    data["z"] = pd.Series(values)
    with pytest.raises(DataError, match=f"column 'z'.*{message}"):
        design(data, "~ z")
    with pytest.raises(DataError, match="column 'z'"):
        design(data, "~ C(z)")


def test_arithmetic_with_text_is_refused(data):
    for formula in ["~ scale(g)", "~ I(g * 2)", "~ log(g)", "~ poly(g, 2)"]:
        with pytest.raises(DataError, match="computes with 'g', which holds text"):
            design(data, formula)
    assert design(data, "~ I(g == 'a')").X[:, 1].sum() == 6


@pytest.mark.parametrize("index", ["repeated", "multi", "text", "gaps"])
def test_any_index(data, index):
    expected = design(data, "~ g*x")
    data.index = {
        "repeated": pd.Index([0] * N),
        "multi": pd.MultiIndex.from_arrays([data["g"], range(N)]),
        "text": pd.Index([f"s{i}" for i in range(N)]),
        "gaps": pd.RangeIndex(0, 3 * N, 3),
    }[index]
    built = design(data, "~ g*x")
    np.testing.assert_array_equal(built.X, expected.X)
    label = {"repeated": "row 0", "multi": "row b/1", "text": "row s1", "gaps": "row 3"}[index]
    assert built.labels[1] == label


# ---------------------------------------------------------------- labels and missing values


@pytest.mark.parametrize(
    ("studies", "labels"),
    [
        ([1, 2, 3], ("1", "2", "3")),
        ([1.0, 2.0, np.nan], ("1", "2", "row 2")),
        ([1.5, 2.0, 3.0], ("1.5", "2", "3")),
        (["Smith 1999", None, "Åse"], ("Smith 1999", "row 1", "Åse")),
        (pd.array([1, pd.NA, 3], dtype="Int64"), ("1", "row 1", "3")),
        (["same", "same", "same"], ("same", "same", "same")),
    ],
)
def test_labels(studies, labels):
    data = pd.DataFrame({"yi": [1.0, 2.0, 4.0], "vi": 1.0, "study": studies})
    assert design(data, study="study").labels == labels
    assert design(data).labels == ("row 0", "row 1", "row 2")


def test_dropped_rows_are_counted_and_named_in_one_warning(data):
    data = data.astype({"year": "Int64", "flag": "boolean"})
    data["study"] = [f"s{i}" for i in range(N)]
    data.loc[0, "x"] = np.nan
    data.loc[1, ["x", "g"]] = None
    data.loc[2, "year"] = pd.NA
    data.loc[3, "flag"] = pd.NA
    data.loc[4, "yi"] = np.nan
    data.loc[5, "vi"] = np.nan
    with pytest.warns(DroppedRowsWarning) as warned:
        built = design(data, "~ x + g", "~ C(year) + flag", study="study")
    assert len(warned) == 1
    text = str(warned[0].message)
    assert "6 of 24 rows" in text
    assert "s0, s1, s2, s3, s4 and 1 more" in text
    assert all(repr(column) in text for column in ["x", "g", "year", "flag", "yi", "vi"])
    assert warned[0].filename.endswith("test_design.py")
    assert [row.label for row in built.dropped] == ["s0", "s1", "s2", "s3", "s4", "s5"]
    assert [row.columns for row in built.dropped[:3]] == [("x",), ("x", "g"), ("year",)]
    assert built.labels[0] == "s6"
    assert built.n_studies == N - 6


def test_missing_values_elsewhere_drop_nothing(data):
    data["note"] = None
    data["other"] = np.nan
    data["study"] = None
    assert design(data, "~ x", study="study").n_studies == N


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("vi", 0.0, r"'vi' must be > 0, got 0 in row 2; drop the row or correct it"),
        ("vi", -0.3, r"'vi' must be > 0, got -0.3 in row 2"),
        ("vi", np.inf, "'vi' must be finite, got inf in row 2"),
        ("yi", -np.inf, "'yi' must be finite, got -inf in row 2"),
        ("x", np.inf, "term 'x' is not finite in row 2"),
    ],
)
def test_impossible_numbers(data, column, value, message):
    data.loc[2, column] = value
    with pytest.raises(DataError, match=message):
        design(data, "~ x")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1.2", "abc"] * 12, "must hold numbers, got 'abc' in row 1.*pandas.to_numeric"),
        (["1.2", "3"] * 12, "must hold numbers, got text"),
        ([True, False] * 12, "must hold numbers, got True and False"),
        (pd.date_range("2020", periods=N), "dates or times"),
        (np.arange(N) + 0j, "complex"),
    ],
)
@pytest.mark.parametrize("column", ["yi", "vi"])
def test_effects_and_variances_must_be_numbers(data, column, values, message):
    data[column] = values
    with pytest.raises(DataError, match=f"column '{column}'.*{message}"):
        design(data)


def test_integer_and_nullable_effects_are_numbers(data):
    data["yi"], data["vi"] = pd.array(range(N), dtype="Int64"), 2
    np.testing.assert_array_equal(design(data).y, np.arange(N))


def test_unknown_and_repeated_columns(data):
    with pytest.raises(DataError, match=r"no column 'wekks'.*did you mean 'weeks'"):
        design(data.rename(columns={"x": "weeks"}), "~ wekks")
    with pytest.raises(DataError, match="no column 'study'"):
        design(data, study="study")
    with pytest.raises(DataError, match="2 columns named 'x'; keep one"):
        design(pd.concat([data, data[["x"]]], axis=1), "~ x")


@pytest.mark.parametrize("data", [None, {"yi": [1]}, [1, 2], np.ones(3)])
def test_only_a_data_frame(data):
    with pytest.raises(DataError, match="must be a pandas DataFrame"):
        design(data)


def test_an_empty_table_and_one_without_complete_rows(data):
    with pytest.raises(DataError, match="the data have no rows"):
        design(data.iloc[:0], "~ x")
    with pytest.raises(DataError, match="no complete row is left of 24"):
        design(data.assign(x=np.nan), "~ x")


@pytest.mark.parametrize(
    ("rows", "location", "scale", "message"),
    [
        (1, "~ 1", "~ 1", "1 study cannot carry 1 location"),
        (4, "~ x*flag", "~ 1", r"4 studies cannot carry 4 location coefficients \(intrcpt, x"),
        (4, "~ 1", "~ x*flag", "4 studies cannot carry 4 scale"),
        (5, "~ x + flag", "~ x + flag", "3 location and 3 scale.*2 degrees of freedom"),
    ],
)
def test_more_coefficients_than_the_studies_can_carry(data, rows, location, scale, message):
    with pytest.raises(DataError, match=message):
        design(data.iloc[:rows], location, scale)


def test_just_enough_studies(data):
    assert design(data.iloc[:2]).n_studies == 2
    assert design(data.iloc[:6], "~ x + flag", "~ x + flag").n_studies == 6


@pytest.mark.parametrize("part", ["location", "scale"])
@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("~ x + I(2*x - 7)", r"term 'I\(2 \* x - 7\)' is a linear combination of 'x'"),
        ("~ x + z + I(x + 3*z)", r"'I\(x \+ 3 \* z\)' is a linear combination of 'x' and 'z'"),
        ("~ g + h", "'hq' is a linear combination of 'gc' and 'gd'"),
        ("~ g + I(g == 'a')", "linear combination"),
        ("~ C(g, spans_intercept=False)", "linear combination"),
        ("~ constant", "'constant' is constant"),
        ("~ rounding", "'rounding' is constant"),
        ("~ scale(constant)", "'constant' is constant"),
        ("~ I(x - x)", "is zero in every study"),
        ("~ one_level", "constant: it has one level only"),
        ("~ C(constant)", "constant: it has one level only"),
        ("~ C(g, levels=['a', 'b', 'c', 'd', 'z'])", "'gz' is zero in every study"),
        ("~ C(g, levels=['a', 'b'])", "levels that the .* formula .* does not list"),
        ("~ g:twin", "zero in every study"),
        ("~ log(x)", r"term 'log\(x\)' is not finite in row"),
        ("~ I(1/I(year - 2001))", "not finite in row 0, row 3"),
    ],
)
def test_columns_that_cannot_be_estimated_are_named(data, part, formula, message):
    data["z"] = np.sqrt(np.arange(N))
    data["h"] = data["g"].map({"a": "p", "b": "p", "c": "q", "d": "q"})
    data["twin"] = data["g"].isin(["a", "c"])
    data["constant"], data["one_level"] = 3, "only"
    data["rounding"] = [0.3, 0.1 + 0.2] * 12
    with pytest.raises(DataError, match=f"{part}|data have") as refusal:
        design(data, **{part: formula})
    assert pytest.raises(DataError, match=message).matches(refusal.value)


@pytest.mark.parametrize(
    "formula", ["~ bs(x, df=2)", "~ C(g, Treatment('z'))", "~ I(x & year)", "~ bs(x, 4, [1])"]
)
def test_a_formula_that_fails_on_the_data_says_so_in_one_line(data, formula):
    with pytest.raises(FormulaError, match=r"cannot evaluate the location formula") as refusal:
        design(data, formula)
    assert "\n" not in str(refusal.value)
    assert "\x1b" not in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "formula", "message"),
    [
        (["z", *list("ab") * 11, "a"], "~ z", "level 'z' of the scale moderator 'z' has one study"),
        (["a", *["b", "c"] * 11, "c"], "~ z", "level 'a' of"),
        (["z", *list("ab") * 11, "a"], "~ 0 + z", "level 'z' of"),
        (["z", *list("ab") * 11, "a"], "~ C(z, Sum)", "level 'z' of"),
        ([9, *[1, 2] * 11, 1], "~ C(z)", "level 9 of"),
        ([1.0] + [0.0] * 23, "~ z", r"'z' is 1 in one study \(row 0\) and 0 in all others"),
        ([1.0] + [0.0] * 23, "~ C(I(z > 0.5))", "level True of"),
        (["z"] * 3 + list("aaabbb") * 3 + ["a"] * 3, "~ z*C(flag)", "level 'z' and .* one study"),
    ],
)
def test_a_level_with_one_study_is_told(data, values, formula, message):
    """Its τ² is informed by one residual, and by none if the location part has it, too."""
    data["z"] = values
    (lone,) = {level.said: level for level in design(data, scale=formula).lone_levels}.values()
    assert re.search(message, lone.said)
    assert not lone.is_absorbed
    if "*" not in formula:  # the location part would hold a column of zeros
        assert any(level.is_absorbed for level in design(data, formula, formula).lone_levels)


# ---------------------------------------------------------------- scales and sizes


@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1e8, 1e15])
@pytest.mark.parametrize("shift", [0.0, 1.0, 1e6])
def test_units_and_origins_do_not_make_columns_redundant(data, unit, shift):
    data["u"] = unit * (shift + data["x"])
    data["yi"], data["vi"] = 1e-6 * data["yi"], 1e-12 * data["vi"]
    built = design(data, "~ u + g + year", "~ u + year")
    assert built.location.names == ("intrcpt", "u", "gb", "gc", "gd", "year")
    # The same redundancy is found in these units too.
    with pytest.raises(DataError, match="linear combination of 'u'"):
        design(data.assign(w=data["u"] * 3e5), "~ u + w")


def test_a_moderator_far_from_zero_is_not_the_constant(data):
    assert design(data.assign(x=1e8 + data["x"]), "~ x", "~ x").X.shape == (N, 2)


def test_moderators_that_differ_a_little_are_different(data):
    data["w"] = data["x"] + 1e-7 * np.cos(np.arange(N))
    assert design(data, "~ x + w").X.shape == (N, 3)
    data["w"] = data["x"] + 1e-13 * np.cos(np.arange(N))
    with pytest.raises(DataError, match="linear combination of 'x'"):
        design(data, "~ x + w")


def test_redundant_column_against_the_rank():
    rng = np.random.default_rng(3)
    for _ in range(50):
        n, p = rng.integers(3, 9), rng.integers(1, 6)
        values = rng.integers(-1, 2, size=(n, p)).astype(float)
        if not values.any(axis=0).all():
            continue
        full = np.linalg.matrix_rank(values) == p
        assert (redundant_column(values) is None) == full


def test_the_lower_floors_load_no_heavy_library():
    code = (
        "import sys, bayes_lsm.design.design, bayes_lsm.priors, bayes_lsm.datasets;"
        "print({'pymc', 'arviz', 'matplotlib', 'pytensor'} & set(sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "set()"


def test_a_million_rows_are_built():
    n = 1_000_000
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"yi": rng.normal(size=n), "vi": 1.0, "x": rng.normal(1e8, 1, n)})
    data["g"], data["study"] = rng.choice(list("abcd"), n), np.arange(n)
    built = design(data, "~ g + x", "~ x", study="study")
    assert built.X.shape == (n, 5)


@pytest.mark.parametrize(
    "formula", ["~ C(a):C(b):C(c)", "~ bs(x, df=100):bs(y, df=100):bs(z, df=100)", "~ C(a)*C(b)*x"]
)
def test_matrices_that_would_fill_the_memory_are_not_built(formula):
    n = 3000
    rng = np.random.default_rng(5)
    data = pd.DataFrame({name: rng.normal(size=n) for name in "xyz"} | {"yi": 1.0, "vi": 1.0})
    for name in "abc":
        data[name] = np.arange(n) % 1500
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="3000 studies cannot carry"):
            design(data, formula)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The smallest of these matrices, of 3000 rows and 1,000,000 columns, has 24 GB.
    assert peak < 1e9


def test_a_matrix_of_many_rows_and_columns_is_not_built():
    data = pd.DataFrame({"yi": np.zeros(60_000), "vi": 1.0, "a": np.arange(60_000) % 20_000})
    with pytest.raises(DataError, match="20000 columns of 60000 numbers"):
        design(data, "~ C(a)")
