"""Models with some of the terms of another: drawn from one by one, and as one table.

What an average over models is, whatever the model: see `averaging` and `clustered_averaging`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import logsumexp

from bayes_lsm.bayes.draws import Array, Draws
from bayes_lsm.bayes.evidence.evidence import Evidence, read_evidence
from bayes_lsm.bayes.evidence.model_prior import ModelPrior, log_model_prior
from bayes_lsm.bayes.evidence.submodels import SubModel, Term, combine, find_subsets, require_terms
from bayes_lsm.bayes.student.effects import said_before
from bayes_lsm.design.design import Design
from bayes_lsm.errors import ConvergenceWarning, FitError, warn
from bayes_lsm.priors import Priors
from bayes_lsm.priors.degrees_of_freedom import DegreesOfFreedom
from bayes_lsm.progress import track
from bayes_lsm.results import model_title
from bayes_lsm.tables import Printable

Mask = npt.NDArray[np.bool_]
Degrees = DegreesOfFreedom | float

_COLUMNS = attrgetter("location"), attrgetter("scale")
_SHOWN_MODELS = 5
_FEW_MODELS = 8
# A model this much less probable than the best, in ln, gets no draw among thousands.
_HOPELESS = 15.0


@dataclass(frozen=True, eq=False)
class Averages[D: (Design, Design)](Printable):
    """Models of which terms matter, with their probabilities, and averages over them.

    Attributes
    ----------
    design : Design or Design
        Of the full model.
    priors : Priors
    models : tuple of SubModel, length M
    log_prior : ndarray, shape (M,)
        Log prior probabilities of the models.
    evidences : tuple of Evidence, length M
    terms : mapping of str to sequence of Term
        Of either part of the full model.
    draws : Draws
        Of the full model's coefficients, from all models in proportion to their probabilities; a
        coefficient is exactly 0 in the draws of models without it. With Student-t study effects
        also of ν.
    seed : int
    problems : tuple of str
    """

    design: D
    priors: Priors
    models: tuple[SubModel, ...]
    log_prior: Array
    evidences: tuple[Evidence, ...]
    terms: Mapping[str, Sequence[Term]]
    draws: Draws
    seed: int
    problems: tuple[str, ...]

    _digits: ClassVar[int] = 3

    @abstractmethod
    def parts(self) -> Mapping[str, tuple[Sequence[str], Array]]:
        """What was estimated: of each part of the model the terms, and draws (1, draws, terms)."""

    def _describe(self, terms: Sequence[str]) -> str:
        """Terms of the scale part in words."""
        return in_words(terms)

    @property
    def probability(self) -> Array:
        """Posterior probability of each model (M,)."""
        return _probabilities(self.log_prior, self.evidences)

    @property
    def probability_se(self) -> Array:
        """Its Monte Carlo error (M,), from the errors of all marginal likelihoods."""
        return self._error(np.eye(len(self.models)))

    def _error(self, members: Array) -> Array:
        """Error of sums of probabilities; `members` (…, M) is 1 for the models that are summed.

        With p_m ∝ π_m e^{l_m}, the derivative of Σ_{m ∈ S} p_m by l_m is p_m (1[m ∈ S] − p_S).
        """
        p = self.probability
        total = members @ p
        se = np.array([each.se for each in self.evidences])
        return np.asarray(np.sqrt(((p * se * (members - total[:, None])) ** 2).sum(axis=1)))

    @property
    def model_table(self) -> pd.DataFrame:
        """One row a model, the most probable first.

        location, scale (its terms), prior, log_evidence, se, posterior, posterior_se, and bf, the
        Bayes factor against the most probable model.
        """
        logs = np.array([each.log for each in self.evidences])
        posterior = self.probability
        best = int(np.argmax(posterior))
        table = pd.DataFrame(
            {
                "location": [in_words(model.location_terms) for model in self.models],
                "scale": [self._describe(model.scale_terms) for model in self.models],
                "prior": np.exp(self.log_prior),
                "log_evidence": logs,
                "se": [each.se for each in self.evidences],
                "posterior": posterior,
                "posterior_se": self.probability_se,
                "bf": np.exp(np.minimum(logs - logs[best], 700.0)),
            }
        )
        return table.sort_values("posterior", ascending=False, kind="stable", ignore_index=True)

    @property
    def inclusion(self) -> pd.DataFrame:
        """One row for each term that can be left out, indexed by part and term.

        prior and posterior inclusion probabilities, se (Monte Carlo error of the posterior), bf
        and log_bf: the Bayes factor of inclusion, posterior odds over prior odds.
        """
        rows = []
        for part in ("location", "scale"):
            for term in self.terms.get(part, ()):
                member = self._member(part, term.name)
                if not member.all():
                    rows.append({"part": part, "term": term.name, **self._include(member)})
        columns = ["part", "term", "prior", "posterior", "se", "log_bf", "bf"]
        return pd.DataFrame(rows, columns=columns).set_index(["part", "term"])

    def _member(self, part: str, term: str) -> Mask:
        return np.array([term in getattr(model, f"{part}_terms") for model in self.models])

    def _include(self, member: Mask) -> dict[str, float]:
        log_posterior = self.log_prior + [each.log for each in self.evidences]
        log_odds, log_prior_odds = (
            float(logsumexp(each[member]) - logsumexp(each[~member]))
            for each in (log_posterior, self.log_prior)
        )
        log_bf = log_odds - log_prior_odds
        return {
            "prior": float(np.exp(self.log_prior[member]).sum()),
            "posterior": float(self.probability[member].sum()),
            "se": float(self._error(member[None].astype(float))[0]),
            "log_bf": log_bf,
            "bf": math.exp(log_bf) if log_bf < 709 else math.inf,
        }

    def to_dataframe(self, *, level: float = 0.95) -> pd.DataFrame:
        """Averaged coefficients, indexed by part and term.

        With Student-t study effects also ν, where it is estimated.

        incl (posterior inclusion probability), bf (of inclusion; nan for what is always there),
        mean, sd, median, ci_lb and ci_ub over all models, 0 where a model does not have the
        coefficient; and mean_incl, the mean over the models that have it.
        """
        if not 0 < level < 1:
            raise FitError(f"level must be between 0 and 1, got {level}")
        inclusion = self.inclusion
        included = dict(
            zip(inclusion.index, inclusion[["posterior", "bf"]].to_numpy(), strict=True)
        )
        parts = {}
        for part, (names, values) in self.parts().items():
            table = _summarise(names, values.reshape(-1, len(names)), level)
            for term in self.terms.get(part, ()):
                if (part, term.name) in included:
                    table.iloc[list(term.columns), [0, 1]] = included[part, term.name]
            parts[part] = table
        return pd.concat(parts, names=["part", "term"])

    @property
    def title(self) -> str:
        """The kind of the full model and how many were averaged."""
        return model_title(self.design, f"average over {len(self.models)} models")

    @property
    def notes(self) -> tuple[str, ...]:
        """The most probable models, the priors and the problems."""
        table = self.model_table.head(_SHOWN_MODELS)
        best = "; ".join(
            f"{row['posterior']:.3f} location ~ {row['location']}, scale ~ {row['scale']}"
            for row in table.to_dict("records")
        )
        return (
            f"most probable: {best}",
            "a coefficient is 0 in the models without it; incl is the posterior probability of "
            "the models with it, bf the Bayes factor of inclusion, mean_incl the mean over them",
            *said_before(self.design, self.priors),
            f"seed {self.seed}",
            *self.problems,
            *self.design.notes,
        )


@dataclass(frozen=True, eq=False)
class Sampled:
    """Models that were drawn from, and draws of all of them together; see `Averages`."""

    models: tuple[SubModel, ...]
    log_prior: Array
    evidences: tuple[Evidence, ...]
    draws: Draws
    seed: int
    problems: tuple[str, ...]


def sample_models(
    terms: Mapping[str, Sequence[Term]],
    sample: Callable[[SubModel, int], Draws],
    df: Degrees | None = None,
    *,
    model_prior: ModelPrior | Mapping[str, float],
    keep: Sequence[str],
    draws: int,
    seed: int | None,
    most_models: int,
    progress: bool,
    describe: Callable[[Sequence[str]], str] | None = None,
) -> Sampled:
    """Draw from every model with some of the terms; see `averaging.average_models`.

    Parameters
    ----------
    terms : mapping of str to sequence of Term
        Of the location and the scale part.
    sample : function of a model and a seed
        Gives draws of its coefficients, with their evidence.
    df : DegreesOfFreedom or float, optional
        Of Student-t study effects.
    describe : function, optional
        Puts terms of the scale part into words.
    """
    _check_draws(draws)
    describe = describe or in_words
    models = _enumerate(terms, keep, most_models)
    log_prior = log_model_prior(model_prior, models, terms)
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    seeds = np.random.SeedSequence(seed).generate_state(len(models) + 1)
    evidences: list[Evidence] = []
    found: list[Draws | None] = []
    best = -math.inf
    show = progress and len(models) > _FEW_MODELS
    for m in track(range(len(models)), "Fitting models", progress=show):
        drawn = sample(models[m], int(seeds[m]))
        evidences.append(read_evidence(drawn))
        height = evidences[m].log + log_prior[m]
        best = max(best, height)
        found.append(drawn if height > best - _HOPELESS else None)
    probability = _probabilities(log_prior, evidences)
    problems = _problems(models, evidences, describe)
    if problems:
        warn("; ".join(problems), ConvergenceWarning)
    rng = np.random.default_rng(int(seeds[-1]))
    mixed = _mix(models, probability, found, df, draws, rng)
    return Sampled(models, log_prior, tuple(evidences), mixed, seed, problems)


def _check_draws(draws: int) -> None:
    if isinstance(draws, bool) or not isinstance(draws, int | np.integer) or draws < 100:
        raise FitError(f"draws must be a whole number of at least 100, got {draws!r}")


def _enumerate(
    terms: Mapping[str, Sequence[Term]], keep: Sequence[str], most_models: int
) -> tuple[SubModel, ...]:
    kept = {part: _of_part(part, keep) for part in terms}
    named = sum(map(len, kept.values()))
    if named < len(keep):
        raise FitError(f"keep must name terms as 'location[…]' or 'scale[…]', got {list(keep)!r}")
    for part, names in kept.items():
        require_terms(part, names, terms[part])
    free = sum(
        term.optional and term.name not in kept[part] for part in terms for term in terms[part]
    )
    # Counted before they are listed, which might fill the memory; marginality leaves fewer.
    if free > 30:
        raise FitError(_too_many(f"up to 2^{free}", most_models))
    location, scale = (find_subsets(terms[part], kept[part]) for part in ("location", "scale"))
    count = len(location) * len(scale)
    if count > most_models:
        raise FitError(_too_many(str(count), most_models))
    if count == 1:
        raise FitError("there is only one model: no term can be left out of either part")
    return tuple(combine(first, second) for first in location for second in scale)


def _too_many(count: str, most: int) -> str:
    return (
        f"{count} models are too many to average over, at most {most} are allowed; name terms that "
        "every model has in keep, or raise most_models"
    )


def _of_part(part: str, names: Sequence[str]) -> list[str]:
    start = f"{part}["
    return [name[len(start) : -1] for name in names if name.startswith(start) and name[-1] == "]"]


def _probabilities(log_prior: Array, evidences: Sequence[Evidence]) -> Array:
    log_posterior = log_prior + [each.log for each in evidences]
    return np.asarray(np.exp(log_posterior - logsumexp(log_posterior)))


def _problems(
    models: Sequence[SubModel],
    evidences: Sequence[Evidence],
    describe: Callable[[Sequence[str]], str],
) -> tuple[str, ...]:
    found = []
    for model, each in zip(models, evidences, strict=True):
        location, scale = in_words(model.location_terms), describe(model.scale_terms)
        found += [f"location ~ {location}, scale ~ {scale}: {text}" for text in each.problems]
    return tuple(found)


def _mix(
    models: Sequence[SubModel],
    probability: Array,
    found: Sequence[Draws | None],
    df: Degrees | None,
    draws: int,
    rng: np.random.Generator,
) -> Draws:
    """Draws of all models in proportion to their probabilities, in random order."""
    bounds = np.floor(np.cumsum(probability) * draws + rng.uniform()).astype(int)
    bounds[-1] = draws
    counts = np.diff(np.minimum(bounds, draws), prepend=0)
    order = rng.permutation(draws)
    p, q = (1 + max(j for model in models for j in part(model)) for part in _COLUMNS)
    location, scale = np.zeros((draws, p)), np.zeros((draws, q))
    drawn_df = np.empty(draws)
    first = 0
    for model, drawn, count in zip(models, found, counts, strict=True):
        if drawn is None or not count:
            continue
        rows = order[first : first + count]
        first += count
        location[np.ix_(rows, model.location)] = drawn.flat_location[:count]
        scale[np.ix_(rows, model.scale)] = drawn.flat_scale[:count]
        drawn_df[rows] = drawn.flat_df[:count]
    if df is None:
        return Draws(location[None], scale[None])
    known = drawn_df[None] if isinstance(df, DegreesOfFreedom) else np.full((1, 1), df)
    return Draws(location[None], scale[None], df=known)


def _summarise(names: Sequence[str], values: Array, level: float) -> pd.DataFrame:
    there = values != 0
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_incl = values.sum(axis=0) / there.sum(axis=0)
    lower, upper = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return pd.DataFrame(
        {
            "incl": 1.0,
            "bf": math.nan,
            "mean": values.mean(axis=0),
            "sd": values.std(axis=0, ddof=1),
            "median": np.median(values, axis=0),
            "ci_lb": lower,
            "ci_ub": upper,
            "mean_incl": mean_incl,
        },
        index=pd.Index(names, name="term"),
    )


def in_words(terms: Sequence[str]) -> str:
    """``1``, ``continent + weeks``, ``0 + continent``: a formula's right-hand side."""
    rest = [term for term in terms if term != "intrcpt"]
    if len(rest) < len(terms):
        return " + ".join(rest) or "1"
    return " + ".join(["0", *rest])
