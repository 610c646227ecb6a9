"""Each notebook is what its text says, run in order, and small enough to be read in a diff.

Whether they still run is asked by `pytest --nbmake notebooks/*.ipynb`, a step of `.ci/run`.
"""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
TEXTS = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))
LARGEST = 350_000
# A place on somebody's machine: a home, a temporary folder, an environment.
PATH = re.compile(r"(?<![\w.:/])/(?:home|Users|tmp|root|usr|work|opt|var)/|\.venv|site-packages")

_spec = importlib.util.spec_from_file_location("execute", NOTEBOOKS / "execute.py")
execute = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(execute)


def saved(text: Path) -> nbformat.NotebookNode:
    return nbformat.read(text.with_suffix(".ipynb"), as_version=4)


@pytest.fixture(params=TEXTS, ids=lambda text: text.stem)
def text(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_every_notebook_has_its_text():
    assert TEXTS
    assert sorted(path.with_suffix(".py") for path in NOTEBOOKS.glob("*.ipynb")) == TEXTS


def test_cells_are_those_of_the_text(text: Path):
    def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str, str]]:
        return [(cell.id, cell.cell_type, cell.source) for cell in notebook.cells]

    again = f"uv run python notebooks/execute.py {text.stem}"
    assert cells(saved(text)) == cells(execute.read(text)), f"the text has changed; run `{again}`"


def test_cells_were_run_in_order_and_none_failed(text: Path):
    code = [cell for cell in saved(text).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]


def test_notebook_is_small(text: Path):
    assert text.with_suffix(".ipynb").stat().st_size < LARGEST


def test_nothing_changes_with_the_machine_or_the_hour(text: Path):
    notebook = saved(text)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert all(not cell.metadata for cell in notebook.cells)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            shown = {"text": output.get("text", ""), **output.get("data", {})}
            shown.pop("image/png", None)
            assert not PATH.search("".join(map(str, shown.values()))), shown


def test_warnings_come_without_the_place_they_came_from():
    noise = (
        "/tmp/ipykernel_12/34.py:1: DivergentScaleWarning: no finite maximum\n"
        "  return fit(\nfollowed by words\n"
    )
    clean = execute.PLACE_OF_WARNING.sub(r"\1\n", noise)
    assert clean == "DivergentScaleWarning: no finite maximum\nfollowed by words\n"
