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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

if __package__:
    from . import golden_calls_bayes as posteriors
    from .golden_calls import MONTE_CARLO, VERBS, Question, answer
    from .golden_models import MODELS, is_asked
else:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from reference import golden_calls_bayes as posteriors
    from reference.golden_calls import MONTE_CARLO, VERBS, Question, answer
    from reference.golden_models import MODELS, is_asked

# The verbs of posteriors join the others when their file is read.
assert posteriors.posterior is VERBS["posterior"]

PINNED = Path(__file__).with_name("golden.json")
SEEDS = range(101, 109)
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
    """Of what is infinite or missing with some seed: nan."""
    found = [ask(verb, replace(question, seed=seed)) for seed in SEEDS]
    with np.errstate(invalid="ignore"):
        return {name: np.std([each[name] for each in found], axis=0, ddof=1) for name in found[0]}


def pin(model: str, old: dict[str, Any], anew: Callable[[str], bool]) -> dict[str, Any]:
    """All numbers of a model, and the Monte Carlo errors of those that have one.

    Verbs that are not pinned anew have the `old` ones.
    """
    question = MODELS[model]()
    pinned: dict[str, Any] = {"numbers": {}, "errors": {}}
    for verb in VERBS:
        if not is_asked(model, verb):
            continue
        if not anew(verb):
            kept = {what: {verb: found[verb]} for what, found in old.items() if verb in found}
        elif found := ask(verb, question):
            kept = {"numbers": {verb: _words(found, 12)}}
            if verb in MONTE_CARLO:
                kept["errors"] = {verb: _words(monte_carlo_error(verb, question), 2)}
        else:
            continue
        for what, numbers in kept.items():
            pinned[what] |= numbers
    return pinned


def _words(numbers: Mapping[str, Array], digits: int) -> dict[str, list[float | str]]:
    return {name: _written(values, digits) for name, values in numbers.items()}


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
    """Pin the models and the verbs that are named, or all."""
    asked = set(sys.argv[1:])
    if unknown := asked - set(MODELS) - set(VERBS):
        sys.exit(f"there is no model or verb {', '.join(sorted(unknown))}")
    old = read() if asked else {}
    lines = []
    for model in MODELS:
        anew = lambda verb, model=model: not asked or bool(asked & {model, verb})  # noqa: E731
        found = pin(model, old.get(model, {}), anew)
        lines.append(f"{json.dumps(model)}: " + json.dumps(found, separators=(",", ":")))
    PINNED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
