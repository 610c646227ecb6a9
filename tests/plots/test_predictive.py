"""Figures of predictive checks, LOO-PIT and single studies, held to the numbers of the API."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

import bayes_lsm as lsm
from bayes_lsm import plots
from bayes_lsm.bayes.diagnostics.findings import coefficient_columns
from bayes_lsm.errors import FitError


@cache
def diagnosis():
    return (
        lsm.LocationScaleModel.from_file("preterm_continent")
        .fit_bayes(seed=1)
        .diagnose(progress=False)
    )


def artists(ax, gid):
    return [each for each in ax.findobj() if each.get_gid() == gid]


def test_replicated_quantities_and_the_observed_ones():
    check = diagnosis().check
    axes = plots.replicated(check)
    table = check.to_dataframe().droplevel(0)
    assert [ax.get_xlabel() for ax in axes] == list(table.index)
    for ax, row in zip(axes, table.to_dict("records"), strict=True):
        assert artists(ax, "observed")[0].get_xdata()[0] == row["observed"]
        assert ax.get_title(loc="left") == f"ppp = {row['ppp']:.3f}"
        bars = artists(ax, "replicated")
        area = sum(bar.get_width() * bar.get_height() for bar in bars)
        assert area == pytest.approx(1)
    with pytest.raises(FitError, match="no quantity 'nothing'"):
        plots.replicated(check, ["nothing"])


def test_loo_pit_is_the_ecdf_less_the_uniform():
    left_out = diagnosis().loo
    curve = artists(plots.loo_pit(left_out), "ecdf")[0]
    x, y = curve.get_data()
    below = np.array([np.mean(left_out.pit < at) for at in x])
    assert y == pytest.approx(below - x)
    with pytest.raises(FitError, match="WAIC predicts no study"):
        plots.loo_pit(SimpleNamespace(pit=None))


def test_shifts_are_those_of_the_table():
    found = diagnosis()
    ax = plots.shifts(found, name=2)
    table = found.studies[coefficient_columns(found.studies)]
    drawn = np.concatenate([line.get_xdata() for line in artists(ax, "far")])
    assert sorted(drawn) == pytest.approx(sorted(v for v in table.to_numpy().ravel() if abs(v) > 1))
    everything = [len(line.get_xdata()) for line in artists(ax, "study") + artists(ax, "far")]
    assert sum(everything) == table.size
    farthest = table.abs().max(axis=1).idxmax()
    assert farthest in [text.get_text() for text in ax.texts]
    with pytest.raises(FitError, match="nothing was left out"):
        plots.shifts(SimpleNamespace(studies=None))
