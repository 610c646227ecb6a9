"""One small model of each kind, and what the verbs need to be asked of it.

The effects vary so much between studies and groups that every τ² has an estimate: what a verb says
of a limit at infinity is tested elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

import bayes_lsm as lsm

DRAWS = 200
# Beliefs that leave the data little to say of where a verb can be asked at all.
PRIORS = lsm.priors.preset("slides")


@dataclass(frozen=True, eq=False)
class Kind:
    """A model, a nested one, and what there is to ask of it.

    Attributes
    ----------
    words : mapping of str to object
        Of the model.
    simpler : mapping of str to object
        Those of a nested model that differ.
    data : DataFrame
    location : str
        A moderator of the location part; empty without one.
    moderator : str
        A moderator of the scale part; empty without one.
    term : str
        A scale coefficient.
    cluster : str
        Which rows belong together, where the model does not say so; empty where it does.
    """

    words: Mapping[str, Any]
    simpler: Mapping[str, Any]
    data: pd.DataFrame
    location: str = ""
    moderator: str = ""
    term: str = "intrcpt"
    cluster: str = ""

    def model(self, **other: Any) -> lsm.LocationScaleModel:
        return lsm.LocationScaleModel(data=self.data, **{**self.words, **other})


def _studies(k: int = 14) -> pd.DataFrame:
    """Independent effects whose heterogeneity goes with x."""
    rng = np.random.default_rng(3)
    x = np.linspace(-1, 1, k)
    v = rng.uniform(0.02, 0.05, k)
    y = rng.normal(0.3 + 0.4 * x, np.sqrt(v + 0.4 * np.exp(0.3 * x)))
    return pd.DataFrame({"yi": y, "vi": v, "x": x})


def _levels(*, crossed: bool = False, groups: int = 8) -> pd.DataFrame:
    """Six effects of three schools in each district; x differs within districts, z between."""
    rng = np.random.default_rng(5)
    n = 6 * groups
    district = np.repeat(np.arange(groups), 6)
    school = np.tile(np.arange(6), groups) if crossed else np.arange(n) // 2
    z, x = np.linspace(-1, 1, groups)[district], rng.normal(size=n)
    v = rng.uniform(0.02, 0.05, n)
    y = 0.3 + 0.4 * x + 0.5 * np.exp(0.3 * z) * rng.normal(size=groups)[district]
    y = y + 0.5 * rng.normal(size=groups)[district] * x
    y = y + 0.4 * rng.normal(size=n)[school] + np.sqrt(v) * rng.normal(size=n)
    return pd.DataFrame({"yi": y, "vi": v, "district": district, "school": school, "z": z, "x": x})


def _outcomes(trials: int = 20) -> pd.DataFrame:
    """Two correlated effects of each trial."""
    rng = np.random.default_rng(7)
    u = rng.multivariate_normal([0, 0], [[0.5, 0.1], [0.1, 0.4]], size=trials)
    v = rng.uniform(0.02, 0.05, 2 * trials)
    x = np.repeat(np.linspace(-1, 1, trials), 2)
    y = (
        np.exp(0.3 * x) * u.ravel()
        + np.tile([0.2, -0.1], trials)
        + np.sqrt(v) * rng.normal(size=2 * trials)
    )
    trial, outcome = np.repeat(np.arange(trials), 2), np.tile(["a", "b"], trials)
    return pd.DataFrame({"yi": y, "vi": v, "trial": trial, "outcome": outcome, "x": x})


def _persons(studies: int = 8) -> pd.DataFrame:
    """Individual data: eight persons of each study, half of them treated; z is of the study."""
    rng = np.random.default_rng(9)
    study = np.repeat(np.arange(studies), 8)
    treated = np.tile([0.0, 1.0], 4 * studies)
    effect = rng.normal(0.4, 0.8, studies)[study]
    y = rng.normal(size=studies)[study] + effect * treated
    z = np.linspace(-1, 1, studies)[study]
    y = y + np.exp(0.3 * z) * rng.normal(size=len(y))
    return pd.DataFrame({"y": y, "study": study, "treated": treated, "z": z})


def _dense(data: pd.DataFrame) -> np.ndarray:
    """All sampling errors correlated, as those of a spatial process."""
    sd, place = np.sqrt(data["vi"].to_numpy()), np.arange(len(data))
    return np.exp(-np.abs(place[:, None] - place) / 2) * np.outer(sd, sd)


_OF_X = {"location": "yi ~ x", "scale": "~ x"}
_KEYS_OF_X = {"location": "x", "moderator": "x", "term": "x"}
_CONSTANT = {"scale": "~ 1"}


def _of_studies(words: Mapping[str, Any], simpler: Mapping[str, Any], **keys: str) -> Kind:
    data = _studies()
    variance = _dense(data) if words.get("variance") == "dense" else "vi"
    return Kind({**words, "variance": variance}, simpler, data, **keys)


def _of_levels(scale: Mapping[str, str], simpler: Mapping[str, str], **keys: Any) -> Kind:
    data = _levels(crossed=keys.pop("crossed", False))
    words = {"location": "yi ~ x", "scale": scale, "variance": "vi"}
    return Kind(words, {"scale": simpler}, data, location="x", **keys)


KINDS: dict[str, Callable[[], Kind]] = {
    "random-effects": lambda: _of_studies({"location": "yi ~ 1"}, {}),
    "meta-regression": lambda: _of_studies({"location": "yi ~ x"}, {}, location="x"),
    "location-scale": lambda: _of_studies(_OF_X, _CONSTANT, **_KEYS_OF_X),
    "identity link": lambda: _of_studies({**_OF_X, "link": "identity"}, _CONSTANT, **_KEYS_OF_X),
    "student t": lambda: _of_studies(
        {**_OF_X, "study_effects": "student_t"}, _CONSTANT, **_KEYS_OF_X
    ),
    "nested": lambda: _of_levels(
        {"district": "~ z", "district/school": "~ 1"},
        {"district": "~ 1", "district/school": "~ 1"},
        moderator="z",
        term="district: z",
    ),
    "crossed": lambda: _of_levels(
        {"district": "~ z", "school": "~ 1"},
        {"district": "~ 1", "school": "~ 1"},
        crossed=True,
        moderator="z",
        term="district: z",
        cluster="district",
    ),
    "slopes": lambda: _of_levels(
        {"1 + x | district": "~ 1", "residual": "~ z"},
        {"1 + x | district": "~ 1", "residual": "~ 1"},
        moderator="z",
        term="residual: z",
    ),
    "correlated outcomes": lambda: Kind(
        {
            "location": "yi ~ 0 + outcome + x",
            "scale": {"outcome | trial": "~ 0 + outcome + x"},
            "variance": "vi",
        },
        {"scale": {"outcome | trial": "~ 0 + outcome"}},
        _outcomes(),
        location="x",
        moderator="x",
        term="x",
    ),
    "dense V": lambda: _of_studies(
        {**_OF_X, "variance": "dense"}, _CONSTANT, **_KEYS_OF_X, cluster="residual"
    ),
    "individual data": lambda: Kind(
        {
            "location": "y ~ treated",
            "scale": {"1 + treated | study": "~ 1", "residual": "~ z"},
        },
        {"scale": {"1 + treated | study": "~ 1", "residual": "~ 1"}},
        _persons(),
        location="treated",
        moderator="z",
        term="residual: z",
    ),
    "random intercepts of ln tau2": lambda: Kind(
        {"location": "yi ~ x", "scale": "~ z + (1 | district)", "variance": "vi"},
        {"scale": "~ 1 + (1 | district)"},
        _levels(groups=5),
        location="x",
        moderator="z",
        term="z",
    ),
}
