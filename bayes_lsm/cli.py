"""The command line: model files in, tables out. Thin; all it does can be done from Python."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter, validators

from bayes_lsm.bayes import BayesFit, sensitivity
from bayes_lsm.compare import compare
from bayes_lsm.data_files import read_csv
from bayes_lsm.datasets import describe_dataset, list_datasets
from bayes_lsm.errors import BayesLsmError, BayesLsmWarning
from bayes_lsm.model import LocationScaleModel
from bayes_lsm.priors import PresetName
from bayes_lsm.reml import Test
from bayes_lsm.report import (
    PAGE_ENDINGS,
    Page,
    analyse,
    analysis_page,
    diagnosis_page,
    sensitivity_page,
    write_page,
    write_tables,
)
from bayes_lsm.results import Fit
from bayes_lsm.specification import Method, find_specification, list_models
from bayes_lsm.tables import Printable
from bayes_lsm.writing import check_paths, require_others, write

# More take days, or the memory of a large machine.
MOST_DRAWS, MOST_PERMUTATIONS = 10_000_000, 1_000_000
OK, FAILED, WRONG_USAGE, NOT_CONVERGED, INTERRUPTED = 0, 1, 2, 3, 130

app = App(
    name="bayes-lsm",
    help="Location-scale models for meta-analysis: moderators of the mean and the heterogeneity.",
    help_epilogue=(
        "Exit codes: 0 all is well, 1 the analysis failed, 2 wrong usage, 3 a fit was made but "
        "cannot be trusted yet (it did not converge), 130 interrupted."
    ),
    version=lambda: version("bayes_lsm"),
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)


class WrongUsage(Exception):
    """The command line asks for what cannot be."""


def _number(help: str, least: int, most: int | None = None) -> Parameter:
    return Parameter(help=help, validator=validators.Number(gte=least, lte=most))


def _output(help: str) -> Parameter:
    return Parameter(("--output", "-o"), negative=(), show_default=False, help=help)


File = Annotated[str, Parameter(help="Path of a model file (TOML), or a bundled model's name.")]
DataFile = Annotated[
    Path | None,
    Parameter(help="A CSV file of data, in place of those that the model file names."),
]
Tables = Annotated[
    Path | None, Parameter(help="Write every table of the page as csv into this folder.")
]
Quiet = Annotated[
    bool,
    Parameter(("--quiet", "-q"), negative=(), help="Show neither progress nor file names."),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Bayes:
    """Options of a Bayesian fit."""

    prior: Annotated[PresetName | None, Parameter(help="Priors in place of the model file's.")] = (
        None
    )
    draws: Annotated[
        int | None, _number("Posterior draws, all chains together.", 100, MOST_DRAWS)
    ] = None
    seed: Annotated[int | None, _number("Of the sampler; the same seed, the same draws.", 0)] = None


@Parameter(name="*")
@dataclass(frozen=True)
class RefitOptions(Bayes):
    """Options of a Bayesian fit that is refitted."""

    draws: Annotated[int, _number("Posterior draws of each refit.", 100, MOST_DRAWS)] = 8000


@Parameter(name="*")
@dataclass(frozen=True)
class Out:
    """Where a table goes."""

    digits: Annotated[int | None, _number("Decimals of the printed table.", 0, 15)] = None
    output: Annotated[
        tuple[Path, ...],
        _output(
            "Write to this file in place of the terminal, as its ending says: .csv, .json, "
            ".html, .tex, .txt, or .nc (all posterior draws, for ArviZ). May be given more than "
            "once."
        ),
    ] = ()
    quiet: Quiet = False


@Parameter(name="*")
@dataclass(frozen=True)
class PageOut(Out):
    """Where a table and its page go."""

    output: Annotated[
        tuple[Path, ...],
        _output(
            "Write to this file in place of the terminal: .html or .md (a page with figures), "
            "or .csv, .json, .tex, .txt (the main table). May be given more than once."
        ),
    ] = ()
    tables: Tables = None


# What a command gets that is called without any of these options.
_BAYES, _REFITS, _OUT, _PAGE_OUT = Bayes(), RefitOptions(), Out(), PageOut()


@app.command(name="compare")
def compare_command(
    file: File,
    /,
    *,
    data: DataFile = None,
    bayes: Bayes = _BAYES,
    at_stop: Annotated[
        bool,
        Parameter(negative=(), help="Also show where an ordinary optimiser would stop."),
    ] = False,
    out: Out = _OUT,
) -> int:
    """REML and Bayesian fits of one model side by side: the main job."""
    _check_paths(out.output, extra=(".nc",))
    model = _model(file, data, out.output)
    reml = model.fit_reml()
    fit = model.fit_bayes(**asdict(bayes), progress=not out.quiet)
    _deliver(compare(reml, fit, at_stop=at_stop), out, draws=fit)
    return _code(reml, fit)


@app.command(name="fit")
def fit_command(
    file: File,
    /,
    *,
    data: DataFile = None,
    engine: Annotated[
        Literal["reml", "bayes"], Parameter(help="Restricted maximum likelihood, or Bayes.")
    ] = "reml",
    method: Annotated[
        Method | None, Parameter(help="With --engine reml: REML or ordinary ML.")
    ] = None,
    test: Annotated[
        Test | None,
        Parameter(help="With --engine reml: normal, t, or t with the Knapp-Hartung adjustment."),
    ] = None,
    bayes: Bayes = _BAYES,
    out: Out = _OUT,
) -> int:
    """One fit of a model."""
    _check_paths(out.output, extra=(".nc",) if engine == "bayes" else ())
    model = _model(file, data, out.output)
    others = {"method": method, "test": test} if engine == "bayes" else asdict(bayes)
    for name, value in others.items():
        if value is not None:
            other = "reml" if engine == "bayes" else "bayes"
            raise WrongUsage(
                f"--{name} is for --engine {other}; leave it out with --engine {engine}"
            )
    if engine == "reml":
        reml = model.fit_reml(method=method, test=test or "z")
        _deliver(reml, out)
        return _code(reml)
    fit = model.fit_bayes(**asdict(bayes), progress=not out.quiet)
    _deliver(fit, out, draws=fit)
    return _code(fit)


@app.command(name="diagnose")
def diagnose_command(
    file: File,
    /,
    *,
    data: DataFile = None,
    engines: Annotated[
        bool, Parameter(negative=(), help="Also draw by the other engine, and compare.")
    ] = False,
    cluster: Annotated[
        str | None, Parameter(help="The grouping of a scale term whose groups are left out.")
    ] = None,
    bayes: Bayes = _BAYES,
    out: PageOut = _PAGE_OUT,
) -> int:
    """Posterior diagnostics: convergence, predictive checks, leave-one-out, influence."""
    _check_paths(out.output, extra=PAGE_ENDINGS)
    model = _model(file, data, out.output)
    fit = model.fit_bayes(**asdict(bayes), progress=not out.quiet)
    found = fit.diagnose(cluster=cluster, engines=engines, progress=not out.quiet)
    _deliver_page(lambda: diagnosis_page(found), found, out)
    return _code(fit)


@app.command(name="sensitivity")
def sensitivity_command(
    file: File,
    /,
    *,
    data: DataFile = None,
    bayes: RefitOptions = _REFITS,
    out: PageOut = _PAGE_OUT,
) -> int:
    """How far each coefficient is the prior's: the same model under many other priors."""
    _check_paths(out.output, extra=PAGE_ENDINGS)
    model = _model(file, data, out.output)
    fit = model.fit_bayes(prior=bayes.prior, seed=bayes.seed, progress=not out.quiet)
    found = sensitivity(fit, draws=bayes.draws, progress=not out.quiet)
    _deliver_page(lambda: sensitivity_page(found), found, out)
    return _code(fit)


@app.command(name="report")
def report_command(
    file: File,
    /,
    *,
    data: DataFile = None,
    bayes: Bayes = _BAYES,
    permutations: Annotated[
        int, _number("Of the scale moderators; 0 leaves the test out.", 0, MOST_PERMUTATIONS)
    ] = 1000,
    sensitivity: Annotated[
        bool, Parameter(help="Refit under other priors: most of the time it takes.")
    ] = True,
    format: Annotated[
        Literal["html", "md"] | None,
        Parameter(help="Without --output: NAME_report.html (the default) or NAME_report.md here."),
    ] = None,
    output: Annotated[
        tuple[Path, ...],
        _output("Write to this file: .html or .md. May be given more than once."),
    ] = (),
    tables: Tables = None,
    quiet: Quiet = False,
) -> int:
    """The whole analysis as a report: model, results, tests, sensitivity, diagnostics, methods."""
    if output and format is not None:
        raise WrongUsage("give --format or --output, whose ending says the format, not both")
    paths = output or (Path(f"{Path(file).stem}_report.{format or 'html'}"),)
    _check_paths(paths, only=PAGE_ENDINGS)
    found = analyse(
        _model(file, data, paths),
        **asdict(bayes),
        permutations=permutations,
        with_sensitivity=sensitivity,
        progress=not quiet,
    )
    _write_page(analysis_page(found), paths, tables, quiet=quiet)
    return _code(found.reml, found.bayes)


@app.command(name="models")
def models_command(name: Annotated[str | None, Parameter(help="Show this file.")] = None, /) -> int:
    """List the bundled model files, or show one (to begin a file of your own)."""
    if name is not None:
        with _wrong_usage():
            found = find_specification(name)
        _say(found.to_toml().rstrip())
        return OK
    titles = list_models()
    width = max(map(len, titles))
    _say("\n".join(f"{each:<{width}}  {title}" for each, title in titles.items()))
    return OK


@app.command(name="datasets")
def datasets_command(
    name: Annotated[str | None, Parameter(help="Say where this one is from.")] = None, /
) -> int:
    """List the bundled datasets, or say where one comes from and what its columns mean."""
    if name is not None:
        with _wrong_usage():
            described = describe_dataset(name)
        _say(str(described))
        return OK
    table = list_datasets()
    width = max(map(len, table.index))
    rows = zip(table.index, table["studies"], table["title"], strict=True)
    _say("\n".join(f"{each:<{width}}  {k:>4} studies  {title}" for each, k, title in rows))
    return OK


@contextmanager
def _wrong_usage() -> Iterator[None]:
    """What the package refuses here was asked for in the wrong way."""
    try:
        yield
    except BayesLsmError as error:
        raise WrongUsage(str(error)) from None


def _check_paths(paths: Iterable[Path], **endings: Collection[str]) -> None:
    with _wrong_usage():
        check_paths(paths, **endings)


def _model(file: str, data: Path | None, outputs: Iterable[Path]) -> LocationScaleModel:
    """The model of a file, with its own data or those of another file; no output is either."""
    if data is not None and not data.exists():
        raise WrongUsage(f"there is no data file {data}; give the path of a CSV file")
    if not os.path.isfile(file) and file not in list_models():
        with _wrong_usage():
            find_specification(file)
    own = None if data is None else read_csv(data)
    model = LocationScaleModel.from_file(file, own)
    with _wrong_usage():
        require_others(outputs, [file, data, model.specification.data])
    return model


def _code(*fits: Fit) -> int:
    return OK if all(fit.converged for fit in fits) else NOT_CONVERGED


def _deliver(result: Printable, out: Out, *, draws: BayesFit | None = None) -> None:
    """Print the result, or write it to the files."""
    if not out.output:
        _say(result.to_string(digits=out.digits))
    for path in out.output:
        if path.suffix.lower() == ".nc" and draws is not None:
            draws.to_netcdf(path)
        else:
            write(result, path)
    _tell(out.output, quiet=out.quiet)


def _deliver_page(make: Callable[[], Page], result: Printable, out: PageOut) -> None:
    """Print the result, or write it to the files: its page, its main table, all its tables."""
    pages = tuple(path for path in out.output if path.suffix.lower() in PAGE_ENDINGS)
    others = tuple(path for path in out.output if path not in pages)
    asked = bool(pages) or out.tables is not None
    if others or not asked:
        _deliver(result, replace(out, output=others))
    if asked:
        _write_page(make(), pages, out.tables, quiet=out.quiet)


def _write_page(page: Page, paths: Sequence[Path], tables: Path | None, *, quiet: bool) -> None:
    written = [file for path in paths for file in write_page(page, path)]
    written += write_tables(page, tables) if tables is not None else []
    _tell(written, quiet=quiet)


def _tell(files: Iterable[Path], *, quiet: bool) -> None:
    for file in () if quiet else files:
        print(f"written: {file}", file=sys.stderr)  # noqa: T201


def _say(text: str) -> None:
    print(text)  # noqa: T201


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    # Every warning of the package is among the notes below a table.
    warnings.simplefilter("ignore", BayesLsmWarning)
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        return _complain(f"{error} (see bayes-lsm --help)", WRONG_USAGE)
    except WrongUsage as error:
        return _complain(str(error), WRONG_USAGE)
    except BayesLsmError as error:
        return _complain(str(error), FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted; nothing was written", INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code if isinstance(code, int) else OK


def _complain(text: str, code: int) -> int:
    print(f"bayes-lsm: {text}", file=sys.stderr)  # noqa: T201
    return code
