"""A model in numbers, whatever its scale terms.

    y ~ Normal( Xβ,  V + Σ_l A_l diag(exp(Z_l α_l)) A_l' )

`build_design` reads words and a data frame once, at the door: it checks them and gives a frozen
`Design` of arrays and names; everything above works on those.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayes_lsm.arrays import Array, Index
from bayes_lsm.design import frames
from bayes_lsm.design.frames import DroppedRow, some
from bayes_lsm.design.lone_levels import LoneLevel, lone_levels
from bayes_lsm.design.new_data import NewData, formula_columns, read_new_data
from bayes_lsm.design.part import Part, build_part
from bayes_lsm.design.sampling_errors import Block, align, sampling_errors
from bayes_lsm.design.scale_terms import ScaleTerm, check_together, is_crossed, scale_term
from bayes_lsm.errors import DataError, DroppedRowsWarning, FitError, SpecificationError, warn
from bayes_lsm.formulas.random_intercepts import split_random_intercepts
from bayes_lsm.formulas.term_names import Kind
from bayes_lsm.specification import Specification


@dataclass(frozen=True, eq=False)
class Design:
    """A location-scale model in numbers: y ~ Normal(Xβ, V + Σ_l A_l diag(exp(Z_l α_l)) A_l').

    Attributes
    ----------
    specification : Specification
        The model in words.
    y : ndarray, shape (n,)
        Effects, one a row.
    v : ndarray, shape (n,)
        Their sampling variances; 0 for individual data.
    blocks : tuple of Block
        Rows whose sampling errors are correlated, with their covariance.
    location : Part
        The location formula's matrix and term names.
    terms : tuple of ScaleTerm
        One or more.
    labels : tuple of str, length n
        Names of the rows' studies; the frame's index where no column was named.
    dropped : tuple of DroppedRow
        Rows left out because of missing values.
    caution : str
        What has to be known of the data wherever their results are shown: ``attrs["caution"]`` of
        the data frame, such as that some rows are reconstructed. Empty when there is nothing.
    kinds : mapping of str to str
        What each column of the formulas holds: numbers, truth values, text or categories.
    moderators : DataFrame, n rows
        Those columns, for figures: what a matrix has of them cannot always be read back.
    """

    specification: Specification
    y: Array
    v: Array
    blocks: tuple[Block, ...]
    location: Part
    terms: tuple[ScaleTerm, ...]
    labels: tuple[str, ...]
    dropped: tuple[DroppedRow, ...] = ()
    caution: str = ""
    kinds: Mapping[str, Kind] = field(default_factory=dict, repr=False)
    moderators: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)

    @property
    def X(self) -> Array:
        """Location matrix, shape (n, p)."""
        return self.location.matrix

    @cached_property
    def is_independent(self) -> bool:
        """Whether the effects are independent, each with a τ² of its own.

        This is the classical model: one scale term, whose groups are the rows, and a diagonal V,
        with no part of ln τ² held.
        """
        term = self.terms[0]
        return (
            len(self.terms) == 1
            and not self.blocks
            and len(term.groups) == len(self.y)
            and term.slopes.shape[1] == 1
            and not term.random
            and term.offset is None
            and bool((term.slopes == 1).all() and (self.v > 0).all())
        )

    @property
    def scale(self) -> Part:
        """The only scale term's formula, evaluated for each group; a FitError if there are more."""
        if len(self.terms) > 1:
            names = ", ".join(repr(term.name) for term in self.terms)
            raise FitError(
                f"this needs a model with one scale term, got {len(self.terms)} ({names}); leave "
                "the others out"
            )
        return self.terms[0].part

    @cached_property
    def Z(self) -> Array:
        """Scale matrix of independent effects, shape (n, q)."""
        if not self.is_independent:
            raise FitError(
                f"this needs independent effects, each with a τ² of its own, got a {self.kind}"
            )
        term = self.terms[0]
        return term.Z.reshape(len(self.y), len(term.names))

    @property
    def n_effects(self) -> int:
        """Number of rows."""
        return len(self.y)

    @property
    def n_studies(self) -> int:
        """Number of effects k."""
        return len(self.y)

    @property
    def kind(self) -> str:
        """What such a model is called."""
        if any(term.random for term in self.terms):
            return "Mixed-Effects Location-Scale Model"
        if not self.is_independent:
            several = any(len(term.effects) > 1 for term in self.terms)
            return f"{'Multivariate' if several else 'Multilevel'} Location-Scale Model"
        if self.terms[0].names != ("intrcpt",):
            name = "Location-Scale Model"
        elif self.location.names == ("intrcpt",):
            name = "Random-Effects Model"
        else:
            name = "Mixed-Effects Model"
        robust = self.specification.study_effects == "student_t"
        return f"{name} with Student-t Study Effects" if robust else name

    @property
    def unit(self) -> str:
        """What a row is: a study where effects are independent."""
        return "study" if self.is_independent else "row"

    @property
    def units(self) -> str:
        """What rows are."""
        return "studies" if self.is_independent else "rows"

    @property
    def size(self) -> str:
        """How many effects there are."""
        return f"{'k' if self.is_independent else 'n'} = {len(self.y)}"

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The names of all coefficients, part by part."""
        scale = {self.part_name("scale", term): term.names for term in self.terms}
        return {"location": self.location.names, **scale}

    def part_name(self, part: str, term: ScaleTerm) -> str:
        """What a table calls a part of a scale term: with its grouping where there are several."""
        return part if len(self.terms) == 1 else f"{part} ({term.name})"

    @cached_property
    def columns(self) -> tuple[slice, ...]:
        """Where the coefficients of ln τ² of each scale term stand among those of all."""
        ends = itertools.accumulate((len(term.names) for term in self.terms), initial=0)
        return tuple(itertools.starmap(slice, itertools.pairwise(ends)))

    @cached_property
    def places(self) -> tuple[slice, ...]:
        """Where the coefficients and κ of each scale term stand among those of all."""
        ends = itertools.accumulate((term.size for term in self.terms), initial=0)
        return tuple(itertools.starmap(slice, itertools.pairwise(ends)))

    @cached_property
    def lone_levels(self) -> tuple[LoneLevel, ...]:
        """The levels of scale moderators that one study, or group, has."""
        return lone_levels(self.X, self.terms, self.moderators)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any result has to know of the data."""
        crossed = [
            f"the groups of {a.name!r} and {b.name!r} are crossed; if those of {b.name!r} are "
            f"numbered anew within each {a.name!r}, write '{a.name}/{b.name}'"
            for a, b in itertools.combinations(self.terms, 2)
            if is_crossed(a, b)
        ]
        return (*frames.dropped_notes(self.dropped), *crossed, *filter(None, [self.caution]))

    def keep(self, rows: Index | npt.NDArray[np.bool_]) -> Design:
        """The same model of some rows (n,), whether or not they can carry it.

        Each stands in it once; numbers of rows give their order, too.
        """
        rows = np.arange(len(self.y))[rows]
        place = np.full(len(self.y), -1)
        place[rows] = np.arange(len(rows))
        return replace(
            self,
            y=self.y[rows],
            v=self.v[rows],
            blocks=tuple(kept for block in self.blocks for kept in block.keep(place)),
            location=replace(self.location, matrix=self.X[rows]),
            terms=tuple(term.keep(rows) for term in self.terms),
            labels=tuple(self.labels[i] for i in rows),
            moderators=self.moderators.iloc[rows],
        )

    def without(self, location: Sequence[int] = (), scale: Sequence[int] = ()) -> Design:
        """The nested model in which some coefficients are 0: columns of X, and of all terms' Z."""
        terms = tuple(
            term.without([j - at.start for j in scale])
            for term, at in zip(self.terms, self.columns, strict=True)
        )
        kept = [j for j in range(self.X.shape[1]) if j not in location]
        names = tuple(self.location.names[j] for j in kept)
        part = replace(self.location, names=names, matrix=np.ascontiguousarray(self.X[:, kept]))
        return replace(self, location=part if location else self.location, terms=terms)

    def given_levels(self) -> Design:
        """The model given its random intercepts of ln τ²: coefficients like others.

        The levels are columns that follow those of Z, so that the likelihood has a closed form.
        """
        return replace(self, terms=tuple(term.given_levels() for term in self.terms))

    def hold(self, values: Mapping[int, float]) -> Design:
        """The model in which some coefficients of ln τ², counted through all terms, have values.

        Their columns go, and what they add to ln τ² stays, as an offset.
        """
        terms = []
        for term, at in zip(self.terms, self.columns, strict=True):
            here = {j - at.start: c for j, c in values.items() if at.start <= j < at.stop}
            terms.append(term.hold(here) if here else term)
        return replace(self, terms=tuple(terms))

    def for_new_data(self, data: pd.DataFrame) -> NewData:
        """The matrices for other rows, with the transforms and levels of these data.

        Parameters
        ----------
        data : DataFrame
            Must have every column that the formulas use, and the inner column of correlated
            effects; no effects needed.

        Returns
        -------
        NewData

        Raises
        ------
        DataError
            For a missing column, a missing value, or a level that these data do not have.

        Examples
        --------
        >>> from bayes_lsm.datasets import load_dataset
        >>> spec = Specification(location="yi ~ I(weeks - 40)", variance="vi")
        >>> design = build_design(spec, load_dataset("preterm_iq"))
        >>> design.for_new_data(pd.DataFrame({"weeks": [30, 36]})).X
        array([[  1., -10.],
               [  1.,  -4.]])
        """
        return read_new_data(self.specification, self.location, self.terms, self.kinds, data)


def build_design(
    specification: Specification, data: pd.DataFrame, *, covariance: Any = None
) -> Design:
    """Apply a specification to data, after checking that the data can carry it.

    Parameters
    ----------
    specification : Specification
    data : DataFrame
        One row an effect, or an individual. Rows with a missing value in a column that is used are
        left out with one warning, and are listed in `Design.dropped`.
    covariance : ndarray, shape (len(data), len(data)), optional
        Of the sampling errors, in the order of the rows; in place of the specification's variances.

    Returns
    -------
    Design

    Raises
    ------
    DataError
        With what was got, what is allowed and the cure.
    FormulaError
        When a formula cannot be evaluated on these data.
    SpecificationError
        For Student-t study effects, or another link than the logarithm, where the effects are not
        independent.

    Warns
    -----
    DroppedRowsWarning
        When rows are left out because of missing values.

    Examples
    --------
    >>> from bayes_lsm.datasets import load_dataset
    >>> spec = Specification(location="yi ~ continent", variance="vi")
    >>> build_design(spec, load_dataset("preterm_iq")).location.names
    ('intrcpt', 'continentAmerica', 'continentOther')

    Several scale terms:

    >>> spec = Specification("yi ~ 1", "vi", scale={"continent": "~ 1", "study": "~ weeks"})
    >>> design = build_design(spec, load_dataset("preterm_iq"))
    >>> [(term.name, len(term.groups)) for term in design.terms]
    [('continent', 3), ('study', 37)]
    """
    caution = str(frames.require_frame(data).attrs.get("caution", ""))
    groupings = specification.scale_terms
    needed, study = _needed(specification), specification.study
    frames.require_columns(data, needed + ([study] if study else []))
    if not len(data):
        raise DataError("the data have no rows; give one row for each effect")
    labels = frames.row_labels(data, study)
    numbers = [name for name in (specification.effect, specification.variance_column) if name]
    for column in numbers:
        frames.outcome(data, column, labels)
    complete = ~data[needed].isna().to_numpy().any(axis=1)
    kept, labels, dropped = frames.drop_incomplete(data, needed, labels)
    for column in numbers:
        _check_finite(column, frames.outcome(kept, column, labels), labels)
    y = frames.outcome(kept, specification.effect, labels)
    if covariance is not None:
        covariance = align(covariance, data, complete)
    v, blocks = sampling_errors(specification, kept, labels, covariance=covariance)
    frame, kinds = frames.moderators(kept, _moderators(specification), labels)
    location = build_part("location", specification.location, frame, kinds, labels)
    kind = specification.correlation
    terms = tuple(
        scale_term(
            grouping, formula, kept, frame, kinds, labels, kind.get(grouping.text, "unstructured")
        )
        for grouping, formula in groupings.items()
    )
    check_together(terms, len(y), bool((v > 0).all()))
    inner = {
        each.inner: kept[each.inner].map(frames.level_text) for each in groupings if each.inner
    }
    shown = frame.assign(**{name: inner[name].array for name in inner if name not in frame})
    design = Design(
        specification, y, v, blocks, location, terms, labels, dropped, caution, kinds, shown
    )
    check_size(design)
    _check_words(design)
    if dropped:
        warn(frames.describe_dropped(dropped, len(data)), DroppedRowsWarning)
    return design


def _moderators(specification: Specification) -> list[str]:
    """The columns of all formulas but the levels of random intercepts."""
    groupings = specification.scale_terms
    fixed = [split_random_intercepts(formula)[0] for formula in groupings.values()]
    slopes = [grouping.slope for grouping in groupings if grouping.slope]
    return formula_columns(specification.location, *fixed, *slopes)


def _needed(specification: Specification) -> list[str]:
    """All columns of the data that the model reads."""
    errors, groupings = specification.sampling_covariance, specification.scale_terms
    return list(
        dict.fromkeys(
            [
                specification.effect,
                *([specification.variance_column] if specification.variance_column else []),
                *((errors.cluster, *errors.columns) if errors else ()),
                *formula_columns(specification.location, *groupings.values()),
                *(column for grouping in groupings for column in grouping.needed),
            ]
        )
    )


def _check_finite(column: str, values: Array, labels: Sequence[str]) -> None:
    infinite = ~np.isfinite(values)
    if infinite.any():
        raise DataError(
            f"column {column!r} must be finite, got {values[infinite][0]:g} in "
            f"{some(labels, infinite)}; correct it or drop the row"
        )


def check_size(design: Design) -> None:
    """Refuse rows as few as coefficients: something must be left for the heterogeneity."""
    k, p = design.X.shape
    q = design.places[-1].stop
    if k < p + q:
        raise DataError(
            f"{k} {design.units} cannot carry {p} location and {q} scale coefficients together: "
            f"{k - p} degrees of freedom are left for the heterogeneity; leave out moderators"
        )


def _check_words(design: Design) -> None:
    """What a specification can ask for of independent effects only."""
    words = design.specification
    if design.is_independent:
        return
    if words.study_effects != "normal":
        raise SpecificationError(
            f"study_effects must be 'normal', got {words.study_effects!r}, with several scale "
            "terms or dependent sampling errors; Student-t study effects need one scale formula "
            "and independent errors"
        )
    if words.link != "log":
        raise SpecificationError(
            f"link must be 'log', got {words.link!r}, with several scale terms or dependent "
            "sampling errors; link='identity' needs one scale formula and independent errors"
        )
