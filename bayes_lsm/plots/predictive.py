"""Whether a posterior predicts the data: replicated quantities, LOO-PIT, single studies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayes_lsm.bayes.calibration.uniformity import pit_ranks, rank_ecdf, simultaneous_band
from bayes_lsm.bayes.cross_validation.elpd import Elpd
from bayes_lsm.bayes.diagnostics.checks import PredictiveCheck
from bayes_lsm.bayes.diagnostics.diagnosis import Diagnosis
from bayes_lsm.bayes.diagnostics.findings import LARGEST_SHIFT, coefficient_columns
from bayes_lsm.choices import require_known
from bayes_lsm.errors import FitError
from bayes_lsm.plots.canvas import (
    BLUE,
    GREY,
    PALE,
    SIZE,
    SMALL,
    VERMILLION,
    Axes,
    GivenAxes,
    Panels,
    canvas,
    farthest,
    legend,
    name_axes,
    name_point,
    panels,
    shorten,
)

_RANKS = 99
# How far from the quartiles, in their distance, a panel shows what was replicated.
_REACH = 6.0


def replicated(
    check: PredictiveCheck,
    quantities: Sequence[str] | None = None,
    *,
    axes: GivenAxes = None,
    columns: int = 3,
    bins: int = 40,
) -> Panels:
    """Test quantities of data that the model would make, and of the data that there are.

    Parameters
    ----------
    check : PredictiveCheck
    quantities : sequence of str, optional
        By default all.
    axes : sequence of Axes, optional
        As many as quantities; by default those of a new figure.
    columns : int, default 3
    bins : int, default 40

    Returns
    -------
    ndarray of Axes, shape (number of quantities,)
        Bars: replicated, but for those so far out that the others would be one bar. Line:
        observed; where the observed quantity depends on the coefficients
        too, its posterior mean, with its 95% interval shaded.

    Raises
    ------
    FitError
        For an unknown quantity, or fewer axes than quantities.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> from bayes_lsm.plots import replicated
    >>> fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_bayes(seed=1)
    >>> axes = replicated(fit.posterior_predictive_check(), ["Q", "largest |z|"])
    >>> [ax.get_xlabel() for ax in axes]
    ['Q', 'largest |z|']
    """
    wanted = list(check.observed if quantities is None else quantities)
    for name in wanted:
        require_known("the check", "quantity", name, check.observed)
    table = check.to_dataframe().droplevel(0)[["observed", "ppp"]].T.to_dict()
    given = panels(len(wanted), columns=columns, size=(2.9, 2.1), axes=axes)
    for ax, name in zip(given, wanted, strict=True):
        drawn, seen = check.replicated[name], check.observed[name]
        low, lower, upper, high = np.quantile(drawn, [0.001, 0.25, 0.75, 0.999])
        reach = _REACH * (upper - lower)
        if reach > 0:
            low, high = max(low, lower - reach), min(high, upper + reach)
        low, high = min(low, float(seen.min())), max(high, float(seen.max()))
        ax.hist(drawn, bins=bins, range=(low, high), density=True, color=PALE, gid="replicated")
        if np.ptp(seen) > 0:
            ax.axvspan(*np.quantile(seen, [0.025, 0.975]), color=BLUE, alpha=0.15, lw=0)
        ax.axvline(table[name]["observed"], color=BLUE, lw=1.8, gid="observed")
        ax.set_yticks([])
        ax.set_xlabel(shorten(name, 34), fontsize=SMALL)
        ax.set_title(f"ppp = {table[name]['ppp']:.3f}", fontsize=SMALL, loc="left")
    return given


def loo_pit(left_out: Elpd, *, ax: Axes | None = None, level: float = 0.95) -> Axes:
    """The distribution of the LOO-PIT values, less that of a model that fits.

    Parameters
    ----------
    left_out : Elpd
        From `BayesFit.loo`, `BayesFit.kfold` or `BayesFit.psis_loo`.
    ax : Axes, optional
    level : float, default 0.95
        Of the band, in which the whole curve lies if the predictions are calibrated.

    Returns
    -------
    Axes
        A hump at the left and a dip at the right: predictions are too narrow; the other way round:
        too wide; a curve above (below) 0 throughout: too high (too low).

    Raises
    ------
    FitError
        For WAIC, which has no predictions.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> from bayes_lsm.plots import loo_pit
    >>> fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_bayes(seed=1)
    >>> loo_pit(fit.loo()).get_xlabel()
    'LOO-PIT: P(new effect ≤ observed effect)'
    """

    if left_out.pit is None:
        raise FitError("WAIC predicts no study; use fit.loo() or fit.psis_loo()")
    ax = canvas(ax, size=(4.8, 3.2))
    ranks = pit_ranks(left_out.pit, _RANKS)
    lower, upper = simultaneous_band(len(ranks), _RANKS, level=level)
    x = (np.arange(_RANKS) + 1) / (_RANKS + 1)
    band = f"{100 * level:g}% band, the curve as a whole"
    ax.fill_between(x, lower - x, upper - x, step="mid", color=BLUE, alpha=0.15, lw=0, label=band)
    ax.axhline(0, color=GREY, lw=0.8, ls="--")
    ax.step(x, rank_ecdf(ranks, _RANKS) - x, where="mid", color=BLUE, lw=1.6, gid="ecdf")
    ax.set_xlim(0, 1)
    name_axes(ax, "LOO-PIT: P(new effect ≤ observed effect)", "ECDF − uniform")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.2 * (high - low))
    legend(ax, loc="upper left")
    return ax


def shifts(found: Diagnosis, *, ax: Axes | None = None, name: int = 3) -> Axes:
    """How far each coefficient moves when a study is left out, coefficient by coefficient.

    Parameters
    ----------
    found : Diagnosis
        From `BayesFit.diagnose`, of a model whose studies can be left out.
    ax : Axes, optional
    name : int, default 3
        How many studies are named: those farthest out, if they move a coefficient by more than a
        posterior SD.

    Returns
    -------
    Axes
        A dot is a study, a diamond one beyond the dashed lines at ±1 posterior SD.

    Raises
    ------
    FitError
        For a diagnosis in which nothing was left out.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> from bayes_lsm.plots import shifts
    >>> fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_bayes(seed=1)
    >>> ax = shifts(fit.diagnose(progress=False))
    >>> [label.get_text() for label in ax.get_yticklabels()][2:]
    ['scale[intrcpt]', 'scale[I(weeks - 40)]']
    """

    if found.studies is None:
        raise FitError(
            "nothing was left out, so there is nothing to be shown; say what to leave out with "
            "diagnose(cluster=…), and see .remarks"
        )
    table = found.studies[coefficient_columns(found.studies)]
    height = 0.9 + 0.3 * table.shape[1]
    ax = canvas(ax, size=(6.4, height), caution=found.fit.design.caution)
    scatter = np.random.default_rng(1).uniform(-0.25, 0.25, len(table))
    for j, column in enumerate(table):
        x = table[column].to_numpy(dtype=float)
        far = np.abs(x) > LARGEST_SHIFT
        ax.plot(x[~far], j + scatter[~far], "o", color=BLUE, ms=3, alpha=0.6, mew=0, gid="study")
        ax.plot(x[far], j + scatter[far], "D", color=VERMILLION, ms=5, mec="white", gid="far")
    moved = table.to_numpy(dtype=float)
    for place in farthest(moved.ravel(), np.abs(moved.ravel()) > LARGEST_SHIFT, name):
        i, j = divmod(place, moved.shape[1])
        text, at = shorten(str(table.index[i]), 24), (moved[i, j], j + scatter[i])
        name_point(ax, text, at, right=bool(moved[i, j] < 0))
    for limit in (-LARGEST_SHIFT, LARGEST_SHIFT):
        ax.axvline(limit, color=GREY, lw=0.9, ls="--", zorder=0)
    ax.axvline(0, color=GREY, lw=0.7, ls=":", zorder=0)
    ax.set_yticks(range(table.shape[1]), [shorten(str(column), 34) for column in table])
    ax.set_ylim(table.shape[1] - 0.5, -0.5)
    one = found.studies.index.name
    name_axes(ax, f"median without the {one} − with it, in posterior SDs", "")
    ax.tick_params(axis="y", labelsize=SIZE - 1)
    return ax
