"""The dimensions of a model's variables in PyMC and ArviZ, and the names along them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bayes_lsm.design.coefficients import coefficients
from bayes_lsm.design.design import Design

DIMS = {
    "location": "location_term",
    "scale": "scale_term",
    "correlation": "pair",
    "scale_sd": "scale_random",
    "scale_effect": "scale_level",
}


def coordinates(design: Design) -> dict[str, list[str]]:
    """The names along each dimension that the model has.

    With several scale terms they begin with the grouping: ``"district: intrcpt"``, of a pair of
    effects ``"outcome | trial: AL, PD"``, of a random intercept of ln τ² ``"study: country"`` and
    of its levels ``"study: country[Norway]"``.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> design = lsm.LocationScaleModel.from_file("konstantopoulos2011").design
    >>> coordinates(design)["scale_term"]
    ['district: intrcpt', 'district/school: intrcpt', 'district/school: I((year - 1990) / 10)']
    """
    alone = len(design.terms) == 1
    pairs = [("" if alone else f"{term.name}: ", term) for term in design.terms]
    found = {
        design.unit: list(design.labels),
        "location_term": list(design.location.names),
        "scale_term": scale_names(design),
        "pair": [of + pair for of, term in pairs for pair in term.pairs],
        "scale_random": [of + each.column for of, term in pairs for each in term.random],
        "scale_level": [
            f"{of}{each.column}[{level}]"
            for of, term in pairs
            for each in term.random
            for level in each.levels
        ],
    }
    return {dim: names for dim, names in found.items() if names}


def scale_names(design: Design) -> list[str]:
    """The coefficients of ln τ²: ``"year"``, with several scale terms ``"district: year"``."""
    return [each.label for each in coefficients(design)]


def are_correlations(design: Design) -> npt.NDArray[np.bool_]:
    """Which coefficients of the scale part are κ: those of a term follow its own of ln τ²."""
    sizes = [size for term in design.terms for size in (len(term.names), term.n_correlations)]
    return np.repeat(np.tile([False, True], len(design.terms)), sizes)
