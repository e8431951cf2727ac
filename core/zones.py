"""Time zones by their IANA names.

Their data comes from the `tzdata` package, whose version is recorded with every decision, and never from the machine, so that
deciding again on another host gives the same answer. It is read once a zone, as package data.
"""

import importlib.metadata
import importlib.resources
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo

SLOT_MIN: Final = 15
"""Minutes between the slots of newsletters: the greatest common divisor of all offsets in use."""

TZDATA_VERSION: Final = importlib.metadata.version("tzdata")

FALLBACK_ZONE: Final = "UTC"
"""The zone of a subscriber whose zone is not known to the pinned data."""


@cache
def zone_names() -> frozenset[str]:
    """Return the IANA zones of the pinned data."""
    return frozenset((importlib.resources.files("tzdata") / "zones").read_text(encoding="utf-8").split()) | {FALLBACK_ZONE}


@cache
def zone(name: str) -> ZoneInfo:
    """Return a zone of the pinned data; KeyError when there is none of this name."""
    if name not in zone_names():
        raise KeyError(name)
    with (importlib.resources.files("tzdata") / "zoneinfo").joinpath(*name.split("/")).open("rb") as data:
        return ZoneInfo.from_file(data, key=name)
