"""The garbage collector of a process that serves: it need not look at what lives as long as the process."""

import gc

YOUNG = 2_000
"""New objects between two collections. Nearly all free themselves; what does not may hold a large body."""


def spare_the_collector() -> None:
    """Call it once everything is loaded and opened.

    Modules, statements and schemas are half a million objects. To walk through them again and again costs a
    create a tenth of its time (docs/decisions/0027).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)
