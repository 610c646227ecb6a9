"""The methods paragraph of a report, its citations, and how to make the report again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayes_lsm.bayes.student.effects import describe_df, df_prior
from bayes_lsm.report.clustered_analysis import ClusteredAnalysis
from bayes_lsm.report.making import versions, was_sampled
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

_OF_LEVELS = {
    "Nakagawa & Santos (2012). Methodological issues and advances in biological meta-analysis. "
    "Evolutionary Ecology, 26, 1253-1274.": "10.1007/s10682-012-9555-5",
}


def methods(found: Analysis | ClusteredAnalysis) -> tuple[Block, ...]:
    """What was done, to be copied into a paper, and whom to cite."""
    reml, bayes = found.reml, found.bayes
    sampled = was_sampled(bayes)
    others = (
        " Sensitivity to the priors was examined by refits with narrower and wider priors, with "
        "priors of other families and with the defaults of other packages."
        if found.sensitivity is not None
        else ""
    )
    clustered = isinstance(found, ClusteredAnalysis)
    fitted, effects = (
        (_of_levels(found), "") if isinstance(found, ClusteredAnalysis) else _of_studies(found)
    )
    integrated = "study effects" if effects else "location coefficients"
    engine = (
        "drawn by the no-U-turn sampler"
        if sampled
        else f"drawn by importance sampling with the {integrated} integrated out"
    )
    text = (
        f"{fitted} by {'restricted ' if reml.method == 'REML' else ''}maximum likelihood and by "
        f"Bayesian inference.{effects} Confidence intervals are 95% Wald intervals; intervals of "
        f"scale coefficients in the profile section are 95% profile-likelihood intervals."
        f"{_tested(found)} Posterior draws ({_draws(found)}) were {engine}, with priors: "
        f"{bayes.priors.describe()}. Bayesian estimates are posterior medians with equal-tailed "
        f"95% intervals.{others} All computations were made with {versions(sampled=sampled)}."
    )
    cited = Items(
        tuple(
            Text(f"{words} ", Link(f"doi:{doi}", f"https://doi.org/{doi}"))
            for words, doi in (_CITATIONS | (_OF_LEVELS if clustered else {})).items()
        )
    )
    return Text(text), cited


def _of_studies(found: Analysis) -> tuple[str, str]:
    """What was fitted, and how study effects differed."""
    fitted = f"A location-scale model was fitted to {found.design.n_studies} effects"
    df = df_prior(found.design, found.bayes.priors)
    if df is None:
        return fitted, ""
    return fitted, (
        f" Study effects were normal in the first and Student t in the second, {describe_df(df)}."
    )


def _of_levels(found: ClusteredAnalysis) -> str:
    design = found.design
    named = " and of ".join(f"“{term.name}”" for term in design.terms)
    kind = design.kind.lower()
    return f"A {kind} with effects of {named} was fitted to {len(design.y)} observations"


def _tested(found: Analysis | ClusteredAnalysis) -> str:
    if found.tests is None:
        return ""
    clustered = isinstance(found, ClusteredAnalysis)
    permuted = ""
    if found.permutation is not None:
        of = " of whole clusters" if clustered else ""
        count = found.permutation.iterations
        permuted = f", and by a permutation test with {count} permutations{of}"
    tests = "Wald and score tests" if clustered else "Wald, likelihood-ratio and score tests"
    return f" Scale coefficients were tested by {tests}{permuted}."


def _draws(found: Analysis | ClusteredAnalysis) -> int:
    if isinstance(found, ClusteredAnalysis):
        return found.bayes.draws.size
    return len(found.bayes.draws.flat_scale)


def reproduction(found: Analysis | ClusteredAnalysis) -> tuple[Block, ...]:
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
