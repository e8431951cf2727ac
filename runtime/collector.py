"""Python's cyclic collector in a process that runs for long and makes many objects, few of them in cycles."""

import gc

THRESHOLD = 100_000
"""Objects made before the collector looks at the young ones: a batch of fat events makes tens of thousands."""


def settle() -> None:
    """Leave what was made while starting out of every later look, and look seldom; call it once, after the imports."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(THRESHOLD, 20, 100)
