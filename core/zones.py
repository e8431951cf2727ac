"""Time zones by their IANA names.

Their data comes from the `tzdata` package, whose version is recorded with every decision, and never from the machine, so that
deciding again on another host gives the same answer. It is read once a zone, as package data.

Every name that the data has counts, the old name of a renamed zone included: the data keeps those as links. Names that it
dropped altogether are in RETIRED. Any other name is refused where it is given; one that is in a state all the same, because the
data was replaced since, counts as FALLBACK_ZONE.
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

RETIRED: Final = {"US/Pacific-New": "America/Los_Angeles", "Canada/East-Saskatchewan": "America/Regina"}
"""Names that time-zone data had in earlier years and has no more, and what they meant."""


@cache
def zone_names() -> frozenset[str]:
    """Return the names of zones that count."""
    names = (importlib.resources.files("tzdata") / "zones").read_text(encoding="utf-8").split()
    return frozenset(names) | RETIRED.keys() | {FALLBACK_ZONE}


@cache
def zone(name: str) -> ZoneInfo:
    """Return the zone of this name, FALLBACK_ZONE for a name that does not count."""
    known = RETIRED.get(name, name) if name in zone_names() else FALLBACK_ZONE
    with (importlib.resources.files("tzdata") / "zoneinfo").joinpath(*known.split("/")).open("rb") as data:
        return ZoneInfo.from_file(data, key=known)
