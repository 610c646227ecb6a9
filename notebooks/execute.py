"""Run the notebooks and write what they show beside their text.

    uv run python notebooks/execute.py            # all of them
    uv run python notebooks/execute.py 01 04      # those whose names begin so

A notebook is written in its `.py` file (jupytext's percent format, so that a change can be read),
and the `.ipynb` of the same name is made from it here, and only here: the cells in order, run in a
fresh kernel, without times, random cell names or paths of the machine, and figures in few colours.
"""

import base64
import io
import re
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
COLOURS = 32  # of a figure: a quarter of its size, with no difference to be seen
PLACE_OF_WARNING = re.compile(r"^\S+\.py:\d+: (\w+: .*)\n(?:  .*\n)?", re.MULTILINE)


def texts() -> list[Path]:
    """The notebooks' texts, in order."""
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def read(text: Path) -> nbformat.NotebookNode:
    """The cells of a text, with nothing in the notebook that a second reading would change."""
    notebook = jupytext.read(text)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number}"
        cell.metadata = {}
    return notebook


def lighten(png: str) -> str:
    """A figure in few colours."""
    light = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    few = picture.quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(light, "PNG", optimize=True)
    return base64.b64encode(light.getvalue()).decode()


def execute(text: Path) -> None:
    """Run a notebook from its text and write the `.ipynb`."""
    notebook = read(text)
    NotebookClient(
        notebook,
        timeout=600,
        record_timing=False,
        resources={"metadata": {"path": str(HERE)}},
    ).execute()
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                output.text = PLACE_OF_WARNING.sub(r"\1\n", output.text)
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = lighten(output.data["image/png"])
                output.metadata = {}
    nbformat.write(notebook, text.with_suffix(".ipynb"))


def main(names: list[str]) -> int:
    wanted = [text for text in texts() if not names or text.name.startswith(tuple(names))]
    if not wanted:
        print(f"no notebook begins with {' or '.join(names)}", file=sys.stderr)
        return 2
    for text in wanted:
        print(text.stem, flush=True)
        execute(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
