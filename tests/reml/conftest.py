"""Either solver, for tests of what every verb says of independent effects."""

import pytest

from bayes_lsm.design.design import Design

SOLVERS = ["rows", "blocks"]


@pytest.fixture(params=SOLVERS)
def solver(request, monkeypatch):
    """The solver of independent effects, or that of any effects in its place."""
    if request.param == "blocks":
        monkeypatch.setattr(Design, "is_independent", False)
    return request.param
