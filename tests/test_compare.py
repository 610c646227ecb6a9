"""The side-by-side table: the talk's last slide, and its three looks."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import bayes_lsm as lsm

SLIDES = json.loads((Path(__file__).parent / "reference/slides.json").read_text())
ROWS = SLIDES["side_by_side"]["rows"]


@pytest.fixture(scope="module")
def table(continent_reml, continent_bayes):
    return lsm.compare(continent_reml, continent_bayes, at_stop=True)


def test_rows_and_columns_are_those_of_the_slide(table):
    frame = table.to_dataframe()
    assert list(frame.index.get_level_values("symbol")) == list(ROWS)
    assert list(frame.index.get_level_values("term"))[:4] == [
        "intrcpt",
        "continentAmerica",
        "continentOther",
        "I(weeks - 40)",
    ]
    assert list(frame.columns) == [
        ("REML", "estimate"),
        ("REML", "se"),
        ("REML at stop", "estimate"),
        ("REML at stop", "se"),
        ("Bayes", "median"),
        ("Bayes", "sd"),
    ]


def test_reml_columns_are_the_printed_ones(table):
    reml = table.to_dataframe()["REML"]
    for symbol, (estimate, se, *_) in ROWS.items():
        row = reml.xs(symbol, level="symbol").iloc[0]
        if symbol == "alpha2":
            assert row["estimate"] == -np.inf
            assert np.isnan(row["se"])
        else:
            assert round(row["estimate"], 2) == estimate, symbol
            assert round(row["se"], 2) == se, symbol


def test_at_stop_shows_what_an_ordinary_optimiser_prints(table):
    stopped = table.to_dataframe()["REML at stop"]
    assert stopped.loc["scale"].iloc[2]["estimate"] < -10
    assert stopped.loc["scale"].iloc[2]["se"] > 1000
    rest = [0, 1, 3]
    np.testing.assert_allclose(
        stopped.loc["scale"].iloc[rest],
        table.to_dataframe()["REML"].loc["scale"].iloc[rest],
        # An optimiser that stops at −18 is within e^−18 of the limit in the other coefficients.
        rtol=1e-3,
    )


def test_at_stop_adds_nothing_without_divergence():
    fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_reml()
    assert {name for name, _ in lsm.compare(fit, at_stop=True).table.columns} == {"REML"}


def test_text_reads_like_the_slide(table):
    lines = str(table).splitlines()
    row = next(line for line in lines if "alpha2" in line)
    assert re.search(r"alpha2\s+continentOther\s+-inf\s+\.\s", row)
    assert next(line for line in lines if "beta0" in line).split()[:4] == [
        "beta0",
        "intrcpt",
        "2.70",
        "2.07",
    ]
    text = " ".join(" ".join(lines).split())
    assert "τ² goes to 0 in 8 studies: 5, 16, 21, 26, 27, 35, 36, 37" in text
    assert "seed 1" in text
    assert "29 of the 37" in text  # the caution that most rows are reconstructed
    assert len(set(map(len, [line for line in lines if "eta" in line.split("  ")[0]]))) <= 1


class _Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.text, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data.strip())


def test_html_has_every_number_of_the_text(table):
    reader = _Cells()
    reader.feed(table.to_html())
    numbers = {word for word in str(table).split() if re.fullmatch(r"-?\d+\.\d\d", word)}
    assert numbers
    assert numbers <= set(reader.text)
    assert "-inf" in reader.text
    assert table._repr_html_() == table.to_html()


def test_names_from_data_are_escaped():
    data = lsm.load_dataset("bcg").rename(columns={"ablat": "a<script>&_b"})
    model = lsm.LocationScaleModel("yi ~ `a<script>&_b`", variance="vi", data=data)
    table = lsm.compare(model.fit_reml(), names=["<b>& 100%"])
    reader = _Cells()
    reader.feed(table.to_html())
    assert "script" not in reader.tags
    assert "b" not in reader.tags
    assert "a<script>&_b" in "".join(reader.text)
    latex = table.to_latex()
    assert r"a\textless{}script\textgreater{}\&\_b" in latex
    assert r"\textless{}b\textgreater{}\& 100\%" in latex


def test_latex_is_a_complete_table(table):
    latex = table.to_latex()
    assert r"$\alpha_{2}$ & continentOther & $-\infty$ & ." in latex
    assert r"$\beta_{0}$ & intrcpt & 2.70 & 2.07" in latex
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 1
    body = [line for line in latex.splitlines() if line.endswith(r"\\") and "&" in line]
    widths = {
        line.count("&") + sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
        for line in body
        if "multicolumn{8}" not in line
    }
    assert widths == {7}
    assert not re.search(r"[τα²]", latex)  # pdflatex has no such letters


def test_any_number_of_fits_with_names_or_numbered():
    model = lsm.LocationScaleModel.from_file("bcg")
    reml, ml = model.fit_reml(), model.fit_reml(method="ML")
    heads = lambda table: list(dict.fromkeys(name for name, _ in table.table.columns))  # noqa: E731
    assert heads(lsm.compare(reml, ml)) == ["REML", "ML"]
    assert heads(lsm.compare(reml, ml, reml)) == ["REML 1", "ML", "REML 2"]
    assert heads(lsm.compare(reml, ml, names=["a", "b"])) == ["a", "b"]


def test_fits_that_cannot_be_compared_are_refused():
    bcg = lsm.LocationScaleModel.from_file("bcg").fit_reml()
    weeks = lsm.LocationScaleModel.from_file("preterm_weeks").fit_reml()
    other = lsm.LocationScaleModel(
        "yi ~ I(ablat - 33)",
        scale="~ I(ablat - 33)",
        variance="vi",
        data=lsm.load_dataset("bcg").iloc[1:],
    ).fit_reml()
    with pytest.raises(lsm.FitError, match="at least one fit"):
        lsm.compare()
    with pytest.raises(lsm.FitError, match="differ in their location terms"):
        lsm.compare(bcg, weeks)
    with pytest.raises(lsm.FitError, match="different effects"):
        lsm.compare(bcg, other)
    with pytest.raises(lsm.FitError, match="names must be 2 different names"):
        lsm.compare(bcg, bcg, names=["a", "a"])
