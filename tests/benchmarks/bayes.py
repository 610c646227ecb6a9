"""How long Bayesian fits take, and what their draws are worth.

Run from the root of the repository with ``uv run python tests/benchmarks/bayes.py``. The first
table is of every bundled model, by the collapsed engine; kernels are compiled before the clock
runs. The second sets the engines side by side on one model, with one preset, in one run: effective
draws a second with and without the time to get ready (numba's or Stan's compilation, JAGS's
adaptation), by the coefficient that is known worst. JAGS and brms are run where R has them.
"""

import shutil
import subprocess
from pathlib import Path
from time import perf_counter

import numpy as np

import bayes_lsm as lsm
from bayes_lsm.specification import find_specification

# With one scale term; models of several have their own tests.
ONE_TERM = [name for name in lsm.list_models() if isinstance(find_specification(name).scale, str)]

HERE = Path(__file__).parent
_NOT_INSTALLED = 3  # what the scripts return


def main() -> None:
    """Both tables."""
    every_model()
    print()
    side_by_side()


def every_model() -> None:
    """Medians of seven fits with 8000 draws, summary included."""
    for name in ONE_TERM:
        model = lsm.LocationScaleModel.from_file(name)
        model.fit_bayes(engine="collapsed", draws=8000, seed=0)
        seconds, worth = [], []
        for seed in range(7):
            began = perf_counter()
            fit = model.fit_bayes(engine="collapsed", draws=8000, seed=seed)
            fit.summary()
            seconds.append(perf_counter() - began)
            worth.append(fit.draws.importance.ess)
        print(f"{name:<24} {1e3 * np.median(seconds):6.0f} ms  {min(worth):6.0f} effective draws")


def side_by_side() -> None:
    """bangertdrowns2004, ~ I(ni / 100) in both parts, preset slides."""
    model = lsm.LocationScaleModel.from_file("bangertdrowns2004")
    rows = {
        "collapsed": collapsed(model),
        "NUTS (nutpie)": nuts(model),
        "JAGS": in_r("jags_speed.R"),
        "brms": in_r("brms_speed.R"),
    }
    ours = rows["collapsed"]
    print(
        f"{'':<14} {'ready, s':>9} {'sample, s':>10} {'ESS':>7} {'ESS/s':>9} {'all in':>9} "
        f"{'ratio':>7} {'all in':>9}"
    )
    for name, row in rows.items():
        if row is None:
            print(f"{name:<14} not installed")
            continue
        ready, sampling, ess = row
        speed, whole = ess / sampling, ess / (ready + sampling)
        ratio = ours[2] / ours[1] / speed
        ratio_whole = ours[2] / (ours[0] + ours[1]) / whole
        print(
            f"{name:<14} {ready:9.2f} {sampling:10.3f} {ess:7.0f} {speed:9.0f} {whole:9.0f} "
            f"{ratio:7.0f} {ratio_whole:9.0f}"
        )


def collapsed(model: lsm.LocationScaleModel) -> tuple[float, float, float]:
    """Seconds of the first fit beyond the others (kernels loaded), of one fit, and its ESS."""
    began = perf_counter()
    model.fit_bayes(prior="slides", engine="collapsed", draws=4000, seed=0)
    first = perf_counter() - began
    began = perf_counter()
    fits = [
        model.fit_bayes(prior="slides", engine="collapsed", draws=4000, seed=seed)
        for seed in range(1, 11)
    ]
    sampling = (perf_counter() - began) / len(fits)
    return max(first - sampling, 0.0), sampling, min(fit.draws.importance.ess for fit in fits)


def nuts(model: lsm.LocationScaleModel) -> tuple[float, float, float]:
    """Seconds to load and compile PyMC's model, to sample four chains, and the worst bulk ESS."""

    def seconds_and_ess(seed: int) -> tuple[float, float]:
        began = perf_counter()
        fit = model.fit_bayes(prior="slides", engine="nuts", draws=4000, seed=seed, progress=False)
        table = fit.summary()
        return perf_counter() - began, float(table["ess_bulk"].min())

    first, _ = seconds_and_ess(0)
    again = [seconds_and_ess(seed) for seed in (1, 2, 3)]
    sampling = float(np.mean([seconds for seconds, _ in again]))
    return max(first - sampling, 0.0), sampling, min(ess for _, ess in again)


def in_r(script: str) -> tuple[float, float, float] | None:
    """What an R script prints: seconds to get ready, to sample, and the worst ESS."""
    if shutil.which("Rscript") is None:
        return None
    ran = subprocess.run(["Rscript", HERE / script], capture_output=True, text=True, check=False)
    if ran.returncode == _NOT_INSTALLED:
        return None
    ran.check_returncode()
    ready, sampling, ess = map(float, ran.stdout.split()[-3:])
    return ready, sampling, ess


if __name__ == "__main__":
    main()
