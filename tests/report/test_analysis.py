"""The analysis report says what the API says, of every kind of model."""

import html
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
from bayes_lsm.tables import format_cells

NAMES = ("preterm_continent", "konstantopoulos2011", "berkey1998")
YEAR = "I((year - 1990) / 10)"

# Of fits that the tests make themselves; those of a report are on its page.
pytestmark = pytest.mark.filterwarnings("ignore::bayes_lsm.errors.BayesLsmWarning")


def quick(model, **options):
    settings = {"seed": 1, "permutations": 0, "with_sensitivity": False, "progress": False}
    return analyse(model, **(settings | options))


@cache
def report_of(name):
    permutations = 200 if name == "preterm_continent" else 0
    return quick(lsm.LocationScaleModel.from_file(name), permutations=permutations)


@cache
def page_of(name):
    return analysis_page(report_of(name))


@cache
def html_of(name):
    return to_html(page_of(name))


def table_in(text, name):
    """The cells of a table of a page, as a browser has them."""
    body = re.search(rf'<table data-name="{name}">(.*?)</table>', text, re.DOTALL).group(1)
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    found = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    return [[html.unescape(cell) for cell in row] for row in found if any(row)]


def expected(name):
    """Tables of a report, from the API alone."""
    model = lsm.LocationScaleModel.from_file(name)
    reml, bayes = model.fit_reml(), model.fit_bayes(seed=1)
    points = report_of(name).points
    found = {
        "comparison": lsm.compare(reml, bayes).to_dataframe(),
        "reml": reml.to_dataframe(),
        "bayes": bayes.to_dataframe(),
        "predictions_reml": reml.predict(points).table,
        "predictions_bayes": bayes.predict(points).table,
        "diagnostics_predictive": bayes.posterior_predictive_check().to_dataframe(),
        "diagnostics_convergence": bayes.convergence,
    }
    if name == "preterm_continent":
        found["heterogeneity_by_row"] = bayes.heterogeneity().by_row
        found["diagnostics_loo"] = bayes.loo(progress=False).to_dataframe()
    return found


@pytest.mark.parametrize(
    "name",
    [
        "preterm_continent",
        pytest.param("konstantopoulos2011", marks=pytest.mark.slow),
        "berkey1998",
    ],
)
def test_every_table_in_the_files_is_the_api_s(name, tmp_path):
    written = {path.stem: pd.read_csv(path) for path in write_tables(page_of(name), tmp_path)}
    assert set(written) == {table.name for table in page_of(name).tables}
    for table, frame in expected(name).items():
        numbers = written[table].iloc[:, -frame.shape[1] :].to_numpy(dtype=float)
        assert numbers == pytest.approx(frame.to_numpy(dtype=float), rel=1e-12, nan_ok=True), table


@pytest.mark.parametrize("name", NAMES)
def test_every_table_on_the_page_is_what_the_tables_hold(name):
    text = html_of(name)
    for table in page_of(name).tables:
        cells = [list(row.cells) for row in cells_of(table).rows]
        assert table_in(text, table.name)[-len(cells) :] == cells, table.name
    reml = report_of(name).reml.to_dataframe()
    assert table_in(text, "reml")[-len(reml) :] == format_cells(reml, digits=4).to_numpy().tolist()


def test_tests_are_those_of_the_api():
    found = report_of("preterm_continent")
    reml, tests = found.reml, found.tests
    term = "I(weeks - 40)"
    assert tests.loc[term, ("Wald", "pval")] == reml.scale["pval"][term]
    reduced = lsm.LocationScaleModel(
        "yi ~ continent + I(weeks - 40)",
        scale="~ continent",
        variance="vi",
        data=lsm.load_dataset("preterm_iq"),
    ).fit_reml()
    ratio = lsm.likelihood_ratio_test(reml, reduced)
    assert tests.loc[term, ("LRT", "χ²")] == pytest.approx(ratio.statistic, abs=1e-6)
    assert tests.loc[term, ("score", "pval")] == lsm.reml.score_test(reml, term).pval
    permuted = reml.permutation_test(iterations=200, seed=1, progress=False)
    assert tests.loc[term, ("permutation", "pval")] == permuted.table["pval"][term]
    joint = tests.loc["all moderators"]
    assert joint[("", "df")] == 3
    assert np.isnan(joint[("Wald", "pval")])
    assert joint[("LRT", "pval")] < 1


def test_the_divergence_and_the_reconstruction_are_said_first():
    text = html_of("preterm_continent")
    lead = text[text.index('<div class="lead">') : text.index("<section")]
    assert "no finite maximum" in lead
    assert "reconstructed" in lead
    assert text.count("29 of the 37 rows of preterm_iq are reconstructed") <= 2


def test_nothing_is_loaded_from_a_network():
    text = html_of("preterm_continent")
    assert not re.search(r"<(script|iframe|object|embed)|url\(|@import", text)
    assert all(each.startswith("data:") for each in re.findall(r'src="([^"]*)"', text))


def nasty(k=12, **options):
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"yi": rng.normal(0.3, 0.5, k), "vi": rng.uniform(0.02, 0.2, k)})
    data["x & <b>"] = rng.normal(size=k)
    data["name"] = [f"<script>alert({i})</script> | `{i}` & *Co*" for i in range(k)]
    return lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data, **options)


@pytest.mark.parametrize("study", [None, "name"])
def test_random_effects_models_with_and_without_names(study):
    found = quick(nasty(study=study))
    text = to_html(analysis_page(found))
    assert "no moderators, so none is tested" in text
    assert "<script" not in text
    if study:
        assert "&lt;script&gt;alert(3)&lt;/script&gt;" in text
    assert found.tests is None
    first = found.reml.predict().table["estimate"].iloc[0]
    assert f"{first:.3f}" in {row[0] for row in table_in(text, "predictions_reml")}


def test_student_t_effects_stand_beside_normal_ones_by_reml():
    model = nasty(study_effects="student_t")
    found = quick(model)
    text = " ".join(to_html(analysis_page(found)).split())
    assert "all that is by REML here is of the same model with normal study effects" in text
    assert "θᵢ ~ t(ν, μᵢ, τᵢ²)" in text
    assert "ν ~ Gamma(2, 0.1) from 1 up" in text
    assert "with the study effects integrated out" in text
    assert table_in(text, "reml") == (
        format_cells(nasty().fit_reml().to_dataframe(), digits=4).to_numpy().tolist()
    )
    medians = model.fit_bayes(seed=1).summary()["median"]
    assert [row[1] for row in table_in(text, "bayes")] == [f"{each:.4f}" for each in medians]
    pd.testing.assert_frame_equal(
        found.bayes.study_weights().to_dataframe(),
        next(t.content for t in analysis_page(found).tables if t.name == "diagnostics_weights")
        .to_dataframe(),
    )  # fmt: skip


def test_what_cannot_be_reported_is_said():
    with pytest.raises(FitError, match="link='log'"):
        quick(nasty(link="identity"))


def test_random_intercepts_are_refused():
    data = lsm.load_dataset("preterm_iq").assign(id=range(37))
    model = lsm.LocationScaleModel(
        "yi ~ 1", {"id": "~ 1 + (1 | continent)"}, variance="vi", data=data
    )
    with pytest.raises(FitError, match="random intercepts"):
        quick(model)


def test_the_command_writes_both_kinds(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--no-sensitivity", "--permutations", "0", "--seed", "1", "--quiet"]
    assert main(["report", "bcg", "--format", "md", "--tables", "tables", *options]) == 0
    text = (tmp_path / "bcg_report.md").read_text()
    assert "## Tests of the scale coefficients" in text
    for name in re.findall(r"\]\((bcg_report_figures/[^)]*)\)", text):
        assert (tmp_path / name).stat().st_size > 1000
    reml = pd.read_csv(tmp_path / "tables" / "reml.csv")
    fit = lsm.LocationScaleModel.from_file("bcg").fit_reml()
    assert reml["estimate"].to_numpy() == pytest.approx(fit.to_dataframe()["estimate"].to_numpy())
    assert main(["report", "bcg", "--format", "md", "-o", "a.html", *options]) == 2
    assert main(["report", "bcg", "-o", "a.pdf", *options]) == 2
    assert "must be '.html' or '.md'" in capsys.readouterr().err


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


def test_tests_of_levels_are_those_of_the_api():
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


@pytest.mark.slow
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
    text = html_of("konstantopoulos2011")
    assert "depends on year for those of “district/school”" in text
    assert "yᵢ = μᵢ + u[district]ᵢ + u[district/school]ᵢ + eᵢ" in text
    assert "56 effects; groups: district 11, district/school 56" in text
    text = html_of("berkey1998")
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


@pytest.mark.slow
def test_sensitivity_is_in_the_lead():
    found = report_of("berkey1998")
    assert isinstance(found, Analysis)
    asked = found.bayes.sensitivity(factors=(), presets=(), draws=1000, progress=False)
    found = replace(found, sensitivity=asked)
    lead = to_html(analysis_page(found)).split("<section")[0]
    for (part, term), verdict in found.sensitivity.verdicts.items():  # type: ignore[misc]
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


@pytest.mark.slow
def test_the_command_writes_levels(tmp_path, monkeypatch):
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
