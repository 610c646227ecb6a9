"""The methods paragraph of a report, its citations, and how to make the report again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayes_lsm.bayes.student import describe_df, df_prior
from bayes_lsm.report.making import versions
from bayes_lsm.report.page import Block, Code, Items, Link, Text

if TYPE_CHECKING:
    from bayes_lsm.report.analysis import Analysis

_CITATIONS = {
    "Viechtbauer & López-López (2022). Location-scale models for meta-analysis. Research "
    "Synthesis Methods, 13(6), 697-715.": "10.1002/jrsm.1562",
    "Vehtari, Gelman & Gabry (2017). Practical Bayesian model evaluation using leave-one-out "
    "cross-validation and WAIC. Statistics and Computing, 27, 1413-1432.": (
        "10.1007/s11222-016-9696-4"
    ),
    "Kallioinen, Paananen, Bürkner & Vehtari (2024). Detecting and diagnosing prior and likelihood "
    "sensitivity with power-scaling. Statistics and Computing, 34, 57.": (
        "10.1007/s11222-023-10366-5"
    ),
    "Higgins & Thompson (2002). Quantifying heterogeneity in a meta-analysis. Statistics in "
    "Medicine, 21(11), 1539-1558.": "10.1002/sim.1186",
}


def methods(found: Analysis) -> tuple[Block, ...]:
    """What was done, to be copied into a paper, and whom to cite."""
    reml, bayes = found.reml, found.bayes
    permuted = (
        f", and by a permutation test with {found.permutation.iterations} permutations"
        if found.permutation is not None
        else ""
    )
    tests = (
        f" Scale coefficients were tested by Wald, likelihood-ratio and score tests{permuted}."
        if found.tests is not None
        else ""
    )
    integrated = "study effects" if found.is_robust else "location coefficients"
    engine = (
        f"drawn by importance sampling with the {integrated} integrated out"
        if bayes.draws.importance is not None
        else "drawn by the no-U-turn sampler"
    )
    others = (
        " Sensitivity to the priors was examined by refits with narrower and wider priors, with "
        "priors of other families and with the defaults of other packages."
        if found.sensitivity is not None
        else ""
    )
    df = df_prior(found.design, bayes.priors)
    effects = (
        ""
        if df is None
        else " Study effects were normal in the first and Student t in the second, "
        f"{describe_df(df)}."
    )
    text = (
        f"A location-scale model was fitted to {found.design.n_studies} effects by "
        f"{'restricted ' if reml.method == 'REML' else ''}maximum likelihood and by Bayesian "
        f"inference.{effects} Confidence intervals are 95% Wald intervals; intervals of scale "
        f"coefficients in the profile section are 95% profile-likelihood intervals.{tests} "
        f"Posterior draws ({len(bayes.draws.flat_scale)}) were {engine}, with priors: "
        f"{bayes.priors.describe()}. Bayesian estimates are posterior medians with equal-tailed "
        f"95% intervals.{others} All computations were made with "
        f"{versions(sampled=bayes.draws.importance is None)}."
    )
    cited = Items(
        tuple(
            Text(f"{words} ", Link(f"doi:{doi}", f"https://doi.org/{doi}"))
            for words, doi in _CITATIONS.items()
        )
    )
    return Text(text), cited


def reproduction(found: Analysis) -> tuple[Block, ...]:
    """The model file, the seed, and the two ways to make the report again."""
    words, seed = found.model.specification, found.bayes.seed
    file = (
        "Save this as model.toml"
        if words.data
        else 'Save this as model.toml, and the data as a CSV file that it names (data = "…")'
    )
    python = (
        "import bayes_lsm as lsm\n"
        "from pathlib import Path\n\n"
        'model = lsm.LocationScaleModel.from_file("model.toml")\n'
        f"found = lsm.report.analyse(model, seed={seed})\n"
        'lsm.report.write_page(lsm.report.analysis_page(found), Path("report.html"))'
    )
    return (
        Text(f"{file}. The same seed gives the same draws."),
        Code(words.to_toml().rstrip()),
        Text("Then, from a terminal or from Python:"),
        Code(f"bayes-lsm report model.toml --seed {seed} -o report.html --tables tables"),
        Code(python),
        Text(f"Versions: {versions(sampled=True)}."),
    )
