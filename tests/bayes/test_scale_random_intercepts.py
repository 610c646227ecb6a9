"""Random intercepts of ln τ²: the words, the density, quadrature, and simulation."""

import numpy as np
import pandas as pd
import pytest
from arviz_stats.base import array_stats
from scipy.stats import halfnorm, norm

import bayes_lsm as lsm
from bayes_lsm.bayes import fit_bayes
from bayes_lsm.bayes.pymc_model.graph import build_pymc_model
from bayes_lsm.errors import DataError, FitError, FormulaError, PriorError, SpecificationError
from bayes_lsm.formulas.random_intercepts import split_random_intercepts
from bayes_lsm.priors import HalfNormal, HalfStudentT, Normal, Priors


def simulated(*, countries, studies, sd, slope=0.5, seed=1):
    rng = np.random.default_rng(seed)
    country = np.repeat(np.arange(countries), studies)
    x = rng.normal(size=len(country))
    log_tau2 = -1.0 + slope * x + rng.normal(0, sd, countries)[country]
    vi = rng.uniform(0.02, 0.08, len(country))
    yi = 0.3 + rng.normal(0, np.sqrt(vi + np.exp(log_tau2)))
    names = np.array([f"country {j:02d}" for j in range(countries)])
    return pd.DataFrame({"yi": yi, "vi": vi, "x": x, "country": names[country]})


def model_of(data, scale="~ x + (1 | country)", **options):
    return lsm.LocationScaleModel("yi ~ 1", scale, variance="vi", data=data, **options)


SMALL = simulated(countries=4, studies=6, sd=1.0, seed=3)


@pytest.mark.parametrize(
    ("formula", "fixed", "columns"),
    [
        ("~ weeks", "~ weeks", ()),
        ("~ (1 | a) + weeks + (1 | b)", "~ weeks", ("a", "b")),
        ("~ 0 + C(group) + (1|`my country`)", "~ 0 + C(group)", ("my country",)),
        ("~ I((a > 1) | (b > 1)) + (1 | c)", "~ I((a > 1) | (b > 1))", ("c",)),
    ],
)
def test_random_intercepts_are_read_apart(formula, fixed, columns):
    assert split_random_intercepts(formula) == (fixed, columns)


@pytest.mark.parametrize("formula", ["~ (x | a)", "~ 1 + (1 + x | a)", "~ (1 | a/b)", "~ (1 | )"])
def test_other_random_effects_are_refused(formula):
    with pytest.raises(FormulaError, match=r"only intercepts, '\(1 \| column\)'"):
        split_random_intercepts(formula)


def test_a_model_file_keeps_them_with_their_priors():
    words = lsm.Specification(
        "yi ~ 1",
        "vi",
        scale={"study": "~ weeks + (1|country)"},
        priors=Priors(scale_sd=HalfStudentT(4, 0.5), lkj=2.0),
    )
    assert words.scale == {"study": "~ weeks + (1 | country)"}
    assert lsm.Specification.from_toml(words.to_toml()) == words
    said = "correlations ~ LKJ(2), SDs of random intercepts of ln τ² ~ HalfStudentT(4, 0.5)"
    assert words.priors.describe().endswith(said)
    with pytest.raises(PriorError, match="leave 'on' out"):
        Priors(scale_sd=HalfNormal(1, on="tau2"))
    with pytest.raises(SpecificationError, match=r"scale=\{'country': '~ 1', ...\}"):
        lsm.Specification("yi ~ 1 + (1 | country)", "vi")


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(DataError, match="one level in each group, got several in"):
        model_of(
            SMALL.assign(study=[0, 1] * 12), {"study": "~ 1 + (1 | country)", "residual": "~ 1"}
        )
    with pytest.raises(DataError, match=r"as many levels as there are groups \(24\)"):
        model_of(SMALL.assign(country=range(24)))
    with pytest.raises(DataError, match="has one level"):
        model_of(SMALL.assign(country="Norway"))


def test_only_nuts_takes_them():
    model = model_of(SMALL)
    with pytest.raises(FitError, match="use fit_bayes"):
        model.fit_reml()
    with pytest.raises(FitError, match="use fit_bayes with engine='nuts'"):
        model.fit_bayes(engine="collapsed")
    with pytest.raises(PriorError, match="no correlated effects"):
        model.to_pymc(prior=Priors(lkj=2.0))
    plain = model_of(SMALL, "~ x")
    with pytest.raises(PriorError, match="no scale formula of the model has random intercepts"):
        plain.fit_bayes(prior=Priors(scale_sd=HalfNormal(1)))


def test_the_density_given_the_intercepts():
    """One variance a row: a product of normal densities, and the priors' besides."""
    design = model_of(SMALL, priors=Priors("slides")).design
    model = build_pymc_model(design)
    density = model.compile_fn(model.logp(jacobian=False), mode="FAST_COMPILE")
    codes, levels = pd.factorize(SMALL["country"], sort=True)
    rng = np.random.default_rng(4)
    for _ in range(3):
        beta, alpha, sd, u = (
            rng.normal(),
            rng.normal(size=2),
            rng.uniform(0.2, 2),
            rng.normal(size=4),
        )
        tau2 = np.exp(alpha[0] + alpha[1] * SMALL["x"] + sd * u[codes])
        expected = norm.logpdf(SMALL["yi"], beta, np.sqrt(SMALL["vi"] + tau2)).sum()
        expected += norm.logpdf(beta, 0, 100) + norm.logpdf(alpha, 0, 7).sum()
        expected += halfnorm.logpdf(sd) + norm.logpdf(u).sum()
        values = {"location": [beta], "scale": alpha, "scale_sd": [sd], "scale_effect_standard": u}
        point = {}
        for variable in model.free_RVs:
            transform = model.rvs_to_transforms[variable]
            value = values[variable.name]
            if transform is not None:
                value = transform.forward(value, *variable.owner.inputs).eval()
            point[model.rvs_to_values[variable].name] = value
        assert float(density(point)) == pytest.approx(expected, rel=1e-10)
    assert next(iter(model.coords["scale_level"])) == f"country[{levels[0]}]"


def _grid(data):
    """ln p(y | β, α, ω) + priors on a grid, the intercepts integrated out by quadrature."""
    node, weight = np.polynomial.hermite_e.hermegauss(41)
    beta, alpha, sd = (
        np.linspace(-1.2, 2.2, 61),
        np.linspace(-5, 4, 61),
        np.linspace(0, 4.5, 61)[1:],
    )
    total = norm.logpdf(beta, 0, 1)[:, None, None] + norm.logpdf(alpha, -1, 1)[:, None]
    total = total + halfnorm.logpdf(sd)
    for _, rows in data.groupby("country"):
        y, v = rows["yi"].to_numpy(), rows["vi"].to_numpy()
        tau2 = np.exp(alpha[:, None, None] + sd[:, None] * node)  # (α, ω, node)
        log_p = np.zeros((len(beta), *tau2.shape))
        for one_y, one_v in zip(y, v, strict=True):
            N = one_v + tau2
            log_p += -0.5 * (np.log(N) + (one_y - beta[:, None, None, None]) ** 2 / N)
        total = total + np.log(np.exp(log_p) @ (weight / weight.sum()))
    p = np.exp(total - total.max())
    p /= p.sum()
    for axes, values in (((1, 2), beta), ((0, 2), alpha), ((0, 1), sd)):
        marginal = p.sum(axis=axes)
        mean = marginal @ values
        yield mean, np.sqrt(marginal @ (values - mean) ** 2)


@pytest.mark.slow
def test_the_posterior_is_that_of_quadrature():
    priors = Priors(location={"*": Normal(0, 1)}, scale={"*": Normal(-1, 1)})
    fit = model_of(SMALL, "~ 1 + (1 | country)", priors=priors).fit_bayes(
        draws=12_000, seed=5, target_accept=0.99, progress=False
    )
    assert fit.importance is None
    (random,) = fit.terms["residual"].random
    drawn = [fit.draws.flat_location[:, 0], fit.terms["residual"].alpha[:, 0], random.sd]
    for values, (mean, sd) in zip(drawn, _grid(SMALL), strict=True):
        chains = values.reshape(fit.draws.chains, -1)
        assert abs(values.mean() - mean) < 4 * array_stats.mcse(chains, method="mean")
        # The grid's own error, a step of a fifteenth of an SD, is far below this.
        assert abs(values.std() - sd) < 4 * array_stats.mcse(chains, method="sd") + 0.002


@pytest.mark.slow
def test_a_known_sd_and_slope_are_recovered():
    data = simulated(countries=40, studies=12, sd=0.8, slope=0.5)
    fit = fit_bayes(model_of(data).design, seed=6, progress=False)
    summary = fit.summary()
    for place, truth in (
        (("scale", "x"), 0.5),
        (("scale", "intrcpt"), -1.0),
        (("scale_sd", "country"), 0.8),
        (("location", "intrcpt"), 0.3),
    ):
        row = summary.loc[place]
        assert abs(row["mean"] - truth) < 3 * row["sd"]
        assert row["sd"] < 0.25
    (random,) = fit.terms["residual"].random
    truth = np.random.default_rng(1)
    truth.normal(size=480)
    effects = truth.normal(0, 0.8, 40)
    assert np.corrcoef(random.effect.mean(axis=0), effects)[0, 1] > 0.7
    assert fit.posterior["posterior"]["scale_effect"].shape == (4, 1000, 40)
    assert fit.posterior["posterior"]["scale_sd"].dims == ("chain", "draw", "scale_random")
    assert "Random intercepts of ln τ²: country" in str(fit)
    assert any("SDs of random intercepts of ln τ² ~ HalfNormal(1)" in note for note in fit.notes)
