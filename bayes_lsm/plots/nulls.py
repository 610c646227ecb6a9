"""Null distributions that permutations and the bootstrap made, and where the data fall in them."""

from __future__ import annotations

import numpy as np

from bayes_lsm.arrays import Array
from bayes_lsm.choices import require_known
from bayes_lsm.errors import FitError
from bayes_lsm.plots.canvas import (
    BLACK,
    GREY,
    SIZE,
    VERMILLION,
    Axes,
    canvas,
    legend,
    name_axes,
    number,
)
from bayes_lsm.plots.reading import refuse_fit
from bayes_lsm.reml.tests.bootstrap_test import BootstrapTest
from bayes_lsm.reml.tests.permutation_test import PermutationTest


def permutation_null(
    test: PermutationTest,
    term: str | None = None,
    *,
    ax: Axes | None = None,
    bins: int = 40,
    xlab: str | None = None,
) -> Axes:
    """The permutation distribution of a coefficient's z, or of the joint χ².

    Parameters
    ----------
    test : PermutationTest
    term : str, optional
        A term of the part that was permuted; by default the joint test of all moderators.
    ax : Axes, optional
    bins : int, default 40
    xlab : str, optional

    Returns
    -------
    Axes
        The curve is what theory says of large samples: the standard normal, or χ². Shaded bars are
        at least as far out as the data. Refits that failed have no place on the axis; the title
        counts them.

    Raises
    ------
    FitError
        For an unknown term.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> from bayes_lsm.plots import permutation_null
    >>> fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_reml()
    >>> test = fit.permutation_test(iterations=200, seed=1, progress=False)
    >>> permutation_null(test, "I(weeks - 40)").get_xlabel()
    'z of I(weeks - 40)'
    """
    refuse_fit(test, "a permutation test", "fit.permutation_test()")
    if term is None:
        name = f"χ² of the {test.part} part"
        return _draw(ax, test.null_joint, test.statistic, test.pval, bins, test.df, xlab or name)
    require_known("the test", "term", term, map(str, test.null))
    null = test.null[term].to_numpy()
    zval, pval = (float(test.table[column].to_dict()[term]) for column in ("zval", "pval"))
    return _draw(ax, null, zval, pval, bins, None, xlab or f"z of {term}")


def bootstrap_null(
    test: BootstrapTest, *, ax: Axes | None = None, bins: int = 40, xlab: str | None = None
) -> Axes:
    """The simulated distribution of a likelihood-ratio statistic when the smaller model is true.

    Parameters
    ----------
    test : BootstrapTest
    ax, bins, xlab
        As in `permutation_null`.

    Returns
    -------
    Axes
        As for `permutation_null`.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> from bayes_lsm.plots import bootstrap_null
    >>> data = lsm.load_dataset("bcg")
    >>> full = lsm.LocationScaleModel("yi ~ ablat", scale="~ ablat", variance="vi", data=data)
    >>> reduced = lsm.LocationScaleModel("yi ~ ablat", variance="vi", data=data)
    >>> test = lsm.reml.bootstrap_test(
    ...     full.fit_reml(), reduced.fit_reml(), iterations=100, seed=1, progress=False)
    >>> bootstrap_null(test).get_xlabel()
    'likelihood-ratio statistic'
    """
    refuse_fit(test, "a bootstrap test", "reml.bootstrap_test(full, reduced)")
    name = xlab or "likelihood-ratio statistic"
    return _draw(ax, test.null, test.statistic, test.pval, bins, test.df, name)


def _draw(
    ax: Axes | None,
    null: Array,
    observed: float,
    pval: float,
    bins: int,
    df: int | None,
    xlab: str,
) -> Axes:
    """A histogram beside the curve of theory: the standard normal, or χ² with `df`."""
    from scipy.stats import chi2, norm

    found = null[np.isfinite(null)]
    lost = len(null) - len(found)
    if not len(found):
        raise FitError("every refit failed, so there is no null distribution to be shown")
    ax = canvas(ax, size=(5.0, 3.4))
    ends = [found.min(), found.max()] + ([observed] if np.isfinite(observed) else [])
    edges = np.linspace(min(ends), max(ends) + 1e-9, bins + 1)
    if np.isfinite(observed):
        edges = _edge_at(edges, [observed] if df else [-abs(observed), abs(observed)])
    heights, _ = np.histogram(found, edges, density=True)
    middle = (edges[1:] + edges[:-1]) / 2
    extreme = (middle if df else np.abs(middle)) >= abs(observed)
    for bars, colour, hatch in ((~extreme, "#c9c9c9", None), (extreme, VERMILLION, "//")):
        ax.bar(
            edges[:-1][bars],
            heights[bars],
            np.diff(edges)[bars],
            align="edge",
            color=colour,
            edgecolor="white",
            lw=0.4,
            hatch=hatch,
            gid="extreme" if hatch else "null",
        )
    top = float(heights[1:].max() if df and len(heights) > 2 else heights.max())
    x = np.linspace(edges[0], edges[-1], 400)
    if df:
        x = x[x > 0]
    theory, name = (chi2(df), f"χ² (df = {df})") if df else (norm(), "standard normal")
    ax.plot(x, theory.pdf(x), color=BLACK, lw=1.3, ls="--", label=name)
    if np.isfinite(observed):
        label = f"data: {number(observed, 2)}, p = {pval:.3f}"
        ax.axvline(observed, color=VERMILLION, lw=1.8, gid="observed", label=label)
    failed = f"; {lost} refits failed" if lost else ""
    ax.set_title(f"{len(null)} refits{failed}", fontsize=SIZE, loc="left", color=GREY)
    ax.set_ylim(0, 1.25 * max(top, 0.4 if df is None else 0.3))
    name_axes(ax, xlab, "density")
    legend(ax)
    return ax


def _edge_at(edges: Array, places: list[float]) -> Array:
    """Edges at these places in the stead of the nearest ones: no bar lies on both sides of one."""
    inner = [place for place in places if edges[0] < place < edges[-1]]
    half = (edges[1] - edges[0]) / 2
    kept = [edge for edge in edges[1:-1] if all(abs(edge - place) > half for place in inner)]
    return np.unique(np.r_[edges[0], kept, inner, edges[-1]])
