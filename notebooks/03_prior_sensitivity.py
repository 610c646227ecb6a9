# %% [markdown]
# # How much of it is the prior's?
#
# REML sends a coefficient to minus infinity; a Bayesian fit of the same model prints a number with
# an interval. Something was added, and it was the prior. This notebook shows how to see, for each
# coefficient, how much of the posterior is the data's and how much is what was put in, and how to
# report it.
#
# It is written for readers who know metafor and have not used priors before. The data are those of
# the talk (`01_slides_walkthrough`): 37 studies of the IQ of children born preterm, 29 of them made
# up to reproduce published results, so look at the method and not at the children.

# %%
# %matplotlib inline
import logging
import warnings

import arviz as az
import pandas as pd

import bayes_lsm as lsm
from bayes_lsm import plots

model = lsm.LocationScaleModel.from_file("preterm_continent")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", lsm.DivergentScaleWarning)  # it is our subject
    reml = model.fit_reml()
bayes = model.fit_bayes()
lsm.compare(reml, bayes)

# %% [markdown]
# `continentOther` in the scale part is $-\infty$ by REML, without a standard error: the studies of
# that continent show no heterogeneity beyond sampling error, so the likelihood never falls again as
# the coefficient goes down. The Bayesian column has a median and a standard deviation.
#
# The profile of the likelihood says what the data know. It excludes large values, and then it is
# flat: *half-flat*.

# %%
plots.profile(reml.profile("continentOther")).figure

# %% [markdown]
# ## Before the data, and after
#
# A prior is a distribution of a coefficient, stated before the data are used. Here it is
# Normal(0, 7) on every scale coefficient. Bayes' rule multiplies it by the likelihood. Where the
# likelihood is flat, what remains of the product is the prior:

# %%
plots.prior_posterior(bayes)[0].figure

# %% [markdown]
# For `I(weeks - 40)` the two curves have nothing to do with each other: the data decide. For
# `continentOther` the posterior is the left half of the prior, with its right half cut off by the
# likelihood.
#
# A usual summary of this is the *contraction*: by how much the posterior is narrower than the
# prior. It misleads here. Half a normal distribution is narrower than a whole one, and so it looks
# as if much had been learned of a coefficient of which only one side is known.
#
# ## Refit it under other priors
#
# A better question: if the prior were wider, would the answer be? The coefficients of the location
# part are integrated out exactly, so one fit takes some hundredths of a second, and a hundred fits
# are no trouble. `sensitivity` makes each prior narrower and wider, one at a time and all at once,
# tries other families and other packages' defaults, and looks at what happens.

# %%
found = bayes.sensitivity(progress=False)
found

# %% [markdown]
# The column to read is `share`: by how many per cent the interval grows when the coefficient's own
# prior gets one per cent wider. With a normal prior and a normal likelihood this is the prior's
# part of the posterior precision, so 0 is the data alone and 1 the prior alone.
#
# `continentOther` has a share of about 0.9. Its contraction is about 0.6, which would have passed.

# %%
other = found.table.loc[("scale", "continentOther")]
assert other["verdict"] == "prior-dominated"
assert other["share"] > 0.8
assert other["contraction"] > 0.5
assert found.verdicts["location", "I(weeks - 40)"] == "data-driven"
other

# %% [markdown]
# And as curves: the median and the 95% interval as the prior goes from a sixteenth of its width to
# sixteen times as wide. A flat band is the data's. A band that opens with the prior is the prior's,
# and its ends are where somebody has put them.

# %%
plots.sensitivity(found)[0].figure

# %% [markdown]
# The dashed lines are for all priors made wider at once. `I(weeks - 40)` in the scale part has a
# small share of its own, and yet is called *prior-informed*: it is tied to the intercept and to
# `continentOther`, and when their priors go wide it goes with them. That is what `together` says.
#
# ## When would the conclusion change?
#
# `tipping` has the factor by which the prior of a coefficient would have to be multiplied for its
# interval to include or to exclude 0 (`narrower`, `wider`), or for the probability of its sign to
# cross 0.95 (`p_narrower`, `p_wider`). A missing number: not from 1/16 to 16 times the width.

# %%
found.tipping

# %% [markdown]
# The slope of the mean on gestational age does not mind: its interval excludes 0 whatever the
# prior. But with a prior somewhat more than twice as wide the interval of `continentOther` would
# exclude 0, and one could write "the studies from other continents are less heterogeneous (95% CrI
# excludes 0)". Nothing was learned in between. That sentence would have come from the prior.

# %%
tip = found.tipping.loc[("scale", "continentOther")]
assert tip["conclusion"] == "open"
assert 1.5 < tip["wider"] < 4
assert found.tipping.loc[("location", "I(weeks - 40)"), ["narrower", "wider"]].isna().all()

# %% [markdown]
# ## What would another package have said?
#
# Each package has default priors. These are the presets of the talk, of this package and of
# blsmeta, on the same data. RoBMA's defaults and the published predictive distributions follow the
# effect measure, and are left out where none is given; the result says so.

# %%
for name, why in found.skipped.items():
    print(f"{name}: {why}\n")
plots.under_priors(found)[0].figure

# %% [markdown]
# blsmeta stands apart, also for `weeks`. Its prior says that $\ln\tau$ of an average study is
# Normal(−2, 1), so that τ is around 0.14, which is sensible for standardised mean differences; and
# one of those is fifteen points of IQ. A default that was made for one unit is a strong opinion in
# another. What a prior implies is easier to judge for τ than for a coefficient, and
# `tau` has it for each study, before and after:

# %%
(
    found.tau.groupby("prior", sort=False)[["prior_median", "prior_ci_ub", "median", "ci_ub"]]
    .median()
    .rename_axis("median over studies")
    .round(2)
)

# %% [markdown]
# The preset `slides`, Normal(0, 7) on raw coefficients, allows a τ beyond $10^{20}$ IQ points.
# Nobody believes that, and for coefficients which the data know it does no harm. For the others it
# is what widens the interval.
#
# ## A prior that means something
#
# If a coefficient is going to be the prior's, the prior had better be something that one can
# defend. "I would be surprised if τ differed between continents by more than a factor of three" is
# such a statement, and `from_fold` makes a prior of it: the ratio of τ lies between 1/3 and 3 with
# probability 0.95.

# %%
prior = lsm.priors.preset("weakly_informative").with_terms(
    scale={
        "continentAmerica": lsm.priors.from_fold(3),
        "continentOther": lsm.priors.from_fold(3),
    }
)
defended = model.fit_bayes(prior=prior)
again = defended.sensitivity(factors=(0.5, 2), presets=(), progress=False)
shown = ["ci_lb", "ci_ub", "share"]
pd.concat(
    {name: each.table.loc["scale"][shown] for name, each in (("slides", found), ("3-fold", again))},
    axis=1,
).round(2)

# %% [markdown]
# `continentOther` is prior-dominated still: no prior makes the data say more. What has changed is
# that the interval now is one that a reader can agree or disagree with. As ratios of τ:

# %%
assert again.verdicts["scale", "continentOther"] == "prior-dominated"
lsm.tau_steps(defended, measure="tau")

# %% [markdown]
# ## Power-scaling, and why it does not settle the matter
#
# ArviZ has a diagnostic for this that needs no refits: raise the prior (or the likelihood) to a
# power near 1 and see how the posterior moves (Kallioinen et al. 2024). Every fit of this package
# has what it needs, and the same numbers are in `found.table` as `prior_sens` and `lik_sens`.

# %%
logging.getLogger("arviz_stats").setLevel(logging.ERROR)  # what it says is said below
az.psense_summary(bayes.posterior)[["prior", "likelihood", "diagnosis"]]

# %% [markdown]
# It rightly has an eye on the scale part. But it scales all priors at once and cannot say whose
# prior it is, and its words, "potential prior-data conflict", are for another situation: of a
# half-flat posterior one end is the likelihood's and the other the prior's, so both matter, and
# nothing is in conflict.
#
# ## What to report
#
# The sentences are ready, with the thresholds below the table above:

# %%
for text in found.sentences:
    print(text, end="\n\n")

# %% [markdown]
# In a paper this becomes: *the heterogeneity of studies from other continents could not be
# estimated: the data exclude a τ much larger than in Europe and say nothing of smaller values, so
# the interval depends on the prior*. And the whole analysis as one page, from the command line:
#
# ```
# bayes-lsm sensitivity models/preterm_continent.toml -o sensitivity.html
# ```
