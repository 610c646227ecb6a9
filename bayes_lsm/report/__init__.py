"""Reports: pages that people read, as one HTML file that needs no network, or as Markdown.

`page` says what a page holds and writes nothing; `html`, `markdown` and `files` write it. Whoever
has something to report builds a `Page` from results (`bayes_lsm.report.page` shows how) and hands
it to `write_page` and `write_tables`. Every number on a page is one that a result gives. Jinja2 and
matplotlib are loaded when a page is written.
"""

from bayes_lsm.report.analysis import Analysis, analyse
from bayes_lsm.report.analysis_page import analysis_page
from bayes_lsm.report.diagnosis import diagnosis_page
from bayes_lsm.report.files import PAGE_ENDINGS, write_page, write_tables
from bayes_lsm.report.html import to_html
from bayes_lsm.report.markdown import to_markdown
from bayes_lsm.report.page import (
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
)
from bayes_lsm.report.sensitivity import sensitivity_page

__all__ = [
    "PAGE_ENDINGS",
    "Analysis",
    "Code",
    "Equation",
    "Items",
    "Link",
    "Mono",
    "Page",
    "Picture",
    "Section",
    "Strong",
    "Table",
    "Text",
    "Verdict",
    "Verdicts",
    "analyse",
    "analysis_page",
    "diagnosis_page",
    "sensitivity_page",
    "to_html",
    "to_markdown",
    "write_page",
    "write_tables",
]
