"""Predictions: against a grid posterior, closed forms, REML with many studies, root finding."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import norm

import bayes_lsm as lsm
from bayes_lsm.bayes import new_effects, predict, predict_tau, probability
from bayes_lsm.bayes.summaries.normal_mixture import quantiles
from bayes_lsm.priors import Normal, Priors

from .fits import bcg, binomial_error, made_by_hand, many_studies
from .levels import at_reml, bayes_of, dense_model, dense_posterior, reml_at, reml_of


def mixtures():
    rng = np.random.default_rng(1)
    size = 400
    return {
        "nearly normal": (rng.normal(0, 0.1, size), rng.uniform(0.9, 1.1, size)),
        "two humps": (np.repeat([-3.0, 5.0], size // 2), np.full(size, 0.3)),
        "half-flat": (rng.normal(2, 0.4, size), np.exp(rng.normal(-6, 8, size))),
        "heavy": (rng.normal(0, 1, size), np.exp(rng.normal(3, 20, size))),
        "one": (np.array([4.0]), np.array([0.5])),
        "far from zero": (1e6 + rng.normal(0, 1e-3, size), np.full(size, 1e-4)),
    }


@pytest.mark.parametrize("name", mixtures())
def test_quantiles_solve_the_distribution_function(name):
    centre, sd = mixtures()[name]
    probabilities = np.array([0.5, 0.025, 0.975, 0.2])
    found = quantiles(norm.ppf(probabilities), probabilities, centre[None], sd[None])[0]
    for p, x in zip(probabilities, found, strict=True):
        ends = centre + norm.ppf(p) * sd
        if np.ptp(ends) == 0:
            exact = ends[0]
        else:
            exact = brentq(
                lambda x, p=p: norm.cdf(x, centre, sd).mean() - p,
                ends.min(),
                ends.max(),
                xtol=1e-14,
            )
        # Steps stop when the next one would be below a millionth of a component's SD, or when the
        # bracket is narrower than 1e-9, relatively.
        unit = max(sd.min(), np.abs(centre - np.median(centre)).mean())
        assert x == pytest.approx(exact, abs=1e-6 * unit, rel=1e-9), p


def test_quantiles_of_points_are_those_of_the_centres():
    centre = np.arange(1001.0)
    found = quantiles(np.array([0.0]), np.array([0.5]), centre[None], np.zeros((1, 1001)))
    assert found[0, 0] == pytest.approx(500, abs=1e-6 * 250)
    same = quantiles(np.array([1.96]), np.array([0.975]), np.full((1, 9), 2.0), np.zeros((1, 9)))
    assert same[0, 0] == 2.0


def test_a_new_study_agrees_with_the_grid():
    fit, grid = bcg()
    tau = np.exp(grid.log_tau2 / 2)
    row = fit.predict(variance=0.3, level=0.9).table.iloc[0]
    for name, sd in (("pi", tau), ("obs", np.sqrt(tau**2 + 0.3))):
        for bound, p in (("lb", 0.05), ("ub", 0.95)):
            exact = grid.below(row[f"{name}_{bound}"], grid.mu, sd)
            # Counting draws would err by one such error; the mixture errs by less.
            assert exact == pytest.approx(p, abs=4 * binomial_error(p, fit)), (name, bound)
    for name, p in (("ci_lb", 0.05), ("estimate", 0.5), ("ci_ub", 0.95)):
        # Half a cell on either side of the bound belongs to it.
        step = grid.mu[1, 0] - grid.mu[0, 0]
        exact = grid.mean(np.clip((row[name] - grid.mu) / step + 0.5, 0, 1))
        assert exact == pytest.approx(p, abs=4 * binomial_error(p, fit)), name
    for name, p in (("tau_ci_lb", 0.05), ("tau", 0.5), ("tau_ci_ub", 0.95)):
        step = grid.log_tau2[0, 1] - grid.log_tau2[0, 0]
        exact = grid.mean(np.clip((2 * np.log(row[name]) - grid.log_tau2) / step + 0.5, 0, 1))
        assert exact == pytest.approx(p, abs=4 * binomial_error(p, fit)), name


def test_probabilities_agree_with_the_grid():
    fit, grid = bcg()
    for threshold in (-1.2, -0.4, 0.0):
        row = fit.probability(threshold).table.iloc[0]
        exact = 1 - grid.below(threshold, grid.mu, np.exp(grid.log_tau2 / 2))
        assert row["new_effect"] == pytest.approx(exact, abs=4 * row["new_effect_mcse"])
        assert row["new_effect_mcse"] < binomial_error(exact, fit)
        step = grid.mu[1, 0] - grid.mu[0, 0]
        exact = grid.mean(np.clip((grid.mu - threshold) / step + 0.5, 0, 1))
        error = binomial_error(exact, fit)
        assert row["mean_effect"] == pytest.approx(exact, abs=4 * error)
        assert row["mean_effect_mcse"] == pytest.approx(error, rel=0.2, abs=2e-4)


def test_above_and_below_add_up():
    fit, _ = bcg()
    above, below = (fit.probability(-0.5, direction=side) for side in ("above", "below"))
    for name in ("mean_effect", "new_effect", "true_effect"):
        np.testing.assert_allclose(above.table[name] + below.table[name], 1, atol=1e-12)
    assert "effect > -0.5" in above.title
    assert "effect < -0.5" in below.title


@pytest.fixture(scope="module")
def known_tau():
    """τ² = 0.3 by its prior, so that everything is a normal of known mean and variance."""
    priors = Priors("slides", scale={"intrcpt": Normal(float(np.log(0.3)), 1e-4)})
    model = lsm.LocationScaleModel(
        "yi ~ ablat", variance="vi", data=lsm.load_dataset("bcg"), priors=priors
    )
    fit = model.fit_bayes(engine="collapsed", draws=20_000, seed=2)
    X, w = model.design.X, 1 / (model.design.v + 0.3)
    covariance = np.linalg.inv(X.T @ (w[:, None] * X) + np.eye(2) / 100**2)
    return fit, covariance @ (X.T @ (w * model.design.y)), covariance


def test_with_known_tau_predictions_are_normal(known_tau):
    fit, beta, covariance = known_tau
    x = np.array([1.0, 30.0])
    mean, variance = x @ beta, x @ covariance @ x
    row = fit.predict(pd.DataFrame({"ablat": [30]}), variance=0.2).table.iloc[0]
    ess = fit.draws.importance.ess
    for name, total in (("ci", variance), ("pi", variance + 0.3), ("obs", variance + 0.5)):
        half = norm.ppf(0.975) * np.sqrt(total)
        # The error of a normal's 2.5% quantile among so many draws is 2.7 SDs / √ess.
        error = 4 * 2.7 * np.sqrt(total / ess)
        assert row[f"{name}_lb"] == pytest.approx(mean - half, abs=error)
        assert row[f"{name}_ub"] == pytest.approx(mean + half, abs=error)
    assert row["estimate"] == pytest.approx(mean, abs=4 * 1.3 * np.sqrt(variance / ess))
    assert row["sd"] == pytest.approx(np.sqrt(variance), rel=4 / np.sqrt(2 * ess))
    assert row["tau2"] == pytest.approx(0.3, rel=1e-3)
    exact = norm.sf(-0.5, mean, np.sqrt(variance + 0.3))
    found = fit.probability(-0.5, pd.DataFrame({"ablat": [30]})).table.iloc[0]
    assert found["new_effect"] == pytest.approx(exact, abs=4 * found["new_effect_mcse"])


def test_with_many_studies_predictions_are_those_of_reml():
    bayes, reml = many_studies()
    new = pd.DataFrame({"x": [-1.0, 0.0, 1.5], "g": ["a", "b", "b"]})
    ours, theirs = bayes.predict(new).table, reml.predict(new).table
    # Both posteriors are normal here: half a standard error is far above either's error.
    for name in ("estimate", "ci_lb", "ci_ub"):
        assert (np.abs(ours[name] - theirs[name]) < 0.5 * theirs["se"]).all()
    np.testing.assert_allclose(ours["sd"], theirs["se"], rtol=0.1)
    width = theirs["tau_ci_ub"] - theirs["tau_ci_lb"]
    for name in ("tau", "tau_ci_lb", "tau_ci_ub"):
        assert (np.abs(ours[name] - theirs[name]) < 0.15 * width).all()
    for name in ("pi_lb", "pi_ub"):
        assert (np.abs(ours[name] - theirs[name]) < 0.02 * theirs["tau"]).all()


def test_new_effects_are_drawn_from_what_is_predicted():
    fit, _ = bcg()
    new = pd.DataFrame({"dummy": [1, 2]})
    drawn = new_effects(fit, new, variance=[0.1, 2.0], seed=3)
    assert drawn.shape == (4, 5000, 2)
    flat = drawn.reshape(-1, 2)
    table = predict(fit, new, variance=[0.1, 2.0]).table
    inside = (flat > table["obs_lb"].to_numpy()) & (flat < table["obs_ub"].to_numpy())
    np.testing.assert_allclose(inside.mean(axis=0), 0.95, atol=4 * binomial_error(0.95, fit))
    np.testing.assert_array_equal(drawn, new_effects(fit, new, variance=[0.1, 2.0], seed=3))
    np.testing.assert_array_equal(new_effects(fit, new), fit.new_effects(new, seed=fit.seed))


def test_predict_tau_is_the_median_and_bounds_of_draws():
    bayes, _ = many_studies()
    new = pd.DataFrame({"x": [-1.0, 2.0], "g": ["a", "b"]})
    rows = bayes.design.for_new_data(new).Z
    eta = bayes.draws.flat_scale @ rows.T
    found = predict_tau(bayes, new, level=0.8).table
    np.testing.assert_allclose(found["estimate"], np.median(eta, axis=0))
    np.testing.assert_allclose(found["ci_ub"], np.quantile(eta, 0.9, axis=0))
    np.testing.assert_allclose(found["tau2_ci_lb"], np.exp(np.quantile(eta, 0.1, axis=0)))
    np.testing.assert_allclose(found["tau"], np.exp(np.median(eta, axis=0) / 2))
    np.testing.assert_allclose(found["tau2"], bayes.predict(new).table["tau2"])


def test_intervals_of_highest_density():
    fit, _ = bcg()
    eti, hdi = (fit.predict(interval=kind).table.iloc[0] for kind in ("eti", "hdi"))
    for name in ("ci", "pi", "tau_ci"):
        # The shortest of all; but read off draws, a little noisy where it is no shorter.
        widths = [row[f"{name}_ub"] - row[f"{name}_lb"] for row in (eti, hdi)]
        assert widths[1] < 1.01 * widths[0], name
    # The posterior of τ is skewed, and its mode nearer 0.
    assert hdi["tau_ci_ub"] < eti["tau_ci_ub"]
    drawn = new_effects(fit, seed=9).reshape(-1, fit.design.n_studies)[:, 0]
    inside = np.mean((drawn > hdi["pi_lb"]) & (drawn < hdi["pi_ub"]))
    assert inside == pytest.approx(0.95, abs=4 * binomial_error(0.95, fit))


def test_equal_rows_are_summarised_once_and_in_their_places():
    rng = np.random.default_rng(4)
    fit = made_by_hand(rng.normal(size=(400, 2)), rng.normal(-1, 0.5, size=(400, 2)))
    new = pd.DataFrame({"x": [2.0, -1.0, 2.0, 0.0]})
    whole = fit.predict(new).table
    for i, value in enumerate(new["x"]):
        alone = fit.predict(pd.DataFrame({"x": [value]})).table
        np.testing.assert_allclose(whole.iloc[i], alone.iloc[0])
    assert list(whole.index) == ["row 0", "row 1", "row 2", "row 3"]
    assert list(fit.predict().table.index) == list(fit.design.labels)


def test_extreme_heterogeneity():
    """No τ² at all, and one beyond the range of numbers: no warning, no missing number."""
    location = np.random.default_rng(5).normal(size=(400, 2))
    scale = np.column_stack([np.repeat([-5000.0, 5000.0, 0.0, -40.0], 100), np.zeros(400)])
    fit = made_by_hand(location, scale)
    new = pd.DataFrame({"x": [0.0]})
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        table = fit.predict(new, variance=1.0).table
        probabilities = fit.probability(0.0, new).table
    assert np.isfinite(table).all(axis=None)
    assert np.isfinite(probabilities).all(axis=None)
    assert table["pi_ub"].iloc[0] > 1e50


def test_studies_are_taken_a_block_at_a_time(monkeypatch):
    rng = np.random.default_rng(6)
    k, size = 500, 400
    data = pd.DataFrame({"yi": rng.normal(size=k), "vi": rng.uniform(0.1, 1, k)})
    data["x"] = rng.normal(size=k)
    fit = made_by_hand(rng.normal(size=(size, 2)), rng.normal(size=(size, 2)), data=data)
    verbs = (
        fit.predict,
        fit.blup,
        lambda: fit.probability(0),
        lambda: fit.heterogeneity().by_study,
        lambda: fit.tau2,
    )
    whole = [verb() for verb in verbs]
    monkeypatch.setattr("bayes_lsm.bayes.draws._BLOCK", 4_000)
    for verb, before in zip(verbs, whole, strict=True):
        tracemalloc.start()
        after = verb()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # One array of studies × draws is 1.6 MB; tables and their parts take less than half of it.
        assert peak < 8 * k * size / 2
        tables = [getattr(each, "table", each) for each in (before, after)]
        np.testing.assert_allclose(*tables)


def test_standard_errors_of_chains_are_those_of_arviz():
    rng = np.random.default_rng(7)
    location, scale = rng.normal(size=(4000, 2)), rng.normal(-1, 0.5, size=(4000, 2))
    chains, weighted = (
        made_by_hand(location, scale, importance=kind).probability(0.3).table
        for kind in (False, True)
    )
    # Independent draws: the effective number of chains is estimated to about 10%.
    for name in ("mean_effect_mcse", "new_effect_mcse", "true_effect_mcse"):
        np.testing.assert_allclose(chains[name], weighted[name], rtol=0.2)
    never = made_by_hand(location, scale, importance=False).probability(1e9).table
    assert (never["mean_effect_mcse"] == 0).all()


def test_studies_of_one_name_keep_their_rows():
    data = lsm.load_dataset("bcg")  # two authors have two trials each
    named, numbered = (
        lsm.LocationScaleModel("yi ~ 1", "~ ablat", variance="vi", data=data, study=study)
        .fit_bayes(draws=1000, seed=1)
        .probability(0)
        .table
        for study in ("author", "trial")
    )
    np.testing.assert_array_equal(named.to_numpy(), numbered.to_numpy())


def test_the_verbs_load_neither_pymc_nor_arviz():
    code = (
        "import sys, bayes_lsm as lsm\n"
        "fit = lsm.LocationScaleModel.from_file('bcg').fit_bayes(seed=1)\n"
        "print(fit.predict(), fit.blup(), fit.heterogeneity(), fit.probability(0))\n"
        "print(lsm.tau_steps(fit), fit.new_effects().shape, fit.true_effects().shape)\n"
        "heavy = {m for m in sys.modules if m.split('.')[0] in\n"
        "         {'pymc', 'pytensor', 'arviz', 'arviz_stats', 'nutpie', 'matplotlib'}}\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda fit: fit.predict(level=95), lsm.FitError, "level must be between 0 and 1"),
        (lambda fit: fit.predict(interval="bci"), lsm.FitError, "interval must be"),
        (lambda fit: predict_tau(fit, level=0), lsm.FitError, "level must be between"),
        (lambda fit: fit.predict(variance=0.0), lsm.DataError, "must be > 0, got 0"),
        (lambda fit: fit.predict(variance=np.nan), lsm.DataError, "must be > 0, got nan"),
        (lambda fit: fit.predict(variance=[1.0, 2.0]), lsm.DataError, "each of the 12 rows"),
        (lambda fit: fit.predict(pd.DataFrame({"z": [1]})), lsm.DataError, "'x'"),
        (lambda fit: probability(fit, np.inf), lsm.FitError, "must be a finite number, got inf"),
        (lambda fit: fit.probability(0, direction="up"), lsm.FitError, "'above' or 'below'"),
    ],
)
def test_wrong_questions_are_refused(call, error, message):
    fit = made_by_hand(np.zeros((100, 2)), np.zeros((100, 2)))
    with pytest.raises(error, match=message):
        call(fit)


NEW = pd.DataFrame({"district": [11, 27], "year": [1980, 2000]})


def normals(fit, known):
    """Mean and SD (rows, draws) of the effects at NEW, by REML's τ² and dense posteriors."""
    reml, found = reml_of("konstantopoulos2011"), []
    places = [fit.terms["district"].term.groups.index(name) for name in ("11", "27")]
    for draw in range(len(fit.draws.flat_location)):
        table = reml_at(reml, fit, draw).predict(NEW, scale_uncertainty="plug-in").table
        mean, variance = table["estimate"].to_numpy(), table["tau2"].to_numpy()
        if known:
            u, covariance = dense_posterior(fit, draw)
            mean = mean + u[places]
            variance = table["tau2 (district/school)"] + np.diag(covariance)[places]
        found.append((mean, np.sqrt(variance)))
    return np.swapaxes(np.array(found), 0, 2).swapaxes(0, 1)


@pytest.mark.parametrize("known", [(), ("district",)])
def test_intervals_hold_their_share_of_the_mixture(known):
    fit = bayes_of("konstantopoulos2011")
    mean, sd = normals(fit, known)
    table = fit.predict(NEW, known=known, variance=[0.1, 0.2], level=0.9).table
    seen = np.sqrt(sd**2 + np.array([[0.1], [0.2]]))
    ends = [
        ("pi_lb", 0.05, sd),
        ("pi_ub", 0.95, sd),
        ("obs_lb", 0.05, seen),
        ("obs_ub", 0.95, seen),
    ]
    ends += [("effect", 0.5, sd)] if known else []
    for end, p, spread in ends:
        below = ndtr((table[end].to_numpy()[:, None] - mean) / spread).mean(axis=1)
        np.testing.assert_allclose(below, p, atol=1e-7)
    above = fit.probability(0.1, NEW, known=known).table["new_effect"]
    np.testing.assert_allclose(above, ndtr((mean - 0.1) / sd).mean(axis=1), rtol=1e-9)
    drawn = fit.new_effects(NEW, known=known, seed=2)
    assert drawn.shape == (1, 200, 2)


def test_with_all_groups_known_it_is_the_rows_own_effect():
    fit = at_reml(reml_of("konstantopoulos2011"))
    found = fit.predict(known=list(fit.terms)).table
    A = dense_model(fit, 0)[0]
    draws = [dense_posterior(fit, draw) for draw in range(len(fit.draws.flat_location))]
    mean = np.array(
        [fit.design.X @ fit.draws.flat_location[j] + A @ u for j, (u, _) in enumerate(draws)]
    )
    sd = np.sqrt([np.einsum("ij,jk,ik->i", A, C, A) for _, C in draws])
    below = ndtr((found["pi_ub"].to_numpy() - mean) / sd).mean(axis=0)
    np.testing.assert_allclose(below, 0.975, atol=1e-7)


def test_what_the_data_do_not_have_is_refused():
    fit = bayes_of("konstantopoulos2011")
    with pytest.raises(lsm.DataError, match="has the group '99' in row 0"):
        fit.predict(NEW.assign(district=99), known=["district"])
    with pytest.raises(lsm.FitError, match="add it to terms"):
        fit.predict(NEW, terms=["district/school"], known=["district"])
    with pytest.raises(lsm.FitError, match="no scale term 'school'"):
        fit.predict(NEW, terms=["school"])
    with pytest.raises(lsm.FitError, match="direction must be"):
        fit.probability(0, NEW, direction="up")
