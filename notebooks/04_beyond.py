# %% [markdown]
# # Beyond one effect a study
#
# Schools in districts, two outcomes of one trial, the children themselves, an outlier, a question
# about a new study, more moderators than one can trust, and a piece of evidence that fits into no
# formula. All of it is one equation:
#
# $$y \sim N\Big(X\beta,\; V + \sum_l A_l\, \mathrm{diag}(e^{Z_l \alpha_l})\, A_l'\Big)$$
#
# Each scale term $l$ is a grouping, and each has a formula for the logarithm of its variance. If
# you know metafor, `random = ~ 1 | district/school` is two such terms whose formulas are `~ 1`.
# What is new is that they need not be.
#
# The sections stand on their own; read the one you need.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pymc as pm

import bayes_lsm as lsm
from bayes_lsm import LocationScaleModel

# %% [markdown]
# ## Three levels
#
# 56 schools in 11 districts, with and without a long summer break (Konstantopoulos 2011). In
# metafor
#
# ```r
# rma.mv(yi, vi, random = ~ 1 | district/school, data = dat.konstantopoulos2011)
# ```
#
# A nested grouping is written as there, and every level gets its own formula:

# %%
schools = lsm.load_dataset("konstantopoulos2011")
constant = LocationScaleModel(
    "yi ~ 1", {"district": "~ 1", "district/school": "~ 1"}, variance="vi", data=schools
).fit_reml()
constant.heterogeneity()

# %% [markdown]
# Two thirds of the heterogeneity lie between districts. Now a question that has no place in
# `rma.mv`, whose variances take no numeric moderator: do schools within a district differ more in
# later studies?

# %%
by_year = LocationScaleModel(
    "yi ~ 1",
    {"district": "~ 1", "district/school": "~ I((year - 1990) / 10)"},
    variance="vi",
    data=schools,
)
reml = by_year.fit_reml()
bayes = by_year.fit_bayes(seed=1)
lsm.compare(reml, bayes)

# %% [markdown]
# Per decade the variance between schools grows by the factor $e^{0.8}$, so τ by half; the
# likelihood ratio against the constant model (both by REML, same location part) says how sure that
# is:

# %%
lsm.likelihood_ratio_test(reml, constant)

# %% [markdown]
# How far each district is from the mean (`group_effects`). Two are clearly above it, one below:

# %%
districts = reml.group_effects().to_dataframe().loc["district"].sort_values("estimate")
figure, ax = plt.subplots(figsize=(5, 3))
ax.axvline(0, color="0.6", linestyle="dotted")
ax.hlines(range(11), districts["pi_lb"], districts["pi_ub"], color="#0072b2")
ax.plot(districts["estimate"], range(11), "o", color="#0072b2")
ax.set_yticks(range(11), districts.index.get_level_values("group"))
ax.set(ylabel="district", xlabel="deviation from the mean (SMD), 95% prediction interval")
ax.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# ## Several effects of one study, errors correlated
#
# 100 effects of 17 studies on recidivism (Assink & Wibbelink 2016). The sampling errors of one
# study are correlated, and nobody reports by how much. In metafor one would build a matrix with
# `vcalc(vi, cluster = study, obs = esid, rho = 0.6)`; here the correlation is part of the model,
# and it is easily seen whether the guess matters:

# %%
recidivism = lsm.load_dataset("assink2016")
rows = {}
for rho in (0.0, 0.3, 0.6, 0.9):
    fit = LocationScaleModel(
        "yi ~ 1",
        {"study": "~ 1", "id": "~ 1"},
        variance="vi",
        sampling_covariance=lsm.SamplingCovariance("study", rho=rho),
        data=recidivism,
    ).fit_reml()
    mean = fit.location.loc["intrcpt"]
    rows[rho] = {
        "mean": mean["estimate"],
        "se": mean["se"],
        "τ between studies": fit.components.loc["study", "tau"],
        "τ within studies": fit.components.loc["id", "tau"],
    }
pd.DataFrame(rows).T.rename_axis("ρ").round(3)

# %% [markdown]
# The mean moves by less than a standard error. What moves more is where the heterogeneity is said
# to lie: errors that are shared explain some of what the effects of one study have in common.
#
# ## Two outcomes
#
# Probing depth and attachment level in five trials of periodontal treatments (Berkey et al. 1998),
# with the sampling covariances that the trials report. metafor's `random = ~ outcome | trial,
# struct = "UN"` is one scale term with two variances and a correlation:

# %%
trials = lsm.load_dataset("berkey1998")
two_outcomes = LocationScaleModel(
    "yi ~ 0 + outcome",
    {"outcome | trial": "~ 0 + outcome"},
    variance="vi",
    sampling_covariance=lsm.SamplingCovariance("trial", columns=["v1i", "v2i"]),
    data=trials,
)
lsm.compare(two_outcomes.fit_reml(), two_outcomes.fit_bayes(seed=1))

# %% [markdown]
# Five trials say little about a correlation of true effects. REML has 0.61, with an interval from
# −0.64 to 0.97; the posterior, mostly prior there, is as wide.
#
# ## Individual data: one stage is two stages
#
# The talk's claim (slides 4 to 9), now for the scale part. First the plain model, with one residual
# variance, one for each group, and one for every arm of every study, beside the two-stage analysis
# of the summaries. (The scores are made up to match the summaries, and 29 of the 37 studies are
# reconstructions.)

# %%
studies = lsm.load_dataset("preterm_iq")
children = lsm.load_dataset("preterm_iq_ipd").merge(studies[["study", "weeks"]])

rows = {}
for name, residual in {
    "one stage, one residual variance": "~ 1",
    "one stage, one for each group": "~ group",
    "one stage, one for each arm": "~ 0 + C(study):group",
}.items():
    fit = LocationScaleModel(
        "iq ~ 0 + C(study) + atterm",
        {"0 + atterm | study": "~ 1", "residual": residual},
        data=children,
    ).fit_reml()
    rows[name] = {
        **fit.location.loc["atterm", ["estimate", "se"]],
        "τ": fit.components.loc["0 + atterm | study", "tau"],
        "coefficients": fit.n_parameters,
    }
summaries = LocationScaleModel("yi ~ 1", variance="vi", data=studies).fit_reml()
rows["two stages"] = {
    **summaries.location.loc["intrcpt", ["estimate", "se"]],
    "τ": summaries.heterogeneity().tau,
    "coefficients": summaries.n_parameters,
}
pd.DataFrame(rows).T.round(3).astype({"coefficients": int})

# %% [markdown]
# The third row and the last are the same analysis: in two stages the 74 variances are estimated
# first and then believed. Now let both the effect and its variance depend on the weeks of
# gestation, in one stage and in two:

# %%
one_stage = LocationScaleModel(
    "iq ~ 0 + C(study) + atterm + atterm:I(weeks - 40)",
    {"0 + atterm | study": "~ I(weeks - 40)", "residual": "~ 0 + C(study):group"},
    data=children,
).fit_reml()
two_stages = LocationScaleModel.from_file("preterm_weeks").fit_reml()
pd.DataFrame(
    {
        "one stage": [
            *one_stage.location["estimate"].tail(2),
            *one_stage.scale.loc["0 + atterm | study", "estimate"],
        ],
        "two stages": [*two_stages.location["estimate"], *two_stages.scale["estimate"]],
        "se, two stages": [*two_stages.location["se"], *two_stages.scale["se"]],
    },
    index=["β intercept", "β weeks", "α intercept", "α weeks"],
).round(3)

# %% [markdown]
# ## A study that does not belong
#
# Writing-to-learn interventions (Bangert-Drowns et al. 2004, 48 studies), and a slip of the
# keyboard: one effect of 0.59 becomes 5.9. Student-t study effects (`study_effects="student_t"`)
# leave room for a study like that.

# %%
writing = lsm.load_dataset("bangertdrowns2004")
slip = writing.index[(writing["author"] == "Millican") & (writing["year"] == 1994)]
spoilt = writing.copy()
spoilt.loc[slip, "yi"] *= 10
spoilt.loc[slip, ["id", "author", "ni", "yi", "vi"]]

# %%
rows, fits = {}, {}
for name, data in {"as published": writing, "with the slip": spoilt}.items():
    for effects in ("normal", "student_t"):
        fit = LocationScaleModel(
            "yi ~ 1", variance="vi", data=data, study="id", study_effects=effects
        ).fit_bayes(seed=1)
        fits[name, effects] = fit
        rows[name, effects] = {
            "mean": fit.location.loc["intrcpt", "median"],
            "sd": fit.location.loc["intrcpt", "sd"],
            "τ": np.exp(fit.scale.loc["intrcpt", "median"] / 2),
        }
pd.DataFrame(rows).T.round(3)

# %% [markdown]
# One wrong number in 48 moves the normal model's mean by more than half and makes its τ four times
# as large. The t model's mean moves by 0.04, because that study gets next to no weight. (τ is there
# the scale of a t. Its tails are now so heavy that the SD may be infinite.)

# %%
weights = fits["with the slip", "student_t"].study_weights().to_dataframe()
weights.sort_values("weight").head(3).round(3)

# %% [markdown]
# ## Questions about effects
#
# Do larger studies show smaller effects, and do they agree better? The same data, without the slip,
# and the number of students in both parts:

# %%
model = LocationScaleModel(
    "yi ~ I(ni / 100)", scale="~ I(ni / 100)", variance="vi", data=writing, study="id"
)
posterior = model.fit_bayes(seed=1)
posterior

# %% [markdown]
# A coefficient of ln τ² answers few questions. A posterior answers the others directly. What will
# the next study find, if it has 50 students, or 400?

# %%
new_studies = pd.DataFrame({"ni": [50, 400]}, index=["50 students", "400 students"])
posterior.predict(new_studies)

# %% [markdown]
# With what probability is the mean effect of such studies above 0, and with what probability the
# effect of one of them? The second is the one that a school would ask about.

# %%
posterior.probability(0, new_studies)

# %%
lsm.plots.new_effect(posterior, new_studies, xlab="standardised mean difference").figure

# %% [markdown]
# By what factor does τ change for 100 more students, and what do the data say about there being no
# change at all (a Bayes factor, by two routes that check each other)?

# %%
lsm.tau_steps(posterior, measure="tau")

# %%
posterior.savage_dickey("I(ni / 100)")

# %% [markdown]
# ## More moderators than one can trust
#
# Which of four terms belong, two for the mean and two for τ? `average` fits all sixteen models,
# each with its marginal likelihood, and weighs them by it. `incl` is the probability that a
# coefficient is not zero. The idea is that of RoBMA; here the models differ in their moderators of
# the mean and of the heterogeneity.

# %%
complete = writing.dropna(subset=["length"])
average = LocationScaleModel(
    "yi ~ I(ni / 100) + length",
    scale="~ I(ni / 100) + length",
    variance="vi",
    data=complete,
    study="id",
).average(seed=1, progress=False)
average

# %% [markdown]
# Predictions of the average carry the uncertainty about the model as well:

# %%
average.predict(pd.DataFrame({"ni": [50, 400], "length": [15, 15]}, index=new_studies.index))

# %% [markdown]
# ## One more line: the model as a `pymc.Model`
#
# PyMC is to Python what Stan and JAGS are to R. You need it when a piece of knowledge fits into no
# formula. An example: BCG vaccination against tuberculosis, 13 trials, latitude in both parts.
# Suppose the register of a country at 33° gives the mean log risk ratio there as −1.0 with standard
# error 0.1. That is evidence about the mean itself, `location[0]`, and not one more trial that
# varies around it.
#
# `to_pymc` gives an ordinary `pymc.Model`, whose coefficient vectors are named `location` and
# `scale`. Everything in PyMC can be added to it:

# %%
vaccine = LocationScaleModel(
    "yi ~ I(ablat - 33)",
    scale="~ I(ablat - 33)",
    variance="vi",
    data=lsm.load_dataset("bcg"),
)
extended = vaccine.to_pymc()
with extended:
    pm.Normal("register", mu=extended["location"][0], sigma=0.1, observed=-1.0)
    draws = pm.sample(1000, tune=1000, chains=2, random_seed=1, progressbar=False, quiet=True)

# %% [markdown]
# `draws` is an ArviZ DataTree, as `fit.posterior` of any Bayesian fit here. Before and after:

# %%
before = vaccine.fit_bayes(seed=1).location[["median", "sd"]]
location = draws["posterior"]["location"]
after = pd.DataFrame(
    {"median": location.median(["chain", "draw"]), "sd": location.std(["chain", "draw"])},
    index=before.index,
)
pd.concat({"before": before, "after": after}, axis=1).round(3)

# %% [markdown]
# The pull towards −1.0 is what two normal pieces of evidence would give by hand, each weighted by
# its precision:

# %%
mean, sd = before.loc["intrcpt"]
weights = np.array([1 / sd**2, 1 / 0.1**2])
by_hand = [weights @ [mean, -1.0] / weights.sum(), weights.sum() ** -0.5]
assert abs(after.loc["intrcpt", "median"] - by_hand[0]) < 0.03  # the posterior is not quite normal
pd.DataFrame({"by hand": by_hand, "sampled": after.loc["intrcpt"]}).round(3)

# %% [markdown]
# Where to look next: `01_slides_walkthrough` for the talk that this package follows, and
# `model.to_pymc(true_effects="latent")` where the studies' own true effects are wanted as unknowns
# of the model.
