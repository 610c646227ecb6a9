"""Results of a fit as tables: rows without parts, small and large numbers, long tables."""

import numpy as np
import pandas as pd
import pytest

from bayes_lsm.results import ResultTable
from bayes_lsm.tables import format_cells


def result(table, notes=()):
    return ResultTable("Title", table, tuple(notes), 0.95)


def test_rows_without_parts_have_no_heading():
    table = pd.DataFrame({"estimate": [1.5, np.nan]}, index=["a", "long name"])
    shown = result(table, ["mind this"])
    assert str(shown) == (
        "Title\n\n           estimate\na            1.5000\nlong name         .\n\nNote: mind this"
    )
    latex = shown.to_latex()
    assert latex.count(r"\midrule") == 1
    assert r"a & 1.5000 \\" in latex
    assert r"\textit" not in latex
    assert "gt_group_heading" not in shown.to_html().split("</style>")[1]
    assert "mind this" in shown.to_html()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0000"),
        (-0.0, "0.0000"),
        (2.3e-9, "2e-09"),
        (-4e-6, "-4e-06"),
        (6e-5, "0.0001"),
        (1e-17, "0.0000"),
        (-1e-17, "0.0000"),
        (12345678.9, "12345678.9000"),
        (1.234e12, "1.23e+12"),
        (np.inf, "inf"),
        (-np.inf, "-inf"),
        (np.nan, "."),
        (3, "3"),
    ],
)
def test_a_number_is_shown_as_zero_only_if_it_is(value, text):
    table = pd.DataFrame({"estimate": [value]}, dtype=object)
    assert format_cells(table, digits=4).iloc[0, 0] == text


def test_powers_of_ten_in_latex():
    latex = result(pd.DataFrame({"tau": [2.3e-9, 1.5e12]}, index=["a", "b"])).to_latex()
    assert r"$2 \times 10^{-9}$" in latex
    assert r"$1.50 \times 10^{12}$" in latex


def test_a_long_table_is_cut():
    long = result(pd.DataFrame({"tau": np.arange(1500.0)}))
    assert (
        len(str(long).splitlines()) == 1000 + 5
    )  # title, heads and note, with an empty line after and before
    assert "the first 1000 of 1500 rows are shown; to_dataframe() has them all" in str(
        long
    ).replace("\n  ", " ")
    assert len(long.to_dataframe()) == 1500


def test_a_result_shows_its_table_and_not_its_arrays():
    table = result(pd.DataFrame({"tau": [0.25]}, index=["a"]))
    assert repr(table) == str(table)
