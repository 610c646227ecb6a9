# %% [markdown]
# # Can this posterior be believed?
#
# `rma()` converges or it says that it has not. A Bayesian fit gives draws, and draws always come.
# Whether they may be believed are three questions, in this order:
#
# 1. Are the draws the posterior? (Did the computation work?)
# 2. Could the model have made these data?
# 3. Does the answer hang on a single study?
#
# A bad answer to one makes the later ones void. A fourth question, how much of the posterior is the
# prior's, has a notebook of its own (`03_prior_sensitivity`).
#
# The data are those of Raudenbush (1984), in metafor `dat.raudenbush1985`: do the expectations of
# teachers raise their pupils' IQ, and does it matter how many weeks they had known the pupils?

# %%
# %matplotlib inline
import warnings

import arviz as az
import pandas as pd

import bayes_lsm as lsm
from bayes_lsm import plots
from bayes_lsm.bayes import compare_elpd

teachers = lsm.load_dataset("raudenbush1985")


def location_scale(data):
    """Mean and heterogeneity of the effects on weeks of previous contact."""
    return lsm.LocationScaleModel(
        "yi ~ weeks", scale="~ weeks", variance="vi", study="author", data=data
    )


model = location_scale(teachers)
fit = model.fit_bayes(seed=1)
fit

# %% [markdown]
# In place of an estimate and its standard error there are 4000 draws of all coefficients from their
# posterior, and every column is a summary of them. `fit.posterior` has them in the form that ArviZ
# and all of its plots take.

# %%
fit.posterior.posterior["scale"].to_series().unstack("scale_term").head(3)

# %% [markdown]
# ## Everything at once
#
# `diagnose` goes through all three questions. Each check has its value and the limit that it is
# held to; the verdict comes first among the notes.

# %%
found = fit.diagnose(progress=False)
assert (found.to_dataframe()["status"] == "good").all()
found

# %% [markdown]
# All is well here. The rest of the notebook says what was looked at, and then breaks something.
#
# ## 1 · Are the draws the posterior?
#
# This fit was not made by MCMC. The location coefficients are integrated out exactly, and the scale
# coefficients are drawn directly, as a weighted sample whose weights are then evened out. So there
# are no chains that could get stuck. What can go wrong is that a few points get most of the weight:
# the *Pareto k* of the weights would be above 0.7. How many independent draws the sample is worth
# is the *effective* number, and 400 are enough for medians and intervals.
#
# With other priors, or on request, the draws come from NUTS, the sampler of PyMC and Stan: four
# chains that walk through the posterior. There one asks whether the chains agree (*R-hat* at most
# 1.01), how many independent draws they are worth in the middle and in the tails (*ESS*), and
# whether the sampler met places that it could not follow (*divergences*, *energy*).

# %%
chains = model.fit_bayes(engine="nuts", seed=1, progress=False)
chains.summary()[["median", "sd", "ess_bulk", "ess_tail", "r_hat"]].round(3)

# %%
ranks = az.plot_rank(chains.posterior, var_names=["scale"], figure_kwargs={"figsize": (9, 3.2)})

# %% [markdown]
# Each line is a chain: the ranks of its draws among those of all chains, less what they would be if
# all chains explored one distribution. Lines that cross each other without a pattern are good; a
# chain that stays on one side has seen another part of the posterior than the others.
#
# Two algorithms that have nothing in common but the model are the best check that there is. The
# difference of their medians in posterior SDs, and in Monte Carlo errors:

# %%
both = fit.diagnose(engines=True, progress=False)
assert (both.engines["in_mcse"].abs() < 4).all()
both.engines.round(2)

# %% [markdown]
# And this is what a failure looks like: too few draws, after too short a warm-up. The warning says
# what is wrong and what to do, and stays with the fit in every table that is made of it.

# %%
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    hasty = model.fit_bayes(engine="nuts", draws=200, tune=100, seed=3, progress=False)
assert any(issubclass(each.category, lsm.ConvergenceWarning) for each in caught)
assert not hasty.converged
for problem in hasty.problems:
    print(problem)

# %% [markdown]
# ## 2 · Could the model have made these data?
#
# Take a draw of the coefficients, let the model make 19 new effects with the same sampling
# variances, and do so 2000 times. Then compare what one would look at in a meta-analysis: Cochran's
# Q, the share of significant studies, the extreme effects, and whether the size of the standardised
# residuals goes with the standard errors (small-study effects) or with a moderator of the
# heterogeneity, which is how a wrong scale part would show itself.

# %%
check = found.check
check

# %%
plots.replicated(check)[0].figure

# %% [markdown]
# The line is what was observed, the bars what the model makes; where a quantity depends on the
# coefficients, the shade is what it is over the draws. `ppp` is the share of replications
# at or above the observed value. The observed correlation of residuals with the standard error is
# near the edge: small studies report larger effects here, which metafor's `regtest()` would look at
# too. These are not tests: the data are used twice, and with many checks some are near an edge.
#
# ## Leaving each study out
#
# The stricter question is whether the other studies predict this one. `loo` refits the model
# without each study in turn, exactly, which takes less than a second here. The probability that the
# prediction lies below what was found (LOO-PIT) is uniform if the model is right; too many near 0
# and 1 mean that the predictive distributions are too narrow, too many in the middle too wide.

# %%
plots.loo_pit(found.loo).figure

# %% [markdown]
# ## 3 · Does it hang on single studies?
#
# The same refits say how far each coefficient moves without a study, in posterior SDs. The
# counterpart in metafor is `influence()` with its DFBETAS, extended to the scale part.

# %%
plots.shifts(found).figure

# %% [markdown]
# No study moves anything by a posterior SD.
#
# ## Now break it
#
# The commonest error in a coding sheet is a sign. Turn round the one of Maxwell (1970), 0.80:

# %%
wrong = teachers.copy()
wrong.loc[wrong["author"] == "Maxwell", "yi"] *= -1
broken = location_scale(wrong).fit_bayes(seed=1)
again = broken.diagnose(progress=False)
print(again.verdict, "\n")
for finding in again.findings:
    if finding.status != "good":
        print(finding.sentence, "\n")

# %% [markdown]
# The draws are as good as before: the computation is right and the model is wrong. The others do
# not predict Maxwell, and without it the intercept of the scale part moves by more than a posterior
# SD; the model took the error for heterogeneity. The table of studies says where to look:

# %%
worst = again.studies["z"].abs().idxmax()
assert worst == "Maxwell"
again.studies.sort_values("z", key=abs, ascending=False).head(4).round(2)

# %%
columns = ["median", "ci_lb", "ci_ub"]
pd.concat(
    {"as published": fit.summary()[columns], "sign turned": broken.summary()[columns]}, axis=1
).round(3)

# %% [markdown]
# If a study is right and still far from the others, `study_effects="student_t"` makes a model that
# expects such studies; `04_beyond` has one.
#
# ## Which of two models predicts better?
#
# The sum over studies of the log predictive density (`elpd`) compares models, as AIC does for
# maximum likelihood, and its differences have a standard error. Does the amount of heterogeneity
# depend on weeks?

# %%
constant = lsm.LocationScaleModel(
    "yi ~ weeks", variance="vi", study="author", data=teachers
).fit_bayes(seed=1)
compared = compare_elpd(
    {"τ on weeks": fit.loo(progress=False), "one τ": constant.loo(progress=False)}
)
assert compared.to_dataframe()["elpd_diff"].abs().max() < 4
compared

# %% [markdown]
# 19 studies cannot tell. That is a result, too, and an ordinary one: the scale part needs many more
# studies than the location part does.
#
# The whole diagnosis as one page, from the command line:
#
# ```
# bayes-lsm diagnose models/raudenbush1985.toml -o diagnosis.html
# ```
