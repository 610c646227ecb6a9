"""The sensitivity report: every number in it is one of the API, and the command writes it."""

import csv
import re
from functools import cache, partial

import pytest

import bayes_lsm as lsm
from bayes_lsm.bayes import sensitivity
from bayes_lsm.cli import main
from bayes_lsm.report import Page, Section, Verdicts, to_html, to_markdown
from bayes_lsm.report.cells import cells_of
from bayes_lsm.report.sensitivity import (
    sensitivity_lead,
    sensitivity_page,
    sensitivity_sections,
)


@cache
def found():
    fit = lsm.LocationScaleModel.from_file("preterm_continent").fit_bayes(draws=1000, seed=1)
    return fit.sensitivity(factors=(0.25, 4), draws=1000, progress=False)


@cache
def page():
    return sensitivity_page(found())


def test_the_verdicts_come_first():
    text, verdicts, note = sensitivity_lead(found())
    assert "2 are prior-dominated" in text.plain
    assert "scale: intrcpt and scale: continentOther says what the prior says" in text.plain
    assert isinstance(verdicts, Verdicts)
    words = [(each.label, each.word) for each in verdicts.verdicts]
    assert words == [(f"{part}: {term}", word) for (part, term), word in found().verdicts.items()]
    by_label = {each.label: each for each in verdicts.verdicts}
    assert by_label["scale: continentOther"].status == "bad"
    assert by_label["location: I(weeks - 40)"].status == "good"
    assert by_label["scale: continentOther"].sentence.startswith("Its 95% interval, ")
    assert "not data of any real study" in note.plain


def test_tables_are_those_of_the_result():
    tables = {table.name: table for table in page().tables}
    assert list(tables) == [
        "sensitivity",
        "tipping_points",
        "presets",
        "families",
        "tau_of_priors",
        "tau_by_study",
    ]
    row = ("scale", "continentOther")
    main_table = tables["sensitivity"].content
    assert main_table.loc[row].to_dict() == found().table.loc[row, list(main_table)].to_dict()
    assert any("share ≥ 0.5" in note for note in tables["sensitivity"].notes)
    presets = tables["presets"].content
    assert list(dict.fromkeys(presets.columns.get_level_values(0))) == [
        "as fitted",
        "weakly_informative",
        "slides",
        "blsmeta",
    ]
    assert (
        presets.loc[row, ("blsmeta", "median")]
        == (found().presets.loc[("blsmeta", *row), "median"])
    )
    families = tables["families"].content
    assert (
        families.loc["τ: half-Cauchy", row]
        == (found().families.loc[("τ: half-Cauchy", *row), "median"])
    )
    tau = tables["tau_of_priors"].content
    assert tau.loc["blsmeta", "97.5% after"] == found().tau.loc["blsmeta", "ci_ub"].max()
    assert tau.loc["as fitted", "lowest before"] == (
        found().tau.loc["as fitted", "prior_median"].min()
    )
    assert len(tables["tau_by_study"].content) == 37
    cells = cells_of(tables["sensitivity"])
    shares = dict(
        zip(
            [each.names[-1] for each in cells.rows][4:],
            [each.cells[3] for each in cells.rows][4:],
            strict=True,
        )
    )
    assert float(shares["continentOther"]) == pytest.approx(
        found().table.loc[row, "share"], abs=0.005
    )


def test_what_was_left_out_is_said():
    text = to_html(page())
    assert "needs the effect measure" in text
    assert "scale: continentOther prior-dominated" in text  # for those who do not see the figure
    assert len(page().pictures) == 5
    assert all(len(picture.alt) > 60 for picture in page().pictures)


def test_as_a_part_of_another_page():
    inside = Section(
        "Prior sensitivity", (*sensitivity_lead(found()), *sensitivity_sections(found()))
    )
    whole = Page("Analysis", (), (inside,))
    assert [table.name for table in whole.tables] == [table.name for table in page().tables]
    images = {picture.name: f"{picture.name}.svg" for picture in whole.pictures}
    assert "### What other packages would have said" in to_markdown(whole, images)


def test_the_command_writes_the_report_its_table_and_all_tables(tmp_path, capsys):
    report, table, folder = tmp_path / "r.html", tmp_path / "t.csv", tmp_path / "tables"
    options = ("--draws", "500", "--seed", "3", "-q", "--tables", str(folder))
    code = main(["sensitivity", "bcg", "-o", str(report), "-o", str(table), *options])
    captured = capsys.readouterr()
    assert (code, captured.out, captured.err) == (0, "", "")
    fit = lsm.LocationScaleModel.from_file("bcg").fit_bayes(seed=3)
    mine = fit.sensitivity(draws=500, progress=False)
    rows = {(row["part"], row["term"]): row for row in csv.DictReader(table.open())}
    for name, verdict in mine.verdicts.items():
        assert rows[name]["verdict"] == verdict
        assert float(rows[name]["share"]) == pytest.approx(mine.table.loc[name, "share"])
    assert re.search(r"Of \d+ coefficients", report.read_text())
    assert {path.name for path in folder.iterdir()} == {
        f"{each.name}.csv" for each in sensitivity_page(mine).tables
    }


@pytest.mark.slow
def test_the_command_takes_several_scale_terms(tmp_path, capsys, monkeypatch):
    few = {"factors": (), "presets": ()}  # as many refits as a test has time for
    monkeypatch.setattr("bayes_lsm.cli.sensitivity", partial(sensitivity, **few))
    report, table = tmp_path / "r.html", tmp_path / "t.csv"
    options = ("--draws", "200", "--seed", "3", "-q")
    code = main(["sensitivity", "berkey1998", "-o", str(report), "-o", str(table), *options])
    assert (code, capsys.readouterr().err) == (0, "")
    fit = lsm.LocationScaleModel.from_file("berkey1998").fit_bayes(seed=3)
    mine = fit.sensitivity(draws=200, progress=False, **few)
    rows = {(row["part"], row["term"]): row for row in csv.DictReader(table.open())}
    assert list(rows) == list(mine.table.index)
    for name, verdict in mine.verdicts.items():
        assert rows[name]["verdict"] == verdict
        assert float(rows[name]["share"]) == pytest.approx(mine.table.loc[name, "share"])
    text = report.read_text()
    row = ("scale", "outcomeAL")
    overlap = mine.table.loc[row, "overlap"]
    assert f"scale coefficient. They share an area of: outcomeAL {overlap:.2f}" in text
    assert "Prior and posterior, correlation part" in text
    assert "τ of each variance, in the units of the effects" in text


def test_the_command_prints_the_table(capsys):
    assert main(["sensitivity", "bcg", "--draws", "200", "--seed", "1", "-q"]) == 0
    assert "prior sensitivity" in capsys.readouterr().out
    assert main(["sensitivity", "bcg", "-o", "r.docx"]) == 2
    assert "must be '.csv'" in capsys.readouterr().err
