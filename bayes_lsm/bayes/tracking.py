"""A progress bar for loops that take long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def track[Item](items: Sequence[Item], words: str, *, progress: bool) -> Iterator[Item]:
    """The items one by one, with a bar on standard error when `progress`."""
    if not progress:
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as bar

    yield from bar(items, words, console=Console(stderr=True), transient=True)
