"""What several of these tests read."""

import pytest

from bayes_lsm.design.design import Design


@pytest.fixture(params=["rows", "blocks"])
def either_solver(request, monkeypatch):
    """Models of one τ² an effect by their own solver, and by that of dependent effects."""
    if request.param == "blocks":
        monkeypatch.setattr(Design, "is_independent", False)
    return request.param
