"""The report of models with several scale terms says what the API says."""

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.cli import main
from bayes_lsm.errors import FitError
from bayes_lsm.reml import permutation_test, score_test, wald_test
from bayes_lsm.report import Analysis, analyse, analysis_page, to_html, write_tables
from bayes_lsm.report.cells import cells_of
from bayes_lsm.report.equations import in_equations
from bayes_lsm.report.scale_tests import _hypotheses

from .test_analysis import table_in

NAMES = ("konstantopoulos2011", "berkey1998")
YEAR = "I((year - 1990) / 10)"

pytestmark = pytest.mark.filterwarnings("ignore::bayes_lsm.errors.BayesLsmWarning")


@cache
def report_of(name):
    return quick(lsm.LocationScaleModel.from_file(name))


@cache
def page_of(name):
    return analysis_page(report_of(name))


def quick(model, **options):
    settings = {"seed": 1, "permutations": 0, "with_sensitivity": False, "progress": False}
    return analyse(model, **(settings | options))


def expected(name):
    """Tables of a report, from the API alone."""
    model = lsm.LocationScaleModel.from_file(name)
    reml, bayes = model.fit_reml(), model.fit_bayes(seed=1)
    points = report_of(name).points
    return {
        "comparison": lsm.compare(reml, bayes).to_dataframe(),
        "reml": reml.to_dataframe(),
        "bayes": bayes.to_dataframe(),
        "predictions_reml": reml.predict(points).table,
        "predictions_bayes": bayes.predict(points).table,
        "diagnostics_predictive": bayes.posterior_predictive_check().to_dataframe(),
        "diagnostics_convergence": bayes.convergence,
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_table_in_the_files_is_the_api_s(name, tmp_path):
    written = {path.stem: pd.read_csv(path) for path in write_tables(page_of(name), tmp_path)}
    assert set(written) == {table.name for table in page_of(name).tables}
    for table, frame in expected(name).items():
        numbers = written[table].iloc[:, -frame.shape[1] :].to_numpy(dtype=float)
        assert numbers == pytest.approx(frame.to_numpy(dtype=float), rel=1e-12, nan_ok=True), table


@pytest.mark.parametrize("name", NAMES)
def test_every_table_on_the_page_is_what_the_tables_hold(name):
    text = to_html(page_of(name))
    for table in page_of(name).tables:
        cells = [list(row.cells) for row in cells_of(table).rows]
        assert table_in(text, table.name)[-len(cells) :] == cells, table.name


def test_levels_have_both_fits_side_by_side():
    page = page_of("konstantopoulos2011")
    levels = next(table.content for table in page.tables if table.name == "heterogeneity")
    model = lsm.LocationScaleModel.from_file("konstantopoulos2011")
    reml, bayes = model.fit_reml().heterogeneity().table, model.fit_bayes(seed=1).heterogeneity()
    assert list(levels.index) == ["district", "district/school", "total"]
    np.testing.assert_array_equal(levels["REML", "I2"], reml["I2"])
    np.testing.assert_array_equal(levels["Bayes", "tau"], bayes.table["tau"])
    # One term is its own total, and has a variance for each outcome.
    page = page_of("berkey1998")
    levels = next(table.content for table in page.tables if table.name == "heterogeneity")
    assert list(levels.index) == ["outcome | trial"]
    of_outcomes = next(table.content for table in page.tables if table.name == "components")
    assert list(of_outcomes.index) == ["outcome | trial: AL", "outcome | trial: PD"]


def test_tests_are_those_of_the_api():
    found = report_of("konstantopoulos2011")
    row = found.tests.loc[f"district/school: {YEAR}"]
    assert row["Wald", "pval"] == found.reml.scale["pval"]["district/school", YEAR]
    assert row["Wald", "χ²"] == pytest.approx(
        found.reml.scale["zval"]["district/school", YEAR] ** 2, rel=1e-12
    )
    assert row["score", "pval"] == score_test(found.reml, YEAR).pval


def test_levels_are_tested_for_their_difference():
    """ln τ² = 0 is no hypothesis about outcomes; that they have one τ² is."""
    found = report_of("berkey1998")
    names = [f"outcome{each}" for each in ("PD", "AL")]
    assert list(found.tests.index) == [f"{names[0]} - outcomeAL", "all moderators"]
    theirs = wald_test(found.reml, contrast={names[0]: 1, names[1]: -1})
    assert found.tests["Wald", "χ²"].to_list() == pytest.approx([theirs.statistic**2] * 2)
    assert any("score tests: of slopes alone" in note for note in found.test_notes)


def test_whole_clusters_are_permuted():
    data = lsm.load_dataset("konstantopoulos2011")
    early = data.groupby("district")["year"].transform("mean") < 1985
    model = lsm.LocationScaleModel(
        "yi ~ 1",
        {"district": "~ early", "district/school": "~ 1"},
        variance="vi",
        data=data.assign(early=early.astype(float)),
    )
    found = quick(model, permutations=50)
    theirs = permutation_test(found.reml, iterations=50, seed=1, progress=False)
    row = found.tests.loc["district: early"]
    assert row["permutation", "pval"] == theirs.table["pval"]["district: early"]
    text = " ".join(to_html(analysis_page(found)).split())
    assert "a permutation test with 50 permutations of whole clusters" in text
    assert "permutation_null" in {picture.name for picture in analysis_page(found).pictures}


def test_profiles_of_correlations_are_there():
    found = report_of("berkey1998")
    ((name, shown),) = [each for each in found.profiles.items() if "AL, PD" in each[0]]
    assert shown.lower == found.reml.profile(name).lower
    assert not found.profile_notes


def test_the_words_and_the_equations():
    text = to_html(page_of("konstantopoulos2011"))
    assert "depends on year for those of “district/school”" in text
    assert "yᵢ = μᵢ + u[district]ᵢ + u[district/school]ᵢ + eᵢ" in text
    assert "56 effects; groups: district 11, district/school 56" in text
    text = to_html(page_of("berkey1998"))
    assert "e ~ Normal(0, V)" in text
    assert "Effects of a group of “outcome | trial” are correlated (each pair on its own)." in text
    assert not re.search(r"<(script|iframe|object|embed)|url\(|@import", text)


def test_slopes_have_a_variance_each():
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"g": np.repeat(np.arange(12), 4), "x": rng.normal(size=48)})
    data = data.assign(y=rng.normal(size=48), v=0.1, z=(data["g"] % 2).astype(float))
    model = lsm.LocationScaleModel("y ~ x", {"1 + x | g": "~ z"}, variance="v", data=data)
    assert in_equations(model.design) == (
        "yᵢ = μᵢ + (1, x)ᵢ·u[1 + x | g]ᵢ + eᵢ",
        "μᵢ = β₀ + β₁ xᵢ",
        "u[1 + x | g] ~ Normal(0, D R D), D = diag(τ), ln τ²[1] = α₀ + α₁ zᵢ, "
        "ln τ²[x] = α₂ + α₃ zᵢ",
        "eᵢ ~ Normal(0, vᵢ)",
    )
    tested = list(dict(_hypotheses(model.design)))
    assert len(tested) == 2  # z in the variance of the intercepts, and in that of the slopes
    assert all(name.endswith("z") for name in tested)


def test_sensitivity_is_in_the_lead():
    found = report_of("berkey1998")
    assert isinstance(found, Analysis)
    asked = found.bayes.sensitivity(factors=(), presets=(), draws=1000, progress=False)
    found = replace(found, sensitivity=asked)
    lead = to_html(analysis_page(found)).split("<section")[0]
    for (part, term), verdict in found.sensitivity.verdicts.items():
        said = f"{part}: {term}" in lead
        assert said == (part != "location")
        assert not said or verdict in lead


def test_a_limit_is_said_first():
    data = lsm.load_dataset("konstantopoulos2011").assign(yi=lambda d: d["yi"] * 0.05)
    model = lsm.LocationScaleModel(
        "yi ~ 1", {"district": "~ 1", "district/school": "~ 1"}, variance="vi", data=data
    )
    found = quick(model)
    assert found.reml.divergence is not None
    lead = to_html(analysis_page(found)).split("<section")[0]
    assert "no finite estimate" in lead
    assert "REML (district" in lead


def test_columns_of_numbers_that_are_levels_are_moved_by_level():
    data = lsm.load_dataset("konstantopoulos2011").assign(wave=lambda d: d["year"] > 1985)
    data["wave"] = data["wave"].astype(int)
    model = lsm.LocationScaleModel(
        "yi ~ C(wave)", {"district": "~ 1", "district/school": "~ 1"}, variance="vi", data=data
    )
    assert list(quick(model).points.index) == ["wave = 0", "wave = 1"]


def test_random_intercepts_are_refused():
    data = lsm.load_dataset("preterm_iq").assign(id=range(37))
    model = lsm.LocationScaleModel(
        "yi ~ 1", {"id": "~ 1 + (1 | continent)"}, variance="vi", data=data
    )
    with pytest.raises(FitError, match="random intercepts"):
        quick(model)


def test_the_command_writes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--no-sensitivity", "--permutations", "0", "--seed", "1", "--quiet"]
    assert main(["report", "konstantopoulos2011", "--format", "md", *options]) == 0
    text = (tmp_path / "konstantopoulos2011_report.md").read_text()
    assert "## Heterogeneity" in text
    assert "bayes-lsm report model.toml --seed 1" in text
    for name in re.findall(r"\]\((konstantopoulos2011_report_figures/[^)]*)\)", text):
        assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.slow
def test_individuals_are_too_many_to_draw():
    found = quick(lsm.LocationScaleModel.from_file("preterm_one_stage"))
    page = analysis_page(found)
    assert "forest" not in {picture.name for picture in page.pictures}
    text = to_html(page)
    assert "7044 individuals; groups: 0 + atterm | study 37" in text
    assert "attermᵢ u[0 + atterm | study]ᵢ" in text
    assert "an intraclass correlation" in text
