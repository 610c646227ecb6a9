"""The wheel carries datasets and model files, and works where there is no checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _run(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_wheel_installs_and_runs_outside_the_checkout(tmp_path):
    _run("uv", "build", "--wheel", "--out-dir", str(tmp_path), str(ROOT), cwd=tmp_path)
    wheel = next(tmp_path.glob("*.whl"))
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "bayes_lsm/py.typed" in names
    assert "bayes_lsm/datasets/preterm_iq.csv" in names
    models = {f"bayes_lsm/models/{path.name}" for path in (ROOT / "models").glob("*.toml")}
    assert models
    assert models <= names
    assert not any(name.startswith("tests") for name in names)

    _run("uv", "venv", "--python", sys.executable, "fresh", cwd=tmp_path)
    python = tmp_path / "fresh/bin/python"
    _run("uv", "pip", "install", "--python", str(python), str(wheel), cwd=tmp_path)
    command = str(tmp_path / "fresh/bin/bayes-lsm")
    listed = _run(command, "models", cwd=tmp_path)
    assert len(listed.splitlines()) == len(models)
    table = _run(command, "compare", "preterm_continent", cwd=tmp_path)
    assert "alpha2  continentOther" in table
    assert "-inf" in table
