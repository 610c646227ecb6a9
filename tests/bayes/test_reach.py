"""The map that brings a far region of little mass near."""

import numpy as np
import pytest
from scipy import stats

from bayes_lsm.bayes.engines.far_region_map import fit_reach


def _half_flat(seed, *, share=0.0065, draws=20_000):
    """Standard normal but for a share of the draws: 150 wide along one axis, 6 along another."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(draws, 4))
    far = rng.random(draws) < share
    towards, wide = np.array([1, 2, -1, 0.5]), np.array([2, -1, 0, 0])
    along, across = np.abs(rng.normal(size=draws)), rng.normal(size=draws)
    x += far[:, None] * (
        150 * along[:, None] * towards / np.linalg.norm(towards)
        + 6 * across[:, None] * wide / np.linalg.norm(wide)
    )
    return x


def test_what_has_no_far_region_is_left_alone():
    """Nor are exponential tails."""
    rng = np.random.default_rng(1)
    for x in (rng.normal(size=(20_000, 3)), rng.laplace(size=(20_000, 1))):
        reach = fit_reach(x)
        assert not reach.hinges.any()
        z = rng.normal(size=(5, x.shape[1]))
        np.testing.assert_array_equal(reach.stretch(z), z)


@pytest.mark.parametrize("share", [0.002, 0.0065, 0.03])
def test_standard_normals_are_mapped_to_what_the_draws_are(share):
    """Between regions, and how far and how wide the far one is, of new draws."""
    reach = fit_reach(_half_flat(1, share=share))
    new = _half_flat(2, share=share, draws=400_000)
    mapped = reach.stretch(np.random.default_rng(3).normal(size=new.shape))
    for x in (new, mapped):
        x[:] = x @ reach.axes
    far_new, far_mapped = (x[x[:, 0] > 50] for x in (new, mapped))
    # So blunt a curve turns late: it takes a factor of 3, a nat of the sampler's potential.
    assert 1 / 3 < len(far_mapped) / len(far_new) < 3
    # 40 far draws at least are fitted to, which tell a spread to a tenth or so; this is twice that.
    np.testing.assert_allclose(np.median(far_mapped[:, 0]), np.median(far_new[:, 0]), rtol=0.25)
    np.testing.assert_allclose(far_mapped[:, 1:].std(axis=0), far_new[:, 1:].std(axis=0), rtol=0.25)


def test_the_body_stays_where_it_is():
    """Kolmogorov's distance of the inner 95%, from the standard normal cut in the same place."""
    reach = fit_reach(_half_flat(1))
    x = reach.stretch(np.random.default_rng(4).normal(size=(100_000, 4))) @ reach.axes
    for column in x.T:
        inner = column[np.abs(column) < 1.96]
        assert stats.kstest(inner, stats.truncnorm(-1.96, 1.96).cdf).statistic < 0.02
