"""Golden numbers: what the package itself gave, of every model file and every kind of model.

Run from the root of the repository:  uv run python tests/reference/golden.py
It takes minutes, and writes tests/reference/golden.json. Do so only where a number is known to have
been wrong, and say in the commit which and why: these numbers are there so that nothing changes
unseen. They are no proof that a number is right; for that there are the peers' (metafor.json, …).

Of long results five rows, evenly spaced, and the sum are kept. Of results that hang on a seed there
is a Monte Carlo error as well: their standard deviation over other seeds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

if __package__:
    from .golden_calls import MONTE_CARLO, VERBS, Question, answer
    from .golden_models import MODELS, is_asked
else:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from reference.golden_calls import MONTE_CARLO, VERBS, Question, answer
    from reference.golden_models import MODELS, is_asked

PINNED = Path(__file__).with_name("golden.json")
SEEDS = range(101, 103)
_ROWS = 5

Array = npt.NDArray[np.float64]


def thin(values: Any) -> Array:
    """All of a few numbers; of many some, and the sum of those that are finite."""
    flat = np.ravel(np.asarray(values, dtype=float))
    if len(flat) <= _ROWS + 1:
        return flat
    chosen = np.linspace(0, len(flat) - 1, _ROWS).astype(int)
    return np.append(flat[chosen], flat[np.isfinite(flat)].sum())


def ask(verb: str, question: Question) -> dict[str, Array]:
    """What a verb says, thinned; nothing where it does not answer."""
    return {name: thin(values) for name, values in (answer(verb, question) or {}).items()}


def monte_carlo_error(verb: str, question: Question) -> dict[str, Array]:
    found = [ask(verb, replace(question, seed=seed)) for seed in SEEDS]
    return {name: np.std([each[name] for each in found], axis=0, ddof=1) for name in found[0]}


def pin(model: str) -> dict[str, Any]:
    """All numbers of a model, and the Monte Carlo errors of those that have one."""
    question = MODELS[model]()
    numbers, errors = {}, {}
    for verb in VERBS:
        found = ask(verb, question) if is_asked(model, verb) else {}
        if not found:
            continue
        numbers[verb] = {name: _written(values, 12) for name, values in found.items()}
        if verb in MONTE_CARLO:
            spread = monte_carlo_error(verb, question)
            errors[verb] = {name: _written(values, 2) for name, values in spread.items()}
    return {"numbers": numbers, "errors": errors}


def _written(values: Iterable[float], digits: int) -> list[float | str]:
    """JSON has no infinity and no nan: they are words, which float() reads."""
    return [
        float(f"{value:.{digits}g}") if np.isfinite(value) else str(float(value))
        for value in values
    ]


def read() -> dict[str, Any]:
    pinned: dict[str, Any] = json.loads(PINNED.read_text())
    return pinned


def main() -> None:
    """Pin the models that are named, or all."""
    chosen = sys.argv[1:] or list(MODELS)
    old = read() if sys.argv[1:] else {}
    new = {**old, **{model: pin(model) for model in chosen}}
    lines = ",\n".join(
        f"{json.dumps(model)}: " + json.dumps(new[model], separators=(",", ":")) for model in MODELS
    )
    PINNED.write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
