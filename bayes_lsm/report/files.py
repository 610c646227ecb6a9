"""Pages and their tables as files."""

from __future__ import annotations

from pathlib import Path

from bayes_lsm.report.cells import frame_of
from bayes_lsm.report.drawing import draw
from bayes_lsm.report.html import to_html
from bayes_lsm.report.markdown import image_file, to_markdown
from bayes_lsm.report.page import Page
from bayes_lsm.writing import check_paths, flat_table, writing

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
    with writing(path):
        if path.suffix.lower() == ".html":
            path.write_text(to_html(page), encoding="utf-8")
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
    with writing(folder):
        folder.mkdir(exist_ok=True)
        for path, table in files.items():
            flat_table(frame_of(table)).to_csv(path, index=False)
    return list(files)


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
