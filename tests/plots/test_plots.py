"""Figures are held to the numbers of the API by their artists; no pixel is compared."""

import subprocess
import sys
from functools import cache
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import bayes_lsm as lsm
from bayes_lsm import plots
from bayes_lsm.reml import bootstrap_test, residuals, weights


@cache
def bcg(location="yi ~ 1", scale="~ 1", **options):
    data = lsm.load_dataset("bcg")
    return lsm.LocationScaleModel(
        location, scale, variance="vi", data=data, study="trial", **options
    )


@cache
def reml():
    return bcg("yi ~ ablat", "~ ablat").fit_reml()


@cache
def plain():
    return bcg().fit_reml()


@cache
def grouped():
    return bcg("yi ~ alloc + ablat", "~ ablat").fit_reml()


@cache
def bayes():
    return bcg("yi ~ ablat", "~ ablat").fit_bayes(draws=1000, seed=1)


def simulated(k, *, far=False):
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"vi": rng.uniform(0.01, 0.2, k), "x": rng.normal(size=k)})
    data["yi"] = rng.normal(0.3, np.sqrt(data["vi"] + 0.1))
    data["name"] = [
        f"Author {i} and the collaborators of a long-named consortium" for i in range(k)
    ]
    if far:
        data.loc[2, "yi"] = 40.0
    return lsm.LocationScaleModel("yi ~ 1", variance="vi", data=data, study="name").fit_reml()


def artists(ax, gid):
    return [each for each in ax.findobj() if each.get_gid() == gid]


def xy(ax, gid):
    """Positions of all points of the lines with this name, in order."""
    return np.hstack([np.array(line.get_data(), dtype=float) for line in artists(ax, gid)])


def texts(ax, gid="number"):
    return [each.get_text() for each in artists(ax, gid)]


def test_matplotlib_is_loaded_by_a_figure_and_pyplot_never():
    code = (
        "import sys, bayes_lsm as lsm;"
        "print('matplotlib' in sys.modules);"
        "fit = lsm.LocationScaleModel.from_file('bcg').fit_reml();"
        "lsm.plots.bubble(fit, 'ablat').figure.savefig('/dev/null', format='png');"
        "print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "True", "False"]


def test_axes_go_in_and_come_out():
    ax = Figure().subplots()
    assert plots.forest(plain(), ax=ax) is ax
    ax = Figure().subplots()
    assert plots.bubble(reml(), "ablat", ax=ax) is ax
    given = Figure().subplots(1, 3)
    names = plots.influence(reml().influence(progress=False), ["hat", "weight"], axes=given)
    assert list(names) == list(given[:2])


def test_what_has_to_be_known_of_the_data_is_said_below(continent_reml):
    caution = continent_reml.design.caution
    assert caution
    for ax in (
        plots.forest(continent_reml),
        plots.bubble(continent_reml, "weeks"),
        plots.heterogeneity(continent_reml, "weeks"),
        plots.caterpillar(continent_reml),
    ):
        assert " ".join(ax.figure.get_supxlabel().split()) == caution


def test_panels_of_one_figure_share_it_fairly():
    """Nothing outside of the axes but their labels asks for room."""
    figure = Figure((11, 7), layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    plots.forest(plain(), ax=axes[0], transform=np.exp)
    plots.bubble(reml(), "ablat", ax=axes[1])
    plots.heterogeneity([reml(), bayes()], "ablat", ax=axes[2])
    plots.caterpillar(reml(), ax=axes[3])
    figure.draw_without_rendering()
    boxes = [ax.get_position() for ax in axes]
    assert min(box.width for box in boxes) > 0.25
    assert min(box.height for box in boxes) > 0.35


class TestForest:
    def test_squares_stand_at_the_effects_and_are_as_large_as_weights(self):
        ax = plots.forest(plain())
        (squares,) = artists(ax, "study")
        places = np.asarray(squares.get_offsets(), dtype=float)
        assert places[:, 0] == pytest.approx(plain().design.y)
        assert np.all(np.diff(places[:, 1]) == -1)
        areas = squares.get_sizes()
        # area = a + b · weight, by the definition of the figure
        assert np.corrcoef(areas, weights(plain()))[0, 1] == pytest.approx(1)

    def test_summary_and_prediction_interval_are_those_of_predict(self):
        row = plain().predict().table.iloc[0]
        ax = plots.forest(plain())
        (diamond,) = artists(ax, "summary")
        assert diamond.get_xy()[:3, 0] == pytest.approx(row[["ci_lb", "estimate", "ci_ub"]])
        (line,) = artists(ax, "prediction")
        assert line.get_segments()[0][:, 0] == pytest.approx(row[["pi_lb", "pi_ub"]])

    def test_ratios_are_drawn_and_printed_on_a_log_axis(self):
        ax = plots.forest(plain(), transform=np.exp, xlab="risk ratio")
        assert ax.get_xscale() == "log"
        assert ax.get_xlabel() == "risk ratio"
        row = np.exp(plain().predict().table.iloc[0])
        printed = f"{row['estimate']:.2f} [{row['ci_lb']:.2f}, {row['ci_ub']:.2f}]"
        assert printed in texts(ax)
        assert xy(ax, "null")[0] == pytest.approx([1, 1])

    def test_groups_have_their_mean_and_prediction_interval(self):
        ax = plots.forest(grouped(), by="alloc")
        diamonds = artists(ax, "summary")
        mean = grouped().design.moderators["ablat"].mean()
        levels = ["alternate", "random", "systematic"]
        new = pd.DataFrame({"alloc": levels, "ablat": mean})
        table = grouped().predict(new).table
        found = np.array([each.get_xy()[:3, 0] for each in diamonds])
        assert found == pytest.approx(table[["ci_lb", "estimate", "ci_ub"]].to_numpy())
        labels = [text.get_text() for text in ax.get_yticklabels()]
        assert [label for label in labels if label in levels] == levels
        (fitted,) = artists(ax, "fitted")
        middle = [path.vertices[1, 0] for path in fitted.get_paths()]
        order = np.argsort(grouped().design.moderators["alloc"], kind="stable")
        assert middle == pytest.approx(grouped().predict().table["estimate"].to_numpy()[order])

    def test_groups_of_anything_else(self):
        ax = plots.forest(plain(), by=["a"] * 6 + ["b"] * 7)
        assert {"a", "b"} <= {text.get_text() for text in ax.get_yticklabels()}
        assert not artists(ax, "summary")

    def test_summaries_asked_for(self):
        new = pd.DataFrame({"ablat": [20, 40]}, index=["south", "north"])
        ax = plots.forest(reml(), summary=new)
        assert [each.get_xy()[1, 0] for each in artists(ax, "summary")] == pytest.approx(
            reml().predict(new).table["estimate"]
        )
        assert {"south", "north"} <= {text.get_text() for text in ax.get_yticklabels()}

    @pytest.mark.parametrize("fit", [reml, bayes])
    def test_true_effects(self, fit):
        ax = plots.forest(fit(), blups=True)
        assert xy(ax, "blup")[0] == pytest.approx(fit().blup().table["estimate"])

    def test_orders(self):
        for order, key in (("effect", plain().design.y), ("precision", plain().design.v)):
            (squares,) = artists(plots.forest(plain(), order=order), "study")
            x = np.asarray(squares.get_offsets())[:, 0]
            assert x == pytest.approx(plain().design.y[np.argsort(key)])

    def test_one_study_far_away_does_not_squeeze_the_others(self):
        fit = simulated(20, far=True)
        ax = plots.forest(fit)
        low, high = ax.get_xlim()
        assert low <= np.delete(fit.design.y, 2).min()
        assert high < 20
        beyond = xy(ax, "beyond")
        assert [high, -2] in beyond.T.tolist()
        assert any("40.00" in text for text in texts(ax))

    def test_long_names_are_cut(self):
        ax = plots.forest(simulated(5), label_width=20)
        assert max(len(text.get_text()) for text in ax.get_yticklabels()[:5]) == 20

    def test_200_studies_have_room_for_their_names(self):
        ax = plots.forest(simulated(200))
        assert len(artists(ax, "study")[0].get_offsets()) == 200
        figure = ax.figure
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in ax.get_yticklabels()[:200]]
        gaps = [upper.y0 - lower.y1 for upper, lower in pairwise(boxes)]
        assert min(gaps) > -0.2 * boxes[0].height
        assert boxes[0].height > 5

    def test_no_names_where_there_is_no_room(self):
        ax = Figure(figsize=(5, 4)).subplots()
        plots.forest(simulated(200), ax=ax)
        assert ax.get_ylabel() == "200 studies"
        assert not len(ax.get_yticks())

    def test_thousands_of_studies_are_a_figure_of_ordinary_size(self):
        fit = simulated(3000)
        for draw in (plots.forest, plots.caterpillar):
            ax = draw(fit)
            assert ax.figure.get_figheight() < 15
            assert ax.get_ylabel() == "3000 studies"

    def test_text_stays_inside_of_the_figure_and_does_not_overlap(self):
        ax = plots.forest(simulated(20))
        figure = ax.figure
        figure.draw_without_rendering()
        whole = figure.bbox
        weight, estimate = _columns(ax)
        assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 for box in [*weight, *estimate])
        assert max(box.x1 for box in weight) < min(box.x0 for box in estimate)
        assert ax.get_window_extent().x1 < min(box.x0 for box in weight)

    def test_faults_are_named(self):
        with pytest.raises(lsm.FitError, match="each of the 13 studies"):
            plots.forest(plain(), by=[1, 2])
        with pytest.raises(lsm.FitError, match="holds numbers"):
            plots.forest(reml(), by="ablat")
        with pytest.raises(lsm.FitError, match="order must be"):
            plots.forest(plain(), order="size")
        with pytest.raises(lsm.FitError, match="no moderator 'year'"):
            plots.forest(reml(), by="year")


def _columns(ax):
    found = artists(ax, "number")
    weight = [each.get_window_extent() for each in found if "[" not in each.get_text()]
    estimate = [each.get_window_extent() for each in found if "[" in each.get_text()]
    return weight, estimate


class TestBubble:
    @pytest.mark.parametrize("fit", [reml, bayes])
    def test_line_and_bands_are_those_of_predict(self, fit):
        ax = plots.bubble(fit(), "ablat", points=7)
        x = np.linspace(13, 55, 7)
        table = fit().predict(pd.DataFrame({"ablat": x})).table
        line = next(each for each in ax.lines if each.get_label() == "mean effect")
        assert line.get_xdata() == pytest.approx(x)
        assert line.get_ydata() == pytest.approx(table["estimate"])
        lower, upper = (each.get_ydata() for each in artists(ax, "tau"))
        assert upper - lower == pytest.approx(2 * table["tau"])
        for label, low, high in (("CI", "ci_lb", "ci_ub"), ("prediction", "pi_lb", "pi_ub")):
            label = "CrI" if label == "CI" and fit is bayes else label
            band = next(each for each in ax.collections if label in each.get_label())
            corners = band.get_paths()[0].vertices[:, 1]
            assert corners.min() == pytest.approx(table[low].min())
            assert corners.max() == pytest.approx(table[high].max())

    def test_bubbles_are_the_studies(self):
        (points,) = artists(plots.bubble(reml(), "ablat"), "studies")
        design = reml().design
        where = np.column_stack([design.moderators["ablat"], design.y])
        assert np.asarray(points.get_offsets()) == pytest.approx(where)
        assert np.corrcoef(points.get_sizes(), weights(reml()))[0, 1] == pytest.approx(1)

    def test_says_where_other_moderators_are_held(self):
        ax = plots.bubble(grouped(), "ablat", at={"alloc": "systematic"})
        assert ax.get_title(loc="left") == "at alloc = systematic"
        (points,) = artists(ax, "studies")
        shades = {tuple(colour) for colour in points.get_edgecolors()}
        assert len(shades) == 2

    def test_ratios(self):
        ax = plots.bubble(reml(), "ablat", transform=np.exp)
        assert ax.get_yscale() == "log"
        (points,) = artists(ax, "studies")
        assert np.asarray(points.get_offsets())[:, 1] == pytest.approx(np.exp(reml().design.y))

    def test_without_heterogeneity_the_bands_are_that_of_the_mean(self, continent_reml):
        ax = plots.bubble(continent_reml, "weeks", at={"continent": "Other"})
        lower, upper = (each.get_ydata() for each in artists(ax, "tau"))
        assert upper == pytest.approx(lower)

    def test_faults_are_named(self):
        with pytest.raises(lsm.FitError, match="does not hold numbers"):
            plots.bubble(grouped(), "alloc")
        with pytest.raises(lsm.FitError, match="no moderator 'lat'; it has 'ablat'"):
            plots.bubble(reml(), "lat")
        with pytest.raises(lsm.FitError, match="cannot be held"):
            plots.bubble(reml(), "ablat", at={"ablat": 3})


class TestHeterogeneity:
    def test_curves_are_those_of_predict(self):
        ax = plots.heterogeneity([reml(), bayes()], "ablat", points=5)
        x = np.linspace(13, 55, 5)
        for label, fit in (("REML", reml()), ("Bayes", bayes())):
            line = next(each for each in ax.lines if each.get_label() == label)
            table = fit.predict(pd.DataFrame({"ablat": x})).table
            assert line.get_ydata() == pytest.approx(table["tau"])
        edges = [each.get_ydata() for each in artists(ax, "edge")]
        table = reml().predict(pd.DataFrame({"ablat": x})).table
        assert edges[0] == pytest.approx(table["tau_ci_lb"])
        assert edges[1] == pytest.approx(table["tau_ci_ub"])

    def test_squares(self):
        ax = plots.heterogeneity(reml(), "ablat", measure="tau2", points=5)
        table = reml().predict(pd.DataFrame({"ablat": np.linspace(13, 55, 5)})).table
        assert ax.lines[0].get_ydata() == pytest.approx(table["tau2"])
        assert ax.get_ylabel() == "heterogeneity τ²"

    def test_levels_and_what_lies_beyond_the_axis(self, continent_reml):
        ax = plots.heterogeneity(continent_reml, "continent")
        assert [text.get_text() for text in ax.get_xticklabels()] == ["Europe", "America", "Other"]
        points = next(each for each in ax.lines if each.get_label() == "REML")
        assert points.get_ydata()[2] == 0
        assert len(xy(ax, "beyond").T) == 2

    def test_faults_are_named(self):
        with pytest.raises(lsm.FitError, match="measure must be"):
            plots.heterogeneity(reml(), "ablat", measure="I2")
        with pytest.raises(lsm.FitError, match="each of the 1 fits"):
            plots.heterogeneity(reml(), "ablat", labels=["a", "b"])
        with pytest.raises(lsm.FitError, match="at least one"):
            plots.heterogeneity([], "ablat")


class TestProfile:
    def test_curve_estimate_and_interval(self):
        found = reml().profile("ablat", points=9)
        ax = plots.profile(found)
        assert ax.lines[0].get_xdata() == pytest.approx(found.values)
        assert ax.lines[0].get_ydata() == pytest.approx(found.loglik)
        assert xy(ax, "estimate")[:, 0] == pytest.approx([found.estimate, found.maximum])
        ends = [line.get_xdata()[0] for line in artists(ax, "bound")]
        assert ends == pytest.approx([found.lower, found.upper])

    def test_an_infinite_estimate_is_an_arrow_at_its_side(self, continent_reml):
        ax = plots.profile(continent_reml.profile("continentOther", points=9))
        (arrow,) = artists(ax, "estimate")
        assert arrow.get_marker() == "<"
        assert arrow.get_xdata()[0] == ax.lines[0].get_xdata()[0]
        assert ax.get_title(loc="left") == "flat towards -inf"

    def test_panels(self):
        found = [reml().profile(term, points=5) for term in ("intrcpt", "ablat")]
        assert [ax.get_xlabel() for ax in plots.profiles(found)] == ["intrcpt", "ablat"]
        with pytest.raises(lsm.FitError, match="2 panels need as many axes, got 1"):
            plots.profiles(found, axes=[Figure().subplots()])
        with pytest.raises(lsm.FitError, match="at least one profile"):
            plots.profiles([])


class TestNulls:
    def test_permutations(self):
        test = reml().permutation_test(iterations=200, seed=1, progress=False)
        ax = plots.permutation_null(test, "ablat")
        (line,) = artists(ax, "observed")
        assert line.get_xdata()[0] == pytest.approx(test.table["zval"]["ablat"])
        bars = [*artists(ax, "null"), *artists(ax, "extreme")]
        bars = [bar for bar in bars if bar.get_height() is not None]
        assert sum(bar.get_height() * bar.get_width() for bar in bars) == pytest.approx(1)
        # The coloured bars are the p-value itself.
        extreme = sum(bar.get_height() * bar.get_width() for bar in artists(ax, "extreme"))
        assert extreme == pytest.approx(test.table["pval"]["ablat"], abs=1 / 200 + 1e-9)
        (line,) = artists(plots.permutation_null(test), "observed")
        assert line.get_xdata()[0] == pytest.approx(test.statistic)
        with pytest.raises(lsm.FitError, match="no term 'x'"):
            plots.permutation_null(test, "x")

    def test_bootstrap(self):
        reduced = bcg("yi ~ ablat").fit_reml()
        test = bootstrap_test(reml(), reduced, iterations=99, seed=1, progress=False)
        ax = plots.bootstrap_null(test)
        (line,) = artists(ax, "observed")
        assert line.get_xdata()[0] == pytest.approx(test.statistic)
        extreme = sum(bar.get_height() * bar.get_width() for bar in artists(ax, "extreme"))
        assert extreme == pytest.approx(test.pval, abs=0.021)


class TestPriorPosterior:
    def test_a_prior_of_the_coefficient_itself_is_exact(self):
        model = bcg("yi ~ ablat", "~ ablat", priors="slides")
        fit = model.fit_bayes(draws=1000, seed=1)
        (ax,) = plots.prior_posterior(fit, ["ablat"])
        x, density = xy(ax, "prior")
        # The slides' prior of every scale coefficient is Normal(0, 7).
        normal = np.exp(-0.5 * (x / 7) ** 2) / (7 * np.sqrt(2 * np.pi))
        assert density == pytest.approx(normal)
        assert xy(ax, "median")[0, 0] == pytest.approx(fit.summary()["median"]["scale", "ablat"])

    @pytest.mark.parametrize("part", ["scale", "location"])
    def test_densities_integrate_to_one(self, part):
        for ax in plots.prior_posterior(bayes(), part=part):
            x, density = xy(ax, "posterior")
            assert np.trapezoid(density, x) == pytest.approx(1, abs=0.02)
            assert 0.02 < np.trapezoid(*xy(ax, "prior")[::-1]) <= 1.02

    def test_faults_are_named(self):
        with pytest.raises(lsm.FitError, match="no term 'x'"):
            plots.prior_posterior(bayes(), ["x"])
        with pytest.raises(lsm.FitError, match="part must be"):
            plots.prior_posterior(bayes(), part="both")


class TestResiduals:
    def test_funnel(self):
        found = residuals(reml(), "standardized")
        ax = plots.funnel(found)
        points = np.hstack([xy(ax, "inside"), xy(ax, "outside")])
        assert sorted(points[0]) == pytest.approx(sorted(found.raw))
        assert sorted(points[1]) == pytest.approx(sorted(found.se))
        assert len(xy(ax, "outside").T) == np.sum(np.abs(found.values) > 1.959964)

    def test_qq(self):
        found = residuals(reml(), "standardized")
        ax = plots.qq(found)
        points = np.hstack([xy(ax, "inside"), xy(ax, "outside")])
        assert sorted(points[1]) == pytest.approx(sorted(found.values))
        assert np.sum(points[0]) == pytest.approx(0, abs=1e-12)

    def test_raw_residuals_have_no_standard_errors(self):
        for draw in (plots.funnel, plots.qq):
            with pytest.raises(lsm.FitError, match="no standard errors"):
                draw(residuals(reml()))


# What each panel shows: of the table's columns all but how many rows a study has, and the χ² of
# several.
PANELS = {
    "studentised deleted residual": "rstudent",
    "DFFITS": "dffits",
    "Cook's distance": "cook.d",
    "covariance ratio": "cov.r",
    "mean τ² without it": "tau2.del",
    "change of mean τ²": "tau2.change",
    "Q without it": "QE.del",
    "hat value": "hat",
    "weight (%)": "weight",
}


class TestInfluence:
    def test_panels_hold_the_table(self):
        found = reml().influence(progress=False)
        axes = plots.influence(found)
        table = found.to_dataframe()
        assert set(table) - set(PANELS.values()) == {"rows", "X2"}
        assert [ax.get_title(loc="left") for ax in axes] == list(PANELS)
        for ax, column in zip(axes, PANELS.values(), strict=True):
            # The line joins the studies in the order of the data.
            np.testing.assert_array_equal(ax.lines[0].get_ydata(), table[column])
            assert len(xy(ax, "location").T) == found.influential.sum()
            assert len(xy(ax, "scale").T) == found.influential_scale.sum()
        with pytest.raises(lsm.FitError, match="no measure 'cooks'"):
            plots.influence(found, ["cooks"])


class TestEffects:
    @pytest.mark.parametrize("fit", [reml, bayes])
    def test_caterpillar_is_in_order(self, fit):
        table = fit().blup().table
        assert xy(plots.caterpillar(fit()), "blup")[0] == pytest.approx(
            np.sort(table["estimate"])[::-1]
        )
        ax = plots.caterpillar(fit(), of="deviation")
        order = np.argsort(table["u"].to_numpy())[::-1]
        assert xy(ax, "blup")[0] == pytest.approx(table["u"].to_numpy()[order])
        away = fit().design.y - (table["estimate"] - table["u"]).to_numpy()
        assert xy(ax, "observed")[0] == pytest.approx(away[order])

    def test_caterpillar_holds_the_observed_effects_or_says_where_they_are(self):
        low, high = plots.caterpillar(reml()).get_xlim()
        y = reml().design.y
        assert low <= y.min() <= y.max() <= high
        ax = plots.caterpillar(simulated(20, far=True))
        assert xy(ax, "beyond")[0] == pytest.approx([ax.get_xlim()[1]])

    def test_unknown_effects(self):
        with pytest.raises(lsm.FitError, match="of must be"):
            plots.caterpillar(reml(), of="u")

    @pytest.mark.parametrize("fit", [reml, bayes])
    def test_density_of_a_new_effect_has_the_probabilities_of_predict(self, fit):
        new = pd.DataFrame({"ablat": [20, 40]}, index=["south", "north"])
        ax = plots.new_effect(fit(), new)
        half = fit().predict(new, level=0.5).table
        for i, line in enumerate(artists(ax, "density")):
            x, density = line.get_data()
            inside = (x >= half["pi_lb"].iloc[i]) & (x <= half["pi_ub"].iloc[i])
            # A grid of 300 points in normal scores: its sums are good to a per cent or two.
            assert np.trapezoid(density, x) == pytest.approx(0.9973, abs=0.003)
            assert np.trapezoid(density[inside], x[inside]) == pytest.approx(0.5, abs=0.02)
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["south", "north"]

    def test_draws_of_new_effects_agree(self):
        new = pd.DataFrame({"ablat": [40]})
        x, density = artists(plots.new_effect(bayes(), new), "density")[0].get_data()
        mean = np.trapezoid(x * density, x)
        drawn = bayes().new_effects(new, seed=3)
        # 1000 draws: three standard errors, and a little for the tails that the curve leaves out.
        assert mean == pytest.approx(drawn.mean(), abs=3 * drawn.std() / np.sqrt(1000) + 0.02)

    def test_new_data_are_needed_with_moderators(self):
        with pytest.raises(lsm.FitError, match="ablat"):
            plots.new_effect(reml())
        ax = plots.new_effect(plain(), transform=np.exp)
        assert ax.get_xscale() == "log"
