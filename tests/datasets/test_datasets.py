"""The bundled data are the published ones, and say where they come from."""

import json
from pathlib import Path

import numpy as np
import pytest

from bayes_lsm.datasets import describe_dataset, list_datasets, load_dataset
from bayes_lsm.errors import DataError

SLIDES = json.loads((Path(__file__).parents[1] / "reference/slides.json").read_text())
NAMES = list(list_datasets().index)


def test_the_list_names_every_bundled_dataset():
    sizes = {
        "assink2016": (17, 100),
        "bangertdrowns2004": (48, 48),
        "bcg": (13, 13),
        "berkey1998": (5, 10),
        "konstantopoulos2011": (56, 56),
        "preterm_iq": (37, 37),
        "preterm_iq_ipd": (37, 7044),
        "raudenbush1985": (19, 19),
    }
    assert list(sizes) == NAMES
    table = list_datasets()
    assert list(zip(table["studies"], table["rows"], strict=True)) == list(sizes.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_column_is_documented_in_order(name):
    about = describe_dataset(name)
    assert list(about.columns) == list(load_dataset(name).columns)
    assert all([about.title, about.source, about.measure, about.licence, about.note])
    assert "doi:" in about.source
    assert about.title in str(about)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "preterm_iq_ipd"])
def test_effects_and_variances_are_usable(name):
    frame = load_dataset(name)
    assert frame["yi"].notna().all()
    assert (frame["vi"] > 0).all()


def test_preterm_rows_that_are_printed_are_the_printed_ones():
    frame = load_dataset("preterm_iq")
    printed = SLIDES["visible_rows"]
    shown = frame[frame["published"]]
    assert shown["study"].to_list() == [row[0] for row in printed["rows"]]
    for (_, row), expected in zip(shown.iterrows(), printed["rows"], strict=True):
        for column, value in zip(printed["columns"], expected, strict=True):
            # vi and yi are printed to two decimals; the others as they are.
            got = row[column] if isinstance(value, str) else round(row[column], 2)
            assert got == value, (row["study"], column)


def test_preterm_effects_follow_from_means_and_sds():
    frame = load_dataset("preterm_iq")
    np.testing.assert_allclose(frame["yi"], frame["mean1"] - frame["mean2"], atol=1e-9)
    variance = frame["sd1"] ** 2 / frame["n1"] + frame["sd2"] ** 2 / frame["n2"]
    np.testing.assert_allclose(frame["vi"], variance, rtol=1e-9)


def test_preterm_says_that_most_rows_are_reconstructed():
    about = describe_dataset("preterm_iq")
    assert "not the data of any real study" in about.note.replace("\n", " ")
    assert "published" in about.columns
    assert load_dataset("preterm_iq")["published"].sum() == 8
    assert "reconstruct" in load_dataset.__doc__


def test_preterm_carries_its_caution_wherever_it_goes():
    about = describe_dataset("preterm_iq")
    assert "29 of the 37 rows" in about.caution
    assert "not data of any real study" in about.caution
    assert about.caution in str(about)
    frame = load_dataset("preterm_iq")
    assert len(frame) - frame["published"].sum() == 29
    assert frame.attrs["caution"] == about.caution
    assert frame[frame["weeks"] > 28].attrs["caution"] == about.caution


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("preterm_iq")])
def test_data_as_they_were_published_need_no_caution(name):
    assert describe_dataset(name).caution == ""
    assert "caution" not in load_dataset(name).attrs
    assert "Caution" not in str(describe_dataset(name))


def test_individual_scores_have_the_means_and_sds_of_the_summaries():
    scores, summaries = load_dataset("preterm_iq_ipd"), load_dataset("preterm_iq")
    assert (scores["atterm"] == (scores["group"] == "Atterm")).all()
    for group, arm in (("Atterm", "1"), ("Preterm", "2")):
        found = scores[scores["group"] == group].groupby("study")["iq"].agg(["mean", "std", "size"])
        expected = summaries.set_index("study")[[f"mean{arm}", f"sd{arm}", f"n{arm}"]]
        # Scores are written to about 14 digits.
        np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_individual_scores_say_that_they_are_made_up():
    about = describe_dataset("preterm_iq_ipd")
    assert "not the scores of any real child" in about.caution
    assert load_dataset("preterm_iq_ipd").attrs["caution"] == about.caution
    assert "made up" in load_dataset.__doc__


def test_schools_are_nested_in_districts():
    frame = load_dataset("konstantopoulos2011")
    assert frame["district"].nunique() == 11
    assert not frame.duplicated(["district", "school"]).any()


def test_sampling_covariances_of_two_outcomes_are_positive_definite():
    for _, trial in load_dataset("berkey1998").groupby("trial"):
        V = trial[["v1i", "v2i"]].to_numpy()
        np.testing.assert_array_equal(V, V.T)
        np.testing.assert_array_equal(np.diag(V), trial["vi"])
        assert np.linalg.eigvalsh(V).min() > 0


def test_each_call_gives_a_frame_of_its_own():
    frame = load_dataset("bcg")
    frame["yi"] = 0
    assert (load_dataset("bcg")["yi"] != 0).all()


def test_europe_is_the_reference_continent():
    continent = load_dataset("preterm_iq")["continent"]
    assert list(continent.cat.categories) == ["Europe", "America", "Other"]
    assert continent.value_counts().to_dict() == {"Europe": 17, "America": 12, "Other": 8}


def test_bcg_effects_are_log_risk_ratios():
    d = load_dataset("bcg")
    treated, control = d["tpos"] + d["tneg"], d["cpos"] + d["cneg"]
    np.testing.assert_allclose(d["yi"], np.log(d["tpos"] / treated / (d["cpos"] / control)))
    np.testing.assert_allclose(
        d["vi"], 1 / d["tpos"] - 1 / treated + 1 / d["cpos"] - 1 / control, rtol=1e-12
    )


def test_an_unknown_name_is_an_error_with_a_suggestion():
    with pytest.raises(DataError, match=r"bundled are .*did you mean 'preterm_iq'"):
        load_dataset("preterm")
