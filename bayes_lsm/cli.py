"""The command line: model files in, tables out. Thin; all it does can be done from Python."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from bayes_lsm.bayes import BayesFit, sensitivity
from bayes_lsm.compare import compare
from bayes_lsm.datasets import describe_dataset, list_datasets
from bayes_lsm.errors import BayesLsmError, BayesLsmWarning, FitError
from bayes_lsm.model import LocationScaleModel
from bayes_lsm.priors import PresetName
from bayes_lsm.reml import Test
from bayes_lsm.report import (
    PAGE_ENDINGS,
    Page,
    analyse,
    analysis_page,
    check_page_path,
    diagnosis_page,
    sensitivity_page,
    write_page,
    write_tables,
)
from bayes_lsm.specification import Method, find_specification, list_models
from bayes_lsm.tables import Printable
from bayes_lsm.writing import check_paths, write

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

File = Annotated[str, Parameter(help="Path of a model file (TOML), or a bundled model's name.")]
Seed = Annotated[int | None, Parameter(help="Of the sampler; the same seed, the same draws.")]
Draws = Annotated[int | None, Parameter(help="Posterior draws, all chains together.")]
Preset = Annotated[PresetName | None, Parameter(help="Priors in place of the model file's.")]
Digits = Annotated[int | None, Parameter(help="Decimals of the printed table.")]
Quiet = Annotated[
    bool,
    Parameter(("--quiet", "-q"), negative=(), help="Show neither progress nor file names."),
]
Output = Annotated[
    list[Path] | None,
    Parameter(
        ("--output", "-o"),
        negative=(),
        help="Write to this file in place of the terminal, as its ending says: .csv, .json, .html, "
        ".tex, .txt, or .nc (all posterior draws, for ArviZ). May be given more than once.",
    ),
]
PageOutput = Annotated[
    list[Path] | None,
    Parameter(
        ("--output", "-o"),
        negative=(),
        help="Write to this file in place of the terminal: .html or .md (a page with figures), or "
        ".csv, .json, .tex, .txt (the main table). May be given more than once.",
    ),
]
Tables = Annotated[
    Path | None, Parameter(help="Write every table of the page as csv into this folder.")
]


@app.command(name="compare")
def compare_command(
    file: File,
    /,
    *,
    prior: Preset = None,
    draws: Draws = None,
    seed: Seed = None,
    at_stop: Annotated[
        bool,
        Parameter(negative=(), help="Also show where an ordinary optimiser would stop."),
    ] = False,
    digits: Digits = None,
    output: Output = None,
    quiet: Quiet = False,
) -> int:
    """REML and Bayesian fits of one model side by side: the main job."""
    outputs = _check(output, extra=(".nc",))
    model = LocationScaleModel.from_file(file)
    reml = model.fit_reml()
    bayes = model.fit_bayes(prior=prior, draws=draws, seed=seed, progress=not quiet)
    table = compare(reml, bayes, at_stop=at_stop)
    _deliver(table, outputs, digits=digits, quiet=quiet, draws=bayes)
    return OK if reml.converged and bayes.converged else NOT_CONVERGED


@app.command(name="fit")
def fit_command(
    file: File,
    /,
    *,
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
    prior: Preset = None,
    draws: Draws = None,
    seed: Seed = None,
    digits: Digits = None,
    output: Output = None,
    quiet: Quiet = False,
) -> int:
    """One fit of a model."""
    outputs = _check(output, extra=(".nc",) if engine == "bayes" else ())
    model = LocationScaleModel.from_file(file)
    if engine == "reml":
        _refuse_with_reml(prior=prior, draws=draws, seed=seed)
        reml = model.fit_reml(method=method, test=test or "z")
        _deliver(reml, outputs, digits=digits, quiet=quiet)
        return OK if reml.converged else NOT_CONVERGED
    for name, value in (("method", method), ("test", test)):
        if value is not None:
            raise FitError(f"--{name} is for --engine reml; leave it out with --engine bayes")
    bayes = model.fit_bayes(prior=prior, draws=draws, seed=seed, progress=not quiet)
    _deliver(bayes, outputs, digits=digits, quiet=quiet, draws=bayes)
    return OK if bayes.converged else NOT_CONVERGED


@app.command(name="diagnose")
def diagnose_command(
    file: File,
    /,
    *,
    engines: Annotated[
        bool, Parameter(negative=(), help="Also draw by the other engine, and compare.")
    ] = False,
    prior: Preset = None,
    draws: Draws = None,
    seed: Seed = None,
    digits: Digits = None,
    output: PageOutput = None,
    tables: Tables = None,
    quiet: Quiet = False,
) -> int:
    """Posterior diagnostics: convergence, predictive checks, leave-one-out, influence."""
    outputs = _check(output, extra=PAGE_ENDINGS)
    model = LocationScaleModel.from_file(file)
    bayes = model.fit_bayes(prior=prior, draws=draws, seed=seed, progress=not quiet)
    found = bayes.diagnose(engines=engines, progress=not quiet)
    _deliver_page(lambda: diagnosis_page(found), found, outputs, tables, digits=digits, quiet=quiet)
    return OK if bayes.converged else NOT_CONVERGED


@app.command(name="sensitivity")
def sensitivity_command(
    file: File,
    /,
    *,
    prior: Preset = None,
    draws: Annotated[int, Parameter(help="Posterior draws of each refit.")] = 8000,
    seed: Seed = None,
    digits: Digits = None,
    output: PageOutput = None,
    tables: Tables = None,
    quiet: Quiet = False,
) -> int:
    """How far each coefficient is the prior's: the same model under many other priors."""
    outputs = _check(output, extra=PAGE_ENDINGS)
    model = LocationScaleModel.from_file(file)
    fit = model.fit_bayes(prior=prior, seed=seed, progress=not quiet)
    found = sensitivity(fit, draws=draws, progress=not quiet)
    _deliver_page(
        lambda: sensitivity_page(found), found, outputs, tables, digits=digits, quiet=quiet
    )
    return OK if fit.converged else NOT_CONVERGED


@app.command(name="report")
def report_command(
    file: File,
    /,
    *,
    prior: Preset = None,
    draws: Draws = None,
    seed: Seed = None,
    permutations: Annotated[
        int, Parameter(help="Of the scale moderators; 0 leaves the test out.")
    ] = 1000,
    sensitivity: Annotated[
        bool, Parameter(help="Refit under other priors: most of the time it takes.")
    ] = True,
    format: Annotated[
        Literal["html", "md"] | None,
        Parameter(help="Without --output: NAME_report.html (the default) or NAME_report.md here."),
    ] = None,
    output: Annotated[
        list[Path] | None,
        Parameter(
            ("--output", "-o"),
            negative=(),
            help="Write to this file: .html or .md. May be given more than once.",
        ),
    ] = None,
    tables: Tables = None,
    quiet: Quiet = False,
) -> int:
    """The whole analysis as a report: model, results, tests, sensitivity, diagnostics, methods."""
    if output and format is not None:
        raise FitError("give --format or --output, whose ending says the format, not both")
    paths = output or [Path(f"{Path(file).stem}_report.{format or 'html'}")]
    for path in paths:
        check_page_path(path)
    found = analyse(
        LocationScaleModel.from_file(file),
        prior=prior,
        draws=draws,
        seed=seed,
        permutations=permutations,
        with_sensitivity=sensitivity,
        progress=not quiet,
    )
    _write_page(analysis_page(found), paths, tables, quiet=quiet)
    return OK if found.reml.converged and found.bayes.converged else NOT_CONVERGED


@app.command(name="models")
def models_command(name: Annotated[str | None, Parameter(help="Show this file.")] = None, /) -> int:
    """List the bundled model files, or show one (to begin a file of your own)."""
    if name is not None:
        _say(find_specification(name).to_toml().rstrip())
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
        _say(str(describe_dataset(name)))
        return OK
    table = list_datasets()
    width = max(map(len, table.index))
    rows = zip(table.index, table["studies"], table["title"], strict=True)
    _say("\n".join(f"{each:<{width}}  {k:>4} studies  {title}" for each, k, title in rows))
    return OK


def _check(output: list[Path] | None, *, extra: tuple[str, ...]) -> list[Path]:
    check_paths(output or [], extra=extra)
    return output or []


def _refuse_with_reml(**settings: object) -> None:
    for name, value in settings.items():
        if value is not None:
            raise FitError(f"--{name} is for --engine bayes; leave it out with --engine reml")


def _deliver(
    result: Printable,
    outputs: list[Path],
    *,
    digits: int | None,
    quiet: bool,
    draws: BayesFit | None = None,
) -> None:
    """Print the result, or write it to the files."""
    if not outputs:
        _say(result.to_string(digits=digits))
    for path in outputs:
        if path.suffix.lower() == ".nc" and draws is not None:
            draws.to_netcdf(path)
        else:
            write(result, path)
        if not quiet:
            print(f"written: {path}", file=sys.stderr)  # noqa: T201


def _deliver_page(
    make: Callable[[], Page],
    result: Printable,
    outputs: list[Path],
    tables: Path | None,
    *,
    digits: int | None,
    quiet: bool,
) -> None:
    """Print the result, or write it to the files: its page, its main table, all its tables."""
    if not outputs and tables is None:
        _say(result.to_string(digits=digits))
        return
    pages = [path for path in outputs if path.suffix.lower() in PAGE_ENDINGS]
    if others := [path for path in outputs if path not in pages]:
        _deliver(result, others, digits=digits, quiet=quiet)
    if pages or tables is not None:
        _write_page(make(), pages, tables, quiet=quiet)


def _write_page(page: Page, paths: list[Path], tables: Path | None, *, quiet: bool) -> None:
    written = [file for path in paths for file in write_page(page, path)]
    written += write_tables(page, tables) if tables is not None else []
    if not quiet:
        for file in written:
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
