"""The command line, as a user meets it."""

import csv
import json

import arviz as az
import pytest

import bayes_lsm as lsm
from bayes_lsm.cli import main


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_main_job(run, tmp_path):
    files = [tmp_path / f"table{ending}" for ending in (".csv", ".json", ".html", ".tex", ".txt")]
    draws = tmp_path / "draws.nc"
    options = [option for path in (*files, draws) for option in ("-o", str(path))]
    code, out, err = run("compare", "models/preterm_continent.toml", "--at-stop", *options)
    assert (code, out) == (0, "")
    assert all(f"written: {path}" in err for path in (*files, draws))
    rows = list(csv.DictReader(files[0].open()))
    assert [row["symbol"] for row in rows][-2:] == ["alpha2", "alpha3"]
    assert rows[6]["REML estimate"] == "-inf"
    assert rows[6]["REML se"] == ""
    content = json.loads(files[1].read_text())
    assert content["coefficients"][6]["REML estimate"] == "-inf"
    assert content["coefficients"][6]["REML se"] is None
    assert float(content["coefficients"][6]["REML at stop estimate"]) < -10
    assert float(rows[0]["Bayes median"]) == content["coefficients"][0]["Bayes median"]
    assert any("reconstructed" in note for note in content["notes"])
    assert files[2].read_text().startswith("<!DOCTYPE html>")
    assert r"\toprule" in files[3].read_text()
    text = files[4].read_text()
    assert "alpha2  continentOther" in text
    posterior = az.from_netcdf(draws).posterior
    assert float(posterior["location"].median(("chain", "draw"))[0]) == pytest.approx(
        float(rows[0]["Bayes median"])
    )


def test_compare_prints_the_table_and_takes_priors_and_seed(run):
    settings = ("--prior", "weakly_informative", "--seed", "5", "--quiet")
    code, out, err = run("compare", "bcg", *settings)
    assert (code, err) == (0, "")
    assert "seed 5" in out
    assert "weakly_informative" in out
    assert "alpha1  I(ablat - 33)" in out


def test_fit_reml_and_ml(run):
    code, out, _ = run("fit", "preterm_weeks", "--digits", "2")
    assert code == 0
    assert "Location-Scale Model (k = 37; REML)" in out
    assert "-96.60" in out
    code, out, _ = run("fit", "preterm_weeks", "--method", "ML", "--test", "knha")
    assert "ML)" in out
    assert "tval" in out


def test_a_divergent_fit_is_a_result_and_says_so(run):
    code, out, err = run("fit", "preterm_continent")
    assert (code, err) == (0, "")
    assert "the likelihood has no finite maximum" in out


@pytest.mark.slow
def test_too_few_draws_give_exit_code_3_and_still_the_table(run):
    settings = ("--engine", "bayes", "--draws", "200", "--seed", "1", "-q")
    code, out, err = run("fit", "preterm_random_effects", *settings)
    assert (code, err) == (3, "")
    assert "effective draws" in out
    assert "intrcpt" in out


def test_models_and_datasets_are_listed_and_shown(run, tmp_path):
    code, out, _ = run("models")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(lsm.list_models())
    _, shown, _ = run("models", "preterm_continent")
    copy = tmp_path / "copy.toml"
    copy.write_text(shown)
    assert lsm.Specification.from_file(copy) == (
        lsm.LocationScaleModel.from_file("preterm_continent").specification
    )
    _, out, _ = run("datasets")
    assert [line.split()[0] for line in out.splitlines()] == list(lsm.list_datasets().index)
    _, out, _ = run("datasets", "preterm_iq")
    assert "not the data of any real study" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["fit", "nope"], 2, "no model file 'nope'"),
        (["fit", "bcg", "-o", "table.docx"], 2, "the ending of its name must be '.csv'"),
        (["fit", "bcg", "-o", "no/such/folder/t.csv"], 2, "there is no folder"),
        (["fit", "bcg", "-o", "draws.nc"], 2, "the ending of its name must be '.csv'"),
        (["fit", "bcg", "--seed", "3"], 2, "--seed is for --engine bayes"),
        (["fit", "bcg", "--engine", "bayes", "--method", "ML"], 2, "--method is for"),
        (["datasets", "bgc"], 2, "did you mean 'bcg'"),
        (["fits", "bcg"], 2, "Unknown command"),
        (["fit", "bcg", "--engine", "reml2"], 2, "bayes"),
        (["compare"], 2, "FILE"),
        (["fit", "bcg", "--sed", "3"], 2, "--sed"),
        (["compare", "bcg", "--seed", "-5"], 2, "Must be >= 0"),
        (["fit", "bcg", "--digits", "-1"], 2, "Must be >= 0"),
        (["compare", "bcg", "--draws", "1" + "0" * 25], 2, "Must be <= 10000000"),
        (["report", "bcg", "--permutations", "1" + "0" * 13], 2, "Must be <= 1000000"),
        (["fit", "bcg", "--data", "none.csv"], 2, "there is no data file none.csv"),
        (["models", "bgc"], 2, "no model file 'bgc'"),
    ],
)
def test_wrong_calls_give_one_readable_line(run, arguments, code, words):
    got, out, err = run(*arguments)
    assert got == code
    assert out == ""
    assert err.startswith("bayes-lsm: ")
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("engine", ["reml", "bayes"])
@pytest.mark.parametrize(
    ("scale", "words"),
    [
        ({"school": "~ 1", "residual": "~ 1"}, "'school' and 'residual' have the same groups"),
        ({"district": "~ 1", "county": "~ 1"}, "'district' and 'county' have the same groups"),
        ({"district": "~ 1", "country": "~ 1"}, "'country' has one group (NL)"),
        ({"0 + z | district": "~ 1"}, "'z' is constant within every group"),
        ({"district": "~ 1"}, "must be positive definite"),
    ],
)
def test_several_scale_terms_that_cannot_be_fitted(run, tmp_path, engine, scale, words):
    rows = range(12)
    data = {
        "yi": [0.1 * (i % 5) for i in rows],
        "vi": [0.1] * 12,
        "v1": [0.1 if i % 2 == 0 else 0.5 for i in rows],  # the covariance exceeds both variances
        "v2": [0.5 if i % 2 == 0 else 0.1 for i in rows],
        "school": list(rows),
        "district": [i // 2 for i in rows],
        "county": [7 + i // 2 for i in rows],
        "country": ["NL"] * 12,
        "z": [(i // 2) ** 2 for i in rows],
    }
    with (tmp_path / "data.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([list(data), *zip(*data.values(), strict=True)])
    text = ['data = "data.csv"', 'variance = "vi"', 'location = "yi ~ 1"', "[scale]"]
    text += [f'"{grouping}" = "{formula}"' for grouping, formula in scale.items()]
    if "definite" in words:
        text += ["[sampling_covariance]", 'cluster = "district"', 'columns = ["v1", "v2"]']
    (tmp_path / "bad.toml").write_text("\n".join(text), encoding="utf-8")
    code, out, err = run("fit", str(tmp_path / "bad.toml"), "--engine", engine)
    assert code == 1
    assert out == ""
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_all_faults_of_a_model_file_are_listed(run, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text('location = "yi ~ (x"\nvarianc = "vi"\nlink = "probit"\n')
    code, _, err = run("fit", str(path))
    assert code == 1
    for words in ("line 1", "line 2", "line 3", "variance: required"):
        assert words in err


def test_a_hostile_model_file_is_refused_unevaluated(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, made = tmp_path / "bad.toml", tmp_path / "made"
    formula = "yi ~ __import__('os').system('touch made')"
    path.write_text(f'data = "bcg"\nvariance = "vi"\nlocation = "{formula}"\n')
    code, _, err = run("fit", str(path))
    assert code == 1
    assert "line 3: location" in err
    assert not made.exists()


def test_help_and_version(run):
    code, out, _ = run("--help")
    assert code == 0
    for word in ("compare", "fit", "models", "datasets", "Exit codes"):
        assert word in out
    _, out, _ = run("--version")
    assert lsm.__version__ in out


def test_interruption_is_said(run, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("bayes_lsm.bayes.engines.direct.sample_target", interrupt)
    code, out, err = run("compare", "bcg", "-q")
    assert (code, out) == (130, "")
    assert "interrupted" in err


def test_diagnose_prints_and_writes_a_page(run, tmp_path):
    code, out, _ = run("diagnose", "preterm_weeks", "--seed", "1", "--quiet")
    assert code == 0
    assert "checks are within their limits" in " ".join(out.split())
    page, table, folder = tmp_path / "page.html", tmp_path / "checks.json", tmp_path / "csv"
    options = ("-o", str(page), "-o", str(table), "--tables", str(folder), "--seed", "1")
    code, out, err = run("diagnose", "preterm_weeks", *options)
    assert (code, out) == (0, "")
    assert f"written: {folder / 'checks.csv'}" in err
    assert page.read_text().startswith("<!DOCTYPE html>")
    checks = list(csv.DictReader((folder / "checks.csv").open()))
    assert [float(row["value"]) for row in checks] == pytest.approx(
        [row["value"] for row in json.loads(table.read_text())["coefficients"]]
    )


def test_diagnose_takes_several_scale_terms(run, tmp_path):
    page = tmp_path / "page.html"
    code, out, _ = run("diagnose", "konstantopoulos2011", "--seed", "1")
    assert code == 0
    assert "Leave-one-district-out" in out
    assert run("diagnose", "berkey1998", "--seed", "1", "-o", str(page))[0] == 0
    text = page.read_text()
    assert "Single clusters" in text
    assert "without each trial" in text
