"""Tables as commands print them."""

from collections.abc import Iterable, Iterator, Sequence


def lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as what is in them, two spaces apart.

    What came by the API may hold what a terminal would obey: that is shown as U+FFFD.
    """
    table = [[_shown(text) for text in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else "\ufffd" for char in text)
