"""The side-by-side table of any fits of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.results import Fit, model_title
from bayes_lsm.tables import Printable

_SYMBOLS = {
    "location": "beta",
    "scale": "alpha",
    "scale_sd": "omega",
    "scale_effect": "u",
    "correlation": "rho",
    "study_effects": "nu",
}


@dataclass(frozen=True, eq=False)
class Comparison(Printable):
    """Fits of one model side by side.

    Attributes
    ----------
    design : Design or Design
        The model that was fitted.
    table : DataFrame
        Indexed by part, symbol (beta0, …, alpha0, …) and term; the columns are a fit and its
        statistic: (``"REML"``, ``"estimate"``), (``"Bayes"``, ``"median"``), ….
    fit_notes : tuple of str
        What the reader has to know about each fit.
    """

    design: Design
    table: pd.DataFrame
    fit_notes: tuple[str, ...]

    _digits = 2

    @property
    def title(self) -> str:
        """The kind of model and its number of studies."""
        return model_title(self.design)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader has to know about the fits, then about the data."""
        return (*self.fit_notes, *self.design.notes)

    def to_dataframe(self) -> pd.DataFrame:
        """The table, unrounded."""
        return self.table.copy()


def compare(*fits: Fit, names: Sequence[str] | None = None, at_stop: bool = False) -> Comparison:
    """Put fits of one model side by side.

    Parameters
    ----------
    *fits : RemlFit or BayesFit
        At least one; all of the same effects and with the same terms.
    names : sequence of str, optional
        Headings of the fits; default: how each was made, numbered where two are alike.
    at_stop : bool, default False
        For a REML fit with a diverging coefficient, also show what an ordinary optimiser would have
        printed: an estimate that is an accident of its tolerance.

    Returns
    -------
    Comparison

    Raises
    ------
    FitError
        When the fits are not of one model, or `names` does not fit them.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> model = lsm.LocationScaleModel(
    ...     "yi ~ ablat", scale="~ ablat", variance="vi", data=lsm.load_dataset("bcg"))
    >>> print(lsm.compare(model.fit_reml(), model.fit_reml(method="ML")))
    Location-Scale Model (k = 13)
    <BLANKLINE>
                            REML              ML
                       estimate    se  estimate     se
    Location
      beta0   intrcpt      0.25  0.25      0.30   0.14
      beta1   ablat       -0.03  0.01     -0.03  5e-03
    Scale (ln τ²)
      alpha0  intrcpt     -2.54  3.42     -4.96   3.27
      alpha1  ablat      -7e-04  0.08      0.04   0.07
    """
    if not fits:
        raise FitError("nothing to compare; give at least one fit")
    _check_same_model(fits)
    labels = _labels(fits, names)
    columns: dict[str, pd.DataFrame] = {}
    for fit, label in zip(fits, labels, strict=True):
        for suffix, columns_of_fit in fit.comparison(at_stop=at_stop).items():
            columns[f"{label}{suffix}"] = columns_of_fit
    table = pd.concat(columns, axis=1)
    table.columns.names = ["fit", "statistic"]
    table.index = _with_symbols(table.index)
    notes = [
        f"{label}: {note}"
        for fit, label in zip(fits, labels, strict=True)
        for note in fit.notes
        if note not in fit.design.notes
    ]
    return Comparison(fits[0].design, table, tuple(notes))


def _with_symbols(index: pd.Index) -> pd.MultiIndex:
    """Number the coefficients of each kind through, whatever scale term they belong to."""
    counts = dict.fromkeys(_SYMBOLS, 0)
    rows = []
    for part, term in index:
        kind = part.partition(" ")[0]
        rows.append((part, f"{_SYMBOLS[kind]}{counts[kind]}", term))
        counts[kind] += 1
    return pd.MultiIndex.from_tuples(rows, names=["part", "symbol", "term"])


def _labels(fits: Sequence[Fit], names: Sequence[str] | None) -> list[str]:
    if names is not None:
        if len(names) != len(fits) or len(set(names)) < len(names):
            raise FitError(f"names must be {len(fits)} different names, got {list(names)}")
        return list(names)
    labels = [fit.label for fit in fits]
    return [
        f"{label} {labels[: i + 1].count(label)}" if labels.count(label) > 1 else label
        for i, label in enumerate(labels)
    ]


def _check_same_model(fits: Sequence[Fit]) -> None:
    first = fits[0].design
    for other in (fit.design for fit in fits[1:]):
        for part in {**first.parts, **other.parts}:
            terms = [design.parts.get(part, ()) for design in (first, other)]
            if terms[0] != terms[1]:
                shown = [", ".join(names) or "none" for names in terms]
                raise FitError(
                    f"the fits differ in their {part} terms: {shown[0]} against {shown[1]}; "
                    "compare fits of one model"
                )
        if not (np.array_equal(first.y, other.y) and np.array_equal(first.v, other.v)):
            raise FitError(
                f"the fits are of different effects ({first.size} and {other.size}); compare fits "
                "of one model and one set of data"
            )
