"""What an average over models says: their probabilities, coefficients and predictions over them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import logsumexp

from bayes_lsm.bayes.draws import Array, Draws
from bayes_lsm.bayes.evidence.evidence import Evidence
from bayes_lsm.bayes.evidence.submodels import SubModel, Term, in_words
from bayes_lsm.bayes.posterior import Posterior
from bayes_lsm.bayes.prediction.heterogeneity import Heterogeneity, heterogeneity
from bayes_lsm.bayes.prediction.prediction import Prediction, predict
from bayes_lsm.bayes.student.effects import said_before
from bayes_lsm.bayes.summaries.intervals import Interval, check_interval
from bayes_lsm.design.coefficients import coefficients, scale_places
from bayes_lsm.design.design import Design
from bayes_lsm.priors import Priors
from bayes_lsm.results import model_title
from bayes_lsm.tables import Printable

Mask = npt.NDArray[np.bool_]

_SHOWN_MODELS = 5


@dataclass(frozen=True, eq=False)
class ModelAverage(Printable):
    """Models of which terms matter, with their probabilities, and averages over them.

    A term of several scale terms is named with its grouping: ``"district: weeks"``.

    Attributes
    ----------
    design : Design
        Of the full model.
    priors : Priors
    models : tuple of SubModel, length M
    log_prior : ndarray, shape (M,)
        Log prior probabilities of the models.
    evidences : tuple of Evidence, length M
    terms : mapping of str to sequence of Term
        Of either part of the full model.
    draws : Draws
        Of the full model, from all models in proportion to their probabilities; a coefficient is
        exactly 0 in the draws of models without it.
    seed : int
    problems : tuple of str
    """

    design: Design
    priors: Priors
    models: tuple[SubModel, ...]
    log_prior: Array
    evidences: tuple[Evidence, ...]
    terms: Mapping[str, Sequence[Term]]
    draws: Draws
    seed: int
    problems: tuple[str, ...]

    _digits: ClassVar[int] = 3

    @property
    def posterior(self) -> Posterior:
        """The draws of all models as those of the full one."""
        return Posterior(self.design, self.priors, self.draws, self.seed, pd.DataFrame(), ())

    @property
    def probability(self) -> Array:
        """Posterior probability of each model (M,)."""
        return probabilities(self.log_prior, self.evidences)

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
        posterior, words = self.probability, [describe(self.terms, each) for each in self.models]
        best = int(np.argmax(posterior))
        table = pd.DataFrame(
            {
                "location": [each["location"] for each in words],
                "scale": [each["scale"] for each in words],
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
        """One row for each term that can be left out, indexed by part and term, as `keep` has them.

        prior and posterior inclusion probabilities, se (Monte Carlo error of the posterior), bf
        and log_bf: the Bayes factor of inclusion, posterior odds over prior odds.
        """
        rows = []
        for part, terms in self.terms.items():
            for term in terms:
                kept = [getattr(model, f"{part}_terms") for model in self.models]
                member = np.array([term.label in labels for labels in kept])
                if not member.all():
                    rows.append({"part": part, "term": term.label, **self._include(member)})
        columns = ["part", "term", "prior", "posterior", "se", "log_bf", "bf"]
        return pd.DataFrame(rows, columns=columns).set_index(["part", "term"])

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
        """Averaged coefficients, correlations and ν, indexed by part and term as in `summary`.

        incl (posterior inclusion probability), bf (of inclusion; nan for what is always there),
        mean, sd, median, ci_lb and ci_ub over all models, 0 where a model does not have the
        coefficient; and mean_incl, the mean over the models that have it.
        """
        check_interval(level, "eti")
        parts = self.posterior.parts().items()
        tables = {part: _summarise(names, values, level) for part, (names, values) in parts}
        table = pd.concat(tables, names=["part", "term"])
        rows, found = self._rows(), self.inclusion[["posterior", "bf"]]
        inclusion = dict(zip(found.index, found.to_numpy(), strict=True))
        for part, terms in self.terms.items():
            for term in terms:
                if (part, term.label) in inclusion:
                    of_term = [rows[part][j] for j in term.columns]
                    table.loc[of_term, ["incl", "bf"]] = inclusion[part, term.label]
        return table

    def _rows(self) -> dict[str, dict[int, tuple[str, str]]]:
        """The rows of the table of coefficients, by their places in either part."""
        design = self.design
        scale = {
            int(place): (design.part_name("scale", design.terms[each.t]), each.name)
            for place, each in zip(scale_places(design), coefficients(design), strict=True)
        }
        location = {j: ("location", name) for j, name in enumerate(design.location.names)}
        return {"location": location, "scale": scale}

    def predict(
        self,
        new_data: pd.DataFrame | None = None,
        *,
        terms: Sequence[str] | None = None,
        known: Sequence[str] = (),
        variance: float | Sequence[float] | None = None,
        level: float = 0.95,
        interval: Interval = "eti",
    ) -> Prediction:
        """Predictions averaged over the models; see `BayesFit.predict`."""
        found = predict(
            self.posterior,
            new_data,
            terms=terms,
            known=known,
            variance=variance,
            level=level,
            interval=interval,
        )
        return replace(found, heading=f"Predictions of a {self.title}", remarks=self.notes)

    def heterogeneity(self, *, level: float = 0.95, interval: Interval = "eti") -> Heterogeneity:
        """τ², τ and I² averaged over the models; see `BayesFit.heterogeneity`."""
        found = heterogeneity(self.posterior, level=level, interval=interval)
        return replace(found, heading=f"Heterogeneity of a {self.title}", remarks=self.notes)

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


def probabilities(log_prior: Array, evidences: Sequence[Evidence]) -> Array:
    """Posterior probabilities of models (M,)."""
    log_posterior = log_prior + [each.log for each in evidences]
    return np.asarray(np.exp(log_posterior - logsumexp(log_posterior)))


def describe(terms: Mapping[str, Sequence[Term]], model: SubModel) -> dict[str, str]:
    """The formulas of a model with some of the terms, by their parts."""
    return {
        part: in_words([each for each in own if each.label in getattr(model, f"{part}_terms")])
        for part, own in terms.items()
    }


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
