"""How long a Bayesian fit of each bundled model takes, and what its draws are worth.

Run with ``uv run python tests/benchmarks/bayes.py``; kernels are compiled before the clock runs.
"""

from time import perf_counter

import numpy as np

import bayes_lsm as lsm


def main() -> None:
    """Medians of seven fits with 8000 draws, summary included."""
    for name in lsm.list_models():
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


if __name__ == "__main__":
    main()
