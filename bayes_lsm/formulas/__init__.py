"""Formulas read, and refused where they are not what they look like.

`formula` is the door: what a formula may say and which columns it needs. `grammar` knows the
language, `grouping` what stands before and after the ``|`` of a scale term, `random_intercepts` the
``(1 | country)`` of a scale formula, and `term_names` what a column of a matrix is called.
"""

from bayes_lsm.formulas.formula import ParsedFormula, parse, plain, split

__all__ = ["ParsedFormula", "parse", "plain", "split"]
