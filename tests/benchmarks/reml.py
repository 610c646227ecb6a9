"""How fast the frequentist side is, with metafor beside it where R has it.

Run from the root of the repository:  uv run python tests/benchmarks/reml.py

Times are medians of repeats, in one process, after the first call has compiled or loaded the
kernels. metafor does fewer permutations, and its time is scaled to as many.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

import bayes_lsm as lsm
from bayes_lsm.reml.search.rows_surface import RowsSurface
from bayes_lsm.reml.search.search import Search
from bayes_lsm.reml.tests.permutation_test import permutation_test

MODELS = {
    "bangertdrowns2004": ("~ I(ni / 100)", "~ I(ni / 100)"),
    "raudenbush1985": ("~ weeks", "~ weeks"),
    "bcg": ("~ ablat", "~ ablat"),
    "preterm_iq": ("~ I(weeks - 40)", "~ I(weeks - 40)"),
}
PERMUTATIONS = 1000
PERMUTATIONS_IN_R = 30
SIZES = (100, 1_653, 10_000, 100_000, 1_000_000)
SIZES_IN_R = (100, 1_653)

R_SCRIPT = r"""
suppressPackageStartupMessages({library(metafor); library(jsonlite)})
read <- function(name) {
  read.csv(file.path("bayes_lsm/datasets", paste0(name, ".csv")), comment.char = "#")
}
seconds <- function(expression, times) {
  call <- substitute(expression)
  where <- parent.frame()
  median(sapply(seq_len(times), function(i) {
    start <- proc.time()[["elapsed"]]
    suppressWarnings(eval(call, where))
    proc.time()[["elapsed"]] - start
  }))
}
asked <- fromJSON(commandArgs(trailingOnly = TRUE)[1], simplifyVector = FALSE)
out <- list()
for (name in names(asked$models)) {
  data <- read(name)
  location <- as.formula(asked$models[[name]][[1]])
  scale <- as.formula(asked$models[[name]][[2]])
  out[[paste("fit", name)]] <- seconds(rma(yi, vi, mods = location, scale = scale, data = data), 5)
}
data <- read("bangertdrowns2004")
fit <- rma(yi, vi, mods = ~ I(ni / 100), scale = ~ I(ni / 100), data = data)
out[["permutation"]] <- seconds(
  permutest(fit, iter = asked$permutations, progbar = FALSE, skip.beta = TRUE), 1
) / asked$permutations
for (k in unlist(asked$sizes)) {
  set.seed(1)
  x <- rnorm(k)
  v <- runif(k, 0.05, 0.5)
  y <- 0.5 + 0.3 * x + rnorm(k) * sqrt(v + exp(-0.5 + 0.6 * x))
  out[[paste("size", k)]] <- seconds(rma(y, v, mods = ~ x, scale = ~ x), 1)
}
cat(toJSON(out, auto_unbox = TRUE, digits = I(10)))
"""


@dataclass(frozen=True)
class Row:
    """One line of the table: seconds, ours and metafor's."""

    what: str
    ours: float
    theirs: float | None = None
    remark: str = ""


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """The median time of a call; the first one, which may compile, does not count."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def metafor() -> dict[str, float]:
    """Seconds of the same work in metafor; nothing where there is no R with metafor."""
    if shutil.which("Rscript") is None:
        return {}
    asked = {"models": MODELS, "permutations": PERMUTATIONS_IN_R, "sizes": SIZES_IN_R}
    done = subprocess.run(
        ["Rscript", "-e", R_SCRIPT, json.dumps(asked)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        print(f"no metafor beside it: {done.stderr.strip().splitlines()[-1:]}")
        return {}
    found: dict[str, float] = json.loads(done.stdout)
    return found


def bound_model(name: str) -> lsm.LocationScaleModel:
    location, scale = MODELS[name]
    return lsm.LocationScaleModel(
        f"yi {location}", scale=scale, variance="vi", data=lsm.load_dataset(name)
    )


def simulated(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, v and a matrix with an intercept and one moderator."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=k)
    v = rng.uniform(0.05, 0.5, size=k)
    y = 0.5 + 0.3 * x + rng.normal(size=k) * np.sqrt(v + np.exp(-0.5 + 0.6 * x))
    return y, v, np.column_stack([np.ones(k), x])


def problem_of(y: np.ndarray, v: np.ndarray, X: np.ndarray, Z: np.ndarray) -> object:
    """A problem in coordinates in which the columns of Z are orthogonal."""
    return RowsSurface(y, v, X, Z, "REML").problem


def kernel_seconds(k: int, sets: int) -> float:
    """Seconds for each of many fits in one batch: one ascent, no search."""
    from bayes_lsm.likelihood.rows.ascent import climb_sets

    y, v, X = simulated(k)
    rng = np.random.default_rng(2)
    Y = rng.normal(size=(sets, k)) * np.sqrt(v + np.exp(-0.5 + 0.6 * X[:, 1]))
    problem = problem_of(y, v, X, X)
    starts = -0.5 * np.mean(problem.Z, axis=1)[None]
    none = np.empty((0, k), dtype=np.intp)
    return median_seconds(lambda: climb_sets(starts, Y, problem, none, none, 1e-10), 5) / sets


def kernel_one_seconds(name: str) -> float:
    """Seconds of a single ascent on a bundled dataset."""
    from bayes_lsm.likelihood.rows.ascent import allocate, climb

    design = bound_model(name).design
    problem = problem_of(design.y, design.v, design.X, design.Z)
    start = np.log(0.05) * np.mean(problem.Z, axis=1)[None]
    nothing = allocate(0, design.X.shape[1], design.Z.shape[1])
    return median_seconds(lambda: climb(start, problem, 1e-10, 1e-10, nothing, False), 200)


def measure(theirs: dict[str, float]) -> list[Row]:
    rows = []
    for name in MODELS:
        model = bound_model(name)
        seconds = median_seconds(model.fit_reml, 15)
        k = f"k = {model.design.n_studies}"
        rows.append(Row(f"fit_reml(), {name}", seconds, theirs.get(f"fit {name}"), k))
    for starts in ("one", "several"):
        fit = bound_model("bangertdrowns2004").fit_reml()
        seconds = median_seconds(
            lambda fit=fit, starts=starts: permutation_test(  # type: ignore[misc]
                fit, iterations=PERMUTATIONS, seed=1, starts=starts, progress=False
            ),
            15,
        )
        permuted = theirs.get("permutation")
        rows.append(
            Row(
                f"permutation_test({PERMUTATIONS}, starts={starts!r}), bangertdrowns2004",
                seconds,
                None if permuted is None else permuted * PERMUTATIONS,
                f"metafor: {PERMUTATIONS_IN_R} permutations, scaled",
            )
        )
    one = kernel_one_seconds("bangertdrowns2004")
    rows.append(Row("one kernel fit, bangertdrowns2004", one, theirs.get("fit bangertdrowns2004")))
    batched = kernel_seconds(30, 20_000)
    rows.append(Row("kernel fit in a batch, k = 30", batched, None, f"{1 / batched:,.0f} a second"))
    for k in SIZES:
        y, v, X = simulated(k)
        seconds = median_seconds(
            lambda y=y, v=v, X=X: Search(RowsSurface(y, v, X, X, "REML")),  # type: ignore[misc]
            5 if k < 1e6 else 1,
        )
        rows.append(
            Row(
                f"search for the maximum, k = {k:,}",
                seconds,
                theirs.get(f"size {k}"),
                f"{1e6 * seconds / k:.2f} µs a study",
            )
        )
        if k >= 10_000:
            seconds = kernel_seconds(k, 2)
            rows.append(
                Row(f"kernel fit, k = {k:,}", seconds, None, f"{1e6 * seconds / k:.2f} µs a study")
            )
    return rows


def show(rows: list[Row]) -> None:
    table = Table("what", "bayes_lsm (ms)", "metafor (ms)", "ratio", "")
    for row in rows:
        theirs = "" if row.theirs is None else f"{1000 * row.theirs:,.1f}"
        ratio = "" if row.theirs is None else f"{row.theirs / row.ours:,.0f}"
        table.add_row(row.what, f"{1000 * row.ours:,.3f}", theirs, ratio, row.remark)
    Console(width=130).print(table)


if __name__ == "__main__":
    show(measure(metafor()))
