"""What the README shows runs: its Python, the calls of its maps, and the table it prints."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## Your call, ours")[2].partition("\n## ")[0]
CELLS = re.findall(r"^\| .*(?<!\\)\| (.*) \|$", SECTION, re.MULTILINE)
CALLS = [call for cell in CELLS for call in re.findall(r"`([^`]+)`", cell)]
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


# The scale of `model` and that of its special case: one term, and several.
SCALES = {
    "one term": ("~ z", "~ 1"),
    "several terms": ({"g": "~ 1", "g/id": "~ z"}, {"g": "~ 1", "g/id": "~ 1"}),
}


@pytest.fixture(
    scope="module",
    params=["one term", pytest.param("several terms", marks=pytest.mark.slow)],
)
def names(request: pytest.FixtureRequest) -> dict[str, object]:
    """What the section says its names are: `d`, `model`, `reml`, `bayes`, `new` and other fits."""
    scale, constant_scale = SCALES[request.param]
    rng = np.random.default_rng(1)
    k = 24
    d = pd.DataFrame({"x": rng.normal(size=k), "z": rng.normal(size=k)})
    d["id"], d["g"] = np.arange(k), np.arange(k) // 3
    if isinstance(scale, dict):  # whole groups are reshuffled, so a group has one value
        d["z"] = d["z"][3 * d["g"]].to_numpy()
    d["w"] = d["g"] % 3
    d["vi"] = rng.uniform(0.02, 0.1, size=k)
    d["yi"] = 0.3 * d["x"] + rng.normal(size=k) * np.sqrt(d["vi"] + 0.2 * np.exp(d["z"]))
    d["yi"] += rng.normal(size=k // 3)[d["g"]]
    model = lsm.LocationScaleModel("yi ~ x", scale=scale, variance="vi", data=d)
    constant = lsm.LocationScaleModel("yi ~ x", scale=constant_scale, variance="vi", data=d)
    return {
        "lsm": lsm,
        "preset": lsm.priors.preset,
        "Normal": lsm.priors.Normal,
        "d": d,
        "model": model,
        "reml": model.fit_reml(),
        "bayes": model.fit_bayes(seed=1),
        "reduced": constant.fit_reml(),
        "other": constant.fit_bayes(seed=2),
        "new": pd.DataFrame({"x": [0.0, 1.0], "z": [0.0, 1.0]}),
    }


def test_the_maps_are_found():
    assert len(CALLS) > 30


@pytest.mark.parametrize("call", CALLS)
def test_every_call_of_the_maps_runs(call: str, names: dict[str, object]):
    assert eval(call, dict(names)) is not None


def test_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "notebooks/figures").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    seen: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        for block in BLOCKS:
            exec(block, seen)
    assert "I(weeks - 40)" in said.getvalue()
    assert (tmp_path / "notebooks/figures/bubble.png").stat().st_size > 10_000


def test_figures_and_notebooks_of_the_readme_are_there():
    linked = re.findall(r"\]\(([^)#:]+)\)", README)
    assert linked
    assert not [path for path in linked if not (ROOT / path).exists()]


def test_the_model_file_of_the_readme_fits():
    text = re.search(r"```toml\n(.*?)```", README, re.DOTALL)
    assert text is not None
    words = lsm.Specification.from_toml(text.group(1))
    assert lsm.LocationScaleModel.from_specification(words).fit_bayes().converged


@pytest.mark.filterwarnings("ignore::bayes_lsm.errors.DivergentScaleWarning")
def test_the_table_is_the_one_that_the_main_command_prints(capsys: pytest.CaptureFixture[str]):
    shown = re.search(r"```\n(Location-Scale Model.*?)```", README, re.DOTALL)
    assert shown is not None
    assert main(["compare", str(ROOT / "models/preterm_continent.toml"), "--quiet"]) == 0
    printed = capsys.readouterr().out

    def rows(text: str) -> list[list[str]]:
        table = text.partition("Note:")[0].strip().splitlines()
        return [line.split() for line in table if line.strip()]

    assert [row[:2] for row in rows(printed)] == [row[:2] for row in rows(shown.group(1))]
    # The last digit of a Monte Carlo number may be another on another machine.
    for ours, theirs in zip(rows(printed), rows(shown.group(1)), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            with contextlib.suppress(ValueError):
                assert float(a) == pytest.approx(float(b), abs=0.03, rel=0.01)
