"""The analysis report says what the API says, of every kind of model."""

import html
import re
from functools import cache

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.cli import main
from bayes_lsm.errors import FitError
from bayes_lsm.report import analyse, analysis_page, to_html, write_tables
from bayes_lsm.report.cells import cells_of
from bayes_lsm.tables import format_cells

# Of fits that the tests make themselves; those of a report are on its page.
pytestmark = pytest.mark.filterwarnings("ignore::bayes_lsm.errors.DivergentScaleWarning")


def quick(model, **options):
    settings = {"seed": 1, "permutations": 0, "with_sensitivity": False, "progress": False}
    return analyse(model, **(settings | options))


@cache
def preterm():
    return quick(lsm.LocationScaleModel.from_file("preterm_continent"), permutations=200)


@cache
def preterm_html():
    return to_html(analysis_page(preterm()))


def table_in(text, name):
    """The cells of a table of a page, as a browser has them."""
    body = re.search(rf'<table data-name="{name}">(.*?)</table>', text, re.DOTALL).group(1)
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    found = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    return [[html.unescape(cell) for cell in row] for row in found if any(row)]


def expected():
    """Every table of the report of `preterm_continent`, from the API alone."""
    model = lsm.LocationScaleModel.from_file("preterm_continent")
    reml, bayes = model.fit_reml(), model.fit_bayes(seed=1)
    points = preterm().points
    check, loo = bayes.posterior_predictive_check(), bayes.loo(progress=False)
    return {
        "comparison": lsm.compare(reml, bayes).to_dataframe(),
        "reml": reml.to_dataframe(),
        "bayes": bayes.to_dataframe(),
        "heterogeneity_by_row": bayes.heterogeneity().by_row,
        "predictions_reml": reml.predict(points).table,
        "predictions_bayes": bayes.predict(points).table,
        "diagnostics_predictive": check.to_dataframe(),
        "diagnostics_loo": loo.to_dataframe(),
        "diagnostics_convergence": bayes.convergence,
    }


def test_every_table_in_the_files_is_the_api_s(tmp_path):
    page = analysis_page(preterm())
    written = {path.stem: pd.read_csv(path) for path in write_tables(page, tmp_path)}
    assert set(written) == {table.name for table in page.tables}
    for name, frame in expected().items():
        numbers = written[name].iloc[:, -frame.shape[1] :].to_numpy(dtype=float)
        assert numbers == pytest.approx(frame.to_numpy(dtype=float), rel=1e-12, nan_ok=True), name


def test_every_table_on_the_page_is_what_the_tables_hold():
    page, text = analysis_page(preterm()), preterm_html()
    for table in page.tables:
        cells = [list(row.cells) for row in cells_of(table).rows]
        assert table_in(text, table.name)[-len(cells) :] == cells, table.name
    reml = preterm().reml.to_dataframe()
    shown = format_cells(reml, digits=4).to_numpy().tolist()
    assert table_in(text, "reml") == shown


def test_tests_are_those_of_the_api():
    found = preterm()
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
    text = preterm_html()
    lead = text[text.index('<div class="lead">') : text.index("<section")]
    assert "no finite maximum" in lead
    assert "reconstructed" in lead
    assert text.count("29 of the 37 rows of preterm_iq are reconstructed") <= 2


def test_nothing_is_loaded_from_a_network():
    text = preterm_html()
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
    assert main(["report", "bcg", "--format", "md", "-o", "a.html", *options]) == 1
    assert main(["report", "bcg", "-o", "a.pdf", *options]) == 1
    assert "must be '.html' or '.md'" in capsys.readouterr().err
