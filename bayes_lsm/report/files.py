"""Pages and their tables as files."""

from __future__ import annotations

from pathlib import Path

from bayes_lsm.errors import FitError
from bayes_lsm.report.cells import frame_of
from bayes_lsm.report.drawing import draw
from bayes_lsm.report.html import to_html
from bayes_lsm.report.markdown import image_file, to_markdown
from bayes_lsm.report.page import Page
from bayes_lsm.writing import check_paths, replacing, write_csv, write_text

PAGE_ENDINGS = (".html", ".md")


def write_page(page: Page, path: Path) -> list[Path]:
    """Write a page as its name's ending says, and say which files were written.

    ``report.html`` is one file. ``report.md`` has its figures in a folder ``report_figures``.

    Raises
    ------
    FitError
        For another ending, or when a file cannot be written.
    """
    check_paths([path], only=PAGE_ENDINGS)
    if path.suffix.lower() == ".html":
        write_text(to_html(page), path)
        return [path]
    return _write_markdown(page, path)


def write_tables(page: Page, folder: Path) -> list[Path]:
    """Write every table of a page as csv, unrounded and whole: ``folder/NAME.csv``.

    Raises
    ------
    FitError
        When a file cannot be written.
    """
    files = {folder / f"{table.name}.csv": table for table in page.tables}
    _make(folder)
    for path, table in files.items():
        write_csv(frame_of(table), path)
    return list(files)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise FitError(f"cannot make the folder {folder}: {error.strerror}") from None


def _write_markdown(page: Page, path: Path) -> list[Path]:
    folder = path.with_name(f"{path.stem}_figures")
    written, places = [path], {}
    if page.pictures:
        _make(folder)
    for picture in page.pictures:
        image = draw(picture)
        file = folder / image_file(picture, image)
        with replacing(file) as new:
            new.write_bytes(image.data)
        written.append(file)
        places[picture.name] = f"{folder.name}/{file.name}".replace(" ", "%20")
    write_text(to_markdown(page, places), path)
    return written
