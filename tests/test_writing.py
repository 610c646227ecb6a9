"""Files that are written: whole or not at all, and never over what was read."""

import csv
import os

import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.cli import main
from bayes_lsm.writing import check_paths, csv_of, replacing, write_text


def _interrupted(path, error):
    with replacing(path) as new:
        new.write_text("half of the n")
        raise error


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        expected = lsm.FitError if isinstance(error, OSError) else KeyboardInterrupt
        with pytest.raises(expected):
            _interrupted(path, error)
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["table.csv"]
    write_text("new", path)
    assert path.read_text() == "new"


def test_a_link_is_replaced_and_not_followed(tmp_path):
    precious, link = tmp_path / "precious.txt", tmp_path / "table.txt"
    precious.write_text("precious")
    link.symlink_to(precious)
    write_text("table", link)
    assert precious.read_text() == "precious"
    assert not link.is_symlink()


def test_what_cannot_be_written_is_said_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(lsm.FitError, match=r"cannot write .*folder\.csv: it is a folder"):
        check_paths([tmp_path / "folder.csv"])
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(lsm.FitError, match=r"cannot write .*t\.csv: .* does not allow it"):
        check_paths([tmp_path / "t.csv"])


def test_no_table_is_written_over_its_data(tmp_path, capsys):
    content = "yi,vi\n0.1,0.04\n0.2,0.05\n0.5,0.06\n"
    (tmp_path / "data.csv").write_text(content)
    (tmp_path / "model.toml").write_text(
        'data = "data.csv"\nlocation = "yi ~ 1"\nvariance = "vi"\n'
    )
    (tmp_path / "same.csv").symlink_to(tmp_path / "data.csv")
    for name in ("data.csv", "same.csv"):
        given = ["fit", str(tmp_path / "model.toml"), "-o", str(tmp_path / name)]
        assert main(given) == 2
        assert "the analysis reads this file" in capsys.readouterr().err
        assert (tmp_path / "data.csv").read_text() == content
    other = tmp_path / "other.csv"
    other.write_text(content)
    given = ["fit", str(tmp_path / "model.toml"), "--data", str(other), "-o", str(other)]
    assert main(given) == 2
    assert "the analysis reads this file" in capsys.readouterr().err
    assert other.read_text() == content


def test_no_text_is_a_formula_of_a_spreadsheet():
    names = ["=cmd()", "@sum", "+1", "-2+3", "\tx", "plain", "a=b"]
    table = pd.DataFrame({"=study": names, "y": [-0.5, 1, 2, 3, 4, 5, 6]}, index=["=i"] * 7)
    header, *rows = csv.reader(csv_of(table).splitlines())
    assert header == ["index", "'=study", "y"]
    assert [row[1] for row in rows] == [*("'" + name for name in names[:5]), "plain", "a=b"]
    assert {row[0] for row in rows} == {"'=i"}
    assert rows[0][2] == "-0.5"


def test_a_table_of_a_strange_study_is_text(tmp_path):
    data = lsm.load_dataset("bcg").assign(author=lambda each: "=" + each["author"])
    model = lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data, study="author")
    found = model.fit_reml().blup()
    assert "'=" in csv_of(found.to_dataframe())
    assert "\n=" not in csv_of(found.to_dataframe())
