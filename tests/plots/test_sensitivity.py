"""Sensitivity figures are held to the numbers of the API by their artists."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import bayes_lsm as lsm
from bayes_lsm import plots
from bayes_lsm.plots.canvas import BLUE, GREEN, VERMILLION


@cache
def continent():
    fit = lsm.LocationScaleModel.from_file("preterm_continent").fit_bayes(draws=1000, seed=1)
    presets = ("weakly_informative", "blsmeta")
    return fit.sensitivity(factors=(0.25, 4), presets=presets, draws=2000, progress=False)


def artists(ax, gid):
    return [each for each in ax.findobj() if each.get_gid() == gid]


def test_curves_are_those_of_the_table():
    found = continent()
    axes = plots.sensitivity(found)
    assert len(axes) == len(found.table) == 8
    for ax, (part, term) in zip(axes, found.table.index, strict=True):
        assert ax.get_title(loc="left") == f"{part}: {term}"
        own, together = found.curve(part, term), found.curve(part, term, varied="together")
        for gid, column in (("median", "median"), ("lower", "ci_lb"), ("upper", "ci_ub")):
            x, y = artists(ax, gid)[0].get_data()
            assert x.tolist() == [0.25, 0.5, 1.0, 2.0, 4.0]
            assert y.tolist() == own[column].tolist()
        for column in ("ci_lb", "ci_ub"):
            assert artists(ax, f"together {column}")[0].get_ydata().tolist() == (
                together[column].tolist()
            )
        low, high = ax.get_ylim()
        held = pd.concat([own, together]).loc[[0.5, 1.0, 2.0]]
        assert low < held["ci_lb"].min() < held["ci_ub"].max() < high
        assert ax.get_xscale() == "log"


def test_colours_and_words_are_those_of_the_verdicts():
    found = continent()
    colours = {"data-driven": GREEN, "prior-informed": BLUE, "prior-dominated": VERMILLION}
    for ax, (name, verdict) in zip(plots.sensitivity(found), found.verdicts.items(), strict=True):
        share = found.table.loc[name, "share"]
        text = artists(ax, "verdict")[0]
        assert text.get_text().startswith(f"{verdict} (share ")
        shown = float(text.get_text().split("share ")[1].rstrip(")").replace("−", "-"))
        assert shown == pytest.approx(share, abs=0.005)
        assert to_hex(artists(ax, "median")[0].get_color()) == colours[verdict].lower()


def test_doubtful_refits_are_marked():
    found = continent()
    rows = found.widths.copy()
    rows.loc[("own", "scale", "continentOther", 4.0), "trusted"] = False
    lines = {
        state: artists(plots.sensitivity(each, ["continentOther"], part="scale")[0], "doubtful")[0]
        for state, each in (("good", found), ("bad", _with(found, widths=rows)))
    }
    assert len(lines["good"].get_xdata()) == 0
    assert lines["bad"].get_xdata().tolist() == [4.0]
    assert lines["bad"].get_ydata().tolist() == [
        found.curve("scale", "continentOther").loc[4.0, "median"]
    ]


def _with(found, **changes):
    from dataclasses import replace

    return replace(found, **changes)


def test_rows_are_the_fits_under_other_priors():
    found = continent()
    for others, table in (("presets", found.presets), ("families", found.families)):
        axes = plots.under_priors(found, others=others)
        assert len(axes) == 4
        labels = list(dict.fromkeys(table.index.get_level_values("prior")))
        assert [each.get_text() for each in axes[0].get_yticklabels()] == labels
        for ax, term in zip(axes, found.table.loc["scale"].index, strict=True):
            rows = [table.loc[(label, "scale", term)] for label in labels]
            ends = [path.vertices[:, 0] for path in artists(ax, "interval")[0].get_paths()]
            assert np.array(ends).tolist() == [[row["ci_lb"], row["ci_ub"]] for row in rows]
            points = artists(ax, "median")[0].get_offsets()
            assert np.asarray(points)[:, 0].tolist() == [row["median"] for row in rows]
            assert ax.get_ylim()[0] > ax.get_ylim()[1]  # as fitted on top


def test_axes_go_in_and_come_out():
    given = Figure().subplots(1, 2)
    axes = plots.sensitivity(continent(), ["intrcpt"], axes=given)
    assert list(axes) == list(given)
    assert [ax.get_title(loc="left") for ax in axes] == ["location: intrcpt", "scale: intrcpt"]
    one = plots.under_priors(continent(), ["continentOther"], axes=given[:1])
    assert list(one) == [given[0]]


def test_wrong_questions_are_refused():
    found = continent()
    with pytest.raises(lsm.FitError, match="the scale part has no term 'weeks'"):
        plots.sensitivity(found, ["weeks"], part="scale")
    with pytest.raises(lsm.FitError, match="part must be 'location' or 'scale'"):
        plots.sensitivity(found, part="both")
    with pytest.raises(lsm.FitError, match="others must be 'presets' or 'families'"):
        plots.under_priors(found, others="widths")
    with pytest.raises(lsm.FitError, match="8 panels need as many axes, got 1"):
        plots.sensitivity(found, axes=[Figure().subplots()])
    with pytest.raises(lsm.FitError, match=r"there is no own curve of scale\[weeks\]"):
        found.curve("scale", "weeks")
