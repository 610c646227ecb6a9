"""What several tests of the frequentist fits ask for."""

import pytest

from bayes_lsm.design.design import Design


@pytest.fixture(params=["rows", "blocks"])
def either_solver(request, monkeypatch):
    """Independent effects by their own solver, and by that of effects in blocks."""
    if request.param == "blocks":
        monkeypatch.setattr(Design, "is_independent", False)
