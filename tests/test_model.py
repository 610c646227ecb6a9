"""The front door."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm


def test_words_and_file_give_the_same_model():
    data = lsm.load_dataset("preterm_iq")
    words = lsm.LocationScaleModel(
        "yi ~ I(weeks - 40)", scale="~ I(weeks - 40)", variance="vi", data=data
    )
    file = lsm.LocationScaleModel.from_file("models/preterm_weeks.toml")
    assert words.fit_reml().loglik == file.fit_reml().loglik
    assert "yi ~ I(weeks - 40)" in repr(words)


def test_method_of_the_file_is_the_default(tmp_path):
    spec = lsm.LocationScaleModel.from_file("bcg").specification
    path = tmp_path / "ml.toml"
    path.write_text(spec.model_copy(update={"method": "ML"}).to_toml())
    model = lsm.LocationScaleModel.from_file(path)
    assert model.fit_reml().method == "ML"
    assert model.fit_reml(method="REML").method == "REML"


def test_csv_is_taken_from_the_model_files_folder(tmp_path):
    frame = lsm.load_dataset("bcg").assign(author=lambda d: d["author"] + " #1")
    frame.to_csv(tmp_path / "own.csv", index=False)
    (tmp_path / "own.toml").write_text(
        'data = "own.csv"\nlocation = "yi ~ 1"\nvariance = "vi"\nstudy = "author"\n'
    )
    model = lsm.LocationScaleModel.from_file(tmp_path / "own.toml")
    assert model.design.n_studies == 13
    assert model.design.labels[0] == "Aronson #1"


def test_missing_and_unreadable_data_are_said(tmp_path):
    path = tmp_path / "m.toml"
    words = 'location = "yi ~ 1"\nvariance = "vi"\n'
    path.write_text(words)
    with pytest.raises(lsm.SpecificationError, match="names no data"):
        lsm.LocationScaleModel.from_file(path)
    path.write_text(f'data = "none.csv"\n{words}')
    with pytest.raises(lsm.DataError, match=r"no data file .*none\.csv"):
        lsm.LocationScaleModel.from_file(path)
    (tmp_path / "empty.csv").write_text("")
    path.write_text(f'data = "empty.csv"\n{words}')
    with pytest.raises(lsm.DataError, match=r"cannot read the data file .*empty\.csv"):
        lsm.LocationScaleModel.from_file(path)
    path.write_text(f'data = "bgc"\n{words}')
    with pytest.raises(lsm.DataError, match="did you mean 'bcg'"):
        lsm.LocationScaleModel.from_file(path)


def test_the_users_frame_is_left_as_it_was():
    data = lsm.load_dataset("bangertdrowns2004")
    before = data.copy(deep=True)
    with pytest.warns(lsm.DroppedRowsWarning):
        lsm.LocationScaleModel("yi ~ wic + C(grade)", scale="~ feedback", variance="vi", data=data)
    pd.testing.assert_frame_equal(data, before)


def test_dropped_rows_are_counted_and_named_in_every_table():
    with pytest.warns(lsm.DroppedRowsWarning, match="2 of 48 rows"):
        model = lsm.LocationScaleModel(
            "yi ~ wic", variance="vi", study="id", data=lsm.load_dataset("bangertdrowns2004")
        )
    fit = model.fit_reml()
    assert fit.design.n_studies == 46
    assert "2 rows with missing values left out" in " ".join(str(fit).split())
    assert "2 rows with missing values left out" in " ".join(str(lsm.compare(fit)).split())


@pytest.mark.parametrize("name", lsm.list_models())
def test_every_model_file_fits(name):
    model = lsm.LocationScaleModel.from_file(name)
    if name == "preterm_continent":
        with pytest.warns(lsm.DivergentScaleWarning):
            fit = model.fit_reml()
    else:
        fit = model.fit_reml()
    assert fit.converged
    assert np.isfinite(fit.loglik)
    assert model.specification.title


def test_a_reml_fit_loads_neither_pymc_nor_matplotlib():
    code = (
        "import sys, bayes_lsm as lsm\n"
        "print(lsm.LocationScaleModel.from_file('bcg').fit_reml())\n"
        "heavy = 'pymc pytensor arviz nutpie matplotlib jinja2 scipy.stats'.split()\n"
        "heavy = set(heavy) & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"scale": 3}, r"scale: must be a formula, or formulas by grouping such as"),
        ({"scale": ["~ 1"]}, r"scale: must be a formula, or formulas by grouping such as"),
        (
            {"scale": {"trial": "~ 1", "alloc": "~ 1"}, "link": "identity"},
            r"link must be 'log', got 'identity', with several scale terms",
        ),
        ({"correlation": "unstructured"}, r"which scale term it is of.*; got 'unstructured'"),
    ],
)
def test_words_of_the_wrong_kind_are_refused(words, message):
    with pytest.raises(lsm.SpecificationError, match=message):
        lsm.LocationScaleModel("yi ~ 1", variance="vi", data=lsm.load_dataset("bcg"), **words)
