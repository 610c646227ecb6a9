"""The keys of scale terms."""

import pytest

from bayes_lsm.errors import SpecificationError
from bayes_lsm.formulas.grouping import Grouping, read_grouping


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("residual", Grouping("residual")),
        ("study", Grouping("study", ("study",))),
        ("1 | study", Grouping("1 | study", ("study",))),
        (" district/school ", Grouping("district/school", ("district", "school"))),
        ("0+atterm|study", Grouping("0+atterm|study", ("study",), slope="~ 0+atterm")),
        ("atterm - 1 | study", Grouping("atterm - 1 | study", ("study",), slope="~ atterm - 1")),
        ("1 + x | study", Grouping("1 + x | study", ("study",), slope="~ 1 + x")),
        ("outcome | trial", Grouping("outcome | trial", ("trial",), inner="outcome")),
        ("outcome | lab/trial", Grouping("outcome | lab/trial", ("lab", "trial"), inner="outcome")),
        ("`my study`", Grouping("`my study`", ("my study",))),
    ],
)
def test_a_key_is_read(text, expected):
    assert read_grouping(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a grouping"),
        ("a | b | c", "not a grouping"),
        ("x |", "not a grouping"),
        ("study/", "one column is needed"),
        ("study/study", "twice"),
        ("a*b", "one column"),
    ],
)
def test_another_key_is_refused_with_the_cure(text, message):
    with pytest.raises(SpecificationError, match=message):
        read_grouping(text)
