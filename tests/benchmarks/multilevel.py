"""How fast models of several levels are, with metafor's rma.mv and nlme's lme where R has them.

Run from the root of the repository:  uv run python tests/benchmarks/multilevel.py

Times are medians of repeats, in one process, after the first call has compiled or loaded the
kernels: arrangement and ascent, no search for other maxima. R fits each model once. lme needs
minutes for the model with a residual variance for each study and arm: pass --patient to see it.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from bayes_lsm.datasets import load_dataset
from bayes_lsm.likelihood.blocks.blocks import BlockTerm, arrange, ascend

R_SCRIPT = r"""
suppressPackageStartupMessages({library(metafor); library(nlme); library(jsonlite)})
arguments <- commandArgs(trailingOnly = TRUE)
seconds <- function(expression) system.time(suppressWarnings(expression))[["elapsed"]]
out <- list()
for (name in c("konstantopoulos2011", "assink2016", "simulated")) {
  data <- read.csv(file.path(arguments[1], paste0(name, ".csv")))
  out[[name]] <- seconds(rma.mv(
    yi, vi, mods = ~ x, random = ~ 1 | outer / inner, data = data, sparse = TRUE
  ))
}
scores <- read.csv(file.path(arguments[1], "scores.csv"))
scores$study <- factor(scores$study)
one_stage <- function(...) {
  lme(iq ~ 0 + study + atterm, random = ~ 0 + atterm | study, data = scores, control = lmeControl(
    maxIter = 500, msMaxIter = 1000
  ), ...)
}
out[["one residual variance"]] <- seconds(one_stage())
if (arguments[2] == "patient") {
  arms <- varIdent(form = ~ 1 | study * group)
  out[["74 residual variances"]] <- seconds(one_stage(weights = arms))
}
cat(toJSON(out, auto_unbox = TRUE, digits = I(10)))
"""


@dataclass(frozen=True)
class Row:
    """One line of the table: seconds, ours and R's."""

    what: str
    ours: float
    theirs: float | None
    remark: str


def effects() -> dict[str, pd.DataFrame]:
    """Effects with two levels of groups, and a moderator x: two datasets, and a large one."""
    schools, crimes = load_dataset("konstantopoulos2011"), load_dataset("assink2016")
    schools = schools.assign(outer=schools["district"], inner=schools["study"], x=schools["year"])
    crimes = crimes.assign(outer=crimes["study"], inner=crimes["id"], x=crimes["year"])
    rng = np.random.default_rng(1)
    k, n = 300, 1653
    outer = np.sort(np.r_[np.arange(k), rng.integers(0, k, n - k)])
    x, v = rng.normal(size=n), rng.uniform(0.02, 0.2, n)
    y = 0.3 * x + 0.4 * rng.normal(size=k)[outer] + np.sqrt(v + 0.1) * rng.normal(size=n)
    large = pd.DataFrame({"yi": y, "vi": v, "x": x, "outer": outer, "inner": np.arange(n)})
    frames = {"konstantopoulos2011": schools, "assink2016": crimes, "simulated": large}
    columns = ["yi", "vi", "x", "outer", "inner"]
    return {
        name: frame.assign(x=frame["x"] - frame["x"].mean())[columns]
        for name, frame in frames.items()
    }


def fit_effects(frame: pd.DataFrame) -> None:
    groups = [pd.factorize(frame[level])[0] for level in ("outer", "inner")]
    terms = tuple(BlockTerm(each, np.ones((each.max() + 1, 1))) for each in groups)
    X = np.column_stack([np.ones(len(frame)), frame["x"]])
    data = arrange(frame["yi"].to_numpy(), X, terms, variance=frame["vi"].to_numpy())
    fit = ascend(np.full(data.q, -2.0), data, method="REML")
    assert fit.converged


def fit_scores(frame: pd.DataFrame, variances: int) -> None:
    study, arm = frame["study"].to_numpy() - 1, frame["atterm"].to_numpy()
    X = np.column_stack([np.eye(37)[study], arm])
    Z = np.ones((len(study), 1)) if variances == 1 else np.eye(74)[2 * study + arm]
    slopes = BlockTerm(study, np.ones((37, 1)), slopes=arm)
    data = arrange(frame["iq"].to_numpy(), X, (slopes, BlockTerm(np.arange(len(study)), Z)))
    fit = ascend(np.r_[2.0, np.full(variances, 5.0)], data, method="REML")
    assert fit.converged


def median_seconds(call: Callable[[], object], repeats: int = 9) -> float:
    """The median time of a call; the first one, which may compile, does not count."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ask_r(frames: dict[str, pd.DataFrame], scores: pd.DataFrame) -> dict[str, float]:
    """Seconds of the same fits in R; nothing where there is no R with metafor and nlme."""
    if shutil.which("Rscript") is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        for name, frame in {**frames, "scores": scores}.items():
            frame.to_csv(Path(folder) / f"{name}.csv", index=False)
        patience = "patient" if "--patient" in sys.argv else "short"
        done = subprocess.run(
            ["Rscript", "-e", R_SCRIPT, folder, patience],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        print(f"no R beside it: {done.stderr.strip().splitlines()[-1:]}")
        return {}
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    frames, scores = effects(), load_dataset("preterm_iq_ipd")
    theirs = ask_r(frames, scores)
    rows = []
    for name, frame in frames.items():
        remark = f"{len(frame):,} effects, {frame['outer'].nunique()} groups; rma.mv"
        seconds = median_seconds(lambda frame=frame: fit_effects(frame))  # type: ignore[misc]
        rows.append(Row(name, seconds, theirs.get(name), remark))
    for variances, name in ((1, "one residual variance"), (74, "74 residual variances")):
        seconds = median_seconds(lambda variances=variances: fit_scores(scores, variances))  # type: ignore[misc]
        rows.append(Row(name, seconds, theirs.get(name), f"{len(scores):,} scores; lme"))
    table = Table("what", "bayes_lsm (ms)", "R (ms)", "ratio", "")
    for row in rows:
        other = "" if row.theirs is None else f"{1000 * row.theirs:,.0f}"
        ratio = "" if row.theirs is None else f"{row.theirs / row.ours:,.0f}"
        table.add_row(row.what, f"{1000 * row.ours:,.2f}", other, ratio, row.remark)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
