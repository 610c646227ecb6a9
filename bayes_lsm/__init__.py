"""Location-scale models for meta-analysis.

    y_i ~ Normal(x_i'β, v_i + τ_i²),    ln τ_i² = z_i'α

The house, from the ground up: `datasets` (example data), `formulas` (read, or refused), `priors`;
`specification` (a model in words) and `design` (the same model in numbers); `likelihood` (the one
seam between kinds of model, and the solvers behind it); `reml` and `bayes`, the two ways to
estimate, each of facts, verbs that are functions of them, and a face whose methods the verbs are;
`compare`, which puts fits side by side; and `model`, the front door:

>>> import bayes_lsm as lsm
>>> model = lsm.LocationScaleModel(
...     "yi ~ ablat", scale="~ ablat", variance="vi", data=lsm.load_dataset("bcg"))
>>> fit = model.fit_reml()
>>> fit.location["estimate"].round(3).to_list()
[0.251, -0.029]

`plots` draws results, `report` writes pages of them, and `cli` does the same from the command line.
PyMC, ArviZ, matplotlib and Jinja2 are imported only when a Bayesian fit, a figure or a page needs
them.
"""

from importlib.metadata import version

from bayes_lsm import plots, priors, report
from bayes_lsm.bayes import (
    BayesFit,
    bayes_factor,
    build_pymc_model,
    calibrate,
    compare_elpd,
    coverage,
    fit_bayes,
)
from bayes_lsm.capabilities import capabilities
from bayes_lsm.compare import Comparison, compare
from bayes_lsm.contrasts import tau_contrasts, tau_means, tau_steps
from bayes_lsm.datasets import describe_dataset, list_datasets, load_dataset
from bayes_lsm.design.design import Design, build_design
from bayes_lsm.errors import (
    BayesLsmError,
    BayesLsmWarning,
    ConvergenceWarning,
    DataError,
    DivergentScaleWarning,
    DroppedRowsWarning,
    FitError,
    FormulaError,
    PriorError,
    SpecificationError,
)
from bayes_lsm.model import LocationScaleModel
from bayes_lsm.reml import RemlFit, fit_reml, likelihood_ratio_test
from bayes_lsm.specification import SamplingCovariance, Specification, list_models

__version__ = version("bayes_lsm")

__all__ = [
    "BayesFit",
    "BayesLsmError",
    "BayesLsmWarning",
    "Comparison",
    "ConvergenceWarning",
    "DataError",
    "Design",
    "DivergentScaleWarning",
    "DroppedRowsWarning",
    "FitError",
    "FormulaError",
    "LocationScaleModel",
    "PriorError",
    "RemlFit",
    "SamplingCovariance",
    "Specification",
    "SpecificationError",
    "bayes_factor",
    "build_design",
    "build_pymc_model",
    "calibrate",
    "capabilities",
    "compare",
    "compare_elpd",
    "coverage",
    "describe_dataset",
    "fit_bayes",
    "fit_reml",
    "likelihood_ratio_test",
    "list_datasets",
    "list_models",
    "load_dataset",
    "plots",
    "priors",
    "report",
    "tau_contrasts",
    "tau_means",
    "tau_steps",
]
