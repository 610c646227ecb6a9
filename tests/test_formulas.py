"""Formulas are read in full and refused before anything is evaluated."""

import contextlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_lsm.design.design import build_design
from bayes_lsm.errors import BayesLsmError, FormulaError
from bayes_lsm.formulas.formula import parse, plain, split
from bayes_lsm.specification import Specification


@pytest.mark.parametrize(
    ("formula", "columns"),
    [
        ("~ 1", ()),
        ("~ 0 + x", ("x",)),
        ("x", ("x",)),
        ("~ continent + I(weeks - 40)", ("continent", "weeks")),
        ("~ C(continent)*weeks", ("continent", "weeks")),
        ("~ (a + b + c)**2", ("a", "b", "c")),
        ("~ a/b + a:c - c", ("a", "b", "c")),
        ("~ scale(log(x)) + center(y) + standardize(z)", ("x", "y", "z")),
        ("~ bs(year, df=4, lower_bound=1990, upper_bound=2020)", ("year",)),
        ("~ bs(x, knots=[1, 2, -3.5])", ("x",)),
        ("~ poly(x, 2) + cr(y, df=4)", ("x", "y")),
        ("~ C(g, Treatment('Other'))", ("g",)),
        ("~ C(g, contr.treatment(base='b'), levels=['b', 'a'])", ("g",)),
        ("~ C(g, Sum) + C(h, contr.helmert)", ("g", "h")),
        ("~ I((x > 3) & (country == 'UK'))", ("x", "country")),
        ("~ I(-x ** 2 / 10)", ("x",)),
        ("~ {a + b}", ("a", "b")),
        ("~ `mean age` + scale(`mean age`)", ("mean age",)),
        ("~ Q('mean age') + C(Q('a-b'))", ("mean age", "a-b")),
        ("~ sd.x", ("sd.x",)),
    ],
)
def test_columns_are_found_wherever_they_stand(formula, columns):
    assert sorted(parse(formula).columns) == sorted(columns)


def test_columns_that_are_computed_with_are_told_from_levels():
    parsed = parse("~ g + C(year) + I(country == 'UK') + I(x / y)")
    assert parsed.computed == {"x", "y"}


@pytest.mark.parametrize(
    ("formula", "parts"),
    [
        ("yi ~ x", ("yi", "~ x")),
        ("`my effect`~x", ("my effect", "~ x")),
        ("~ x", (None, "~ x")),
        ("x", (None, "~ x")),
    ],
)
def test_split(formula, parts):
    assert split(formula) == parts


# What a formula from a stranger could hold. CANARY is code that creates a file.
ATTACKS = [
    "CANARY",
    "I(CANARY)",
    "x + I(x + CANARY)",
    "I(CANARY())",
    "scale(CANARY())(x)",
    "scale(x, center=CANARY)",
    "C(x, levels=[CANARY])",
    "C(x, contrasts=CANARY)",
    "C(x, Treatment(CANARY))",
    "C(x, Treatment(reference=CANARY))",
    "bs(x, df=CANARY)",
    "bs(x, *[CANARY])",
    "bs(x, **dict(df=CANARY))",
    "scale(**dict(data=CANARY))",
    "{CANARY}",
    "Q(CANARY)",
    "Q('x' + CANARY)",
    "I(lambda: CANARY)",
    "I((lambda: CANARY)())",
    "I([CANARY for _ in '1'])",
    "I({CANARY})",
    "I({1: CANARY})",
    "I((y := CANARY))",
    "I(f'{CANARY}')",
    "scale(x == f'{CANARY}')",
    "I(x if CANARY else x)",
    "I(x and CANARY)",
    "I(x[CANARY])",
    "x[CANARY]",
    "I(x @ CANARY)",
    "I(x < CANARY < x)",
    "I(x.pipe(CANARY))",
    "np.array(CANARY)",
    "contr.custom(CANARY)",
    "C(x, contr.custom(CANARY))",
    "hashed(CANARY)",
    "x:I(CANARY)",
    "(x + I(CANARY))**2",
    "x - I(CANARY)",
    "`x` + `CANARY`",
    "I(`CANARY`)",
    "`I`(CANARY)",
    "I(await_(CANARY))",
    "I(x,\nCANARY)",
    # Text in quotes, that the formula library pastes into code of its own:
    "scale(x == \"+'('*CANARY)#\")",
    'scale(x == "\']+CANARY#")',
    "scale(x == '\\\"+CANARY#')",
    "scale(Q(\"+'('*CANARY)#\"))",
    'scale(`x"+CANARY#`)',
]
ESCAPES = [
    "x.__class__",
    "I(x.__class__.__mro__)",
    "I(__builtins__)",
    "I(__FORMULAIC_CONTEXT__)",
    "I(`-_import__`('os'))",
    "I(eval('1'))",
    "exec('1')",
    "I(getattr(x, 'to_csv'))",
    "x.to_csv('stolen')",
    "np.fromfile('secret')",
    "log(x, out=x)",
    "scale(x, _state=x)",
    "scale(x, _context=x)",
    "C(x, Treatment(''.__class__))",
    "I('text' * 9)",
    "I(x == [1])",
    "I(x + None)",
    "I(x + 1j)",
    "I(x + b'1')",
    "I(x + ...)",
    "lag(x)",
    "exp10(x)",
    "_formulaic_x + I(_formulaic_x)",
]


@pytest.mark.parametrize("attack", [*ATTACKS, *ESCAPES])
def test_code_is_refused_before_anything_is_evaluated(attack, tmp_path):
    canary = tmp_path / "evaluated"
    formula = "~ " + attack.replace("CANARY", f"__import__('pathlib').Path('{canary}').touch()")
    # The columns that an attacker would put into the data file, so that the data forbid nothing.
    columns = {name: np.arange(12.0) for name in ("x", "y", "CANARY", "_formulaic_x", "-_import__")}
    data = pd.DataFrame({"yi": np.arange(12.0) ** 2, "vi": 1.0, **columns})
    with pytest.raises(BayesLsmError):
        build_design(Specification(formula, "vi", "yi"), data)
    with pytest.raises(BayesLsmError):
        build_design(Specification("~ 1", "vi", "yi", formula), data)
    assert not canary.exists()


@pytest.mark.parametrize(
    "attack", [each for each in ATTACKS if "CANARY#`" not in each and "`CANARY`" not in each]
)
def test_code_is_refused_by_reading_alone(attack):
    """All but names in backticks, which stand for columns, however odd."""
    with pytest.raises(FormulaError):
        parse("~ " + attack.replace("CANARY", "__import__('os').system('touch here')"))


@pytest.mark.parametrize("name", ["CANARY", 'x"+CANARY#', "'+CANARY+'", "x)+CANARY+(x"])
@pytest.mark.parametrize("formula", ["NAME", "scale(NAME)", "I(NAME * 2)", "C(NAME)"])
def test_code_as_the_name_of_a_column_is_a_name(name, formula, tmp_path):
    canary = tmp_path / "evaluated"
    name = name.replace("CANARY", f"__import__('pathlib').Path('{canary}').touch()")
    data = pd.DataFrame({"yi": np.arange(12.0) ** 2, "vi": 1.0, name: np.arange(12.0) % 4})
    formula = formula.replace("NAME", f"`{name}`")
    assert build_design(Specification(f"~ {formula}", "vi", "yi"), data).X[:, 1].any()
    assert not canary.exists()


def test_the_canary_of_the_attacks_would_sing(tmp_path):
    """Otherwise the test above could never fail."""
    canary = tmp_path / "evaluated"
    eval(f"__import__('pathlib').Path('{canary}').touch()")
    assert canary.exists()


BOMBS = {
    "power of a sum": "~ (a + b + c + d + e + f)**10",
    "powers of powers": "~ (((a + b)**10)**10)**10",
    "tower of powers": "~ a**9**9**9",
    "power of zero": "~ (a + b)**0",
    "many crossings": "~ " + "*".join("abcdefghijklmnop"),
    "crossed sums": "~ " + ":".join(["(a + b + c)"] * 12),
    "very long": "~ " + " + ".join(f"x{i}" for i in range(20_000)),
    "a long list": "~ bs(x, knots=[" + "1," * 4000 + "])",
    "deep unary": "~ I(" + "-" * 9000 + "x)",
    "deep sum": "~ I(" + "x+" * 3000 + "x)",
    "deep brackets": "~ I(" + "(" * 4000 + "x" + ")" * 4000 + ")",
    "deep calls": "~ " + "I(" * 1500 + "x" + ")" * 1500,
    "deep lists": "~ C(x, levels=" + "[" * 100 + "1" + "]" * 100 + ")",
    "huge spline": "~ bs(x, df=10**9)",
    "huge spline by product": "~ bs(x, df=9*9*9*9*9*9*9*9*9)",
    "huge spline by float": "~ bs(x, df=1e9)",
    "huge spline by sign": "~ bs(x, df=--1000000000)",
    "huge degree": "~ poly(x, degree=1000000)",
    "huge positional": "~ poly(x, 1000000)",
    "endless power": "~ I(x ** 9**9**9)",
    "power of numbers": "~ I(9**9**9 * x)",
    "list repetition": "~ I([0] * 999999999 + x)",
    "tuple repetition": "~ scale(x, center=(0,) * 999999999)",
    "text repetition": "~ C(x, levels='a' * 999999999)",
    "huge number": "~ I(x + " + "9" * 4000 + ")",
    "shift": "~ I(x << 999999999)",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_are_refused_in_a_short_message(bomb):
    """One that is evaluated never ends, or takes all memory."""
    with pytest.raises(FormulaError) as refusal:
        parse(bomb)
    assert len(str(refusal.value)) < 1200


@pytest.mark.parametrize(
    "formula",
    ["~ " + "(" * 3000 + "a" + ")" * 3000, "~ " + ":".join(["a"] * 4000), "~ ---a + b"],
)
def test_odd_formulas_that_are_harmless_are_read(formula):
    assert "a" in parse(formula).columns or formula == "~ ---a + b"


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("~", "is empty; write '~ 1'"),
        ("", "is empty; write '~ 1'"),
        ("~ a ~ b", "must have the form"),
        ("a ~ b ~ c", "must have the form"),
        ("~ 0", "has no terms; write '~ 1'"),
        ("~ 1 - 1", "has no terms"),
        ("~ a +", "cannot read the formula '~ a [+]': Operator"),
        ("~ a b", "Missing operator between `a` and `b`"),
        ("~ (a", "cannot read"),
        ("~ I(a", "cannot read"),
        ("~ I(a +)", "invalid syntax"),
        ("~ weeks - 40", r"bare number or text 40.*inside I\(\)"),
        ("~ .5:a", "bare number or text .5"),
        ("~ 'a'", "bare number or text 'a'"),
        ("~ .", "columns are named one by one"),
        ("~ a | b", r"uses '\|'"),
        ("~ a %in% b", "round brackets"),
        ("~ [a]", r"only \( \) are allowed"),
        ("~ a ** b", "power that is not a whole number"),
        ("~ a ** 11", "the power 11"),
        ("~ a ** 1.5", "the power 1.5"),
        ("~ I(1)", "uses no column"),
        ("~ x 0", "0 without an operator"),
        ("~ Q('')", "Q takes one column name"),
        ("~ ``", "no column name"),
        ("~ x + %%", "no column name"),
        ("~ {}", "no column name"),
        ("~ I(`` + a)", "no column name"),
        ("~ I(` ` + a)", "no column name"),
        ("~ np.log(a)", "the call of 'np.log'.*these transforms are allowed.*log10"),
        ("~ log(a, 2)", "these options are allowed: none"),
        ("~ scale(a, centre=True)", "options are allowed: center, scale, ddof"),
        ("~ scale(a, True, center=True)", "the arguments of"),
        ("~ scale()", "a column first"),
        ("~ C(a, Treatment)", r"Treatment\('level'\)"),
        ("~ scale(Q('a b'))", "write the column in backticks"),
        ("~ bs(a, df=101)", "whole number up to 100"),
        ("~ bs(a, df=True)", "whole number up to 100"),
    ],
)
def test_a_faulty_formula_says_what_is_allowed(formula, message):
    with pytest.raises(FormulaError, match=message):
        parse(formula)


@pytest.mark.parametrize(
    "formula", ["~ a b c )", "~ a +* b", "~ 'a", "~ {a", "~ a ~", "~ C(a))", "~ %%"]
)
def test_no_colours_and_excerpts_of_the_formula_library_reach_the_user(formula):
    with pytest.raises(FormulaError) as refusal:
        parse(formula)
    text = str(refusal.value)
    assert not set("\x1b⧛⧚\n") & set(text)
    assert "<unknown>" not in text


def test_plain_keeps_the_first_line_and_names_a_silent_error():
    assert plain(ValueError("\x1b[1mone\x1b[0m\ntwo")) == "one"
    assert plain(KeyError()) == "KeyError"


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("~ scale + scale(x)", "'scale' both as a column and as a transform"),
        ("~ scale(scale)", "'scale' both"),
        ("~ C(C)", "'C' both"),
        ("~ log(`log`)", "'log' both"),
        ("~ contr + C(x, contr.sum)", "'contr' both"),
        ("~ Sum + C(x, Sum)", "'Sum' both"),
        ("~ I(`a b`) + a_b", "'a b' cannot be told from 'a_b'"),
        ("~ I(`a b` + `a-b`)", "'a b' and 'a-b' cannot be told apart"),
    ],
)
def test_a_name_stands_for_one_thing(formula, message):
    with pytest.raises(FormulaError, match=message):
        parse(formula)


@settings(max_examples=300, deadline=None)
@given(
    st.text(
        alphabet=st.sampled_from("abIQC01.+-*/:^~|()[]{}`'\"\\=,_<> \n\t%#éﬁ²½"),
        max_size=40,
    )
)
def test_any_text_is_read_or_refused_with_our_own_error(text):
    try:
        parsed = parse(text)
    except FormulaError:
        return
    assert parsed.terms
    assert all(isinstance(column, str) and column for column in parsed.columns)


def test_reading_a_formula_writes_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for attack in [*ATTACKS, *ESCAPES]:
        text = "~ " + attack.replace("CANARY", "__import__('os').system('touch here')")
        with contextlib.suppress(FormulaError):
            parse(text)
    assert not list(Path(tmp_path).iterdir())
