"""Fits that several tests read; each is sampled once."""

import pytest

import bayes_lsm as lsm


@pytest.fixture(scope="session")
def continent():
    """The talk's last model: a scale coefficient runs to -inf."""
    return lsm.LocationScaleModel.from_file("preterm_continent")


@pytest.fixture(scope="session")
def continent_reml(continent):
    with pytest.warns(lsm.DivergentScaleWarning):
        return continent.fit_reml()


@pytest.fixture(scope="session")
def continent_bayes(continent):
    """40,000 draws, so that Monte Carlo error is small beside the printed digits."""
    return continent.fit_bayes(engine="collapsed", draws=40_000, seed=1)


@pytest.fixture(scope="session")
def continent_nuts(continent):
    """The same by NUTS."""
    return continent.fit_bayes(engine="nuts", draws=20_000, seed=1, progress=False)
