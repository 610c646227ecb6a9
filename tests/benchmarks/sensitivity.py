"""How long a whole prior-sensitivity analysis takes: some hundred refits of one model.

Run from the root of the repository:  uv run python tests/benchmarks/sensitivity.py

Each model once, after a first analysis has compiled the kernels. On a busy machine the seconds on
the clock say more of the others than of us; the processor's own are shown beside them.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

import bayes_lsm as lsm


def main() -> None:
    """Print the table."""
    lsm.LocationScaleModel.from_file("bcg").fit_bayes(seed=1).sensitivity(
        factors=(), presets=(), draws=1000, progress=False
    )
    table = Table("model", "studies", "coefficients", "seconds", "of the processor")
    models = {
        "preterm_continent": lsm.LocationScaleModel.from_file("preterm_continent"),
        "bcg": lsm.LocationScaleModel.from_file("bcg"),
        "simulated": _simulated(1500),
    }
    for name, model in models.items():
        fit = model.fit_bayes(seed=1)
        start, own = time.perf_counter(), time.process_time()
        found = fit.sensitivity(progress=False)
        seconds, own = time.perf_counter() - start, time.process_time() - own
        size = (str(len(fit.design.y)), str(len(found.table)))
        table.add_row(name, *size, f"{seconds:.1f}", f"{own:.1f}")
    Console().print(table)


def _simulated(k: int) -> lsm.LocationScaleModel:
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"vi": rng.uniform(0.01, 0.2, k), "x": rng.normal(size=k)})
    data["yi"] = rng.normal(0.2 * data["x"], np.sqrt(data["vi"] + np.exp(-2 + 0.5 * data["x"])))
    return lsm.LocationScaleModel("yi ~ x", scale="~ x", variance="vi", data=data)


if __name__ == "__main__":
    main()
