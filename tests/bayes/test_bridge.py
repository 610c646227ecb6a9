"""Bridge sampling of densities whose integral is known, near a normal and far from one."""

import numpy as np
import pytest

from bayes_lsm.bayes.evidence.bridge import bridge


def _two_hills(away, dimensions, rng):
    """ln density of independent coordinates with hills at ±away, times e³; and draws of it."""

    def log_joint(x):
        hills = np.logaddexp(-0.5 * (x - away) ** 2, -0.5 * (x + away) ** 2)
        return 3.0 + np.sum(hills - np.log(2) - 0.5 * np.log(2 * np.pi), axis=1)

    centres = rng.choice([-away, away], (4000, dimensions))
    return log_joint, centres + rng.standard_normal(centres.shape)


@pytest.mark.parametrize(("away", "dimensions"), [(1, 1), (3, 2), (5, 4)])
def test_the_integral_is_found_within_its_error(away, dimensions):
    misses = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        log_joint, draws = _two_hills(away, dimensions, rng)
        found = bridge(log_joint, draws, worth=4000, rng=rng)
        assert found.settled
        misses.append((found.log - 3.0) / found.se)
    # The root mean square of 40 standard normals is within 1 ± 4/√80.
    assert 0.55 < np.sqrt(np.mean(np.square(misses))) < 1.45


def test_an_iteration_that_does_not_settle_is_said():
    """A normal that spans the hills has hardly a point on one of them."""
    rng = np.random.default_rng(1)
    found = bridge(*_two_hills(30, 4, rng), worth=4000, rng=rng)
    assert not found.settled
    assert abs(found.log - 3.0) > 1.0
