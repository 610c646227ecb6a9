"""A question to a model, and what an answer must be: of a sane type, finite, in order, printed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

import bayes_lsm as lsm
from bayes_lsm.bayes.fitting import as_fit
from bayes_lsm.bayes.posterior_sampling import checked
from bayes_lsm.bayes.prior_draws import draw_priors
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.capabilities import require_capable

from .kinds import DRAWS, KINDS, Kind

mpl.use("agg")


@cache
def kind_of(name: str) -> Kind:
    return KINDS[name]()


@dataclass(frozen=True)
class Question:
    """A kind of model, and how it is fitted: ``"REML"``, ``"ML"``, ``"collapsed"``, ``"nuts"``,
    or ``"by hand"``, whose draws are those of the prior.
    """

    name: str
    how: str = "REML"

    @property
    def kind(self) -> Kind:
        return kind_of(self.name)

    @property
    def design(self) -> Any:
        return self.model.design

    @property
    def model(self) -> lsm.LocationScaleModel:
        return model_of(self.name)

    @property
    def fit(self) -> Any:
        return fit_of(self.name, self.how)

    @property
    def reduced(self) -> Any:
        return fit_of(self.name, self.how, reduced=True)

    @property
    def rows(self) -> int:
        return len(self.design.y)

    @property
    def p(self) -> int:
        return len(self.design.location.names)

    @property
    def q(self) -> int:
        """The number of scale coefficients."""
        return sum(len(term.names) for term in self.design.terms)

    @property
    def effects(self) -> int:
        """The number of effects of all groups."""
        return sum(int(term.used.sum()) for term in self.design.terms)

    @property
    def engine(self) -> Any:
        """The engine that needs no compilation, where a kind of model has it."""
        return "nuts" if refusal(self.design, "engine='collapsed'") else "collapsed"

    @property
    def read_again(self) -> lsm.LocationScaleModel:
        variance = self.kind.words.get("variance")
        return lsm.LocationScaleModel.from_specification(
            self.model.specification,
            self.kind.data,
            covariance=None if isinstance(variance, str) else variance,
        )

    @property
    def cluster(self) -> str | None:
        return self.kind.cluster or None

    @property
    def new_data(self) -> pd.DataFrame:
        return self.kind.data.iloc[[0, -1]]

    def answer(self, verb: Verb) -> Any:
        return answer_of(self, verb)


@dataclass(frozen=True, eq=False)
class Verb:
    """What is asked, and what the answer must be.

    Attributes
    ----------
    ask : callable
        Of a `Question`.
    check : callable
        Of the answer and the question.
    lines : tuple of str
        Its names in `bayes_lsm.capabilities`, in the order in which it looks them up, where that is
        not its own alone.
    """

    ask: Callable[[Question], Any]
    check: Callable[[Any, Question], None]
    lines: tuple[str, ...] = ()


@cache
def model_of(name: str, *, reduced: bool = False) -> lsm.LocationScaleModel:
    kind = kind_of(name)
    return kind.model(**kind.simpler) if reduced else kind.model()


@cache
def fit_of(name: str, how: str, *, reduced: bool = False) -> Any:
    model = model_of(name, reduced=reduced)
    with quiet():
        if how in ("REML", "ML"):
            # Where there is nothing to be left out, the nested model has a τ² that is known.
            held = {"intrcpt": -1.0} if reduced and not kind_of(name).simpler else None
            return model.fit_reml(method=how, fixed=held)
        if how == "by hand":
            return by_hand(model)
        # Evidences are of a model, whatever the engine: the smaller one need not be compiled too.
        if reduced and not refusal(model.design, "engine='collapsed'"):
            how = "collapsed"
        return model.fit_bayes(engine=how, draws=DRAWS, tune=DRAWS, seed=1, progress=False)


def by_hand(model: lsm.LocationScaleModel) -> lsm.BayesFit:
    """What no engine but NUTS can draw, without its compilation: draws of the prior."""
    design, priors = model.design, model.specification.priors
    resolved = resolve_priors(design, priors)
    drawn = draw_priors(design, priors, resolved, DRAWS, np.random.default_rng(1))
    return as_fit(checked(design, priors, drawn.in_chains(4), 1))


@cache
def answer_of(question: Question, verb: Verb) -> Any:
    with quiet():
        return verb.ask(question)


class quiet(warnings.catch_warnings):
    """So few draws are known to be few."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore", lsm.ConvergenceWarning)
        warnings.simplefilter("ignore", lsm.DivergentScaleWarning)


def refusal(design: Any, *lines: str) -> str | None:
    """What the table says of a verb and a model; None where it says nothing."""
    for line in lines:
        try:
            require_capable(line, design)
        except lsm.FitError as error:
            return str(error)
    return None


# What answers must be -----------------------------------------------------------------------------

Check = Callable[[Any, Question], None]


def finite(values: Any) -> None:
    assert np.isfinite(np.asarray(values, dtype=float)).all(), values


def printed(found: Any) -> None:
    text = str(found)
    assert text.strip()
    assert "object at 0x" not in text
    assert "nan" not in text.lower().replace("finance", "")


def number(found: Any, question: Question) -> None:
    assert np.ndim(found) == 0
    finite(found)


def array(shape: Callable[[Question], tuple[int, ...]]) -> Check:
    def check(found: Any, question: Question) -> None:
        assert np.shape(found) == shape(question)
        finite(found)

    return check


def table(
    columns: str,
    rows: Callable[[Question], int] | None = None,
    *,
    inside: Iterable[tuple[str, str, str]] = (),
) -> Check:
    """A printed table: columns that are there and finite, and triples that ascend."""

    def check(found: Any, question: Question) -> None:
        frame = found if isinstance(found, pd.DataFrame) else found.to_dataframe()
        assert len(frame) > 0
        if rows is not None:
            assert len(frame) == rows(question)
        finite(frame[columns.split()])
        for lower, middle, upper in inside:
            # Where an effect is known, as of individual data, its interval is rounding.
            ends = frame[[lower, middle, upper]].to_numpy()
            assert (np.diff(ends, axis=1) >= -1e-12 * np.abs(ends).max()).all(), frame
        if frame is not found:
            printed(found)

    return check


WITHIN = (("ci_lb", "estimate", "ci_ub"),)
PREDICTED = (("pi_lb", "estimate", "pi_ub"),)


def is_test(found: Any, question: Question) -> None:
    finite([found.statistic, found.pval])
    assert 0 <= found.pval <= 1
    assert found.df >= 1
    printed(found)


def text(found: Any, question: Question) -> None:
    assert isinstance(found, str)
    assert found.strip()
    assert "object at 0x" not in found


def drawn(panels: int | None = None) -> Check:
    """Axes in which something is drawn, of numbers that are finite."""

    def check(found: Any, question: Question) -> None:
        axes = np.atleast_1d(np.asarray(found, dtype=object)).ravel()
        assert panels is None or len(axes) == panels
        for ax in axes:
            assert ax.has_data() or not ax.axison
            assert np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all()
        axes[0].figure.canvas.draw()

    return check
