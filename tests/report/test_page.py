"""Pages as they are written: what is in them, and that words stay words."""

import csv
import html.parser
import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import bayes_lsm as lsm
from bayes_lsm.errors import FitError
from bayes_lsm.report import (
    Code,
    Equation,
    Items,
    Link,
    Mono,
    Page,
    Picture,
    Section,
    Strong,
    Table,
    Text,
    Verdict,
    Verdicts,
    to_html,
    write_page,
    write_tables,
)
from bayes_lsm.report.drawing import draw

NASTY = "<script>alert('x')</script> & \"A*B_c|d\" `e` [f](g) ~ $h$"
VOID = {"meta", "link", "img", "br", "hr"}


class Reader(html.parser.HTMLParser):
    """What a browser would see: the elements with their attributes, and the text in each."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self, *tags):
        return [data for tag, data in self.texts if tag in tags]


def figure(points=10):
    drawn = Figure(figsize=(4, 3))
    values = np.random.default_rng(1).normal(size=(2, points))
    drawn.subplots().plot(*values, "o")
    return drawn


def every_block(words=NASTY):
    frame = pd.DataFrame({"x": [1.23456, np.nan], words: ["a", words]}, index=["first", words])
    return Page(
        words,
        lead=(
            Text(words, Strong(words), Mono(words), Link(words, "https://example.org/a?b=1&c=2")),
        ),
        sections=(
            Section(
                words,
                (
                    Items((Text(words), Text("second"))),
                    Verdicts((Verdict(words, "bad", words, word=words),)),
                    Table("numbers", frame, caption=words, notes=(words,)),
                    Section(words, (Picture("points", figure(), alt=words, caption=words),)),
                ),
            ),
            Section("Code", (Code(words), Equation((words, "τᵢ² = 1")))),
        ),
        colophon=(Text(words),),
    )


def test_words_are_words_in_html():
    seen = Reader(to_html(every_block()))
    assert not any(tag == "script" for tag, _ in seen.elements)
    assert [a["alt"] for tag, a in seen.elements if tag == "img"] == [NASTY]
    for tag in "h1 title h2 h3 strong code a li b figcaption td th".split():
        assert any(NASTY in data for data in seen.text(tag, "p", "span")), tag
        assert any(NASTY in data for data in seen.text(tag)) or tag == "li", tag
    hrefs = [a["href"] for tag, a in seen.elements if tag == "a"]
    assert "https://example.org/a?b=1&c=2" in hrefs


def test_nothing_is_loaded_from_elsewhere():
    text = to_html(every_block("plain"))
    seen = Reader(text)
    sources = [a.get("src") or a.get("href") for tag, a in seen.elements if tag in ("img", "link")]
    assert len(sources) == 2
    assert all(source.startswith("data:") for source in sources)
    assert not any(tag in ("script", "iframe", "object") for tag, _ in seen.elements)
    assert not re.search(r"url\(|@import", text)


def test_headings_go_down_one_step_at_a_time():
    seen = Reader(to_html(every_block("plain")))
    levels = [int(tag[1]) for tag, _ in seen.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    tags = [tag for tag, _ in seen.elements]
    assert tags.count("main") == 1
    assert ("html", {"lang": "en"}) in seen.elements


@pytest.mark.parametrize(("points", "ending"), [(10, "svg"), (20_000, "png")])
def test_many_points_become_pixels(points, ending):
    image = draw(Picture("points", figure(points), alt="points"))
    assert image.ending == ending
    assert len(image.data) < 200_000
    assert (image.width, image.height) == (384, 288)
    if ending == "svg":
        assert ET.fromstring(image.data).get("viewBox") == "0 0 288 216"
    else:
        assert image.data.startswith(b"\x89PNG")


def test_the_same_page_is_the_same_bytes():
    assert to_html(every_block()) == to_html(every_block())


def test_markdown_and_its_figures(tmp_path):
    written = write_page(every_block(), tmp_path / "page one.md")
    figures = tmp_path / "page one_figures"
    assert written == [tmp_path / "page one.md", figures / "points.svg"]
    assert ET.parse(figures / "points.svg").getroot().tag.endswith("svg")
    text = written[0].read_text()
    assert "](page%20one_figures/points.svg)" in text
    unfenced = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    unspanned = re.sub(r"(`+) .*? \1", "", unfenced)
    assert "\\<script\\>" in unspanned
    assert not re.search(r"(?<!\\)<", unspanned)
    table = [line for line in text.splitlines() if line.startswith("|")]
    bars = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
    assert bars == {4}


def test_numbers_of_a_fit_are_the_same_everywhere(tmp_path):
    fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_reml()
    page = Page("Fit", (Text("A fit."),), (Section("Fit", (Table("fit", fit),)),))
    frame = fit.to_dataframe()
    rows = list(csv.DictReader(write_tables(page, tmp_path / "csv")[0].open()))
    assert [row["term"] for row in rows] == [term for _, term in frame.index]
    for column in frame.columns:
        assert [float(row[column]) for row in rows] == pytest.approx(frame[column], rel=1e-14)
    cells = Reader(to_html(page)).text("td")
    printed = [cell for line in fit.to_string().splitlines() for cell in line.split()]
    assert len(cells) == frame.size
    assert set(cells) <= set(printed)


def test_long_tables_are_cut_on_the_page_but_not_in_the_file(tmp_path):
    frame = pd.DataFrame({"x": np.arange(1500.0)}, index=pd.RangeIndex(1500, name="study"))
    page = Page("Long", (), (Section("Long", (Table("long", frame),)),))
    text = to_html(page)
    assert len(Reader(text).text("td")) == 1000
    assert "the first 1000 of 1500 rows are shown" in text
    assert len(pd.read_csv(write_tables(page, tmp_path)[0])) == 1500


def test_notes_that_are_said_elsewhere_are_left_out():
    fit = lsm.LocationScaleModel.from_file("preterm_weeks").fit_reml()
    note = fit.design.notes[0]
    for said, times in (((), 1), (fit.design.notes, 0)):
        page = Page("Fit", (), (Section("Fit", (Table("fit", fit, said=said),)),))
        assert to_html(page).count(note) == times


def test_a_page_inside_a_page():
    inner = Page("Inner", (Text("the answer"),), (Section("Details", (Text("more"),)),))
    outer = Page("Outer", (), (inner.as_section("Part"),))
    seen = Reader(to_html(outer))
    assert seen.text("h2") == ["Part"]
    assert seen.text("h3") == ["Details"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Picture("a", figure(), alt=" "), "needs a text"),
        (lambda: Link("a", "http://example.org"), "must begin with https"),
        (lambda: Link("a", "javascript:alert(1)"), "must begin with https"),
        (lambda: Verdict("a", "fine", "b"), "must be 'good', 'caution'"),
        (lambda: Page("a", (Table("b", pd.DataFrame()),) * 2, ()), "'b' twice"),
        (lambda: Page("a", (Table("../b", pd.DataFrame()),), ()), "small letters"),
        (lambda: Page("a", (), (Section("b", ()), Section("B", ()))), "sections must differ"),
    ],
)
def test_what_a_page_refuses(make, message):
    with pytest.raises(FitError, match=message):
        make()


def test_files_that_cannot_be_written(tmp_path):
    page = Page("a", (), ())
    with pytest.raises(FitError, match=r"must be '\.html' or '\.md'"):
        write_page(page, tmp_path / "a.pdf")
    with pytest.raises(FitError, match="there is no folder"):
        write_page(page, tmp_path / "none" / "a.html")
    with pytest.raises(FitError, match="No such file"):
        write_tables(page, tmp_path / "none" / "csv")
