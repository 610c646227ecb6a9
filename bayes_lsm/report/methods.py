"""The methods paragraph of a report, its citations, and how to make the report again."""

from __future__ import annotations

from bayes_lsm.bayes.resolved_priors.resolve import df_prior
from bayes_lsm.bayes.student.effects import describe_df
from bayes_lsm.design.clusters import has_dependent_rows
from bayes_lsm.report.analysis import Analysis
from bayes_lsm.report.making import versions, was_sampled
from bayes_lsm.report.page import Block, Code, Items, Link, Text

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


def methods(found: Analysis) -> tuple[Block, ...]:
    """What was done, to be copied into a paper, and whom to cite."""
    reml, bayes = found.reml, found.bayes
    sampled = was_sampled(bayes)
    others = (
        " Sensitivity to the priors was examined by refits with narrower and wider priors, with "
        "priors of other families and with the defaults of other packages."
        if found.sensitivity is not None
        else ""
    )
    effects = _study_effects(found)
    integrated = "study effects" if effects else "location coefficients"
    engine = (
        "drawn by the no-U-turn sampler"
        if sampled
        else f"drawn by importance sampling with the {integrated} integrated out"
    )
    text = (
        f"{_fitted(found)} by {'restricted ' if reml.method == 'REML' else ''}maximum likelihood "
        f"and by Bayesian inference.{effects} Confidence intervals are 95% Wald intervals; of "
        f"scale coefficients in the profile section they are 95% profile-likelihood intervals."
        f"{_tested(found)} Posterior draws ({found.bayes.draws.size}) were {engine}, with priors: "
        f"{bayes.priors.describe()}. Bayesian estimates are posterior medians with equal-tailed "
        f"95% intervals.{others} All computations were made with {versions(sampled=sampled)}."
    )
    citations = _CITATIONS | (_OF_LEVELS if len(found.design.terms) > 1 else {})
    cited = Items(
        tuple(
            Text(f"{words} ", Link(f"doi:{doi}", f"https://doi.org/{doi}"))
            for words, doi in citations.items()
        )
    )
    return Text(text), cited


def _fitted(found: Analysis) -> str:
    """What was fitted."""
    design = found.design
    grouped = [f"“{term.name}”" for term in design.terms if len(term.groups) < len(design.y)]
    named = f" with effects of {' and of '.join(grouped)}" if grouped else ""
    what = "effects" if (design.v > 0).any() else "individuals"
    return f"A {design.kind.lower()}{named} was fitted to {len(design.y)} {what}"


def _study_effects(found: Analysis) -> str:
    """How study effects differed between the two fits."""
    df = df_prior(found.design, found.bayes.priors)
    if df is None:
        return ""
    return (
        f" Study effects were normal in the first and Student t in the second, {describe_df(df)}."
    )


def _tested(found: Analysis) -> str:
    if found.tests is None:
        return ""
    permuted = ""
    if found.permutation is not None:
        count = found.permutation.iterations
        of = " of whole clusters" if has_dependent_rows(found.design) else ""
        permuted = f", and by a permutation test with {count} permutations{of}"
    tests = "Wald, likelihood-ratio and score tests"
    return f" Scale coefficients were tested by {tests}{permuted}."


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
