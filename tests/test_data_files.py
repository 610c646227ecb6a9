"""Files of strangers: their numbers are right, or refused with the line that is wrong."""

import codecs
import os
import string

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bayes_lsm as lsm
from bayes_lsm import data_files
from bayes_lsm.cli import main
from bayes_lsm.data_files import read_csv

PLAIN = "yi,vi,z\n0.1,0.04,1\n-0.2,0.05,2\n0.3,0.06,3\n"
EXPECTED = pd.DataFrame({"yi": [0.1, -0.2, 0.3], "vi": [0.04, 0.05, 0.06], "z": [1, 2, 3]})
MODEL = 'data = "{}"\nlocation = "yi ~ 1"\nvariance = "vi"\n'


def written(folder, content, name="some.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", ";").replace(".", ","),
        PLAIN.replace(",", "\t").replace(".", ","),
        PLAIN.replace(",", ", "),
        PLAIN.replace("\n", ",\n"),  # a column without name or numbers
        PLAIN.replace("\n", "\n\n"),
        PLAIN + "\n\n",
        codecs.BOM_UTF8 + PLAIN.encode(),
        PLAIN.encode("utf-16"),
        codecs.BOM_UTF16_BE + PLAIN.encode("utf-16-be"),
        # As R writes row names.
        '"","yi","vi","z"\n"1",0.1,0.04,1\n"2",-0.2,0.05,2\n"3",0.3,0.06,3\n',
    ],
)
def test_however_it_is_written_the_numbers_are_the_same(content, tmp_path):
    pd.testing.assert_frame_equal(read_csv(written(tmp_path, content)), EXPECTED)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # pandas takes the first column for an index, and each name for the next column's.
        ("yi,vi,z\n0.1,0.04,1,\n-0.2,0.05,2,\n", "line 2: 4 cells, but the first line names 3"),
        ("yi,vi,z\n0.1,0.04,1\n-0.2,0.05\n", "line 3: 2 cells, but the first line names 3"),
        ("yi,vi\n\n0.1,0.04\n0,2,0.05\n", "line 4: 3 cells"),
        ("yi,vi,yi\n0.1,0.04,1\n", "line 1: two columns are named 'yi'"),
        ("yi,vi,,z\n0.1,0.04,9,1\n", "column 3 has no name"),
        ("yi;vi\n0,1;0.04\n", "a comma in line 2 and a point in line 2"),
        ("yi;vi\n0,1;0,04\n1.5;0,05\n", "a comma in line 2 and a point in line 3"),
        ('yi,vi\n"0.1,0.04\n0.2,0.05\n', "check its quotes"),
        ("", "it has no names of columns"),
        ("\n\n", "it has no names of columns"),
        ("yi,vi,who\n0.1,0.04,Müller\n".encode("latin-1"), "line 2: it is not UTF-8 text"),
        ("yi,vi\n0.1,0.04\n".encode("utf-16-le"), "line 1: this is not text"),
        (codecs.BOM_UTF16_LE + b"y", "it is not UTF-16 text"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "it is not UTF-8 text"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_with_its_line(content, message, tmp_path):
    with pytest.raises(lsm.DataError, match=message):
        read_csv(written(tmp_path, content))


def test_a_trailing_comma_shifts_nothing(tmp_path):
    """The effects were the variances, and the fit was made without a word."""
    written(tmp_path, "yi,vi,z\n0.1,0.04,1,\n0.2,0.05,2,\n0.3,0.06,3,\n")
    written(tmp_path, MODEL.format("some.csv"), "model.toml")
    with pytest.raises(lsm.DataError, match="line 2"):
        lsm.LocationScaleModel.from_file(tmp_path / "model.toml")


numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(string.ascii_letters + " ,;'\"\tü−.", max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(numbers, texts, numbers), min_size=1, max_size=8), st.sampled_from(",;\t")
)
def test_what_pandas_writes_is_read_back_to_the_bit(tmp_path_factory, rows, separator):
    frame = pd.DataFrame(rows, columns=["yi", "who", "vi"])
    path = tmp_path_factory.mktemp("csv") / "some.csv"
    frame.to_csv(path, index=False, sep=separator)
    found = read_csv(path)
    for name in ("yi", "vi"):
        np.testing.assert_array_equal(found[name].to_numpy(dtype=float), frame[name].to_numpy())
    assert list(found.columns) == ["yi", "who", "vi"]


def model_that_names(folder, data):
    return written(folder, MODEL.format(str(data).replace("\\", "\\\\")), "model.toml")


@pytest.fixture
def secret(tmp_path):
    """A file that is not the model's, and a folder for the model."""
    path = written(tmp_path, "yi,vi\npassword,0.04\n", "secret.csv")
    folder = tmp_path / "models"
    folder.mkdir()
    return path, folder


def test_a_model_file_reads_no_file_elsewhere(secret):
    path, folder = secret
    (folder / "link.csv").symlink_to(path)
    for name in ("../secret.csv", str(path), "link.csv", "../models/../secret.csv"):
        with pytest.raises(lsm.DataError, match="outside the folder of the model file") as caught:
            lsm.LocationScaleModel.from_file(model_that_names(folder, name))
        assert "password" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "file:///proc/self/environ#.csv",
        "http://localhost:1/a.csv",
        "https://localhost:1/a.csv",
        "ftp://localhost/a.csv",
        "s3://bucket/a.csv",
    ],
)
def test_a_model_file_reaches_no_address(name, tmp_path):
    with pytest.raises(lsm.DataError, match=r"is an address|there is no data file"):
        lsm.LocationScaleModel.from_file(model_that_names(tmp_path, name))
    words = lsm.Specification("yi ~ 1", "vi", data=name)
    with pytest.raises(lsm.DataError, match="is an address; save it as a file"):
        lsm.LocationScaleModel.from_specification(words)


def test_only_regular_files_are_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    for name, message in (("pipe.csv", "no regular file"), ("folder.csv", "no regular file")):
        with pytest.raises(lsm.DataError, match=message):
            read_csv(tmp_path / name)
    with pytest.raises(lsm.DataError, match="no regular file"):
        read_csv("/dev/zero")
    with pytest.raises(lsm.DataError, match="no file has such a name"):
        read_csv("a\0.csv")
    monkeypatch.setattr(data_files, "LARGEST", 10)
    with pytest.raises(lsm.DataError, match="at most"):
        read_csv(written(tmp_path, PLAIN))


def test_a_name_that_no_file_can_have_is_said(tmp_path):
    path = written(tmp_path, MODEL.format(r"a\u0000.csv"), "model.toml")
    with pytest.raises(lsm.DataError, match="no file has such a name"):
        lsm.LocationScaleModel.from_file(path)


def test_data_can_be_named_on_the_command_line(secret, capsys):
    path, folder = secret
    model = model_that_names(folder, path)
    written(path.parent, PLAIN, "mine.csv")
    assert main(["fit", str(model), "--data", str(path.parent / "mine.csv")]) == 0
    assert "k = 3" in capsys.readouterr().out
    assert main(["fit", str(model)]) == 1
    assert "outside the folder" in capsys.readouterr().err
    assert main(["fit", str(model), "--data", "none.csv"]) == 2
    assert "there is no data file none.csv" in capsys.readouterr().err


def test_a_model_file_may_begin_with_a_mark_of_its_encoding(tmp_path):
    written(tmp_path, PLAIN)
    path = written(tmp_path, codecs.BOM_UTF8 + MODEL.format("some.csv").encode(), "model.toml")
    assert lsm.LocationScaleModel.from_file(path).design.n_studies == 3
