"""How fast one checkout of the package is beside another, in one run.

Run from the root of a checkout:  uv run python tests/benchmarks/house.py OTHER_CHECKOUT [PAIRS]

Each checkout has a process of its own, with the same Python and libraries. The two take turns, and
who goes first changes from pair to pair, so that what else the machine does falls on both. What
counts is the median over the pairs of this checkout's time over the other's; a ratio of times of
the processor hangs less on other work than that of the clock.

A call that goes by another name in one of the two has several snippets: the first that runs is
taken, in each checkout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parents[2]
PAIRS = 15


@dataclass(frozen=True)
class Case:
    """Something to time.

    Attributes
    ----------
    name : str
    snippets : tuple of str
        Each defines ``call``, after what need not be timed.
    repeats : int
        Calls for one time, where a single one is too short.
    pairs : int, optional
        Times of each checkout, where the usual number takes too long.
    """

    name: str
    snippets: tuple[str, ...]
    repeats: int = 1
    pairs: int | None = None


@dataclass(frozen=True)
class Ratio:
    """Times of two calls that took turns; shapes (pairs,), in seconds."""

    first: np.ndarray
    second: np.ndarray

    @property
    def median(self) -> float:
        return float(np.median(self.first / self.second))

    @property
    def quartiles(self) -> tuple[float, float]:
        lower, upper = np.quantile(self.first / self.second, [0.25, 0.75])
        return float(lower), float(upper)


def take_turns(
    first: Callable[[], float], second: Callable[[], float], pairs: int = PAIRS
) -> Ratio:
    """Two calls that return their own times, in pairs; the first to go changes each time."""
    times = np.empty((pairs, 2))
    for pair in range(pairs):
        order = (0, 1) if pair % 2 == 0 else (1, 0)
        for which in order:
            times[pair, which] = (first, second)[which]()
    return Ratio(times[:, 0], times[:, 1])


def compare_calls(
    first: Callable[[], object], second: Callable[[], object], pairs: int = PAIRS
) -> Ratio:
    """Times of the processor of two calls in this process: of two solvers of one model, say."""
    for call in (first, second):
        call()  # The first one may compile.

    def timed(call: Callable[[], object]) -> float:
        start = time.process_time()
        call()
        return time.process_time() - start

    return take_turns(lambda: timed(first), lambda: timed(second), pairs)


BOUND = """
import bayes_lsm as lsm
model = lsm.LocationScaleModel(
    "yi ~ I(ni / 100)", scale="~ I(ni / 100)", variance="vi",
    data=lsm.load_dataset("bangertdrowns2004"))
"""

SIMULATED = """
import numpy as np, pandas as pd
import bayes_lsm as lsm
rng = np.random.default_rng(1)
x = rng.normal(size=k)
v = rng.uniform(0.05, 0.5, size=k)
y = 0.5 + 0.3 * x + rng.normal(size=k) * np.sqrt(v + np.exp(-0.5 + 0.6 * x))
data = pd.DataFrame({"yi": y, "vi": v, "x": x})
X = np.column_stack([np.ones(k), x])
"""

MODEL = 'model = lsm.LocationScaleModel("yi ~ x", scale="~ x", variance="vi", data=data)\n'

# Before there was one search for all kinds of model, surfaces and searches went by other names.
ROWS = """
from bayes_lsm.likelihood.rows.ascent import climb_sets
from bayes_lsm.reml.search.rows_surface import RowsSurface as Surface
from bayes_lsm.reml.search.search import Search as Searching
search = lambda *given: Searching(Surface(*given))
"""
OLD_ROWS = """
from bayes_lsm.likelihood.ascent import climb_sets
from bayes_lsm.reml.search import Search as search
from bayes_lsm.reml.surface import Surface
"""

BATCH = """
problem = Surface(y, v, X, X, "REML").problem
Y = rng.normal(size=(20_000, k)) * np.sqrt(v + np.exp(-0.5 + 0.6 * x))
starts = -0.5 * np.mean(problem.Z, axis=1)[None]
none = np.empty((0, k), dtype=np.intp)
call = lambda: climb_sets(starts, Y, problem, none, none, 1e-10)
"""

BOOTSTRAP = """
from bayes_lsm.reml import bootstrap_test
full = model.fit_reml()
smaller = lsm.LocationScaleModel("yi ~ x", scale="~ 1", variance="vi", data=data).fit_reml()
call = lambda: bootstrap_test(full, smaller, iterations=2000, seed=1, progress=False)
"""

SEARCH = """
call = lambda: search(y, v, X, X, "REML")
"""

PERMUTATION = """
fit = model.fit_reml()
call = lambda: fit.permutation_test(iterations=1000, seed=1, progress=False)
"""

COLLAPSED = 'call = lambda: model.fit_bayes(engine="collapsed", draws=8000, seed=1)\n'

CASES = (
    Case("fit_reml(), bangertdrowns2004", (BOUND + "call = model.fit_reml",), repeats=20),
    Case("permutation_test(1000), bangertdrowns2004", (BOUND + PERMUTATION,), repeats=5),
    Case(
        "20,000 fits in a batch, k = 30",
        tuple("k = 30" + SIMULATED + rows + BATCH for rows in (ROWS, OLD_ROWS)),
    ),
    Case("bootstrap_test(2000), k = 30", ("k = 30" + SIMULATED + MODEL + BOOTSTRAP,)),
    Case(
        "search, k = 1,000,000",
        tuple("k = 1_000_000" + SIMULATED + rows + SEARCH for rows in (ROWS, OLD_ROWS)),
        pairs=5,
    ),
    Case(
        "fit_reml(), k = 1,000,000",
        ("k = 1_000_000" + SIMULATED + MODEL + "call = model.fit_reml",),
        pairs=5,
    ),
    Case("8,000 collapsed draws, bangertdrowns2004", (BOUND + COLLAPSED,)),
)

# What a checkout's process runs: a line of JSON is a snippet to prepare, or asks for one more time.
WORKER = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import bayes_lsm
out = sys.stdout
sys.stdout = sys.stderr
def say(**what):
    out.write(json.dumps(what) + "\\n")
    out.flush()
say(package=bayes_lsm.__file__)
for line in sys.stdin:
    asked = json.loads(line)
    if "snippet" in asked:
        space = {}
        try:
            exec(asked["snippet"], space)
            space["call"]()
            say(ready=True)
        except Exception as error:
            say(ready=False, why=f"{type(error).__name__}: {error}")
        continue
    clock, processor = time.perf_counter(), time.process_time()
    for _ in range(asked["repeats"]):
        space["call"]()
    say(clock=time.perf_counter() - clock, processor=time.process_time() - processor)
"""


@dataclass(frozen=True, eq=False)
class Checkout:
    """A process that runs the package of one checkout."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, root: Path) -> Checkout:
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            cwd=root,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        checkout = cls(process)
        package = Path(checkout._answer()["package"])
        if package.parents[1] != root:
            raise RuntimeError(f"the process for {root} imports {package}")
        return checkout

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def _ask(self, **what: object) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def prepare(self, case: Case) -> str:
        """Why none of the snippets runs; empty when one does."""
        reasons = []
        for snippet in case.snippets:
            found = self._ask(snippet=snippet)
            if found["ready"]:
                return ""
            reasons.append(found["why"])
        return "; ".join(reasons)

    def seconds(self, case: Case) -> tuple[float, float]:
        """Of the clock and of the processor, for one call."""
        found = self._ask(repeats=case.repeats)
        return found["clock"] / case.repeats, found["processor"] / case.repeats

    def close(self) -> None:
        self.process.communicate()


def compare(
    here: Checkout, other: Checkout, case: Case, pairs: int = PAIRS
) -> tuple[Ratio, Ratio] | str:
    """Times by the clock and of the processor; or why there are none."""
    missing = {name: each.prepare(case) for name, each in (("here", here), ("there", other))}
    if any(missing.values()):
        return "; ".join(f"{name}: {why}" for name, why in missing.items() if why)
    processor: dict[Checkout, list[float]] = {here: [], other: []}

    def timed(checkout: Checkout) -> float:
        clock, used = checkout.seconds(case)
        processor[checkout].append(used)
        return clock

    clock = take_turns(lambda: timed(here), lambda: timed(other), min(pairs, case.pairs or pairs))
    return clock, Ratio(np.array(processor[here]), np.array(processor[other]))


def show(name: str, found: tuple[Ratio, Ratio] | str) -> None:
    if isinstance(found, str):
        print(f"{name:<42} {found}")
        return
    clock, processor = found
    lower, upper = processor.quartiles
    print(
        f"{name:<42} {1000 * np.median(clock.first):>9.2f} {1000 * np.median(clock.second):>9.2f}"
        f" {clock.median:>7.3f} {processor.median:>7.3f}   {lower:.3f} … {upper:.3f}",
        flush=True,
    )


def main(arguments: Sequence[str]) -> None:
    other = Path(arguments[0]).resolve()
    pairs = int(arguments[1]) if len(arguments) > 1 else PAIRS
    checkouts = Checkout.start(HERE), Checkout.start(other)
    print(f"{'median of':<42} {'here (ms)':>9} {'there':>9} {'ratio':>7} {'of CPU':>7}   quartiles")
    for case in CASES:
        show(case.name, compare(*checkouts, case, pairs))
    for each in checkouts:
        each.close()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python tests/benchmarks/house.py OTHER_CHECKOUT [PAIRS]")
    main(sys.argv[1:])
