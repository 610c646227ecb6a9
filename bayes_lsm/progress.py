"""A progress bar for loops that take long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def track[Item](
    items: Iterable[Item], words: str, *, progress: bool, total: int | None = None
) -> Iterator[Item]:
    """The items one by one, with a bar on standard error when `progress`.

    Parameters
    ----------
    items : iterable
    words : str
        What stands before the bar.
    progress : bool
    total : int, optional
        How many items there are, where they do not know it themselves.
    """
    if not progress:
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as bar

    yield from bar(items, words, total=total, console=Console(stderr=True), transient=True)
