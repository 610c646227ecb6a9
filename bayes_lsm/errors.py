"""What can go wrong, under one root.

Every error a user can cause is a `BayesLsmError`; every warning is a `BayesLsmWarning`. A message
says what was got, what is allowed and the cure. Add a class here only where a caller would want to
catch it apart from the others.
"""

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

# Frames in files below are the package's own.
_PACKAGE = f"{Path(__file__).parent}{os.sep}"


class BayesLsmError(Exception):
    """Root of every exception that this package raises on purpose.

    Attributes
    ----------
    faults : tuple
        Each single fault, where there can be several (a model file); otherwise empty.
    """

    faults: tuple[Any, ...] = ()

    @classmethod
    def of(cls, faults: Iterable[Any]) -> Self:
        """The error that lists these faults."""
        listed = tuple(faults)
        error = cls("\n".join(map(str, listed)))
        error.faults = listed
        return error


class DataError(BayesLsmError, ValueError):
    """The data cannot carry the model: wrong values, too few studies, unknown columns or levels."""


class FormulaError(BayesLsmError, ValueError):
    """A formula is broken, or asks for more than columns and the formula language's transforms."""


class SpecificationError(BayesLsmError, ValueError):
    """A model specification or file is faulty; the message lists every fault with its place."""


class PriorError(BayesLsmError, ValueError):
    """A prior is not a proper distribution, or names a term that the model does not have."""


class FitError(BayesLsmError, RuntimeError):
    """A fit was asked for something that it cannot give."""


class BayesLsmWarning(UserWarning):
    """Root of every warning of this package."""


class DivergentScaleWarning(BayesLsmWarning):
    """A scale coefficient has no finite maximum-likelihood estimate: it runs to +inf or -inf."""


class ConvergenceWarning(BayesLsmWarning):
    """An optimiser or a sampler stopped before its result can be trusted."""


class DroppedRowsWarning(BayesLsmWarning):
    """Rows with missing values were left out of the model."""


def warn(message: str, category: type[BayesLsmWarning]) -> None:
    """Warn of the line outside the package that led here, however deep inside it is noticed."""
    warnings.warn(message, category, skip_file_prefixes=(_PACKAGE,))
