"""The PyMC model's density is the model's, by another route."""

import warnings

import numpy as np
import pandas as pd
import pymc as pm
import pytensor
import pytest
from arviz_stats.base import array_stats
from scipy.stats import beta as beta_distribution
from scipy.stats import ks_2samp, kstest

import bayes_lsm as lsm
from bayes_lsm.bayes.pointwise_likelihood import log_likelihood
from bayes_lsm.bayes.pymc_model.graph import build_pymc_model
from bayes_lsm.bayes.resolved_priors.resolve import resolve_priors
from bayes_lsm.bayes.term_draws import flat_coefficients, join_terms, split_terms, terms_of
from bayes_lsm.design.design import build_design
from bayes_lsm.errors import FitError, PriorError
from bayes_lsm.likelihood.blocks import blocks
from bayes_lsm.likelihood.blocks.arrange import arrange_design
from bayes_lsm.likelihood.blocks.correlation_matrices import (
    correlation_matrices,
    pair_correlations,
)
from bayes_lsm.priors import R2D2, HalfNormal, Horseshoe, Normal, Priors

# One term of rows
from .levels import as_dependent

PRIORS = {
    "standardised": Priors("weakly_informative"),
    "raw": Priors("slides"),
    "raw with half-normal": Priors("slides", scale={"intrcpt": HalfNormal(3)}),
    "mixed": Priors(location={"weeks": Normal(1, 2)}, scale={"continentOther": Normal(-1, 3)}),
}


@pytest.fixture(scope="module")
def design():
    spec = lsm.Specification("yi ~ continent + weeks", "vi", scale="~ continent + weeks")
    return lsm.build_design(spec, lsm.load_dataset("preterm_iq"))


def _values(model, location, scale, resolved):
    """The free variables at which the coefficients are these."""
    theta = {
        "location": resolved.location.contrasts @ location,
        "scale": resolved.scale.contrasts @ scale,
    }
    point = {}
    for variable in model.free_RVs:
        part, _, kind = variable.name.partition("_")
        if not kind:
            value = location if part == "location" else scale
        else:
            family = {"theta": Normal, "tau": HalfNormal}[kind]
            block = getattr(resolved, part)
            chosen = [isinstance(prior, family) for prior in block.priors]
            value = theta[part][chosen]
            value = np.exp(value / 2) if kind == "tau" else value
        transform = model.rvs_to_transforms[variable]
        name = model.rvs_to_values[variable].name
        inputs = variable.owner.inputs
        point[name] = value if transform is None else transform.forward(value, *inputs).eval()
    return point


@pytest.mark.parametrize("priors", PRIORS.values(), ids=PRIORS.keys())
def test_density_is_prior_times_likelihood(design, priors):
    model = build_pymc_model(design, priors)
    resolved = resolve_priors(design, priors)
    logp = model.compile_logp(jacobian=False)
    rng = np.random.default_rng(5)
    for _ in range(5):
        location = rng.normal([40, 0, -3, -1], 1)
        scale = rng.normal([2, 0, 0, 0], [1, 0.5, 0.5, 0.05])
        ours = log_likelihood(design, location, scale).sum()
        ours += resolved.location.logpdf(location).sum() + resolved.scale.logpdf(scale).sum()
        # PyMC's half-normal is a density of τ, ours of ln τ²: they differ by dτ/d ln τ² = τ/2.
        for theta, prior in zip(
            resolved.scale.contrasts @ scale, resolved.scale.priors, strict=True
        ):
            if isinstance(prior, HalfNormal):
                ours -= theta / 2 - np.log(2)
        # Both sum the same 45 terms in double precision.
        assert logp(_values(model, location, scale, resolved)) == pytest.approx(ours, abs=1e-8)


def test_sampling_coordinates_have_a_constant_jacobian(design):
    model = build_pymc_model(design, PRIORS["raw"])
    with_jacobian, without = (model.compile_logp(jacobian=j) for j in (True, False))
    rng = np.random.default_rng(3)
    start = model.initial_point()
    differences = []
    for _ in range(4):
        point = {name: rng.normal(size=value.shape) for name, value in start.items()}
        differences.append(with_jacobian(point) - without(point))
    _, R = np.linalg.qr(design.X)
    _, S = np.linalg.qr(design.Z)
    log_det = -np.log(np.abs(np.linalg.det(R))) - np.log(np.abs(np.linalg.det(S)))
    # logp itself is of the order of 1e4 at such points, so 1e-8 is its rounding.
    np.testing.assert_allclose(differences, log_det, atol=1e-8)


def test_only_the_observed_effect_is_as_long_as_the_data(design):
    model = build_pymc_model(design)
    assert [variable.name for variable in model.observed_RVs] == ["effect"]
    unobserved = model.free_RVs + model.deterministics
    assert all("study" not in model.named_vars_to_dims[each.name] for each in unobserved)
    assert model.named_vars_to_dims["location"] == ("location_term",)
    assert model.named_vars_to_dims["scale"] == ("scale_term",)
    assert model.coords["scale_term"] == design.scale.names


def test_the_model_can_be_extended_and_its_data_replaced(design):
    model = build_pymc_model(design)
    with model:
        pm.Deterministic("ratio", pm.math.exp(model["scale"][1] / 2))
        pm.set_data(
            {"y": [1.0, 2.0], "v": [1.0, 1.0], "X": np.ones((2, 4)), "Z": np.zeros((2, 4))},
            coords={"study": ["a", "b"]},
        )
    drawn = pm.draw(model["effect"], draws=3, random_seed=1)
    assert drawn.shape == (3, 2)
    assert "ratio" in model.named_vars


# Several scale terms

# Raw normal priors: the free variables are the coefficients themselves.
RAW = Priors("slides")
BERKEY = {
    "variance": "vi",
    "sampling_covariance": lsm.SamplingCovariance("trial", columns=["v1i", "v2i"]),
    "data": lsm.load_dataset("berkey1998"),
}


def _three_outcomes():
    """Groups of three correlated effects, some of them without rows."""
    rng = np.random.default_rng(1)
    data = (
        lsm.load_dataset("preterm_iq")
        .head(36)
        .assign(trial=np.repeat(np.arange(12), 3), outcome=np.tile(list("abc"), 12))
    )
    return data.iloc[np.sort(rng.permutation(36)[:30])]


MODELS = {
    "studies": lambda: lsm.LocationScaleModel(
        "yi ~ weeks",
        "~ weeks",
        variance="vi",
        data=lsm.load_dataset("preterm_iq").assign(weeks=lambda d: d["weeks"] - 30),
        priors=RAW,
    ),
    "nested": lambda: lsm.LocationScaleModel(
        "yi ~ 1",
        {"district": "~ 1", "district/school": "~ year"},
        variance="vi",
        data=lsm.load_dataset("konstantopoulos2011"),
        priors=RAW,
    ),
    "crossed": lambda: lsm.LocationScaleModel(
        "yi ~ 1",
        {"district": "~ 1", "year": "~ 1", "residual": "~ 1"},
        variance="vi",
        data=lsm.load_dataset("konstantopoulos2011"),
        priors=RAW,
    ),
    "unstructured": lambda: lsm.LocationScaleModel(
        "yi ~ 0 + outcome", {"outcome | trial": "~ 0 + outcome"}, priors=RAW, **BERKEY
    ),
    "with a residual": lambda: lsm.LocationScaleModel(
        "yi ~ 0 + outcome", {"trial": "~ 1", "residual": "~ 0 + outcome"}, priors=RAW, **BERKEY
    ),
    "three outcomes": lambda: lsm.LocationScaleModel(
        "yi ~ 0 + outcome",
        {"outcome | trial": "~ 0 + outcome"},
        variance="vi",
        data=_three_outcomes(),
        priors=RAW,
    ),
    "compound symmetric": lambda: lsm.LocationScaleModel(
        "yi ~ 0 + outcome",
        {"outcome | trial": "~ 1", "residual": "~ 1"},
        correlation={"outcome | trial": "compound_symmetric"},
        variance="vi",
        data=_three_outcomes(),
        priors=RAW,
    ),
    "individuals": lambda: lsm.LocationScaleModel(
        "iq ~ 0 + C(study) + atterm",
        {"1 + atterm | study": "~ 1", "residual": "~ group"},
        data=lsm.load_dataset("preterm_iq_ipd").query("study <= 6"),
        priors=RAW,
    ),
}


def _share(term, kappa):
    """The unknown of the graph, between 0 and 1, at which the correlations have these κ."""
    s = len(term.effects)
    if term.correlation == "compound_symmetric":
        rho = correlation_matrices(kappa[None], s, term.correlation)[0, 0, 1]
        least = -1 / (s - 1)
        return [(rho - least) / (1 - least)]
    return (1 + np.tanh(kappa)) / 2


@pytest.mark.parametrize("name", MODELS)
def test_the_density_is_that_of_the_compiled_likelihood(name):
    design = MODELS[name]().design
    model = build_pymc_model(design)
    data = arrange_design(design)
    density = model.compile_fn(model.logp(vars=[model["effect"]]), mode="FAST_COMPILE")
    rng = np.random.default_rng(2)
    start = np.linalg.lstsq(design.X, design.y, rcond=None)[0]
    for _ in range(3):
        beta = start + rng.normal(0, 0.2, len(start))
        pieces, scale, shares = [], [], []
        for term in design.terms:
            level = np.log(np.var(design.y - design.X @ start)) - 1
            alpha = rng.normal(0, 0.01, len(term.names))
            alpha[: max(1, len(term.effects))] += level
            if term.names[0] != "intrcpt":
                alpha[:] = level + rng.normal(0, 0.5, len(alpha))
            if term.names == ("intrcpt", "year"):
                alpha[0] -= level
                alpha[1] += level / 1996
            kappa = rng.normal(0, 0.4, term.n_correlations)
            pieces += [alpha, kappa]
            scale.append(alpha)
            shares.append(_share(term, kappa) if len(kappa) else [])
        alpha = np.concatenate(pieces)
        found = blocks.evaluate(alpha, data, method="ML")
        away = beta - found.beta
        expected = found.value - 0.5 * away @ np.linalg.solve(found.covariance, away)
        values = {"location": beta, "scale": np.concatenate(scale)}
        if sum(map(len, shares)):
            values["correlation_share"] = np.concatenate(shares)
        point = {}
        for variable in model.free_RVs:
            transform = model.rvs_to_transforms[variable]
            value = values[variable.name]
            if transform is not None:
                value = transform.forward(value, *variable.owner.inputs).eval()
            point[model.rvs_to_values[variable].name] = value
        assert float(density(point)) == pytest.approx(expected, rel=1e-10, abs=1e-8)


@pytest.mark.parametrize("kind", ["unstructured", "compound_symmetric"])
def test_kappa_of_the_graph_is_not_read_back_from_correlations_that_round(kind):
    """As far as the sampler may go: κ is half its coordinate, shifted where ρ is shared."""
    effects = np.tile(["a", "b", "c"], 8)
    data = pd.DataFrame({"trial": np.arange(24) // 3, "outcome": effects, "vi": 0.1, "yi": 0.0})
    design = lsm.LocationScaleModel(
        "yi ~ 0 + outcome", {"outcome | trial": "~ 1"}, variance="vi", data=data,
        correlation={"outcome | trial": kind},
    ).design  # fmt: skip
    model = build_pymc_model(design)
    value = model.rvs_to_values[model["correlation_share"]]
    wanted = model.replace_rvs_by_values([model["kappa"], model["correlation"]])
    evaluate = pytensor.function([value], wanted, on_unused_input="ignore")
    for size in (-60.0, -0.8, 0.0, 1.3, 60.0):
        logit = size + np.arange(design.terms[0].n_correlations)
        kappa, correlation = evaluate(logit)
        shift = np.log(2) if kind == "compound_symmetric" else 0.0
        np.testing.assert_allclose(kappa, (logit + shift) / 2, rtol=1e-14)
        exact = pair_correlations(kappa[None], 3, kind)[0]
        np.testing.assert_allclose(correlation, exact, atol=1e-14)


def test_draws_keep_kappa_where_correlations_are_one():
    design = lsm.LocationScaleModel.from_file("berkey1998").design
    kappa = np.linspace(-40.0, 40.0, 5)[:, None]
    alphas = np.hstack([np.zeros((5, 2)), kappa])
    draws = join_terms(np.zeros((5, 2)), terms_of(design, alphas))
    np.testing.assert_array_equal(draws.kappa[0], kappa)
    np.testing.assert_array_equal(draws.alpha_and_kappa(design)[0], alphas)
    np.testing.assert_array_equal(flat_coefficients(split_terms(design, draws)), alphas)
    np.testing.assert_allclose(draws.correlations(design)[0], np.tanh(kappa), rtol=1e-15)


def _mean_and_error(draws, chains):
    by_chain = draws.reshape(chains, -1)
    return draws.mean(), array_stats.mcse(by_chain, method="mean")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["konstantopoulos2011", "berkey1998"])
def test_both_engines_agree(name):
    model = lsm.LocationScaleModel.from_file(name)
    # A share near 0 or τ near 0 is a corner: small steps keep NUTS from diverging there.
    nuts = model.fit_bayes(engine="nuts", draws=8000, seed=1, target_accept=0.99, progress=False)
    exact = model.fit_bayes(engine="collapsed", draws=20_000, seed=2)
    assert nuts.converged
    ours, theirs = nuts.parts(), exact.parts()
    assert ours.keys() == theirs.keys()
    for part, (names, values) in ours.items():
        for j, term in enumerate(names):
            other = theirs[part][1][:, j]
            for power in (1, 2):  # means, then mean squares about the exact mean
                first = (values[:, j] - other.mean()) ** power
                second = (other - other.mean()) ** power
                mean, error = _mean_and_error(first, nuts.draws.chains)
                exact_error = second.std() / np.sqrt(exact.importance.ess)
                away = abs(mean - second.mean())
                assert away < 4 * np.hypot(error, exact_error), (part, term, power)


@pytest.mark.parametrize("eta", [1.0, 3.0])
def test_correlations_are_drawn_from_lkj(eta):
    """Every correlation of s effects is then Beta(b, b) on (−1, 1), b = η + (s − 2)/2."""
    design = MODELS["three outcomes"]().design
    model = build_pymc_model(design, Priors("slides", lkj=eta))
    drawn = pm.draw(model["correlation"], draws=3000, random_seed=4)
    assert list(model.coords["pair"])[-1] == "b, c"
    b = eta + 0.5
    for of_pair in drawn.T:
        assert kstest((1 + of_pair) / 2, beta_distribution(b, b).cdf).pvalue > 1e-3


def test_the_concentration_reaches_the_collapsed_engine():
    model = MODELS["unstructured"]()
    spread = [
        model.fit_bayes(prior=Priors("slides", lkj=eta), draws=1000, seed=5)
        .terms["outcome | trial"]
        .pairs[1]
        .std()
        for eta in (1.0, 20.0)
    ]
    assert spread[1] < 0.6 * spread[0]
    with pytest.raises(PriorError, match="no correlated effects"):
        MODELS["nested"]().fit_bayes(prior=Priors(lkj=2.0))


def test_latent_effects_are_refused():
    with pytest.raises(FitError, match="leave it out: true effects are integrated out"):
        MODELS["nested"]().fit_bayes(true_effects="latent")


SHRUNK = {
    "horseshoe": Priors(scale_shrinkage=Horseshoe(global_scale=0.3)),
    "r2d2": Priors(scale_shrinkage=R2D2(0.5)),
}


def _slopes_in_both():
    return lsm.LocationScaleModel(
        "yi ~ 1",
        {"district": "~ 1", "district/school": "~ year + I(year ** 2)"},
        variance="vi",
        data=lsm.load_dataset("konstantopoulos2011").assign(year=lambda d: (d["year"] - 1990) / 10),
    )


@pytest.mark.parametrize("prior", SHRUNK.values(), ids=SHRUNK)
def test_slopes_of_all_terms_share_a_shrinkage_prior(prior):
    """What PyMC draws from the prior is what the joint prior, integrated, draws."""
    model = _slopes_in_both()
    block = resolve_priors(model.design, prior).scale
    assert block.shrunk == [2, 3]
    ours = block.sample(4000, np.random.default_rng(1)) @ block.contrasts.T
    drawn = pm.draw(model.to_pymc(prior=prior)["scale"], draws=4000, random_seed=2)
    theirs = drawn @ block.contrasts.T
    for j in range(4):
        assert ks_2samp(ours[:, j], theirs[:, j]).pvalue > 1e-3
    sizes = [np.abs(each[:, 2:]).max(axis=1) for each in (ours, theirs)]
    assert ks_2samp(*sizes).pvalue > 1e-3
    with pytest.raises(FitError, match="no shrinkage prior on the scale part"):
        model.fit_bayes(prior=prior, engine="collapsed")


@pytest.mark.slow
def test_a_shrinkage_prior_gives_what_it_gives_with_one_term():
    """Groups that are the studies: the same model by two paths."""
    data = lsm.load_dataset("preterm_iq").assign(z=np.tile([-1.0, 0.0, 1.0], 13)[:37])
    prior = Priors(scale_shrinkage=Horseshoe(global_scale=0.3))
    one = lsm.LocationScaleModel("yi ~ 1", "~ weeks + z", variance="vi", data=data, priors=prior)
    words = lsm.Specification("yi ~ 1", "vi", scale={"study": "~ weeks + z"}, priors=prior)
    options = {"draws": 4000, "seed": 1, "target_accept": 0.99, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lsm.ConvergenceWarning)  # a few divergences
        first = one.fit_bayes(**options)
        second = lsm.bayes.fit_bayes(as_dependent(build_design(words, data)), **options)
    a, b = first.summary(), second.summary()
    error = np.hypot(a["mcse_median"].to_numpy(), b["mcse_median"].to_numpy())
    assert (np.abs(a["median"].to_numpy() - b["median"].to_numpy()) < 4 * error).all()
    sd = a["mad"].to_numpy()
    assert (np.abs(np.log(sd / b["mad"].to_numpy())) < 0.15).all()


def test_new_effects_have_the_moments_of_the_model():
    design = MODELS["with a residual"]().design
    model = build_pymc_model(design)
    values = {"location": [0.1, -0.2], "scale": [-2.0, -3.0, -1.0]}
    fixed = pm.do(model, values)
    drawn = pm.draw(fixed["effect"], draws=4000, random_seed=3)
    trial, level = (term.index for term in design.terms)
    tau2 = np.exp(-2.0) * np.equal.outer(trial, trial)
    tau2 += np.diag(np.exp(np.where(design.X[:, 0] == 1, -3.0, -1.0)))
    V = np.diag(design.v)
    for block in design.blocks:
        V[np.ix_(block.rows, block.rows)] = block.covariance
    expected = V + tau2
    # The standard error of a covariance of n draws is at most √(2/n) times the variances.
    error = np.sqrt(2 / 4000) * expected.max()
    np.testing.assert_allclose(np.cov(drawn.T), expected, atol=5 * error)
    assert len(level) == 10
