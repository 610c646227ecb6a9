"""Pages and their tables as files."""

from __future__ import annotations

from pathlib import Path

from bayes_lsm.errors import FitError
from bayes_lsm.report.cells import frame_of
from bayes_lsm.report.drawing import draw
from bayes_lsm.report.html import to_html
from bayes_lsm.report.markdown import image_file, to_markdown
from bayes_lsm.report.page import Page
from bayes_lsm.writing import flat_table

PAGE_ENDINGS = (".html", ".md")


def check_page_path(path: Path) -> None:
    """Before any work is done: that a page's ending is known and its folder is there.

    Raises
    ------
    FitError
    """
    if path.suffix.lower() not in PAGE_ENDINGS:
        raise FitError(
            f"cannot write {path}: the name of a report must end in {' or '.join(PAGE_ENDINGS)}"
        )
    if not path.parent.is_dir():
        raise FitError(f"cannot write {path}: there is no folder {path.parent}; make it first")


def write_page(page: Page, path: Path) -> list[Path]:
    """Write a page as its name's ending says, and say which files were written.

    ``report.html`` is one file. ``report.md`` has its figures in a folder ``report_figures``.

    Raises
    ------
    FitError
        For another ending, or when a file cannot be written.
    """
    check_page_path(path)
    try:
        if path.suffix.lower() == ".html":
            path.write_text(to_html(page), encoding="utf-8")
            return [path]
        return _write_markdown(page, path)
    except OSError as error:
        raise FitError(f"cannot write {error.filename or path}: {error.strerror}") from None


def write_tables(page: Page, folder: Path) -> list[Path]:
    """Write every table of a page as csv, unrounded and whole: ``folder/NAME.csv``.

    Raises
    ------
    FitError
        When a file cannot be written.
    """
    written = []
    try:
        folder.mkdir(exist_ok=True)
        for table in page.tables:
            path = folder / f"{table.name}.csv"
            flat_table(frame_of(table)).to_csv(path, index=False)
            written.append(path)
    except OSError as error:
        raise FitError(f"cannot write {error.filename or folder}: {error.strerror}") from None
    return written


def _write_markdown(page: Page, path: Path) -> list[Path]:
    folder = path.with_name(f"{path.stem}_figures")
    written, places = [path], {}
    if page.pictures:
        folder.mkdir(exist_ok=True)
    for picture in page.pictures:
        image = draw(picture)
        file = folder / image_file(picture, image)
        file.write_bytes(image.data)
        written.append(file)
        places[picture.name] = f"{folder.name}/{file.name}".replace(" ", "%20")
    path.write_text(to_markdown(page, places), encoding="utf-8")
    return written
